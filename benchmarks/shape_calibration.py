"""How often tests of the shape of persona space reject, and how often their intervals miss.

python -m benchmarks.shape_calibration --studies 2000 --out docs/calibration-shape.md

Worlds that its JSON has already, with as many studies, are not computed again.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import kept  # noqa: E402
import numpy as np  # noqa: E402
from scipy.linalg import subspace_angles  # noqa: E402
from scipy.spatial import procrustes  # noqa: E402
from scipy.spatial.distance import pdist  # noqa: E402

from personaspace.analysis.geometry import shape, transfer  # noqa: E402
from personaspace.analysis.geometry.cells import Cell, Roles  # noqa: E402
from personaspace.analysis.geometry.halves import Design  # noqa: E402
from personaspace.analysis.geometry.pooled import Kept, pooled_rows  # noqa: E402
from personaspace.analysis.geometry.separability import Design as Folds  # noqa: E402
from personaspace.analysis.rows import Row  # noqa: E402
from personaspace.analysis.stats import generator  # noqa: E402

CONDITIONS = ("base", "benign", "e1")
ROLES = Roles("base", None, "benign", "assistant")
MEASURES = ("participation_ratio", *shape.AT_BOUND)
EQUAL, UNEQUAL = (3,) * 8, (1, 1, 2, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class World:
    """What is true of persona vectors, and how activations scatter around them.

    Attributes:
        what: In a sentence.
        truth: `nothing`: no condition differs from base; `alike`: both have moved to the same
            places; `elsewhere`: EM to other places, as far from base's shape as benign.
        sizes: How many questions each theme has; the effects of themes.
        acts: Standard deviation of what a theme does to a persona in a condition.
        known: The analysis knows the themes.
        noise: Standard deviation of an answer.
        personas: How many.
        questions: How many, where there are no themes.
        heavy: Student's t with three degrees of freedom instead of normal.
        uneven: Factor on the noise of the first persona.
        massive: Two dimensions of tens of thousands, and all in float16.
        missing: Share of answers that are missing.
        seeds: Training runs of each condition.
        run: Standard deviation of a run's own displacement of each persona.
    """

    what: str
    truth: str = "nothing"
    sizes: tuple[int, ...] = ()
    acts: float = 0.0
    known: bool = False
    noise: float = 1.0
    personas: int = 6
    questions: int = 24
    heavy: bool = False
    uneven: float = 1.0
    massive: bool = False
    missing: float = 0.0
    seeds: int = 1
    run: float = 0.0

    @property
    def places(self) -> np.ndarray | None:
        """The theme of each question."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes) if self.sizes else None

    def vectors(self, rng: np.random.Generator) -> np.ndarray:
        """True persona vectors, `[C, P, H]`."""
        hidden = 32
        base = 3 * rng.standard_normal(hidden) + 0.7 * rng.standard_normal((self.personas, hidden))
        if self.truth == "nothing":
            return np.stack([base] * 3)
        moved = 0.7 * base + 0.5 * rng.standard_normal(base.shape)
        other = moved
        if self.truth == "elsewhere":
            basis = np.linalg.svd((base - base.mean(axis=0)).T)[0]
            seen, rest = np.split(basis, [self.personas - 1], axis=1)
            turn = np.linalg.qr(rng.standard_normal((rest.shape[1],) * 2))[0]
            other = moved @ (seen @ seen.T + rest @ turn @ rest.T)
        return np.stack([base, moved, other])

    def cell(self, truth_CPH: np.ndarray, shared_QH: np.ndarray, valid: np.ndarray, seed: int,
             rng: np.random.Generator) -> Cell:  # fmt: skip
        """Activations of one seed."""
        conditions, personas, hidden = truth_CPH.shape
        questions = len(shared_QH)

        def z(*shape: int) -> np.ndarray:
            if self.heavy:
                return np.asarray(rng.standard_t(3, size=shape) / np.sqrt(3))
            return rng.standard_normal(shape)

        weight = np.ones((personas, 1, 1))
        weight[0] = self.uneven
        states = truth_CPH[:, :, None] + shared_QH + 0.3 * z(conditions, 1, questions, hidden)
        states = states + self.noise * weight * z(conditions, personas, questions, hidden)
        if self.acts:
            moved = self.acts * z(conditions, personas, len(self.sizes), hidden)
            states = states + moved[:, :, self.places]
        if self.run:
            states[1:] += self.run * z(conditions - 1, personas, 1, hidden)
        if self.massive:
            size = 1 + 0.0002 * z(conditions, personas, questions, 2)
            states[..., :2] = np.array([60_000.0, -40_000.0]) * size
            states = states.astype(np.float16)
        states = states.astype(np.float32)
        states[:, ~valid] = 0.0
        means = states.sum(axis=2, dtype=np.float64) / valid.sum(axis=1)[:, None]
        names = tuple(f"persona {index}" for index in range(personas))
        return Cell("a", 20, seed, CONDITIONS, names, states, valid, means)

    def study(self, rng: np.random.Generator) -> tuple[list[Row], np.ndarray]:
        """Rows over all runs, and the true vectors."""
        truth, places = self.vectors(rng), self.places
        questions = self.questions if places is None else len(places)
        shared = 0.6 * rng.standard_normal((questions, truth.shape[2]))
        valid = rng.random((self.personas, questions)) >= self.missing
        number, tables = int(rng.integers(2**31)), Kept()
        groups = Design.make(questions, number, places if self.known else None)
        folds = Folds.make(valid, 1, number, places if self.known else None)
        for seed in range(self.seeds):
            cell = self.cell(truth, shared, valid, seed, rng)
            shape.rows(cell, ROLES, groups, tables)
            transfer.rows(cell, ROLES, folds, cell.states, tables)
        return pooled_rows(tables, ROLES), truth


