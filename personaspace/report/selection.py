"""Which rows of the results stand for a metric, and one number for the rows of several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from personaspace.analysis.rows import Row

#: What a figure draws of a metric: variant and name of the sub-measure, best first.
#: A metric's other sub-measures (centred cosine, contrasts …) appear in the tables alone.
HEADLINES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "M1": (("recommended", "raw_cosine"), ("published", "raw_cosine")),
    "M2": (("recommended", "split_half_delta"), ("published", "axis_shift")),
    "M3": (("recommended", "nearest_centroid_above_chance"), ("recommended", "nearest_centroid")),
    "bystander_mean": (("recommended", None), ("published", None)),
}
#: Sub-measures whose headline number is their change from base.
_BY_CHANGE = {("M2", "axis_shift")}
#: Sub-measures that are compared with chance, not with the base model.
AGAINST_CHANCE = "_above_chance"


def headline_rows(rows: Iterable[Row], metric: str) -> list[Row]:
    """Rows of the variant and sub-measure that figures draw for a metric.

    The recommended variant wins where it exists, else the published. M2 is drawn as its change
    from base, so that is what `value` holds here.
    """
    mine = [row for row in rows if row.metric == metric and row.value is not None]
    for variant, name in HEADLINES.get(metric, ()):
        found = [row for row in mine if row.variant == variant and row.name == name]
        if found and (metric, name) in _BY_CHANGE:
            change = [replace(row, value=row.delta, ci95=None) for row in found]
            found = [row for row in change if row.value is not None]
        if found:
            return found
    return []


def pooled(rows: Sequence[Row]) -> Row | None:
    """The row over all training runs, about the study's own personas, or the only row."""
    overall = [row for row in rows if row.seed is None]
    if not overall and len({row.seed for row in rows}) == 1:
        overall = list(rows)
    wanted = [row for row in overall if row.target == "these_personas"]
    wanted += [row for row in overall if row.target is None]
    return next(iter([*wanted, *overall]), None)


def mean_value(rows: Sequence[Row]) -> float | None:
    """The pooled row's value, else the plain mean over seeds; None without rows."""
    one = pooled(rows)
    if one is not None:
        return one.value
    values = [row.value for row in rows if row.value is not None]
    return sum(values) / len(values) if values else None
