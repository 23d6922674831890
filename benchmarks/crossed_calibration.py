"""How often the mean of a two-way layout is called different from 0 although it is 0.

    python -m benchmarks.crossed_calibration --layouts 100000 --out docs/calibration-crossed.md

Personas by questions, both of them samples, as M1, M2, M3 and persona from text test them within
one training run (`analysis/crossed.py`). What the tests make of such layouts is computed by the
code that studies run; the layouts are drawn here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from personaspace.analysis.crossed import two_way_estimate  # noqa: E402
from personaspace.analysis.stats import Estimate, generator  # noqa: E402

LEVELS = (0.05, 0.001, 0.0001)
SHAPES = ((12, 240), (12, 28), (5, 240), (4, 12), (3, 240), (2, 30))


@dataclass(frozen=True)
class World:
    """Standard deviations of what varies; `heavy`: Student's t with 3 degrees of freedom."""

    persona: float
    question: float
    cell: float
    heavy: bool = False

    def draw(self, rng: np.random.Generator, personas: int, questions: int) -> np.ndarray:
        """`[question, persona]`, with a true mean of 0."""

        def some(sd: float, *size: int) -> np.ndarray:
            drawn = rng.standard_t(3, size) / np.sqrt(3) if self.heavy else rng.normal(size=size)
            return np.asarray(sd * drawn)

        rows, columns = some(self.question, questions, 1), some(self.persona, 1, personas)
        return rows + columns + some(self.cell, questions, personas)


WORLDS = {
    "cells alone": World(0, 0, 1),
    "questions": World(0, 1, 0.3),
    "personas": World(0.3, 0, 1),
    "both alike": World(1, 1, 1),
    "both, few cells' noise": World(0.3, 1, 0.1),
    "heavy tails": World(0.3, 0.3, 1, heavy=True),
}


@dataclass(frozen=True)
class Found:
    """Shares of layouts called different from 0 at each level, and the median widening."""

    alone: list[float]
    reported: list[float]
    wider: float


def counted(task: tuple[str, int, int, int]) -> Found:
    """What is made of one world's layouts, by the variance alone and as reported."""
    name, personas, questions, layouts = task
    rng = generator(7, "crossed", name, personas, questions)
    found = []
    for _ in range(layouts):
        estimate: Estimate = two_way_estimate(WORLDS[name].draw(rng, personas, questions))
        alone = replace(estimate, others=())
        wider = (estimate.reach(0.05) or np.nan) / (alone.reach(0.05) or np.nan)
        found.append((alone.p, estimate.p, wider))
    first, second, wide = np.array(found, dtype=float).T
    shares = [[float((p <= level).mean()) for level in LEVELS] for p in (first, second)]
    return Found(*shares, float(np.median(wide)) - 1)


def markdown(layouts: int, rows: Sequence[tuple[str, int, int, Found]]) -> str:
    """The documentation page."""
    lines = [
        "# How often two-way means reject, in the tails",
        "",
        f"Written by `python -m benchmarks.crossed_calibration --layouts {layouts} --out "
        f"docs/calibration-crossed.md`, last on {date.today().isoformat()}.",
        "",
        "Within one training run M1, M2, M3 and persona from text test the mean of a layout of "
        "personas by questions, both of them samples. Corrections over thousands of rows rest on p "
        f"far below 5 %, so these are counted here: per cent of {layouts:,} drawn layouts whose "
        "true mean is 0 with p at most 5, 0.1 and 0.01 %. *Variance alone*: by the two-way "
        "variance and its degrees of freedom, which took those of the many levels where the few "
        "lie close together by luck. *As reported*: no p is smaller, and no interval narrower, "
        "than the way with fewer levels alone makes it.",
        "",
        "*Wider*: how much wider half of the intervals are at least, in per cent.",
        "",
        "What this cannot show: the rows themselves, whose values are jackknife pseudo-values and "
        "not drawn numbers; [calibration.md](calibration.md) has those.",
        "",
        "| varies | personas | questions | 5 %: variance alone | as reported "
        "| 0.1 %: variance alone | as reported | 0.01 %: variance alone | as reported | wider |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, personas, questions, found in rows:
        pairs = zip(found.alone, found.reported, (1, 2, 3), strict=True)
        cells = [f"{100 * one:.{n}f} | {100 * two:.{n}f}" for one, two, n in pairs]
        cells.append(f"{100 * found.wider:.0f}")
        lines.append(f"| {name} | {personas} | {questions} | {' | '.join(cells)} |")
    lines += ["", "Standard deviations of personas, questions and cells:", ""]
    lines += [
        f"- *{name}*: {world.persona:g}, {world.question:g}, {world.cell:g}"
        + ("; Student's t with 3 degrees of freedom." if world.heavy else ".")
        for name, world in WORLDS.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layouts", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    tasks = [(name, *shape, args.layouts) for name, shape in product(WORLDS, SHAPES)]
    rows = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for (name, personas, questions, _), found in zip(
            tasks, pool.map(counted, tasks), strict=True
        ):
            rows.append((name, personas, questions, found))
            print(name, personas, questions, found, flush=True)
    text = markdown(args.layouts, rows)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
