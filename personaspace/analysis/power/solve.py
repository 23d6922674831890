"""The smallest effect that a test detects: noncentral t; ranges and ranks are drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, special, stats

from personaspace.analysis.stats import Array, generator

#: Draws for tests that are simulated.
_DRAWS = 4000
_EXACT = 8  #: Conditions whose orders are all tried, see `leakage.published`.


def smallest(power_at: Callable[[float], float], wanted: float, unit: float) -> float | None:
    """Where an increasing power curve reaches `wanted`; None if it does not within 10,000 units."""
    top = unit
    while power_at(top) < wanted:
        top *= 2
        if top > 10_000 * unit:
            return None
    return float(optimize.brentq(lambda size: power_at(size) - wanted, 0.0, top, xtol=1e-4 * unit))


def t_detectable(se: float, df: float, alpha: float, power: float) -> float | None:
    """Smallest difference that a two-sided t-test detects.

    Args:
        se: Standard error of the difference.
        df: Degrees of freedom.
        alpha: Level.
        power: Wanted.
    """
    if df < 1 or se <= 0:
        return None
    bound = stats.t.ppf(1 - alpha / 2, df)

    def power_at(size: float) -> float:
        # The square of a noncentral t is a noncentral F.
        return 1 - float(special.ncfdtr(1, df, (size / se) ** 2, bound**2))

    return smallest(power_at, power, se)


def range_detectable(
    noise: float, groups: int, df: int, alpha: float, power: float, wide: float = 1.0
) -> float | None:
    """Smallest range of evenly spaced group means that a test of their range detects.

    Such as permutations within questions make it: near the studentised range's (Tukey 1949), which
    is drawn here.

    Args:
        noise: Variance of a group's mean without the groups' differences.
        groups: How many.
        df: Degrees of freedom within groups.
        alpha: Level.
        power: Wanted.
        wide: By how much the test enlarges deviations within groups (themes of unequal sizes).
    """
    if min(groups - 1, df) < 1 or noise <= 0:
        return None
    rng, sd = generator(0, "power range", groups, df), math.sqrt(noise)
    means = sd * rng.standard_normal((_DRAWS, groups))
    deviations = sd * wide * np.sqrt(rng.chisquare(df, _DRAWS) / df)
    bounds = float(stats.studentized_range.isf(alpha, groups, df)) * deviations
    steps = np.linspace(0.0, 1.0, groups)

    def power_at(size: float) -> float:
        return float((np.ptp(means + size * steps, axis=1) > bounds).mean())

    return smallest(power_at, power, sd)


def order_p(cosines: Sequence[float], means_NC: Array, rng: np.random.Generator) -> Array:
    """The p of the exact rank test over the orders of few conditions, of every study, `[N]`.

    Args:
        cosines: Of the conditions, without ties.
        means_NC: Their means.
        rng: Draws orders where there are too many to try all.
    """
    x = np.asarray(cosines, dtype=np.float64)
    ranks = stats.rankdata(x) - (len(x) + 1) / 2
    if len(x) > _EXACT:
        null = np.abs(rng.permuted(np.tile(ranks, (_DRAWS, 1)), axis=1) @ ranks)
    else:
        null = np.abs(np.array(list(itertools.permutations(ranks))) @ ranks)
    mine = np.abs((means_NC.argsort(axis=1).argsort(axis=1) - (len(x) - 1) / 2) @ ranks)
    return np.asarray(1 - np.searchsorted(np.sort(null), mine - 1e-9) / len(null))


def order_power(
    cosines: Sequence[float], slope: float, sd: float, alpha: float, rng: np.random.Generator
) -> float:
    """Power of that test, simulated.

    Args:
        cosines: Of the conditions, without ties.
        slope: Change of the rate per unit of cosine.
        sd: Of a condition's mean around the line.
        alpha: Level.
        rng: Source of randomness.
    """
    x = np.asarray(cosines, dtype=np.float64)
    drawn = slope * x + sd * rng.standard_normal((_DRAWS, len(x)))
    return float((order_p(cosines, drawn, rng) <= alpha).mean())
