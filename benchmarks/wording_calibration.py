"""How often tests reject where conditions act on single wordings of personas.

python -m benchmarks.wording_calibration --studies 2000 --out docs/calibration-wordings.md

Worlds that its JSON has already, with as many studies, are not computed again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import kept  # noqa: E402
import numpy as np  # noqa: E402
from simulate import ROLES, Arm, Geometry  # noqa: E402

from personaspace.analysis.geometry import collapse  # noqa: E402
from personaspace.analysis.geometry.cells import Cell  # noqa: E402
from personaspace.analysis.geometry.grams import Grams  # noqa: E402
from personaspace.analysis.geometry.pooled import runs_of  # noqa: E402
from personaspace.analysis.geometry.tables import Kept  # noqa: E402
from personaspace.analysis.runs import Runs  # noqa: E402
from personaspace.analysis.stats import generator  # noqa: E402

WORDINGS, SAMPLES, QUESTIONS = 5, 10, 28
#: Standard deviations of rates: between questions, and of a question in a condition.
BY_QUESTION, INTERPLAY = 0.10, 0.025
ARMS = ("base", "benign", "e1")
SMALL = Geometry(personas=8, questions=16, hidden=24, own=0.0)
#: Personas in answers, the first of them the induction persona of the first EM condition.
PERSONAS = 10
LEAKING = ("benign", "e1", "e2", "e3", "e4")
CHECKS = (
    "M1 raw cosine, change from base",
    "M1 raw cosine, EM less benign",
    "M1 spread, EM less benign",
    "M1 raw cosine, EM less benign, new personas",
    "bystanders, EM less benign",
    "bystanders, EM less benign, new personas",
    "H1, own less other conditions",
)


@dataclass(frozen=True)
class World:
    """What wordings do; standard deviations.

    Attributes:
        what: In a sentence.
        own: Of a wording of one persona in one condition (per dimension, times 10 of rates).
        form: Of a form of words that all personas share in one condition.
        lasting: Of a wording in all conditions alike.
        seeds: Training runs of each condition.
        known: The analysis knows of wordings.
    """

    what: str
    own: float = 0.0
    form: float = 0.0
    lasting: float = 0.0
    seeds: tuple[int, ...] = (42,)
    known: bool = True


_SEEDS = (42, 137, 256)
WORLDS = {
    "wordings do not matter": World("A wording is as good as another."),
    "wordings last": World("Wordings differ, in all conditions alike.", lasting=0.5),
    "own wordings, unknown": World(
        "Each condition moves each wording of each persona otherwise; the analysis takes the "
        "answers to be of one wording.",
        own=0.5, lasting=0.5, known=False,
    ),
    "own wordings": World("The same; wordings are a sample.", own=0.5, lasting=0.5),
    "shared forms, unknown": World(
        "Each condition moves the k-th wordings of all personas alike; not known.",
        form=0.3, lasting=0.5, known=False,
    ),
    "shared forms": World("The same; wordings are a sample.", form=0.3, lasting=0.5),
    "own wordings, three seeds": World(
        "Own wordings, and three training runs that differ.", own=0.5, lasting=0.5, seeds=_SEEDS
    ),
}  # fmt: skip


def _cells(world: World, rng: np.random.Generator) -> list[list[Cell]]:
    """Of each seed the cell of all wordings, then those without each of them."""
    size = SMALL
    p, q, h = size.personas, size.questions, size.hidden

    def normal(sd: float, *shape: int) -> np.ndarray:
        return sd * rng.standard_normal((*shape, h), dtype=np.float32)

    lasting = normal(world.lasting, p, WORDINGS, 1)
    moved = {
        arm: normal(world.own, p, WORDINGS, 1) + normal(world.form, 1, WORDINGS, 1) for arm in ARMS
    }
    first = size.cell(rng, dict.fromkeys(ARMS, Arm()))
    found = []
    for seed in world.seeds:
        states = np.empty((len(ARMS), p, WORDINGS, q, h), dtype=np.float32)
        for place, arm in enumerate(ARMS):
            run = normal(0.1 if len(world.seeds) > 1 else 0.0, p, 1, 1)
            noise = normal(0.5, p, WORDINGS, q)
            states[place] = first.states[place][:, None] + lasting + moved[arm] + run + noise
        keeps = [list(range(WORDINGS))]
        keeps += [[w for w in range(WORDINGS) if w != left] for left in range(WORDINGS)]
        cells = []
        for keep in keeps:
            mean = states[:, :, keep].mean(axis=2)
            means = mean.mean(axis=2, dtype=np.float64)
            cells.append(replace(first, seed=seed, states=mean, means=means))
        found.append(cells)
    return found


def _tables(cell: Cell) -> Kept:
    """What `collapse.m1` keeps of a cell, without its rows."""
    tables, grams = Kept(), Grams.of(cell)
    for name in cell.conditions[1:]:
        pair = grams.leave_one_out(name, ROLES.base)
        mine, base = (collapse.pseudo_values(pair, of_base=of_base) for of_base in (False, True))
        for measure in ("raw_cosine", "spread"):
            tables.add(cell, "M1", measure, name, mine[measure], base[measure])
    return tables


def geometry(world: World, rng: np.random.Generator) -> list[float | None]:
    """p of M1 over runs, where conditions move no persona."""
    tables = Kept()
    for whole, *without in _cells(world, rng):
        mine = _tables(whole)
        if world.known:
            mine.leave_out([_tables(cell) for cell in without])
        for key, found in mine.tables.items():
            tables.tables.setdefault(key, []).extend(found)
    cosine, spread = (
        runs_of(tables.tables["a", 20, "M1", name], True) for name in ("raw_cosine", "spread")
    )
    assert cosine is not None and spread is not None
    less = {"e1": 1.0, "benign": -1.0}
    return [
        cosine.contrast({"e1": 1.0}, "these_personas").estimate.p,
        cosine.contrast(less, "these_personas").estimate.p,
        spread.contrast(less, "these_personas").estimate.p,
        cosine.contrast(less, "new_personas").estimate.p,
    ]


def _rates(world: World, rng: np.random.Generator) -> Runs:
    """Rates of every run: `[N, Q, P]`, and by wording."""
    shape = (PERSONAS, WORDINGS)
    lasting = rng.normal(0, world.lasting / 10, size=(*shape, 1))
    question = rng.normal(0, BY_QUESTION, size=QUESTIONS)
    found = []
    for _ in LEAKING:
        own = rng.normal(0, world.own / 10, size=(*shape, 1))
        own = own + rng.normal(0, world.form / 10, size=(1, WORDINGS, 1))
        for _ in world.seeds:
            run = rng.normal(0, 0.02 if len(world.seeds) > 1 else 0)
            here = rng.normal(0, INTERPLAY, size=QUESTIONS)
            rates = np.clip(0.5 + lasting + own + run + question + here, 0, 1)
            found.append(rng.binomial(SAMPLES // WORDINGS, rates) / (SAMPLES // WORDINGS))
    wordings = np.stack(found).transpose(0, 2, 3, 1)
    names = [name for name in LEAKING for _ in world.seeds]
    return Runs(
        tuple(names),
        world.seeds * len(LEAKING),
        wordings.mean(axis=1),
        wordings=wordings if world.known else None,
    )


def answers(world: World, rng: np.random.Generator) -> list[float | None]:
    """p of H1 and of a contrast of bystanders, where conditions leak alike."""
    runs = _rates(world, rng)
    bystanders = replace(
        runs,
        tables=runs.tables[:, :, 1:],
        wordings=None if runs.wordings is None else runs.wordings[..., 1:],
    )

    def excess(values: np.ndarray) -> np.ndarray:
        return values[..., :1] - values[..., 1:].mean(axis=-1, keepdims=True)

    first = replace(
        runs,
        tables=excess(runs.tables),
        wordings=None if runs.wordings is None else excess(runs.wordings),
    )
    em = LEAKING[1:]
    weights = dict.fromkeys(em, -1 / (len(em) - 1)) | {em[0]: 1.0}
    less = {em[0]: 1.0, LEAKING[0]: -1.0}
    return [
        bystanders.contrast(less, "these_personas").estimate.p,
        bystanders.contrast(less, "new_personas").estimate.p,
        first.contrast(weights, "these_personas").estimate.p,
    ]


def rejected(world: World, label: str, studies: int) -> dict[str, float]:
    """Share of studies with p ≤ 0.05, by test."""
    rows = []
    for study in range(studies):
        rng = generator(17, label.removesuffix(", unknown"), study)
        rows.append([*geometry(world, rng), *answers(world, rng)])
    return kept.rejections(np.array(rows, dtype=float), list(CHECKS))


def markdown(shares: Mapping[str, Mapping[str, float]], studies: int) -> str:
    """The page."""
    error = kept.error(studies)
    lines = [
        "# Personas in several wordings: how often tests reject",
        "",
        f"Written by `python -m benchmarks.wording_calibration --studies {studies} --out "
        f"docs/calibration-wordings.md`, last on {date.today().isoformat()}.",
        "",
        "Share of made-up studies in % with p ≤ 0.05 although no condition moves a persona in the "
        f"mean of all its wordings, {studies} studies a world (at 5 %: ± {error:.1f}). "
        f"{SMALL.personas} personas and {SMALL.questions} questions ({PERSONAS} and "
        f"{QUESTIONS} in answers, {SAMPLES} a question), {WORDINGS} wordings each.",
        "",
        *kept.by_test(shares),
        "",
        *kept.legend(shares, WORLDS),
        "",
        "Tests for new personas count wordings whole beside personas, so they are cautious. "
        "Without that, contrasts of bystanders rejected in 7.6 % where forms are shared. H1 is a "
        "difference of personas, in which shared forms cancel.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    kept.calibrate(__doc__, WORLDS, rejected, markdown)
