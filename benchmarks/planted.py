"""Is the planted truth inside the reported intervals?

    python benchmarks/planted.py --runs 5
    python benchmarks/planted.py --runs 200 --jobs 2 --out docs/planted.md

Each run is a whole made-up study: base, benign and five EM conditions, six layers, twelve personas;
and the marker's leakage with a planted slope on the cosine. The truth is that of the population of
personas, computed from 4,000 noise-free ones of the same world.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from simulate import CONDITIONS, ROLES, SOURCE, Arm, Geometry, Leakage  # noqa: E402

from personaspace.analysis.geometry import axis, collapse, convergence  # noqa: E402
from personaspace.analysis.geometry.cells import Cell  # noqa: E402
from personaspace.analysis.leakage import across  # noqa: E402
from personaspace.analysis.leakage.scores import common_bystanders  # noqa: E402
from personaspace.analysis.rows import Row  # noqa: E402
from personaspace.analysis.stats import generator  # noqa: E402

SIZE = Geometry(questions=48)
#: Spread of the EM conditions along the axis by layer, as a share of their shift.
SPREADS = {7: 0.6, 11: 0.5, 14: 0.4, 17: 0.25, 20: 0.03, 27: 0.02}
EM = tuple(condition.name for condition in CONDITIONS)
LEAKAGE = Leakage(slope=-0.3, run=0.02)
POPULATION = 4000
TRUTHS = ("collapse increment", "mean collapse increment", "layer of convergence", "leakage slope")


def arms_at(spread: float) -> dict[str, Arm]:
    """Benign collapses half as far as EM; EM conditions stand evenly around a shift of 1."""
    places = np.linspace(-0.5, 0.5, len(EM))
    em = {name: Arm(0.4, 1.0 + spread * place) for name, place in zip(EM, places, strict=True)}
    return {"base": Arm(), "benign": Arm(0.7, 0.4)} | em


class World:
    """One layer: its vectors, and what the population of personas would show."""

    def __init__(self, rng: np.random.Generator, arms: dict[str, Arm]) -> None:
        self.rng, self.arms = rng, arms
        self.mean, self.axis = self._normal(SIZE.mean), self._normal(SIZE.axis)
        self.vectors = self._personas(SIZE.personas)
        assistant = SIZE.names.index("assistant")
        e0, base = self.vectors["e0-assistant"], self.vectors["base"]
        self.direction = e0[assistant] - base[assistant]

    def _normal(self, sd: float, *shape: int) -> np.ndarray:
        return self.rng.normal(0, sd, size=(*shape, SIZE.hidden))

    def _personas(self, count: int) -> dict[str, np.ndarray]:
        different = self._normal(SIZE.between, count)
        return {
            name: self.mean
            + arm.spread * different
            + arm.shift * self.axis
            + self._normal(SIZE.own, count)
            for name, arm in self.arms.items()
        }

    def cell(self, layer: int) -> Cell:
        """What would be extracted."""
        p, q = SIZE.personas, SIZE.questions
        shared = self._normal(SIZE.question, q)
        states = np.stack(
            [
                vectors[:, None]
                + shared
                + self._normal(SIZE.interplay, q)
                + self._normal(SIZE.noise, p, q)
                for vectors in self.vectors.values()
            ]
        ).astype(np.float32)
        valid = np.ones((p, q), dtype=bool)
        means = states.mean(axis=2, dtype=np.float64)
        return Cell("a", layer, 42, tuple(self.arms), SIZE.names, states, valid, means)

    def truth(self) -> tuple[dict[str, float], dict[str, float]]:
        """Mean pair cosine, and mean cosine with the axis, of each condition's population."""
        cosines, positions = {}, {}
        direction = self.direction / np.linalg.norm(self.direction)
        for name, vectors in self._personas(POPULATION).items():
            units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            total = units.sum(axis=0)
            cosines[name] = float(total @ total - len(units)) / (len(units) * (len(units) - 1))
            positions[name] = float((units @ direction).mean())
        return cosines, positions


def _converged(positions: dict[str, float]) -> bool:
    mine = [positions[name] for name in EM]
    shift = abs(float(np.mean(mine)) - positions["base"])
    return max(mine) - min(mine) <= convergence.TOLERANCE * shift


