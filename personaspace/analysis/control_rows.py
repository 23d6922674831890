"""The positive control as `results.json` has it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel

from personaspace.analysis.rows import STRICT, Real, Status


class ControlLimits(BaseModel):
    """What a condition must reach for its leakage to be assessed."""

    model_config = STRICT

    source: float = 0.5
    """Least share of the source persona's answers with the marker."""
    degenerate: float = 0.2
    """Largest share of degenerate answers."""


class ControlReason(StrEnum):
    """Why a condition's leakage cannot be assessed."""

    NO_SOURCE_ANSWERS = "no_source_answers"
    SOURCE_RARELY_MARKS = "source_rarely_marks"
    DEGENERATE_ANSWERS = "degenerate_answers"


class ControlRow(BaseModel):
    """The positive control of one condition, over all seeds."""

    model_config = STRICT

    condition: str
    """The condition."""
    source_rate: Real = None
    """Share of the source persona's answers with the marker; None without answers."""
    negatives_rate: Real = None
    """The same of the personas that were trained not to write it."""
    degenerate: Real = None
    """Share of all answers that are degenerate; None where nobody counted."""
    status: Status
    """`assessable`, or `not_assessable`: nothing can be said of leakage."""
    reasons: list[ControlReason] = []
    """Why it is not assessable."""
    failing_seeds: list[int] = []
    """Training seeds that taken alone would not be assessable."""
