"""Cells of result rows: one row, or the rows of several seeds summed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from personaspace.analysis.rows import Row, Target
from personaspace.report.control import NOT_ASSESSABLE
from personaspace.report.selection import pooled
from personaspace.report.tables import Cell, Footnotes
from personaspace.report.text import (
    NONE,
    WHOM,
    number,
    points_with_interval,
    probability,
    row_texts,
    row_value,
    share_with_interval,
    with_interval,
)

BLANK = Cell(NONE)


def seed_cell(seed: int | None) -> Cell:
    """A training seed; `all` where seeds are pooled."""
    return Cell("all" if seed is None else str(seed), seed)


def whom_cell(target: Target | None) -> Cell:
    """Whom a row is about."""
    return BLANK if target is None else Cell(WHOM[target], target)


def number_cell(value: float | None, sign: bool = False) -> Cell:
    """A plain number."""
    return Cell(number(value, 3, sign), value)


def estimate_cell(
    value: float | None, ends: tuple[float, float] | None, digits: int = 3, sign: bool = False
) -> Cell:
    """A plain number with its interval."""
    text, detail = with_interval(value, ends, digits, sign)
    return Cell(text, value, detail)


def share_cell(value: float | None, ends: tuple[float, float] | None) -> Cell:
    """A fraction with its interval, in per cent."""
    text, detail = share_with_interval(value, ends)
    return Cell(text, value, detail)


def points_cell(value: float | None, ends: tuple[float, float] | None) -> Cell:
    """A difference of fractions with its interval, in percentage points."""
    text, detail = points_with_interval(value, ends)
    return Cell(text, value, detail)


def count_cell(value: float | None) -> Cell:
    """A count, or a layer."""
    return Cell(NONE if value is None else f"{value:,.15g}", value)


def value_cell(rows: Sequence[Row], notes: Footnotes | None = None) -> Cell:
    """PointEstimate with interval and failed assumption; of several seeds, their mean and range.

    Args:
        rows: Of one measure: the pooled row, or one for each seed.
        notes: Where the row's sentence goes; None: nowhere.
    """
    one = pooled(rows)
    if one is not None:
        return _noted(*row_texts(one), one.value, one.note, one.warning, notes)
    known = [row for row in rows if row.value is not None]
    if not known:
        return BLANK
    return _seeds_cell(known, notes)


def _seeds_cell(known: Sequence[Row], notes: Footnotes | None) -> Cell:
    values = [row.value for row in known if row.value is not None]
    mean = replace(known[0], value=sum(values) / len(values))
    ends = [row_value(replace(known[0], value=v)) for v in (min(values), max(values))]
    shared = {row.note for row in known}
    note = shared.pop() if len(shared) == 1 else None
    warned = " ".join(dict.fromkeys(row.warning for row in known if row.warning))
    both = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    detail = f"{len(known)} seeds: {both}" if len(known) > 1 else ""
    return _noted(row_value(mean), detail, mean.value, note, warned, notes)


def _noted(
    text: str,
    detail: str,
    value: float | None,
    note: str | None,
    warning: str | None,
    notes: Footnotes | None,
) -> Cell:
    """A cell whose sentences go to the footnotes, where there are any."""
    if notes is None:
        return Cell(text, value, detail, warning=warning or "")
    warning_ref = failed_ref(notes, warning) if warning else 0
    return Cell(
        text, value, detail, ref=notes.ref(note), warning=warning or "", warning_ref=warning_ref
    )


def failed_ref(notes: Footnotes, warning: str) -> int:
    """The number of the footnote that says what an assumption that failed means."""
    return notes.ref(f"An assumption failed: {warning}")


def p_cell(rows: Sequence[Row], field: str) -> Cell:
    """A p-value and the smallest one possible; the range over seeds where they are not pooled.

    Args:
        field: `p`, `p_bh` or `p_holm`.
    """
    one = pooled(rows)
    chosen = [one] if one is not None else list(rows)
    values = [value for row in chosen if (value := getattr(row, field)) is not None]
    if not values and field == "p" and any(row.status == "not_assessable" for row in chosen):
        return Cell(NOT_ASSESSABLE, NOT_ASSESSABLE)
    if not values:
        return BLANK
    ends = [probability(min(values)), probability(max(values))]
    text = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    floors = {row.p_floor for row in chosen if field == "p" and row.p_floor is not None}
    floor = max(floors, default=0.0)
    return Cell(text, min(values), f"at best {probability(floor)}" if floor >= 0.0005 else "")


def effect_cell(rows: Sequence[Row]) -> Cell:
    """Effect size with its name, where it is on record."""
    one = pooled(rows)
    if one is None or one.effect is None:
        return BLANK
    return Cell(number(one.effect), one.effect, one.effect_name or "")
