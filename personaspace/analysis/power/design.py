"""A design, what is assumed about it, and what follows: the words of `personaspace power`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Assumptions:
    """What is not known before the study; shares of answers unless said otherwise.

    The counts published for 11 personas × 5 conditions give the mean rate (0.501), the standard
    deviation between conditions net of sampling (0.033, which holds the conditions' true
    differences too and so bounds that between runs from above) and that of one persona in one
    condition (0.026). The evaluations published for E0 and E1 by question give that between
    questions within a condition (0.023).

    Attributes:
        rate: Mean share of answers with the marker.
        run_sd: Between training runs of one condition, all personas together.
        persona_run_sd: Of one persona in one training run, beyond the run's own.
        question_sd: Of one question in one condition, beyond the question's own.
        persona_sd: Between personas in the change of a geometry measure; in its own units.
        power: Wanted probability to detect the effect.
    """

    rate: float = 0.50
    run_sd: float = 0.033
    persona_run_sd: float = 0.026
    question_sd: float = 0.023
    persona_sd: float = 1.0
    power: float = 0.80


@dataclass(frozen=True)
class Design:
    """The counts that power depends on.

    Attributes:
        em: EM conditions.
        benign: There is a benign condition.
        personas: Evaluated personas.
        bystanders: Those that are neither source nor anyone's induction persona.
        questions: Evaluation questions.
        unseen: Of these, not used in coupling.
        samples: Answers for each persona and question.
        extraction_personas: Personas with activations.
        extraction_questions: Questions with activations.
        seeds: Training runs of each condition.
        cosines: Anchors of the EM conditions that have one.
        alpha: Level of the tests.
        margin: Of the equivalence test.
    """

    em: int
    benign: bool
    personas: int
    bystanders: int
    questions: int
    unseen: int
    samples: int
    extraction_personas: int
    extraction_questions: int
    seeds: int
    cosines: tuple[float, ...]
    alpha: float = 0.05
    margin: float = 0.05


@dataclass(frozen=True)
class Finding:
    """What one test could find.

    Attributes:
        metric: M1 to H3.
        name: The row's name.
        what: What is tested, for people.
        unit: Of the effect.
        effect: Smallest effect that is detected with the wanted power; None: none is.
        corrected: The same where Holm asks most of it (alpha over the tests of its family).
        floor: Smallest p that the design allows.
        note: What the figure rests on, or why there is none.
    """

    metric: str
    name: str
    what: str
    unit: str
    effect: float | None
    corrected: float | None = None
    floor: float | None = None
    note: str = ""


@dataclass
class Plan:
    """A design with its assumptions and what follows from both."""

    design: Design
    assumptions: Assumptions
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "design": vars(self.design) | {"cosines": list(self.design.cosines)},
            "assumptions": dict(vars(self.assumptions)),
            "tests": [dict(vars(finding)) for finding in self.findings],
            "warnings": list(self.warnings),
        }