def _inside(row: Row, truth: float | None) -> bool:
    return truth is not None and row.ci95 is not None and row.ci95[0] <= truth <= row.ci95[1]


def run(index: int) -> dict[str, list[bool]]:
    """One study: for each kind of truth, whether it is inside the reported intervals."""
    rng = generator(11, "planted", index)
    halves = axis.halve(SIZE.questions, generator(11, "planted halves"))
    found: dict[str, list[bool]] = {name: [] for name in TRUTHS}
    places, converged = [], {}
    for layer, spread in SPREADS.items():
        world = World(rng, arms_at(spread))
        cell = world.cell(layer)
        cosines, positions = world.truth()
        converged[layer] = _converged(positions)
        rows = {(row.name, row.condition): row for row in collapse.m1(cell, ROLES)}
        benign = cosines["benign"]
        for name in EM:
            row = rows["em_minus_benign", name]
            found["collapse increment"].append(_inside(row, cosines[name] - benign))
        truth = float(np.mean([cosines[name] for name in EM])) - benign
        found["mean collapse increment"].append(_inside(rows["em_mean_minus_benign", None], truth))
        _, place, _ = axis.m2(cell, ROLES, halves)
        assert place is not None
        places.append(place)
    layers = list(SPREADS)
    first = next(
        (layer for layer in layers if all(converged[x] for x in layers if x >= layer)), None
    )
    last = convergence.convergence_rows(places, "a", 42, 1)[-1]
    found["layer of convergence"].append(_inside(last, first))
    scores = LEAKAGE.scores(rng)
    common = common_bystanders(scores, CONDITIONS, SOURCE)
    h3 = across.h3_rows(
        scores, CONDITIONS, common, measured=None, permutations=100, seed=1, training_seed=42
    )
    slope = next(row for row in h3 if row.name == "slope")
    found["leakage slope"].append(_inside(slope, LEAKAGE.slope))
    low, high = last.ci95 or (min(layers), max(layers))
    width = sum(low <= layer <= high for layer in layers)
    return found | {"first": [first == 20], "narrow": [width == 1]}


def page(results: list[dict[str, list[bool]]]) -> str:
    """The documentation page."""
    lines = [
        "# Planted truth",
        "",
        f"Written by `python benchmarks/planted.py --runs {len(results)} --out docs/planted.md` on "
        f"{date.today().isoformat()}.",
        "",
        f"Each of {len(results)} made-up studies has seven conditions, {SIZE.personas} personas, "
        f"{SIZE.questions} questions, {SIZE.hidden} dimensions and layers "
        f"{', '.join(map(str, SPREADS))}. Personas are a sample, and so is the noise; the truth is "
        "that of the population. Benign fine-tuning takes away 30 % of the differences between "
        "personas, EM 60 %. EM conditions stand on the axis within "
        f"{', '.join(f'{100 * s:.0f} %' for s in SPREADS.values())} of their shift, by layer, "
        "so they converge at layer 20 (the condition of convergence is a tenth). Leakage falls by "
        f"{-100 * LEAKAGE.slope:.0f} points per unit of cosine, training runs differ by "
        f"{100 * LEAKAGE.run:.0f} points.",
        "",
        "| truth | rows a study | inside the 95 % interval |",
        "|---|---|---|",
    ]
    for name in TRUTHS:
        values = np.array([result[name] for result in results], dtype=float)
        lines.append(
            f"| {name} | {values.shape[1]} | {100 * values.mean():.1f} % "
            f"± {100 * 1.96 * _error(values):.1f} |"
        )
    held = np.mean([result["first"][0] for result in results])
    narrow = np.mean([result["narrow"][0] for result in results])
    lines += [
        "",
        f"The population converged at layer 20 in {100 * held:.0f} % of the studies. The interval "
        f"of the layer was a single one of the {len(SPREADS)} layers in {100 * narrow:.0f} %.",
    ]
    return "\n".join(lines) + "\n"


def _error(values: np.ndarray) -> float:
    """Standard error over studies, whose rows share their personas."""
    by_study = values.mean(axis=1)
    return float(by_study.std(ddof=1) / np.sqrt(len(by_study))) if len(by_study) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.time()
    with ProcessPoolExecutor(options.jobs) as pool:
        text = page(list(pool.map(run, range(options.runs))))
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
