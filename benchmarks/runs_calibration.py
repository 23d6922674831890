"""How often tests with training runs as units reject a true null hypothesis, world by world.

python benchmarks/runs_calibration.py --studies 2000 --out docs/calibration-runs.md

Worlds that its JSON has already, with as many studies, are not computed again.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import kept  # noqa: E402
import numpy as np  # noqa: E402

from personaspace.analysis.leakage.trend import robust_slope  # noqa: E402
from personaspace.analysis.runs import TARGETS, Runs, all_alike  # noqa: E402
from personaspace.analysis.stats import generator  # noqa: E402
from personaspace.analysis.themes import by_theme  # noqa: E402

CONDITIONS = ("benign", "e0", "e1", "e2", "e3", "e4")
EM = CONDITIONS[1:]
COSINES = np.array([1.0, 0.9457, 0.9060, 0.8696, 0.7828])
CONTRASTS = {
    "E0 less E4": {"e0": 1.0, "e4": -1.0},
    "E0 less benign": {"e0": 1.0, "benign": -1.0},
    "EM mean less benign": dict.fromkeys(EM, 0.2) | {"benign": -1.0},
}
LEVELS = {"5 %": 0.05, "0.1 %": 0.001}
THREE = dict.fromkeys(CONDITIONS, (42, 137, 256))


@dataclass(frozen=True)
class World:
    """What varies; standard deviations in units of a run's own.

    Attributes:
        what: In a sentence.
        seeds: Of each condition.
        run: Between runs of a condition.
        seed: Shared by all runs of a seed.
        persona_run: Of one persona in one run.
        question_run: Of one question in one run.
        persona: Of one persona in one condition, lasting over runs: an effect on these personas,
            chance for new ones.
        question: Of one question in one condition, lasting over runs.
        theme: Of a theme of questions in one condition, lasting over runs.
        sizes: How many questions each theme has.
        themed: The analysis knows the themes.
        cell: Of a single answer.
        personas: How many.
        questions: How many.
        noisy: Factor on all that varies between the runs of the last condition.
        uneven: Factor on all that the first persona brings.
        heavy: Student's t with three degrees of freedom instead of normal.
        missing: Share of cells without an answer, which get their question's mean.
        binary: Shares of ten answers instead of normal cells.
    """

    what: str
    seeds: dict[str, tuple[int, ...]] = field(default_factory=lambda: THREE)
    run: float = 1.0
    seed: float = 0.7
    persona_run: float = 0.5
    question_run: float = 0.5
    persona: float = 0.0
    question: float = 0.0
    theme: float = 0.0
    sizes: tuple[int, ...] = (5, 5, 5, 5, 4, 4)
    themed: bool = False
    cell: float = 2.0
    personas: int = 12
    questions: int = 28
    noisy: float = 1.0
    uneven: float = 1.0
    heavy: bool = False
    missing: float = 0.0
    binary: bool = False

    def draw(self, rng: np.random.Generator) -> tuple[Runs, Runs]:
        """One study; no condition differs from another but by chance.

        Returns:
            The runs, and the same without what conditions do to these very personas, which is no
            chance in a claim about them.
        """
        p, q = self.personas, self.questions
        places = np.repeat(np.arange(len(self.sizes)), self.sizes)

        def z(*shape: int) -> np.ndarray:
            if self.heavy:
                return np.asarray(rng.standard_t(3, size=shape) / np.sqrt(3))
            return rng.standard_normal(shape)

        weight = np.ones(p)
        weight[0] = self.uneven
        by_seed: dict[int, np.ndarray] = {}
        names, seeds, tables, truths = [], [], [], []
        for name in CONDITIONS:
            factor = self.noisy if name == "e4" else 1.0
            moved = self.persona * weight * z(p)
            lasting = moved + self.question * z(q)[:, None]
            if self.theme:
                lasting = lasting + self.theme * z(len(self.sizes))[places][:, None]
            for seed in self.seeds[name]:
                shared = by_seed.setdefault(seed, self.seed * z(1))
                own = self.run * z(1) + self.persona_run * weight * z(p)
                own = own + self.question_run * z(q)[:, None]
                table = lasting + shared + factor * own
                if self.binary:
                    rate = np.clip(0.1 + 0.04 * table, 0.0, 1.0)
                    table = rng.binomial(10, rate) / 10
                else:
                    table = table + self.cell * z(q, p)
                if self.missing:
                    gone = rng.random((q, p)) < self.missing
                    kept = np.where(gone, np.nan, table)
                    means = np.nanmean(kept, axis=1, keepdims=True)
                    table = np.where(gone, means, table)
                names.append(name)
                seeds.append(seed)
                tables.append(by_theme(table, places, axis=0) if self.themed else table)
                truths.append(0.0 if self.binary else moved.mean())
        whole = np.array(tables)
        of = (tuple(names), tuple(seeds))
        return Runs(*of, whole), Runs(*of, whole - np.array(truths)[:, None, None])


def _unequal(**seeds: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(CONDITIONS, (42,)) | seeds


_E0_E4 = _unequal(e0=(42, 137, 256), e4=(42, 137, 256))
WORLDS = {
    "three seeds": World("Runs, seeds and answers vary."),
    "two seeds": World("The same with two seeds.", dict.fromkeys(CONDITIONS, (1, 2))),
    "five seeds": World("The same with five seeds.", dict.fromkeys(CONDITIONS, (1, 2, 3, 4, 5))),
    "one seed": World(
        "One seed, and runs that do not vary: all that a single seed can be right about.",
        dict.fromkeys(CONDITIONS, (42,)), run=0, seed=0, persona_run=0, question_run=0.5,
    ),
    "no run scatter": World("Runs differ by their answers alone.", run=0, seed=0, persona_run=0),
    "one noisy condition": World("The runs of E4 vary five times as much as others.", noisy=5.0),
    "heavy tails": World("All is drawn from Student's t with 3 degrees of freedom.", heavy=True),
    "unequal personas": World(
        "One persona varies four times as much as the others.", uneven=4.0, persona_run=1.0
    ),
    "four personas, 12 questions": World("A small study.", personas=4, questions=12),
    "questions act": World(
        "Conditions move single questions, the same in every run.", question=1.5, run=0.3, seed=0.3
    ),
    "themes act, unknown": World(
        "Conditions move six themes of questions as wholes; the analysis knows no themes.",
        theme=1.0, run=0.3, seed=0.3,
    ),
    "themes act": World(
        "The same; themes are the clusters.", theme=1.0, run=0.3, seed=0.3, themed=True,
    ),
    "unequal themes act": World(
        "The same with themes of 1, 2, 3, 5, 7 and 10 questions.",
        theme=1.0, run=0.3, seed=0.3, sizes=(1, 2, 3, 5, 7, 10), themed=True,
    ),
    "themes do not act": World("Themes are the clusters, but single questions are moved.",
        question=1.5, run=0.3, seed=0.3, themed=True,
    ),
    "three themes act": World(
        "Three themes of four questions, two seeds.", dict.fromkeys(CONDITIONS, (1, 2)),
        theme=1.0, run=0.3, seed=0.3, questions=12, sizes=(4, 4, 4), themed=True,
    ),
    "themes act, one seed": World(
        "Eight themes, and runs that do not vary.", dict.fromkeys(CONDITIONS, (42,)),
        theme=1.0, run=0, seed=0, persona_run=0, questions=32, sizes=(4,) * 8, themed=True,
    ),
    "personas act": World(
        "Conditions move single personas, which is no chance for these: claims on them are "
        "measured by what is true of them. For new ones it is.",
        persona=1.5, run=0.3, seed=0.3,
    ),
    "unequal seeds": World("E0 and E4 have three runs, the others one.", _E0_E4),
    "partly shared seeds": World(
        "Two to four runs each, some with the same seeds.",
        _unequal(benign=(1, 2, 3), e0=(1, 2, 3), e1=(1, 2), e2=(1, 2), e3=(6, 7),
                 e4=(2, 3, 4, 5)),
    ),
    "no seed in common": World(
        "Three runs each, every one with a seed of its own.",
        {name: tuple(range(10 * i, 10 * i + 3)) for i, name in enumerate(CONDITIONS)},
    ),
    "20 % missing": World("A fifth of the answers is missing.", missing=0.2),
    "rates near zero": World("Shares of ten answers, 10 % on average.", binary=True),
}  # fmt: skip


def study(world: World, rng: np.random.Generator) -> dict[str, float | None]:
    """The p of every test."""
    (runs, of_these), found = world.draw(rng), {}
    for name, weights in CONTRASTS.items():
        for target, one in zip(TARGETS, (of_these, runs), strict=True):
            found[f"{name}, {target}"] = one.contrast(weights, target).estimate.p
    several = [name for name in EM if runs.counts[name] > 1]
    if len(several) > 1:
        found["H2 over runs"] = all_alike(of_these, several).p
    means = np.array([np.mean([mean for _, mean in of_these.of(name)]) for name in EM])
    found["H3 slope"] = robust_slope(COSINES, means).p
    return found


def rejected(world: World, name: str, studies: int) -> dict[str, float]:
    """Share of studies with p at most each level, by level and test."""
    found = [study(world, generator(11, name, index)) for index in range(studies)]
    tests = dict.fromkeys(key for one in found for key in one)
    shares = {}
    for test in tests:
        p = np.array([np.nan if one.get(test) is None else one[test] for one in found], dtype=float)
        p = p[np.isfinite(p)]
        if len(p):
            shares |= {
                f"{named}: {test}": float((p <= level).mean()) for named, level in LEVELS.items()
            }
    return shares


def markdown(shares: dict[str, dict[str, float]], studies: int) -> str:
    """The page."""
    error = kept.error(studies)
    lines = [
        "# How often tests over training runs reject",
        "",
        f"Written by `python benchmarks/runs_calibration.py --studies {studies} --out "
        f"docs/calibration-runs.md`, last on {date.today().isoformat()}.",
        "",
        "Share of made-up studies in % with p ≤ 0.05 although no condition differs from another, "
        f"{studies} studies a world (at 5 %: ± {error:.1f}). Estimate, p and 95 % interval are one "
        "statement, so that intervals hold the truth in 100 % less this. Six conditions, "
        "12 personas, 28 questions and three seeds where nothing else is said.",
        "",
        *kept.by_world(shares, "5 %: "),
        "",
        "The same with p ≤ 0.001, which should be 0.1 % of studies or fewer. Corrections over many "
        "rows rest on such p: no source of chance that is added makes p smaller than the runs "
        "alone have it, whose number says how well their variance is known.",
        "",
        *kept.by_world(shares, "0.1 %: "),
        "",
        *kept.legend(shares, WORLDS),
        "",
        "What to know: where personas act, conditions do differ on *these* personas, so that a "
        "claim about them rejects zero in a fifth of studies, and rightly: the column says how "
        "often it rejects what is true of them. "
        "H2 over runs is cautious unless one condition is noisy. "
        "A condition with one run among others with several borrows their variance, and its runs "
        "are taken to be correlated as is worse: cautious as well. "
        "Where effects act on whole themes of questions and the analysis does not know of themes, "
        "no row is right: name the themes in the file of questions ([statistics](statistics.md)).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    kept.calibrate(__doc__, WORLDS, rejected, markdown)
