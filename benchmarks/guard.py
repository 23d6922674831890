"""Whether a benchmark is slower than when it was last measured on such a card.

    python -m benchmarks.families --out new.json   # or benchmarks.peers, benchmarks.training
    python -m benchmarks.guard new.json            # a line for each ratio; exit 1 where one fell
    python -m benchmarks.guard new.json --keep     # what was measured becomes what is expected

Only ratios within one run are kept, by kind of card, in `measured.json`: machines of a kind differ
in clock and host. Of each shape: ours against the card's matrix ceiling, against the plain recipe
and against the fastest other way of the run. A ratio that falls by less than `--slack` is scatter:
the same code on several machines of a kind differed by 4 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("measured.json")
OURS = "ours"
SLACK = 0.05
#: The shape of runs that name none.
SHAPE = "Qwen2.5-7B"


def ratios(run: Mapping[str, Any]) -> dict[str, float]:
    """What a run says of ours, by shape and name; the best where it has several rows of ours."""
    shapes: dict[str, list[Mapping[str, Any]]] = {}
    for row in run["rows"]:
        if "tokens/s" in row:
            shapes.setdefault(row.get("shape", run.get("shape", SHAPE)), []).append(row)
    found = {}
    for shape, rows in shapes.items():
        ours = [row for row in rows if row["what"] == OURS]
        if not ours:
            continue
        best = max(ours, key=lambda row: row["tokens/s"])
        for name in ("of ceiling", "times plain"):
            if name in best:
                found[f"{shape}, {name}"] = best[name]
        others = [row["tokens/s"] for row in rows if row["what"] != OURS]
        if others:
            found[f"{shape}, times the fastest other"] = best["tokens/s"] / max(others)
    return found


def fallen(new: Mapping[str, float], kept: Mapping[str, Any], slack: float) -> list[str]:
    """Names of the ratios that are lower than those kept by more than the slack."""
    return [name for name in new if name in kept and new[name] < kept[name]["ratio"] * (1 - slack)]


def main() -> None:
    """Compare, or keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="JSON of a benchmark's --out")
    parser.add_argument("--keep", action="store_true", help="take its ratios as those expected")
    parser.add_argument("--slack", type=float, default=SLACK)
    parser.add_argument("--measured", type=Path, default=MEASURED)
    options = parser.parse_args()
    run = json.loads(options.run.read_text(encoding="utf-8"))
    cards = {}
    if options.measured.is_file():
        cards = json.loads(options.measured.read_text(encoding="utf-8"))
    kept, new = cards.setdefault(run["device"], {}), ratios(run)
    low = fallen(new, kept, options.slack)
    for name, value in new.items():
        before = f"{kept[name]['ratio']:.3f} on {kept[name]['date']}" if name in kept else "none"
        print(f"{name}: {value:.3f} (kept: {before}){'  SLOWER' if name in low else ''}")
    if options.keep:
        facts = {"date": run["date"], "torch": run["torch"]}
        kept.update({name: {"ratio": round(value, 4), **facts} for name, value in new.items()})
        text = json.dumps(cards, indent=1, sort_keys=True)
        options.measured.write_text(text + "\n", encoding="utf-8")
    elif low:
        sys.exit(1)


if __name__ == "__main__":
    main()
