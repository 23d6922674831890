"""Sizes and intervals in words that need no statistics: `0.002 less to 0.004 more`."""

from __future__ import annotations

from dataclasses import dataclass

from personaspace.analysis.rows import Row
from personaspace.report.text import decimals, number, tiny

#: What a persona is, for who reads of them for the first time.
PERSONAS = "personas (roles that the model is told to play)"
#: Before the ends of every interval.
OPEN = "chance leaves open"
#: Said of an interval that does not hold how training runs differ.
THESE_RUNS = "for these very training runs"


@dataclass(frozen=True)
class Line:
    """One question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Scale:
    """How a difference is told.

    Attributes:
        factor: Of the row's numbers.
        digits: Decimals that are shown where these are enough.
        least: What the last of them counts.
    """

    factor: float
    digits: int
    least: str


COSINES = Scale(1, 3, "a thousandth")
SHARES = Scale(100, 1, "a tenth of a percentage point")


def nothing_to_see(row: Row, scale: Scale) -> bool:
    """Whether a row's value is too small for the scale's decimals."""
    return tiny(scale.factor * (row.value or 0.0), scale.digits)


def left_open(row: Row, ends: str) -> str:
    """What a row's interval leaves open, and whether how training runs differ is in it."""
    return f"{OPEN} {ends}{f', {THESE_RUNS}' * (row.run_variation is False)}"


def sides(ends: tuple[float, float], scale: Scale, exact: bool = False) -> str:
    """An interval of a signed size, each end with its direction: `2 less to 4 more`.

    Args:
        exact: In figures even where both ends are too small for the scale's decimals.
    """
    low, high = (scale.factor * end for end in ends)
    side = "less" if high <= 0 else "more"
    if tiny(low, scale.digits) and tiny(high, scale.digits) and not exact:
        if low == high:
            return "no difference"
        return (
            f"less than {scale.least} either way"
            if low < 0 < high
            else (f"up to {scale.least} {side}")
        )
    digits = decimals((low, high), scale.digits, apart=True)
    told = [number(abs(end), digits) if end else "0" for end in (low, high)]
    if low < 0 < high:
        return f"{told[0]} less to {told[1]} more"
    if high <= 0:
        told.reverse()
    return f"{' to '.join(dict.fromkeys(told))} {side}"


def allowed(row: Row, scale: Scale, exact: bool = False) -> str:
    """What a row's interval leaves open; empty without one."""
    return left_open(row, sides(row.ci95, scale, exact)) if row.ci95 is not None else ""


def amount(row: Row, scale: Scale, unit: str, exact: bool) -> str:
    """How much more or less, with what its interval leaves open.

    Args:
        unit: After the number, such as ` percentage points`.
        exact: In figures, however small it is: it was shown to be there.
    """
    words = f"neither more nor less, to {scale.least}"
    if exact or not nothing_to_see(row, scale):
        words = _more_or_less(row, scale, unit)
    return _with_allowed(words, row, scale, exact)


def difference(
    row: Row, scale: Scale, unit: str, how: str, than: str, exact: bool, on: str = ""
) -> str:
    """A difference in words that need no sign, with what its interval leaves open.

    Args:
        unit: After the number, such as ` percentage points`.
        how: What it is a difference in: `alike`, `often`.
        than: What it is compared with, such as `after harmless ones`.
        exact: In figures, however small it is: it was shown to be there.
        on: The scale that the number is on, such as ` on a scale of 0 to 1`.
    """
    words = f"as {how} as {than}, to {scale.least}{on}"
    if exact or not nothing_to_see(row, scale):
        words = f"{_more_or_less(row, scale, unit)} {how}{on} than {than}"
    return _with_allowed(words, row, scale, exact)


def _more_or_less(row: Row, scale: Scale, unit: str) -> str:
    value = scale.factor * (row.value or 0.0)
    return f"{number(abs(value), scale.digits)}{unit} {'more' if value > 0 else 'less'}"


def _with_allowed(words: str, row: Row, scale: Scale, exact: bool) -> str:
    ends = allowed(row, scale, exact)
    return f"{words} ({ends})" if ends else words
