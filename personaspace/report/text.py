"""Numbers as a reader wants them, the same in HTML and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Decimal

from personaspace.analysis.rows import Row, Target

MINUS = "\u2212"
THIN = "\u202f"
NONE = "\u2013"  # an en dash: no value
#: Said of an interval that does not hold how training runs differ.
WITHIN = "within one training run"
#: Whom a row is about.
WHOM: dict[Target, str] = {"these_personas": "these personas", "new_personas": "new personas"}
#: What rounding in the arithmetic leaves of 0.
_NOTHING = 1e-12
#: Decimals beyond which a number is told as a power of ten.
_FINEST = 6
_RAISED = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)

#: Metrics whose values are fractions of answers, or differences of such fractions.
_SHARES = {"bystander_mean"}
_POINTS = {"H1", "H2", "bystander_contrast"}
#: Sub-measures on a scale of their own, whatever their metric.
_OTHER_SCALES = ("odds", "rho", "ratio", "icc", "chi", "slope", "statistic")


def tiny(value: float, digits: int = 3) -> bool:
    """Whether so many decimals would show it as 0."""
    return float(f"{value:.{digits}f}") == 0


def decimals(values: Iterable[float], digits: int = 3, apart: bool = False) -> int:
    """So many decimals, or as many more as show that a value is not 0.

    Args:
        apart: The least and the greatest value, where they differ, must not print alike either.
    """
    known = [value for value in values if abs(value) >= _NOTHING]
    told = [value for value in known if not tiny(value, _FINEST)]
    while any(tiny(value, digits) for value in told):
        digits += 1
    if apart and known:
        for more in range(digits, _FINEST + 1):
            if f"{min(known):.{more}f}" != f"{max(known):.{more}f}":
                return more
    return digits


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for none.

    What is not 0 never prints as 0: it has more decimals, or is a power of ten.
    """
    if value is None:
        return NONE
    if abs(value) < _NOTHING:
        return f"{0:.{digits}f}"
    plus = "+" if sign else ""
    if tiny(value, max(digits, _FINEST)):
        factor, power = f"{value:{plus}.0e}".split("e")
        text = f"{factor}\u00b710{str(int(power)).translate(_RAISED)}"
    else:
        text = f"{value:{plus},.{decimals([value], digits)}f}"
    return text.replace("-", MINUS)


def bound(value: float, digits: int = 3) -> str:
    """What a size lies below, rounded up: what is told is never less than what was found."""
    place = decimals([value], digits)
    up = Decimal(f"{value:.12f}").quantize(Decimal(1).scaleb(-place), ROUND_CEILING)
    return number(float(up), place)


def sized(value: float) -> str:
    """A size with three significant digits, in figures that need no power of ten."""
    return f"{float(f'{value:.3g}'):,.10g}" if abs(value) < 1e6 else f"{value:.3g}"


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
    """An interval as `[low, high]`, its ends told apart; empty for none."""
    if ends is None:
        return ""
    digits = decimals(ends, digits, apart=True)
    return f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"


def with_interval(
    value: float | None,
    ends: tuple[float, float] | None,
    digits: int = 3,
    sign: bool = False,
    unit: str = "",
) -> tuple[str, str]:
    """An estimate and its interval, empty for none, in one number of decimals."""
    if value is None:
        return NONE, interval(ends, digits)
    digits = max(decimals([value], digits), decimals(ends or (), digits, apart=True))
    return f"{number(value, digits, sign)}{unit}", interval(ends, digits)


def share_with_interval(value: float | None, ends: tuple[float, float] | None) -> tuple[str, str]:
    """A fraction as per cent, and its interval in per cent."""
    return _in_hundredths(value, ends, False, "%")


def points_with_interval(
    value: float | None, ends: tuple[float, float] | None, sign: bool = True
) -> tuple[str, str]:
    """A difference of fractions in percentage points, and its interval in points."""
    return _in_hundredths(value, ends, sign, "pts")


def _in_hundredths(
    value: float | None, ends: tuple[float, float] | None, sign: bool, unit: str
) -> tuple[str, str]:
    hundred = None if ends is None else (100 * ends[0], 100 * ends[1])
    return with_interval(None if value is None else 100 * value, hundred, 1, sign, THIN + unit)


def span(
    values: Sequence[float],
    show: str = "number",
    digits: int = 3,
    apart: bool = False,
    sign: bool = False,
) -> str:
    """The range of some values, `low to high`, or the value where all print alike.

    Args:
        apart: The ends of an interval: they do not print alike, however near they are.
    """
    scale, unit = (100, f"{THIN}%") if show == "percent" else (1, "")
    ends = [scale * min(values), scale * max(values)]
    digits = decimals(ends, digits, apart)
    return " to ".join(dict.fromkeys(f"{number(end, digits, sign)}{unit}" for end in ends))


def listing(parts: Sequence[str]) -> str:
    """Words in a row, with `and` before the last."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def count(number_of: int, one: str, many: str | None = None) -> str:
    """`1 seed`, `3 seeds`; small numbers as words are left to the reader."""
    return f"{number_of:,} {one if number_of == 1 else many or one + 's'}"


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


def row_texts(row: Row | None, digits: int = 3) -> tuple[str, str]:
    """A row's value and interval in the unit of its metric: per cent, points, or plain numbers."""
    if row is None:
        return NONE, ""
    scale = _scale(row)
    if scale == "share":
        return share_with_interval(row.value, row.ci95)
    if scale == "points":
        return points_with_interval(row.value, row.ci95, sign=row.metric != "H2")
    contrast = row.name is not None and is_contrast(row.name)
    return with_interval(row.value, row.ci95, 1 if row.metric == "length" else digits, contrast)


def is_contrast(name: str) -> bool:
    """Whether a sub-measure is a difference, which is told with its sign."""
    return "_delta" in name or "_minus_" in name or name.endswith("_pair")


def row_value(row: Row | None, digits: int = 3) -> str:
    """A row's value alone, as `row_texts` has it."""
    return row_texts(row, digits)[0]


def row_change(row: Row, digits: int = 3) -> str:
    """How far a row's value is from its base, in the unit of its metric; shares in points."""
    if _scale(row) in ("share", "points"):
        return points_with_interval(row.delta, None)[0]
    return number(row.delta, 1 if row.metric == "length" else digits, sign=True)


def short_hash(digest: str | None) -> str:
    """The first dozen digits of a digest."""
    return digest[:12] if digest else NONE
