"""How often steering's rank test rejects, and how often its intervals hold the truth.

python -m benchmarks.steering_calibration --studies 2000 --out docs/calibration-steering.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import kept
from personaspace.activations.steering import varied_directions
from personaspace.analysis.stats import Array, generator
from personaspace.analysis.steering import analyse_steering
from personaspace.analysis.steering_rows import SteeringMeasure
from personaspace.pipeline.arms import arms_of
from personaspace.study.steering import Steering

HIDDEN, CONTROLS, DOSES = 128, 19, [-1.0, 2.0]
#: Activations that the controls' covariance is known from, where nothing else is said.
KNOWN = 240
SPEC = Steering(
    modes=["add"], doses=DOSES, controls=CONTROLS, activation_controls=CONTROLS,
    answered_controls=0,
)  # fmt: skip
HEADS = [
    "world", "questions", "topics", "random: p ≤ 0.05", "p ≤ 0.10", "as activations vary: p ≤ 0.05",
    "p ≤ 0.10", "intervals that hold the truth",
]  # fmt: skip


@dataclass(frozen=True)
class World:
    """A made-up model, and where its vector comes from.

    Attributes:
        respond: What a push of a size along what the model minds does to the trait.
        questions: How many.
        topics: Of these; as many: none shares one.
        heavy: Whether questions differ with t's tails (3 degrees of freedom).
        vector: Of the same distribution as the controls; from the activations, which vary along
            few directions, those that the model minds among them; or what the model minds itself.
        known: Activations that the covariance is known from.
        seeds: Training runs, each with a vector and controls of its own.
    """

    name: str
    respond: Callable[[Array], Array]
    questions: int = 24
    topics: int = 24
    heavy: bool = False
    vector: str = "random"
    known: int = KNOWN
    seeds: int = 1


def _bent(x: Array) -> Array:
    return np.asarray(np.tanh(3 * x) + 0.5 * x**2)


WORLDS = (
    World("straight", lambda x: x),
    World("bent, and worse both ways", _bent),
    World("cubic", lambda x: x**3),
    World("straight, heavy tails", lambda x: x, heavy=True),
    World("straight, few questions", lambda x: x, questions=12, topics=12),
    World("bent, topics of three", _bent, topics=8),
    World("straight, the vector is the cause", lambda x: x, vector="cause"),
    World("straight, the vector is from activations", lambda x: x, vector="activations"),
    World("the same, 60 activations known", lambda x: x, vector="activations", known=60),
    World("the same, 20 activations known", lambda x: x, vector="activations", known=20),
    World("bent, the vector is from activations", _bent, vector="activations"),
    World("straight, three runs", lambda x: x, seeds=3),
    World(
        "the vectors are from activations, three runs", lambda x: x, vector="activations", seeds=3
    ),
)


def _unit(values: Array) -> Array:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


def _run(world: World, cause: Array, rng: np.random.Generator) -> tuple[dict[str, Any], float]:
    """What stage steer would write of one training run, and what is true of its last dose."""
    spread = 1 / np.arange(1, HIDDEN + 1)  # standard deviations of activations
    directions = _unit(rng.standard_normal((1 + CONTROLS, HIDDEN)))
    if world.vector != "random":
        drawn = _unit(spread * rng.standard_normal(HIDDEN))
        directions[0] = cause if world.vector == "cause" else drawn
    states = spread * rng.standard_normal((world.known, HIDDEN))
    seeds = [int(seed) for seed in rng.integers(2**40, size=CONTROLS)]
    varied = varied_directions(1.0, states, seeds)
    topic = np.arange(world.questions) * world.topics // world.questions
    of_topic = rng.standard_normal(world.topics)[topic] if world.topics < world.questions else 0.0
    arms: list[dict[str, Any]] = []
    truth = 0.0
    for arm in arms_of(SPEC, fine_tuned=True):
        changes = np.zeros(world.questions)
        if arm.mode is not None:
            others = varied if arm.matched else directions[1:]
            direction = directions[0] if arm.control is None else others[arm.control]
            effect = float(world.respond(np.asarray(arm.dose * (direction @ cause))))
            noise = rng.standard_t(3, world.questions) if world.heavy else None
            own = rng.standard_normal(world.questions) if noise is None else noise
            changes = effect + 0.1 * (own + of_topic * rng.standard_normal())
            truth = effect if (arm.control, arm.dose) == (None, DOSES[-1]) else truth
        arms.append({**vars(arm), "bad": changes, "good": np.zeros(world.questions)})
    shared = world.topics < world.questions
    run = {
        "layer": 0, "method": "a", "typical_length": 1.0, "lengths": {"shift": 1.0}, "arms": arms,
        "trained_on": 0,
        "pairs": [
            {"question": str(n), "topic": str(topic[n]) if shared else ""}
            for n in range(world.questions)
        ],
    }  # fmt: skip
    return run, truth


def one(world: World, rng: np.random.Generator) -> tuple[float, float, bool]:
    """Both p of a study's vector, and whether the interval at its last dose holds the truth.

    Of several runs the truth is what vectors like theirs do on average: nothing, in a straight
    world.
    """
    spread = 1 / np.arange(1, HIDDEN + 1)
    cause = _unit(spread * rng.standard_normal(HIDDEN))
    made = [_run(world, cause, rng) for _ in range(world.seeds)]
    runs = {("made", seed): run for seed, (run, _) in enumerate(made)}
    rows = [r for r in analyse_steering(runs, [SteeringMeasure.ADVICE]) if r.runs == world.seeds]
    truth = made[0][1] if world.seeds == 1 else 0.0
    tested = next(row for row in rows if row.dose is None)
    last = next(row for row in rows if row.dose == DOSES[-1])
    assert tested.p is not None and tested.p_matched is not None and last.delta_ci95 is not None
    low, high = last.delta_ci95
    return tested.p, tested.p_matched, low <= truth <= high


def _share(hits: NDArray[np.bool_]) -> str:
    share = float(np.mean(hits))
    return f"{100 * share:.1f} ± {196 * np.sqrt(share * (1 - share) / len(hits)):.1f} %"


def line(world: World, studies: int) -> list[str]:
    """A row of the table."""
    found = [one(world, generator(7, "steering", world.name, str(n))) for n in range(studies)]
    *both, held = (np.array(column) for column in zip(*found, strict=True))
    rates = [_share(p <= level + 1e-9) for p in both for level in (0.05, 0.1)]
    return [world.name, str(world.questions), str(world.topics), *rates, _share(held)]


def page(table: str, studies: int) -> str:
    """The page."""
    return f"""# How often steering's test and intervals are right

