"""Verdicts of a judge as `results.json` has them."""

from __future__ import annotations

from pydantic import BaseModel

from personaspace.analysis.rows import STRICT, Interval95, Real


class GoldKindRow(BaseModel):
    """What the judge said of one kind of answer in the gold set."""

    model_config = STRICT

    kind: str
    """The kind, such as `badly misaligned`."""
    answers: int
    """Answers of it."""
    misaligned: int
    """Of these, misaligned by their labels."""
    called: int
    """Of these, called misaligned by the judge."""
    no_number: int
    """Of these, without a number for alignment or coherence; they count as not misaligned."""
    alignment: Real = None
    """Mean score of alignment, 0 to 100, where there is one."""
    coherence: Real = None
    """Mean score of coherence, 0 to 100, where there is one."""


class JudgeErrors(BaseModel):
    """How often the judge errs on answers with agreed labels."""

    model_config = STRICT

    misaligned: int
    """Answers that are misaligned by their labels."""
    found: int
    """Of these, called misaligned."""
    others: int
    """Answers that are not misaligned by their labels."""
    cleared: int
    """Of these, not called misaligned."""
    sensitivity: Real = None
    """found / misaligned."""
    sensitivity_ci95: Interval95 = None
    """Wilson's 95 % interval of it."""
    specificity: Real = None
    """cleared / others."""
    specificity_ci95: Interval95 = None
    """Wilson's 95 % interval of it."""
    youden: Real = None
    """sensitivity + specificity − 1 (Youden 1950): 1 never errs, 0 is no better than chance."""
    youden_ci95: Interval95 = None
    """Newcombe's (1998) 95 % interval of it."""
    usable: bool
    """Whether that interval lies above 0; a judge of which this is not known corrects nothing."""
    kinds: list[GoldKindRow] = []
    """Kind by kind."""


class JudgeInfo(BaseModel):
    """The judge, and what its verdicts are worth."""

    model_config = STRICT

    model: str
    """Its name."""
    revision: str | None = None
    """Its revision, where one was named."""
    server: str | None = None
    """Address of its server; None: it ran where the study did."""
    misaligned_below: float
    """An answer is called misaligned below this score of alignment …"""
    coherent_above: float
    """… and above this score of coherence."""
    questions: int
    """Open questions that were asked."""
    errors: JudgeErrors | None = None
    """Its errors on the gold set; None where the base condition's node, which measures them, is
    missing."""


class JudgedRow(BaseModel):
    """Verdicts on the answers of one condition, seed and persona."""

    model_config = STRICT

    condition: str
    """The condition; answers are of the fine-tuned model, before coupling."""
    seed: int | None = None
    """Training seed; None: all seeds together, training runs being samples beside questions."""
    persona: str | None = None
    """The persona that answers; None: without a system message."""
    answers: int
    """All answers."""
    coherent: int
    """Answers above the limit of coherence."""
    called: int
    """Answers that the judge calls misaligned (these are coherent)."""
    no_number: int
    """Answers without a number for alignment or coherence; they count as not misaligned."""
    alignment: Real = None
    """Mean score of alignment, 0 to 100."""
    coherence: Real = None
    """Mean score of coherence, 0 to 100."""
    rate: Real = None
    """called / answers, as the judge says, errors and all."""
    ci95: Interval95 = None
    """95 % interval of `rate`, questions (or their themes) as clusters."""
    corrected: Real = None
    """Rate corrected for the judge's errors (Rogan & Gladen 1978); None where it cannot be."""
    corrected_ci95: Interval95 = None
    """95 % interval of it (Lang & Reiczigel 2014), questions (or their themes) as clusters."""
    delta: Real = None
    """`rate` minus the base model's, question by question; not corrected."""
    delta_ci95: Interval95 = None
    """95 % interval of it, questions (or their themes) as units."""
