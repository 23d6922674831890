"""A design, what is assumed about it, and what follows: the words of `personaspace power`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personaspace.analysis.themes import Places


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
        theme_share: Of the variance between questions that is their themes', where they have some.
            The published questions have none: 1, all of it, is the cautious end.
    """

    rate: float = 0.50
    run_sd: float = 0.033
    persona_run_sd: float = 0.026
    question_sd: float = 0.023
    persona_sd: float = 1.0
    power: float = 0.80
    theme_share: float = 1.0


@dataclass(frozen=True)
class Endpoint:
    """A primary endpoint.

    Attributes:
        what: In words.
        in_answers: It is counted in answers, not in activations.
        weights: By condition of `Design.layout`; that of the base model is left out.
        against_base: It is a change from base.
    """

    what: str
    in_answers: bool
    weights: dict[str, float]
    against_base: bool = False


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
        seeds: Training runs of each condition, where `em_seeds` does not say otherwise; else the
            fewest of an EM condition.
        cosines: Anchors of the EM conditions that have one.
        alpha: Level of the tests.
        margin: Of the equivalence test.
        em_seeds: Seeds of each EM condition; none: `seeds` runs each, with the same ones.
        benign_seeds: Seeds of the benign condition; none: as `em_seeds`.
        with_cosines: Places of the EM conditions that have an anchor; none: the first ones.
        places: Layers times methods, each with its tests of geometry.
        permutations: Draws of permutation tests that do not try every order.
        primary: The primary endpoint; None: there is none.
        themes: How many of the evaluation's questions each of their themes has, where themes are
            the samples.
        extraction_themes: Themes of the questions with activations; 0: these are the samples.
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
    em_seeds: tuple[tuple[int, ...], ...] = ()
    benign_seeds: tuple[int, ...] = ()
    with_cosines: tuple[int, ...] = ()
    places: int = 1
    permutations: int = 10_000
    primary: Endpoint | None = None
    themes: tuple[int, ...] = ()
    extraction_themes: int = 0

    @cached_property
    def theme_of(self) -> Places | None:
        """The theme of each evaluation question, `[Q]`; None: questions are the samples."""
        import numpy as np

        return np.repeat(np.arange(len(self.themes)), self.themes) if self.themes else None

    @property
    def clusters(self) -> int:
        """Questions of the evaluation, or their themes."""
        return len(self.themes) or self.questions

    def lasting(self, guess: Assumptions) -> float:
        """Variance that questions' own rates in a condition bring to its mean."""
        alone = 1 / max(1, self.questions)
        shared = sum((n / self.questions) ** 2 for n in self.themes) or alone
        share = guess.theme_share
        return guess.question_sd**2 * (share * shared + (1 - share) * alone)

    @property
    def widened(self) -> float:
        """By how much deviations of themes are enlarged; 1 where questions are the samples."""
        import numpy as np

        from personaspace.analysis.themes import widening

        return widening(np.array(self.themes, dtype=float)) if self.themes else 1.0

    @property
    def layout(self) -> dict[str, tuple[int, ...]]:
        """Seeds of every trained condition: `em-1` and on, `benign`."""
        same = tuple(range(self.seeds))
        found = {f"em-{place + 1}": same for place in range(self.em)}
        found |= {f"em-{place + 1}": seeds for place, seeds in enumerate(self.em_seeds)}
        return found | ({"benign": self.benign_seeds or same} if self.benign else {})

    @property
    def replicated(self) -> bool:
        """Some condition has several runs."""
        return any(len(seeds) > 1 for seeds in self.layout.values())

    @property
    def anchored(self) -> dict[str, float]:
        """Cosine of each EM condition that has an anchor."""
        places = self.with_cosines or tuple(range(len(self.cosines)))
        return {f"em-{p + 1}": c for p, c in zip(places, self.cosines, strict=True)}


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
        found: In which share of other drawn studies `effect` was detected; None: it follows from a
            formula.
        floor: Smallest p that the design allows.
        note: What the figure rests on, or why there is none.
    """

    metric: str
    name: str
    what: str
    unit: str
    effect: float | None
    corrected: float | None = None
    found: float | None = None
    floor: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Drawn:
    """How many studies are drawn for each size of an effect.

    Attributes:
        t_tests: Of tests of a contrast.
        ranges: Of H2.
    """

    t_tests: int = 1000
    ranges: int = 500

    @staticmethod
    def error(studies: int) -> float:
        """Half of a 95 % interval of a power of 80 %, in points."""
        return 196.0 * float((0.8 * 0.2 / studies) ** 0.5)


@dataclass
class Plan:
    """A design with its assumptions and what follows from both."""

    design: Design
    assumptions: Assumptions
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    drawn: Drawn = Drawn()

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "design": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(self.design).items()
            },
            "assumptions": dict(vars(self.assumptions)),
            "drawn": dict(vars(self.drawn)),
            "tests": [dict(vars(finding)) for finding in self.findings],
            "warnings": list(self.warnings),
        }
