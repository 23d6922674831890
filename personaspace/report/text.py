"""Numbers as a reader wants them, the same in HTML and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from personaspace.analysis.rows import Row

MINUS = "\u2212"
THIN = "\u202f"
NONE = "\u2013"  # an en dash: no value
#: Said of an interval that does not hold how training runs differ.
WITHIN = "within one training run"

#: Metrics whose values are fractions of answers, or differences of such fractions.
_SHARES = {"bystander_mean"}
_POINTS = {"H1", "H2"}
#: Sub-measures on a scale of their own, whatever their metric.
_OTHER_SCALES = ("odds", "rho", "ratio", "icc", "chi", "slope", "statistic")


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for none."""
    if value is None:
        return NONE
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:  # no negative zero
        text = text.replace("-", "")
    return text.replace("-", MINUS)


def small(value: float, digits: int = 3) -> str:
    """A positive number with so many digits, or with as many more as show that it is not 0."""
    while value > 0 and float(f"{value:.{digits}f}") == 0:
        digits += 1
    return number(value, digits)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as per cent; a dash for none."""
    return NONE if value is None else f"{number(100 * value, digits)}{THIN}%"


def pretty(persona: str) -> str:
    """A persona's name for people."""
    return persona.replace("_", " ")


def probability(p: float | None) -> str:
    """A p-value: three decimals, or `<0.001`."""
    if p is None:
        return NONE
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def p_phrase(p: float) -> str:
    """A p-value for running text: `p = 0.083` or `p < 0.001`."""
    return ("p < 0.001" if p < 0.0005 else f"p = {p:.3f}").replace(" ", "\u00a0")


def interval(ends: tuple[float, float] | None, digits: int = 3) -> str:
    """An interval as `[low, high]`; empty for none."""
    if ends is None:
        return ""
    return f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"


def span(values: list[float], show: str = "number", digits: int = 3) -> str:
    """The range of some values, `low to high`, or the value where all print alike."""
    one = percent if show == "percent" else number
    low, high = one(min(values), digits), one(max(values), digits)
    return low if low == high else f"{low} to {high}"


def listing(parts: Sequence[str]) -> str:
    """Words in a row, with `and` before the last."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def count(number_of: int, one: str, many: str | None = None) -> str:
    """`1 seed`, `3 seeds`; small numbers as words are left to the reader."""
    return f"{number_of:,} {one if number_of == 1 else many or one + 's'}".replace(",", THIN)


def duration(seconds: float) -> str:
    """A time as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.1f}{THIN}s"
    if seconds < 5400:
        return f"{seconds / 60:.1f}{THIN}min"
    return f"{seconds / 3600:.1f}{THIN}h"


def _scale(row: Row) -> str:
    if row.name and any(part in row.name for part in _OTHER_SCALES):
        return "plain"
    if row.metric in _SHARES:
        return "share"
    return "points" if row.metric in _POINTS else "plain"


def row_value(row: Row | None, digits: int = 3) -> str:
    """A row's value in the unit of its metric: per cent, percentage points, or a plain number."""
    if row is None or row.value is None:
        return NONE
    scale = _scale(row)
    if scale == "share":
        return percent(row.value)
    if scale == "points":
        return f"{number(100 * row.value, 1, sign=row.metric == 'H1')}{THIN}pts"
    if row.metric == "length":
        digits = 1
    contrast = row.name is not None and ("_delta" in row.name or "_minus_" in row.name)
    return number(row.value, digits, sign=contrast)


def row_interval(row: Row | None, digits: int = 3) -> str:
    """A row's interval in the unit of its value."""
    if row is None or row.ci95 is None:
        return ""
    if _scale(row) == "plain":
        return interval(row.ci95, 1 if row.metric == "length" else digits)
    return interval((100 * row.ci95[0], 100 * row.ci95[1]), 1)


def short_hash(digest: str | None) -> str:
    """The first dozen digits of a digest."""
    return digest[:12] if digest else NONE