WORLDS = {
    "nothing happens": World("No condition differs from base: two halves of the same."),
    "moved alike": World("Benign and EM have moved to the same places.", "alike"),
    "moved elsewhere": World(
        "EM has moved to other places than benign, as far from base's shape.", "elsewhere"
    ),
    "12 questions": World("Of 12 questions.", "elsewhere", questions=12),
    "4 personas": World("Of four personas.", "elsewhere", personas=4),
    "much noise": World("Nothing happens, with twice the noise.", noise=2.0),
    "heavy tails": World("Noise of Student's t.", "elsewhere", heavy=True),
    "one noisy persona": World("The first persona has three times the noise.", uneven=3.0),
    "massive dimensions": World("Nothing happens, in float16 beside 60,000.", massive=True),
    "20 % missing": World("A fifth of the answers is missing.", "elsewhere", missing=0.2),
    "themes act, unknown": World(
        "Nothing happens; eight themes of three move personas, and the analysis knows none.",
        sizes=EQUAL, acts=0.7,
    ),
    "themes act": World(
        "The same; themes are left out as wholes.", sizes=EQUAL, acts=0.7, known=True
    ),
    "themes act, elsewhere": World(
        "The same, EM moved elsewhere.", "elsewhere", sizes=EQUAL, acts=0.7, known=True
    ),
    "unequal themes act": World(
        "Themes of 1, 1, 2, 2, 3, 4, 5 and 6 questions.", "elsewhere", sizes=UNEQUAL, acts=0.7,
        known=True,
    ),
    "three runs": World(
        "Three training runs of each condition, every one of which moves personas by itself.",
        seeds=3, run=0.3,
    ),
}  # fmt: skip


