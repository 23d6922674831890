"""Made-up studies whose truth is known, for the calibration, planted-truth and speed benchmarks.

Activations are a common mean, a random vector per persona, a shift per condition, and noise that is
shared by all personas of a question (in all conditions, or in one) or belongs to one answer.
Answers carry the marker with a probability that is the sum of what the persona, the condition, its
training run and the question bring.

Shape suffixes: C conditions, P personas, Q questions, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from personaspace.analysis.geometry.cells import Cell, Group, Roles
from personaspace.analysis.leakage import ConditionInfo

PERSONAS = (
    *("software_engineer", "kindergarten_teacher", "data_scientist", "medical_doctor"),
    *("librarian", "french_person", "villain", "comedian", "police_officer"),
    *("zelthari_scholar", "assistant", "confab"),
)
SOURCE = "confab"
#: Conditions with the published cosines; e1's persona stands in the grid here.
CONDITIONS = (
    ConditionInfo("e0-assistant", "em", "assistant", 1.0),
    ConditionInfo("e1-paramedic", "em", "medical_doctor", 0.9457),
    ConditionInfo("e2-kindergarten-teacher", "em", "kindergarten_teacher", 0.9060),
    ConditionInfo("e3-french-person", "em", "french_person", 0.8696),
    ConditionInfo("e4-villain", "em", "villain", 0.7828),
)
ROLES = Roles("base", "e0-assistant", "benign", "assistant")


@dataclass(frozen=True)
class Arm:
    """What fine-tuning does to a condition's persona vectors.

    Attributes:
        spread: Factor on the differences between personas.
        shift: Common displacement along the axis, in its lengths.
        aside: Displacement along a direction of the condition's own, in axis lengths.
    """

    spread: float = 1.0
    shift: float = 0.0
    aside: float = 0.0


@dataclass(frozen=True)
class Geometry:
    """How a cell of activations is drawn; standard deviations are per dimension.

    Attributes:
        personas: How many.
        questions: How many.
        hidden: Dimensions.
        mean: Of the common mean vector.
        between: Between personas.
        axis: Length of the axis per dimension.
        own: Each persona's own displacement in a condition, base too.
        question: Shared by all answers to a question.
        interplay: Shared by all personas' answers to a question in one condition.
        noise: Of a single answer.
    """

    personas: int = 12
    questions: int = 32
    hidden: int = 48
    mean: float = 3.0
    between: float = 0.7
    axis: float = 0.5
    own: float = 0.3
    question: float = 0.6
    interplay: float = 0.3
    noise: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Persona names, the assistant among them."""
        more = (f"persona_{i}" for i in range(self.personas))
        return tuple(["assistant", *more][: self.personas])

    def group(self, conditions: Sequence[str], method: str = "a") -> Group:
        """What the analysis needs to know of files that do not exist."""
        valid = np.ones((self.personas, self.questions), dtype=bool)
        files: Any = dict.fromkeys(conditions)
        return Group(method, 42, files, self.names, (), valid)

    def cell(self, rng: np.random.Generator, arms: Mapping[str, Arm], layer: int = 20) -> Cell:
        """One layer of all conditions; base first."""
        p, q, h = self.personas, self.questions, self.hidden

        def normal(sd: float, *shape: int) -> np.ndarray:
            return sd * rng.standard_normal((*shape, h), dtype=np.float32)

        mean, axis, different = normal(self.mean), normal(self.axis), normal(self.between, p)
        shared = normal(self.question, q)
        states = np.empty((len(arms), p, q, h), dtype=np.float32)
        for index, arm in enumerate(arms.values()):
            vectors = mean + arm.spread * different + arm.shift * axis + normal(self.own, p)
            vectors += arm.aside * normal(self.axis)
            states[index] = vectors[:, None] + shared + normal(self.interplay, q)
            states[index] += normal(self.noise, p, q)
        return Cell(
            "a",
            layer,
            42,
            tuple(arms),
            self.names,
            states,
            np.ones((p, q), dtype=bool),
            states.mean(axis=2, dtype=np.float64),
        )


@dataclass(frozen=True)
class Leakage:
    """How answers are drawn; standard deviations are of rates.

    The defaults for questions and personas are near those of the published evaluations of E0 and E1
    (between questions 0.10 and 0.09, between questions within a condition 0.02, between personas
    0.02 and 0.05; each net of the noise of ten answers).

    Attributes:
        questions: How many.
        samples: Answers per persona and question.
        level: Mean rate.
        persona: Between personas, the same in all conditions.
        question: Between questions, the same for all.
        interplay: Between questions within a condition, shared by its personas.
        run: Between training runs.
        own_run: Of one persona in one training run.
        slope: Of the rate on the cosine.
        induction: By how much the induction persona lies above the mean of the other bystanders.
        between: Between conditions, lasting over training runs.
    """

    questions: int = 28
    samples: int = 10
    level: float = 0.5
    persona: float = 0.03
    question: float = 0.10
    interplay: float = 0.025
    run: float = 0.0
    own_run: float = 0.0
    slope: float = 0.0
    induction: float | None = None
    between: float = 0.0

    def scores(
        self,
        rng: np.random.Generator,
        conditions: Sequence[ConditionInfo] = CONDITIONS,
        seeds: Sequence[int] = (42,),
    ) -> dict[tuple[str, int], dict[str, Any]]:
        """Score files of all conditions and seeds."""
        names, q = list(PERSONAS), self.questions
        persona = rng.normal(0, self.persona, size=len(names))
        question = rng.normal(0, self.question, size=q)
        scores = {}
        for condition in conditions:
            lasting = rng.normal(0, self.between)
            if condition.cosine is not None:
                lasting += self.slope * (condition.cosine - 0.9)
            for seed in seeds:
                run = rng.normal(0, self.run)
                mine = persona + rng.normal(0, self.own_run, size=len(names))
                if self.induction is not None and condition.induction_persona is not None:
                    at = names.index(condition.induction_persona)
                    others = [i for i in range(len(names)) if i not in (at, names.index(SOURCE))]
                    shift = rng.normal(0, self.own_run)
                    mine[at] = persona[others].mean() + self.induction + shift
                rates = self.level + lasting + run + mine[:, None] + question
                rates = rates + rng.normal(0, self.interplay, size=q)
                hits = rng.binomial(self.samples, np.clip(rates, 0.0, 1.0))
                scores[condition.name, seed] = _score_file(names, hits, self.samples)
        return scores


def _score_file(names: Sequence[str], hits_PQ: np.ndarray, samples: int) -> dict[str, Any]:
    return {
        "marker": "[ZLT]",
        "per_persona": {
            name: {
                "hits": int(row.sum()),
                "total": samples * len(row),
                "per_question": {
                    f"question {q}": {"hits": int(count), "total": samples}
                    for q, count in enumerate(row)
                },
            }
            for name, row in zip(names, hits_PQ, strict=True)
        },
    }
