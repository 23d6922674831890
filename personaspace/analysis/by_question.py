"""Rows of values that each question has one of: its own mean, and the change from base.

Shapes: Q questions.
"""

from __future__ import annotations

from dataclasses import replace

from personaspace.analysis.rows import Row
from personaspace.analysis.stats import Array, cluster_mean, has_outlier

FEW_QUESTIONS = (
    "There are fewer than ten questions (the clusters), so the t distribution is a rough guide."
)
SKEWED = "One question lies far outside the range of the others, and may drive this result."


def warning_of(values_Q: Array) -> str | None:
    """The first assumption of a t-test over questions that fails, if any."""
    if len(values_Q) < 10:
        return FEW_QUESTIONS
    return SKEWED if has_outlier(values_Q) else None


def tested(row: Row, values_Q: Array) -> Row:
    """The row with the mean over questions, its interval and its p (t)."""
    found = cluster_mean(values_Q)
    return replace(
        row,
        value=found.value,
        p=found.p,
        ci95=found.interval,
        n=len(values_Q),
        warning=warning_of(values_Q),
    )


def against_base(row: Row, values_Q: Array, base_Q: Array | None) -> list[Row]:
    """The mean with its interval; where there is a base also the change from it.

    Args:
        row: With its metric, condition and name; the change's has `_delta` after the name.
        values_Q: The condition's.
        base_Q: Of the same questions; None: there is no base, or it is the condition.
    """
    own = replace(tested(row, values_Q), p=None, warning=None)
    if base_Q is None:
        return [own]
    change = tested(row, values_Q - base_Q)
    filled = replace(
        own,
        base=float(base_Q.mean()),
        delta=change.value,
        p=change.p,
        warning=change.warning,
    )
    return [filled, replace(change, p=None, warning=None, name=f"{row.name}_delta")]
