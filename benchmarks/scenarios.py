"""The made-up studies of the calibration: in which world each test's null hypothesis is true."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import answer_worlds
import numpy as np
from simulate import CONDITIONS, ROLES, SOURCE, Arm, Geometry, Leakage

from personaspace.analysis.form import analyse_form
from personaspace.analysis.geometry import axis, collapse, convergence, published, separability
from personaspace.analysis.geometry.group_work import GroupWork
from personaspace.analysis.leakage import across, recommended
from personaspace.analysis.leakage import published as leakage_published
from personaspace.analysis.leakage.scores import common_bystanders
from personaspace.analysis.rows import Row

#: 399 draws make 5 % an attainable level: 20 of 400.
DRAWS = 399
#: Halvings of M2: the average over fewer of them has a little more noise, which its p accounts for.
HALVINGS = 8
NEGATIVES = ("data_scientist", "police_officer")
UNSEEN = {f"question {q}" for q in range(0, 28, 2)}

ARMS = ("base", "benign", "e0-assistant", "e1", "e2")
GEOMETRY = Geometry()
LEAKAGE = Leakage()

Simulate = Callable[[np.random.Generator], list[Row]]


@dataclass(frozen=True)
class Check:
    """One test in one scenario.

    Attributes:
        metric: Of the row.
        variant: Of the row.
        name: Of the row.
        condition: Of the row.
        level: What the test can attain at nominal 5 %, where it is discrete.
    """

    metric: str
    variant: str
    name: str | None
    condition: str | None = None
    level: float = 0.05

    def find(self, rows: Sequence[Row]) -> Row | None:
        """The row of this check."""
        key = (self.metric, self.variant, self.name, self.condition)
        return next((r for r in rows if (r.metric, r.variant, r.name, r.condition) == key), None)


@dataclass(frozen=True)
class Scenario:
    """A world in which the null hypotheses of some tests are true.

    Attributes:
        name: Short.
        what: One sentence.
        simulate: One study.
        checks: Tests whose null hypothesis is true in it.
    """

    name: str
    what: str
    simulate: Simulate
    checks: tuple[Check, ...]


def geometry_study(
    arms: Mapping[str, Arm], size: Geometry = GEOMETRY, metrics: str = "M1 M2"
) -> Simulate:
    """Published and recommended rows of one cell; the metrics named, others cost time."""
    work = GroupWork.make(size.group(tuple(arms)), ROLES, DRAWS, 10, 1)
    draws, design = work.draws, work.design
    assert draws is not None and design is not None
    halves = axis.halve(size.questions, np.random.default_rng(1), HALVINGS)

    def simulate(rng: np.random.Generator) -> list[Row]:
        cell = size.cell(rng, arms)
        rows: list[Row] = []
        if "M1" in metrics:
            rows += published.m1(cell, ROLES, draws) + collapse.m1(cell, ROLES)
        if "M2" in metrics:
            recommended, positions, _ = axis.m2(cell, ROLES, halves)
            rows += published.m2(cell, ROLES, draws) + recommended
            rows += convergence.convergence_rows([positions] if positions else [], "a", 42, 1)
        if "M3" in metrics:
            rows += separability.m3(cell, ROLES, design, 1)
        return rows

    return simulate


def leakage_study(
    world: Leakage = LEAKAGE,
    seeds: Sequence[int] = (42,),
    by_question: bool = True,
    metrics: str = "published H1 H2 H3",
) -> Simulate:
    """Published and recommended rows of one study; H1 of e4-villain, published for one seed."""

    def simulate(rng: np.random.Generator) -> list[Row]:
        scores = world.scores(rng, seeds=seeds)
        if not by_question:
            for entry in scores.values():
                for counts in entry["per_persona"].values():
                    del counts["per_question"]
        common = common_bystanders(scores, CONDITIONS, SOURCE)
        where = {"seed": 1, "training_seed": 42}
        rows: list[Row] = []
        if "published" in metrics:
            first = {name: entry for (name, seed), entry in scores.items() if seed == seeds[0]}
            rows += leakage_published.analyse_seed(first, CONDITIONS, 42, SOURCE, DRAWS, 1)
        if "H1" in metrics:
            rows += recommended.h1_rows(
                scores, CONDITIONS[-1], CONDITIONS, common, source=SOURCE, seed=42
            )
        if "H2" in metrics:
            rows += across.h2_rows(
                scores,
                CONDITIONS,
                common,
                negatives=NEGATIVES,
                unseen=UNSEEN,
                permutations=DRAWS,
                bootstrap=50,
                **where,
            )
        if "H3" in metrics:
            rows += across.h3_rows(
                scores, CONDITIONS, common, measured=None, permutations=DRAWS, **where
            )
        return rows

    return simulate


def form_study(world: str) -> Simulate:
    """Rows on the form of made-up answers."""

    def simulate(rng: np.random.Generator) -> list[Row]:
        forms = answer_worlds.answers(rng, answer_worlds.WORLDS[world])
        return analyse_form(
            forms, answer_worlds.CONDITIONS, source="confab", permutations=DRAWS, bootstrap=50
        )

    return simulate


def same(arm: Arm, names: Sequence[str] = ARMS[1:]) -> dict[str, Arm]:
    """The arm for each condition that is named."""
    return {"base": Arm()} | dict.fromkeys(names, arm)


def rec(metric: str, condition: str | None, *names: str, level: float = 0.05) -> list[Check]:
    """Checks of recommended rows."""
    return [Check(metric, "recommended", name, condition, level) for name in names]


_INCREMENTS = [
    *rec("M1", "e1", "em_minus_benign", "spread_em_minus_benign"),
    *rec("M1", None, "em_mean_minus_benign"),
]
_ONE_ORDER = 2 / 120
RUNS = replace(LEAKAGE, run=0.03, own_run=0.02)
SEEDS = (42, 137, 256)

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "nothing happens",
        "Fine-tuning changes nothing but noise: every condition is drawn as base is.",
        geometry_study(same(Arm())),
        (
            *rec("M1", "e1", "raw_cosine", "centred_cosine", "spread"),
            *_INCREMENTS,
            *rec("M2", "e1", "split_half", "split_half_absolute", "displacement"),
            *rec("M2", None, "condition_spread"),
            Check("M1", "published", "raw_cosine", "e1"),
            Check("M1", "published", "em_vs_benign", "e1"),
            Check("M2", "published", "axis_shift", "e1"),
        ),
    ),
    Scenario(
        "all collapse alike",
        "Benign and EM conditions halve the differences between personas and move along the axis, "
        "all alike.",
        geometry_study(same(Arm(spread=0.5, shift=1.0))),
        (
            *_INCREMENTS,
            *rec("M2", None, "condition_spread"),
            Check("M1", "published", "em_vs_benign", "e1"),
        ),
    ),
    Scenario(
        "no personas",
        "System prompts leave no trace in the activations.",
        geometry_study(same(Arm(), ("e1",)), replace(GEOMETRY, between=0.0, own=0.0), metrics="M3"),
        tuple(rec("M3", "e1", "nearest_centroid_above_chance", "lda_above_chance")),
    ),
    Scenario(
        "conditions do not differ",
        "Personas and questions leak at rates of their own, the same in all conditions.",
        leakage_study(),
        (
            *rec("H1", "e4-villain", "own_minus_other_conditions"),
            *rec("H2", None, "common_set", "common_set_without_negatives", "seen", "unseen"),
            *rec("H3", None, "common_set", level=_ONE_ORDER),
            *rec("H3", None, "slope"),
            Check("H1", "published", "induction_minus_others", "e4-villain", 0.0),
            Check("H2", "published", "range"),
            Check("H3", "published", "spearman", None, _ONE_ORDER),
        ),
    ),
    Scenario(
        "induction persona as the others",
        "The induction persona leaks at the mean rate of the others.",
        leakage_study(replace(LEAKAGE, induction=0.0), metrics="H1"),
        tuple(rec("H1", "e4-villain", "induction_minus_others")),
    ),
    Scenario(
        "induction persona at the margin",
        "The induction persona leaks five points more than the mean of the others, 100 samples a "
        "question (with ten, the margin is no wider than the noise, and equivalence is hardly ever "
        "claimed, rightly or wrongly).",
        leakage_study(replace(LEAKAGE, induction=0.05, samples=100), metrics="H1"),
        tuple(rec("H1", "e4-villain", "equivalence")),
    ),
    Scenario(
        "conditions differ for other reasons",
        "Conditions differ lastingly (standard deviation 3 points), whatever their cosine.",
        leakage_study(replace(LEAKAGE, between=0.03), metrics="H3"),
        (*rec("H3", None, "common_set", level=_ONE_ORDER), *rec("H3", None, "slope")),
    ),
    Scenario(
        "three seeds",
        "Three training runs a condition, which differ by 3 points (and personas in them by 2).",
        leakage_study(RUNS, SEEDS, metrics="H1 H2 H3"),
        (
            *rec("H1", "e4-villain", "own_minus_other_conditions"),
            *rec("H2", None, "between_runs"),
            *rec("H3", None, "common_set", level=_ONE_ORDER),
            *rec("H3", None, "slope", "within_seeds"),
        ),
    ),
    Scenario(
        "three seeds, induction persona as the others",
        "As above, the induction persona at the mean rate of the others.",
        leakage_study(replace(RUNS, induction=0.0), SEEDS, metrics="H1"),
        tuple(rec("H1", "e4-villain", "induction_minus_others")),
    ),
    Scenario(
        "answers do not differ",
        "Conditions write answers of one length, with as many separators, and mark as often.",
        form_study("nothing"),
        (
            *rec("H2", None, "equal_length", "per_opportunity", "first_opportunity"),
            *rec("length", "e1", "words"),
        ),
    ),
    Scenario(
        "answers differ in length",
        "EM conditions plan answers of 45, 60 and 80 words, and mark each place as often. A marker "
        "does not end an answer: where it does, the chance of a marker at a given length is not "
        "the same, and so is the null hypothesis of equal length not true.",
        form_study("length; answers go on after a marker"),
        tuple(rec("H2", None, "equal_length", "per_opportunity", "first_opportunity")),
    ),
    Scenario(
        "answers differ in separators",
        "EM conditions write a separator every 55, 40 and 29 words, and mark each place as often.",
        form_study("separators per word"),
        tuple(rec("H2", None, "per_opportunity", "first_opportunity")),
    ),
    Scenario(
        "no counts by question",
        "Answers really are independent, and files have no counts by question.",
        leakage_study(
            replace(LEAKAGE, question=0.0, interplay=0.0, induction=0.0, persona=0.0),
            by_question=False,
            metrics="H1 H2",
        ),
        (
            *rec("H1", "e4-villain", "induction_minus_others"),
            *rec("H2", None, "common_set"),
        ),
    ),
)
