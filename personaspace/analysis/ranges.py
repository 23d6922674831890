"""The range that a measure's truth can be in, and rows cut to it.

Jackknifed estimates and t-intervals know of no range: near its end they leave it. What lies outside
cannot be the truth: nothing is lost by cutting it off, and an interval covers as often as before.
"""

from __future__ import annotations

import math
from dataclasses import replace

from personaspace.analysis.rows import Row
from personaspace.analysis.stats import Interval

Bounds = tuple[float | None, float | None]

_COSINE, _SHARE = (-1.0, 1.0), (0.0, 1.0)
#: Of recommended measures; None: no end.
_RANGES: dict[tuple[str, str], Bounds] = {
    ("M1", "raw_cosine"): _COSINE,
    ("M1", "centred_cosine"): _COSINE,
    ("M1", "spread"): (0.0, None),
    ("M2", "split_half"): _COSINE,
    ("M2", "split_half_absolute"): _SHARE,
    ("M2", "displacement"): _COSINE,
    ("M2", "condition_spread"): (0.0, 2.0),
    ("M3", "nearest_centroid"): _SHARE,
    ("M3", "nearest_centroid_above_chance"): _SHARE,
    ("M3", "lda"): _SHARE,
    ("M3", "lda_above_chance"): _SHARE,
    ("shape", "participation_ratio"): (1.0, None),
    ("shape", "cka"): _SHARE,
    ("shape", "rsa"): _COSINE,
    ("shape", "procrustes"): _SHARE,
    ("shape", "subspace_overlap"): _SHARE,
    ("shape", "probe_transfer"): _SHARE,
    ("bystander_contrast", "bystander"): _SHARE,
    ("divergence", "common_answers"): (0.0, math.log(2)),
}
#: Ends of the names of differences between two conditions, longest first.
_DIFFERENCES = (
    "em_mean_minus_benign",
    "em_minus_benign",
    "placebo_minus_benign",
    "minus_base",
    "_pair",
    "_delta",
)
#: Stems that stand for a measure of another name.
_STEMS = {
    ("M1", ""): "raw_cosine",
    ("M1", "centred"): "centred_cosine",
    ("bystander_contrast", ""): "bystander",
}

CUT = "By chance the estimate lies outside the measure's range, and is cut to it."


def within(ends: Interval | None, low: float, high: float) -> Interval | None:
    """An interval cut to the range that the truth can be in."""
    return None if ends is None else (max(low, min(high, ends[0])), min(high, max(low, ends[1])))


def bounds_of(metric: str, name: str | None) -> Bounds:
    """Ends of a recommended measure's range; None where it has none."""
    stem, difference = name or "", False
    for end in _DIFFERENCES:
        if stem.endswith(end):
            stem, difference = stem.removesuffix(end).rstrip("_"), True
            break
    low, high = _RANGES.get((metric, _STEMS.get((metric, stem), stem)), (None, None))
    if not difference:
        return low, high
    return (None, None) if low is None or high is None else (low - high, high - low)


def cut(value: float, bounds: Bounds) -> float:
    """The value, or the end of the range that it lies beyond."""
    low, high = bounds
    value = value if low is None else max(low, value)
    return value if high is None else min(high, value)


def in_range(row: Row) -> Row:
    """The row with estimate and interval cut to the measure's range; published rows stay.

    A margin of equivalence as wide as the range says nothing, and is left out.
    """
    bounds = bounds_of(row.metric, row.name)
    if row.variant != "recommended" or bounds == (None, None) or row.value is None:
        return row
    value = cut(row.value, bounds)
    ends = row.ci95 and (cut(row.ci95[0], bounds), cut(row.ci95[1], bounds))
    margin, widest = row.equivalence, bounds[1]
    if margin is not None and widest is not None and margin >= widest:
        margin = None
    note = row.note
    if value != row.value:
        note = f"{note} {CUT}" if note else CUT
    return replace(row, value=value, ci95=ends, equivalence=margin, note=note)
