"""A run's results made small enough to lie in a repository.

Keeps of `results.json` the statistics of a few layers (all of them stay in `rows.parquet`), draws
the figures anew from everything, and builds the report without the answers.

    personaspace run examples/smollm2-gpu.yaml --jobs 8 --store runs/smollm2 --out runs/smollm2-out
    python benchmarks/publish_study.py runs/smollm2-out docs/study --layers 9,20,29
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from personaspace.report import build
from personaspace.spec import Figures


def thin(results: dict[str, Any], layers: set[int], method: str) -> dict[str, Any]:
    """Results whose geometry is of a few layers; the headline method's alone below the last."""
    kept = [
        {field: value for field, value in row.items() if value is not None}
        for row in results["geometry"]
        if row["layer"] is None or (row["layer"] in layers and row["method"] in (None, method))
    ]
    return {**results, "geometry": kept}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="what `personaspace run --out` wrote")
    parser.add_argument("target", type=Path)
    parser.add_argument("--layers", default="20", help="whose statistics results.json keeps")
    parser.add_argument("--title", default="")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    results = json.loads((source / "results.json").read_text(encoding="utf-8"))
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        shutil.copytree(source, whole, ignore=shutil.ignore_patterns("answers.*", "report.*"))
        settings = Figures(title=arguments.title or results["title"], formats=["png"], dpi=100)
        build(whole, Path(scratch) / "page", settings)
        for name in ("report.html", "report.md"):
            shutil.copy(Path(scratch) / "page" / name, target / name)
        shutil.rmtree(target / "figures", ignore_errors=True)
        shutil.copytree(Path(scratch) / "page" / "figures", target / "figures")
    kept = thin(
        results, {int(n) for n in arguments.layers.split(",")}, results["analysis"]["method"]
    )
    text = json.dumps(kept, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A line a row, so that a change can be read.
    (target / "results.json").write_text(text.replace("},{", "},\n{") + "\n", encoding="utf-8")
    shutil.copy(source / "tables" / "rows.parquet", target / "rows.parquet")
    for path in sorted(p for p in target.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size / 1e3:9.1f} kB  {path.relative_to(target)}")


if __name__ == "__main__":
    main()