Written by `python -m benchmarks.steering_calibration --studies {studies} --out \
docs/calibration-steering.md`, last on {date.today()}.

Made-up models of {HIDDEN} dimensions that mind one direction, in the ways that the table names; a vector \
at doses −1 and 2, {CONTROLS} random directions and {CONTROLS} drawn as activations vary (standard \
deviations 1, 1/2, 1/3 …, known from {KNOWN} activations), through `analyse_steering` itself. Share of p at \
or below a level, and of nominal 95 % intervals of the change at dose 2 that hold the truth, ± 1.96 \
Monte-Carlo standard errors. Where nothing else is said the vector is one more random direction, so that \
its p among random directions is to be at or below 0.05 in 5 % of studies; where it is from activations \
it has nothing to do with the trait, and its p among those drawn as activations vary is to be so. Of three \
runs the intervals are those over runs, and the truth is 0, what such vectors do on average.

{table}

**What random directions are worth.** A vector that only comes from where activations vary, along few \
directions, stands out against random ones, since the model minds such directions more than others. Against \
directions drawn as activations vary it does so as often as it should, and hardly more often where their \
covariance is known from 20 activations alone. So that p is the one to go by. Where the vector is one more \
random direction it is cautious, and where it is the cause it finds it. It does not say that a vector does \
what it does for what it was measured as: compare it with the shift of harmless training too, \
[as the report does](steering.md).

**Intervals over three runs** miss the truth in one of ten studies where the runs' vectors share nothing \
and each points along one of few directions: three such effects are far from normal.
"""  # noqa: E501


if __name__ == "__main__":
    kept.tabulate(__doc__, HEADS, WORLDS, line, page)
