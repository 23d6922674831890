"""Numbers of one condition, as figures, tables and headline share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import StudyCondition
from personaspace.analysis.rows import Row
from personaspace.report.selection import headline_rows, mean_value, pooled

Interval = tuple[float, float]


@dataclass(frozen=True)
class PointEstimate:
    """One condition's number: over all seeds, with the seeds behind it.

    Attributes:
        value: Pooled estimate, or the mean over seeds.
        interval: 95 % interval of the pooled estimate, if one was computed.
        seeds: Value of each seed, where there are several.
    """

    value: float
    interval: Interval | None
    seeds: tuple[tuple[int, float], ...] = ()


def estimate(rows: Sequence[Row]) -> PointEstimate | None:
    """Sums up the rows of one condition (and layer, method): pooled and by seed."""
    value = mean_value(rows)
    if value is None:
        return None
    one = pooled(rows)
    # Of one run there is a row for each kind of claim.
    single = {r.seed: r.value for r in rows if r.seed is not None and r.value is not None}
    return PointEstimate(
        value,
        one.ci95 if one else None,
        tuple(sorted(single.items())) if len(single) > 1 else (),
    )


def bystander_estimate(results: Results, condition: StudyCondition) -> PointEstimate | None:
    """Mean marker rate of a condition's bystanders, 0–1.

    Taken from the analysis where it has one, else the plain mean of the rates (no interval).
    """
    rows = headline_rows(results.leakage, "bystander_mean")
    found = estimate([row for row in rows if row.condition == condition.name])
    if found is not None:
        return found if found.seeds else replace(found, seeds=_by_seed(results, condition))
    rates = [results.rate(condition.name, name) for name in results.bystanders(condition)]
    known = [rate for rate in rates if rate is not None]
    return PointEstimate(sum(known) / len(known), None) if known else None


def _by_seed(results: Results, condition: StudyCondition) -> tuple[tuple[int, float], ...]:
    """Mean bystander rate of each seed, where there are several (published rows are by seed)."""
    values = [
        (row.seed, row.value)
        for row in results.leakage
        if (row.metric, row.variant) == ("bystander_mean", "published")
        and row.condition == condition.name
        and row.seed is not None
        and row.value is not None
    ]
    return tuple(sorted(values)) if len(values) > 1 else ()


def m1_estimate(
    results: Results, condition: StudyCondition, method: str | None, layer: int | None
) -> PointEstimate | None:
    """Mean pairwise cosine of persona vectors for one condition at one layer.

    The base model's value stands in the other conditions' rows where it has none of its own.
    """
    rows = [
        row
        for row in headline_rows(results.geometry, "M1")
        if row.method == method and row.layer == layer
    ]
    found = estimate([row for row in rows if row.condition == condition.name])
    if found is None and condition.kind == "base":
        bases = [row.base for row in rows if row.base is not None]
        if bases:
            return PointEstimate(sum(bases) / len(bases), None)
    return found
