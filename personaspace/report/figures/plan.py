"""What a figure is before it is drawn, and the estimates that figures share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure as Canvas

from personaspace.report.figures.findings import (
    Condition,
    Findings,
    Row,
    headline_rows,
    mean_value,
    pooled,
)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """A figure's words, data and painter.

    Attributes:
        id: Stable name, for files and anchors.
        title: A few words.
        caption: What is drawn and how to read it.
        alt: What the figure shows, with its numbers, for those who do not see it.
        data: Tidy values behind the marks, one a row.
        paint: Draws it; takes whether the narrow (phone, one-column) layout is wanted.
    """

    id: str
    title: str
    caption: str
    alt: str
    data: pd.DataFrame
    paint: Callable[[bool], Canvas]


@dataclass(frozen=True)
class Estimate:
    """One condition's number: over all seeds, with the seeds behind it.

    Attributes:
        value: Pooled estimate, or the mean over seeds.
        interval: 95 % interval of the pooled estimate, if one was computed.
        seeds: Value of each seed, where there are several.
    """

    value: float
    interval: Interval | None
    seeds: tuple[tuple[int, float], ...] = ()


def estimate(rows: Sequence[Row]) -> Estimate | None:
    """Sums up the rows of one condition (and layer, method): pooled and by seed."""
    value = mean_value(rows)
    if value is None:
        return None
    one = pooled(rows)
    single = [(r.seed, r.value) for r in rows if r.seed is not None and r.value is not None]
    return Estimate(
        value,
        one.ci95 if one else None,
        tuple(sorted(single)) if len(single) > 1 else (),
    )


def bystander_estimate(findings: Findings, condition: Condition) -> Estimate | None:
    """Mean marker rate of a condition's bystanders, 0–1.

    Taken from the analysis where it has one, else the plain mean of the rates (no interval).
    """
    rows = headline_rows(findings.leakage, "bystander_mean")
    found = estimate([row for row in rows if row.condition == condition.name])
    if found is not None:
        return found if found.seeds else replace(found, seeds=_by_seed(findings, condition))
    rates = [findings.rate(condition.name, name) for name in findings.bystanders(condition)]
    known = [rate for rate in rates if rate is not None]
    return Estimate(sum(known) / len(known), None) if known else None


def _by_seed(findings: Findings, condition: Condition) -> tuple[tuple[int, float], ...]:
    """Mean bystander rate of each seed, where there are several (published rows are by seed)."""
    values = [
        (row.seed, row.value)
        for row in findings.leakage
        if (row.metric, row.variant) == ("bystander_mean", "published")
        and row.condition == condition.name
        and row.seed is not None
        and row.value is not None
    ]
    return tuple(sorted(values)) if len(values) > 1 else ()


def m1_estimate(
    findings: Findings, condition: Condition, method: str | None, layer: int | None
) -> Estimate | None:
    """Mean pairwise cosine of persona vectors for one condition at one layer.

    The base model's value stands in the other conditions' rows where it has none of its own.
    """
    rows = [
        row
        for row in headline_rows(findings.geometry, "M1")
        if row.method == method and row.layer == layer
    ]
    found = estimate([row for row in rows if row.condition == condition.name])
    if found is None and condition.kind == "base":
        bases = [row.base for row in rows if row.base is not None]
        if bases:
            return Estimate(sum(bases) / len(bases), None)
    return found


def percent(value: float, digits: int = 1) -> str:
    """A fraction as per cent."""
    return f"{100 * value:.{digits}f}\u202f%"


def listing(parts: Sequence[str]) -> str:
    """Words in a row, with `and` before the last."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
