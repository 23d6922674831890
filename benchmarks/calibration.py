"""How often every test rejects: where its null hypothesis is true, and where it is not.

python benchmarks/calibration.py --studies 40 --power 20 --jobs 2
python benchmarks/calibration.py --studies 2000 --power 400 --jobs 2 --out docs/calibration.md
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import date
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from curves import CURVES  # noqa: E402
from scenarios import (  # noqa: E402
    DRAWS,
    GEOMETRY,
    HALVINGS,
    LEAKAGE,
    SCENARIOS,
    Check,
    Simulate,
)

from personaspace.analysis.metrics import measure_of  # noqa: E402
from personaspace.analysis.stats import generator  # noqa: E402

NOMINAL = 0.05


def _p_values(simulate: Simulate, checks: tuple[Check, ...], label: str, studies: range) -> list:
    found = []
    for study in studies:
        rows = simulate(generator(7, label, study))
        cells = [check.find(rows) for check in checks]
        found.append([None if row is None else row.p for row in cells])
    return found


def _chunk(task: tuple[str, int, int, int, int]) -> list:
    kind, index, place, start, stop = task
    if kind == "null":
        scenario = SCENARIOS[index]
        return _p_values(scenario.simulate, scenario.checks, scenario.name, range(start, stop))
    curve = CURVES[index]
    label = f"{curve.what} {curve.sizes[place]}"
    return _p_values(curve.studies[place], curve.checks, label, range(start, stop))


def _run(pool: ProcessPoolExecutor, kind: str, index: int, place: int, studies: int) -> np.ndarray:
    step = 25
    tasks = [(kind, index, place, s, min(s + step, studies)) for s in range(0, studies, step)]
    values = [row for part in pool.map(_chunk, tasks) for row in part]
    return np.array(values, dtype=float)  # None becomes NaN: a study without the test


def _share(p: np.ndarray) -> tuple[float, float, int]:
    """Share rejected at 5 %, its standard error, and how many studies had the test."""
    kept = p[np.isfinite(p)]
    share = float((kept <= NOMINAL + 1e-12).mean()) if len(kept) else float("nan")
    return share, float(np.sqrt(max(share * (1 - share), 1e-9) / max(len(kept), 1))), len(kept)


def null_table(pool: ProcessPoolExecutor, index: int, studies: int) -> list[dict]:
    """False-positive rates of one scenario."""
    scenario, start = SCENARIOS[index], time.time()
    p = _run(pool, "null", index, 0, studies)
    rows = []
    for column, check in enumerate(scenario.checks):
        share, error, count = _share(p[:, column])
        rows.append(
            asdict(check)
            | {"scenario": scenario.name, "rejected": share, "error": error, "studies": count}
            | {"calibrated": abs(share - check.level) <= 0.01}
        )
        print(
            f"{check.metric:4}{check.variant:12}{check.name or '':30}{scenario.name:40}"
            f"{100 * check.level:6.2f} {100 * share:6.2f} ± {196 * error:.2f} "
            f"{'' if rows[-1]['calibrated'] else 'NO'}"
        )
    print(f"{scenario.name}: {time.time() - start:.0f} s", flush=True)
    return rows


def power_table(pool: ProcessPoolExecutor, index: int, studies: int) -> list[dict]:
    """Rejections along one curve."""
    curve, shares = CURVES[index], []
    for place in range(len(curve.sizes)):
        p = _run(pool, "power", index, place, studies)
        shares.append([_share(p[:, column])[0] for column in range(len(curve.checks))])
    print(curve.what, flush=True)
    return [
        asdict(check)
        | {"what": curve.what, "sizes": curve.sizes, "studies": studies}
        | {"rejected": [part[column] for part in shares]}
        for column, check in enumerate(curve.checks)
    ]


def _title(row: dict) -> str:
    return measure_of(row["metric"], row["variant"], row["name"]).title


def markdown(null: list[dict], power: list[dict]) -> str:
    """The documentation page."""
    studies = min(row["studies"] for row in null)
    points = min((row["studies"] for row in power), default=0)
    lines = [
        "# How often the tests reject",
        "",
        f"Written by `python benchmarks/calibration.py --studies {studies} --power {points} --out "
        f"docs/calibration.md`, last on {date.today().isoformat()}.",
        "",
        f"Made-up studies (`benchmarks/simulate.py`): geometry with {GEOMETRY.personas} personas, "
        f"{GEOMETRY.questions} questions, {GEOMETRY.hidden} dimensions, base, benign and three EM "
        "conditions; leakage with 12 personas, five EM conditions, "
        f"{LEAKAGE.questions} questions and {LEAKAGE.samples} samples; {DRAWS} draws a permutation "
        f"test and {HALVINGS} halvings of M2. The dimensions are fewer than a model's, which makes "
        "chance fluctuations larger; personas, questions and noise have the structure that the "
        "tests assume, and distributions are normal (binomial for answers). What departs from that "
        "is not covered.",
        "",
        "## False positives",
        "",
        "Share of studies with p ≤ 0.05 although the null hypothesis is true, ± 1.96 Monte-Carlo "
        "standard errors. *Attainable*: what a test with few possible outcomes can reach at most "
        "without exceeding 5 %; elsewhere 5 %. *Calibrated*: within 1 point of that.",
        "",
        "| test | variant | measure | world | attainable | rejected | calibrated |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(null, key=lambda row: row["variant"] != "recommended"):
        lines.append(
            f"| {row['metric']} | {row['variant']} | {_title(row)} (`{row['name']}`) | "
            f"{row['scenario']} | {100 * row['level']:.2f} % | {100 * row['rejected']:.2f} ± "
            f"{196 * row['error']:.2f} % | {'yes' if row['calibrated'] else 'no'} |"
        )
    lines += ["", "The simulated studies:", ""]
    lines += [f"- *{scenario.name}*: {scenario.what}" for scenario in SCENARIOS]
    lines += ["", "## Power", "", f"Share of {points} studies with p ≤ 0.05.", ""]
    for what in dict.fromkeys(row["what"] for row in power):
        mine = [row for row in power if row["what"] == what]
        lines += [f"{what}:", "", "| test | variant | measure | " + " | ".join(mine[0]["sizes"])]
        lines[-1] += " |"
        lines.append("|---" * (3 + len(mine[0]["sizes"])) + "|")
        for row in mine:
            cells = " | ".join(f"{100 * share:.0f} %" for share in row["rejected"])
            lines.append(f"| {row['metric']} | {row['variant']} | {_title(row)} | {cells} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


class Kept:
    """Numbers so far: a part that is run again replaces its own alone."""

    def __init__(self, out: Path | None) -> None:
        self.out, self.data = out, {"null": {}, "power": {}}
        if out is not None and out.with_suffix(".json").exists():
            self.data = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))

    def add(self, kind: str, name: str, rows: list[dict]) -> None:
        """Keeps one part and writes all."""
        self.data[kind][name] = rows
        if self.out is None:
            return
        order = {
            "null": [scenario.name for scenario in SCENARIOS],
            "power": [curve.what for curve in CURVES],
        }
        self.data = {
            kind: {name: self.data[kind][name] for name in names if name in self.data[kind]}
            for kind, names in order.items()
        }
        null, power = ([row for part in self.data[kind].values() for row in part] for kind in order)
        text = json.dumps(self.data, indent=1)
        self.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
        if null:
            self.out.write_text(markdown(null, power), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000, help="for each null scenario; 0: none")
    parser.add_argument("--power", type=int, default=400, help="for each point of a curve; 0: none")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="scenarios and curves whose name contains this")
    parser.add_argument("--missing", action="store_true", help="only what --out does not have yet")
    parser.add_argument("--out", type=Path, help="Markdown page; its numbers go beside it as JSON")
    options = parser.parse_args()
    start, kept = time.time(), Kept(options.out)
    with ProcessPoolExecutor(options.jobs) as pool:
        for index, scenario in enumerate(SCENARIOS):
            done = options.missing and scenario.name in kept.data["null"]
            if options.studies and options.only in scenario.name and not done:
                kept.add("null", scenario.name, null_table(pool, index, options.studies))
        for index, curve in enumerate(CURVES):
            done = options.missing and curve.what in kept.data["power"]
            if options.power and options.only in curve.what and not done:
                kept.add("power", curve.what, power_table(pool, index, options.power))
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