def truths(base: np.ndarray, mine: np.ndarray) -> dict[str, float]:
    """Every measure of true vectors, by its textbook."""
    a, b = base - base.mean(axis=0), mine - mine.mean(axis=0)
    values = np.linalg.eigvalsh(np.cov(mine.T))
    alike = np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a @ a.T) / np.linalg.norm(b @ b.T)
    of_base, of_mine = (np.linalg.svd(x.T)[0][:, : len(x) - 1] for x in (a, b))
    return {
        "participation_ratio": float(values.sum() ** 2 / (values**2).sum()),
        "cka": float(alike),
        "rsa": float(np.corrcoef(pdist(base, "sqeuclidean"), pdist(mine, "sqeuclidean"))[0, 1]),
        "procrustes": float(procrustes(base, mine)[2]),
        "subspace_overlap": float(np.mean(np.cos(subspace_angles(of_base, of_mine)) ** 2)),
    }


def outcomes(world: World, rng: np.random.Generator) -> dict[str, float | None]:
    """Of one study: each p, and 0 or 1 for each interval (it holds the truth or does not)."""
    rows, truth = world.study(rng)
    by_name = {(row.name, row.condition): row for row in rows}
    true, found = truths(truth[0], truth[2]), {}
    if world.truth == "nothing" and not world.run:
        found["p participation_ratio, change"] = _p(by_name.get(("participation_ratio", "e1")))
    for name in (*MEASURES, transfer.NAME):
        added = by_name.get((f"{name}_em_minus_benign", "e1"))
        if name != transfer.NAME:
            found[f"p {name}"] = _p(added)
            if not world.run:  # else every run is somewhere else
                found[f"i {name}"] = _missed(by_name.get((name, "e1")), true[name])
        else:
            found[f"i {name}, less benign"] = _missed(added, 0.0)
            if world.truth == "nothing" and not world.run:
                change = by_name.get((f"{name}_delta", "e1"))
                found[f"i {name}, change"] = _missed(change, 0.0)
    return found


def _p(row: Row | None) -> float | None:
    return None if row is None or row.p is None else float(row.p)


def _missed(row: Row | None, true: float) -> float | None:
    if row is None or row.ci95 is None:
        return None
    return 0.0 if row.ci95[0] <= true + 1e-6 and true - 1e-6 <= row.ci95[1] else 1.0


def rejected(world: World, name: str, studies: int) -> dict[str, float]:
    """Share of studies with p ≤ 0.05, and of intervals that miss the truth."""
    shape.threadpool_limits = lambda _: nullcontext()  # one thread here already
    found = [outcomes(world, generator(17, name, index)) for index in range(studies)]
    shares = {}
    for test in dict.fromkeys(key for one in found for key in one):
        values = np.array([one[test] for one in found if one.get(test) is not None], dtype=float)
        if len(values) >= studies / 2:
            hits = values <= 0.05 if test.startswith("p ") else values > 0
            shares[test] = float(hits.mean())
    return shares


def markdown(shares: dict[str, dict[str, float]], studies: int) -> str:
    """The page."""
    error = kept.error(studies)
    lines = [
        "# Shape of persona space: how often tests reject",
        "",
        f"Written by `python -m benchmarks.shape_calibration --studies {studies} --out "
        f"docs/calibration-shape.md`, last on {date.today().isoformat()}.",
        "",
        f"{studies} made-up studies a world (at 5 %: ± {error:.1f}) of base, a benign and an EM "
        "condition; 6 personas, 24 questions and one training run where nothing else is said. "
        "What is tested is true of these personas: nothing differs between EM and benign in the "
        "measures below.",
        "",
        "**Share with p ≤ 0.05, in %**: EM less benign, and the participation ratio's change from "
        "base where there is none.",
        "",
        *kept.by_world(shares, "p "),
        "",
        "**Share of 95 % intervals that miss the truth, in %**: of EM's value against base; of the "
        "accuracy of base's classifier, its difference from benign and its change.",
        "",
        *kept.by_world(shares, "i "),
        "",
        *kept.legend(shares, WORLDS),
        "",
    ]
    return "\n".join([*lines, NOTES, ""])


NOTES = "– : in fewer than half of the studies could it be computed, or it is not true there."


if __name__ == "__main__":
    kept.calibrate(__doc__, WORLDS, rejected, markdown)
