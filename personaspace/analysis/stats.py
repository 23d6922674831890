"""Permutation, resampling, intervals and corrections: thin over numpy, scipy and statsmodels.

Random draws are matrices (one draw a row) that many statistics are multiplied by at once, so that
10,000 permutations of 66 cosines are one matrix product. Every generator is seeded by name: the
same input gives the same output, bit for bit, in any process.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from personaspace.analysis.rows import PRIMARY, Row

Array = NDArray[np.float64]
Interval = tuple[float, float]

#: Families of tests that are adjusted together.
FAMILIES = (
    PRIMARY,
    "geometry_em_pre_post",
    "geometry_benign_pre_post",
    "geometry_em_vs_benign",
    "geometry_em_pairs",
    "geometry_above_chance",
    "geometry_shape",
    "placebo",
    "behavioral",
    "behavioral_contrasts",
    "behavioral_secondary",
    "behavioral_divergence",
)

#: Statistics that differ by less than this share are ties: sums in another order, not other data.
TIE = 1e-12


def generator(seed: int, *names: object) -> np.random.Generator:
    """A generator of its own for each named purpose; no two purposes share random numbers."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


@dataclass(frozen=True)
class Draws:
    """Random (or all possible) reassignments, as weights.

    Attributes:
        weights: `[draw, unit]`; the statistic of a draw is its row times the units' values.
        exact: Every possible reassignment is there once, the observed one included.
    """

    weights: Array
    exact: bool = False

    def null(self, values: Array) -> Array:
        """Statistics under reassignment, `[draw]` or `[draw, test]`, of values `[unit(, test)]`."""
        return np.asarray(self.weights @ values)


def sign_draws(units: int, draws: int, rng: np.random.Generator) -> Draws:
    """Weights for the mean of paired differences under random signs.

    All 2^units sign patterns are listed when that is no more than `draws`.
    """
    if units <= 0:
        raise ValueError("sign_draws needs at least one unit")
    if 2.0**units <= draws:
        patterns = np.arange(2**units)[:, None] >> np.arange(units) & 1
        return Draws((1.0 - 2.0 * patterns) / units, exact=True)
    bits = rng.integers(0, 2, size=(draws, units), dtype=np.int8)
    return Draws((1.0 - 2.0 * bits) / units)


def label_draws(first: int, second: int, draws: int, rng: np.random.Generator) -> Draws:
    """Weights for mean(second group) − mean(first group) under permuted group labels.

    Units are the first group followed by the second. All splits are listed when there are no more
    than `draws` of them.
    """
    units = first + second
    if math.comb(units, second) <= draws:
        members = np.zeros((math.comb(units, second), units), dtype=bool)
        for row, chosen in enumerate(itertools.combinations(range(units), second)):
            members[row, list(chosen)] = True
        return Draws(np.where(members, 1.0 / second, -1.0 / first), exact=True)
    start = np.repeat([-1.0 / first, 1.0 / second], [first, second])
    return Draws(rng.permuted(np.tile(start, (draws, 1)), axis=1))


def bootstrap_draws(units: int, draws: int, rng: np.random.Generator) -> Draws:
    """Weights for the mean of units drawn with replacement."""
    counts = rng.multinomial(units, np.full(units, 1 / units), size=draws)
    return Draws(counts / units)


def tail_count(null: Array, observed: float | Array, *, two_sided: bool) -> NDArray[np.int64]:
    """How many draws are at least as extreme as the observed; ties count.

    Args:
        null: `[draw, …]`.
        observed: Scalar or `[…]`.
        two_sided: Compare absolute values instead of signed ones.
    """
    seen = np.asarray(observed, dtype=np.float64)
    if two_sided:
        null, seen = np.abs(null), np.abs(seen)
    slack = TIE * np.maximum(1.0, np.abs(seen))
    return np.asarray((null >= seen - slack).sum(axis=0))


def published_p(count: int, draws: int) -> float:
    """The study's p: the plain share of draws. It can be 0, which no permutation test supports."""
    return float(count) / draws


def permutation_p(count: int, draws: int, *, exact: bool = False) -> float:
    """(count + 1)/(draws + 1) (Phipson & Smyth 2010), or the share if every draw was listed."""
    return float(count) / draws if exact else (float(count) + 1) / (draws + 1)


def percentile_interval(draws: Array, level: float = 0.95) -> Interval:
    """Efron's percentile interval."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson(hits: float, total: float) -> Interval | None:
    """Wilson's 95 % score interval of a share; None without observations."""
    if total <= 0:
        return None
    low, high = proportion_confint(hits, total, alpha=0.05, method="wilson")
    # At the ends the formula gives 0 and 1 up to rounding.
    return (0.0 if hits <= 0 else float(low)), (1.0 if hits >= total else float(high))


def effective_size(hits: Array, totals: Array) -> float:
    """How many independent observations a share's clustered ones are worth.

    The sample size is divided by the design effect of the ratio estimator's linearised variance
    and corrected for few clusters (Dean & Pagano 2015); of unequal sizes their effective number
    counts (Carter, Schnepel & Steigerwald 2017). A share of 0 or 1 says nothing about the
    clustering: there each cluster counts as one observation, the most cautious reading.

    Args:
        hits: `[cluster]` successes.
        totals: `[cluster]` observations, none of them 0.
    """
    n = float(totals.sum())
    if len(totals) < 2:
        return float(len(totals))
    share, clusters = float(hits.sum()) / n, n**2 / float((totals**2).sum())
    variance = clusters / (clusters - 1) * float(((hits - share * totals) ** 2).sum()) / n**2
    return size_of_variance(share, variance, clusters, n)


def size_of_variance(share: float, variance: float, clusters: float, most: float) -> float:
    """How many independent observations have a share's variance (see `effective_size`)."""
    if share * (1 - share) < TIE:
        return float(clusters)
    if variance <= 0:
        return most
    few = float(stats.norm.ppf(0.975) / stats.t.ppf(0.975, clusters - 1)) ** 2
    return min(most, share * (1 - share) / variance * few)


def clustered_wilson(hits: Array, totals: Array) -> Interval | None:
    """Wilson's interval of a share whose observations come in clusters (see `effective_size`).

    Args:
        hits: `[cluster]` successes.
        totals: `[cluster]` observations.
    """
    kept = totals > 0
    hits, totals = hits[kept], totals[kept]
    if len(totals) == 0:
        return None
    effective = effective_size(hits, totals)
    return wilson(float(hits.sum()) / float(totals.sum()) * effective, effective)


def wilson_of_variance(
    share: float, variance: float, clusters: int, most: float = math.inf
) -> Interval | None:
    """Wilson's interval of a share whose variance over clusters is known.

    Args:
        share: The share.
        variance: Its variance, as `clusters` clusters show it.
        clusters: How many there are; a share of 0 or 1 counts each as one observation.
        most: The sample size cannot be larger than this, the number of observations.
    """
    effective = size_of_variance(share, variance, clusters, most)
    return wilson(share * effective, effective) if math.isfinite(effective) else None


@dataclass(frozen=True)
class Estimate:
    """An estimate with its standard error and degrees of freedom (infinite: normal).

    Attributes:
        value: The estimate.
        se: Its standard error.
        df: How well that is known.
        others: Standard error and degrees of freedom again, with fewer of the sources of chance.
            Nothing is said of the truth that is surer than any of these alone would make it.
    """

    value: float
    se: float
    df: float
    others: tuple[tuple[float, float], ...] = ()

    @property
    def ways(self) -> list[tuple[float, float]]:
        """Every standard error that can be tested with, and its degrees of freedom."""
        return [(se, df) for se, df in ((self.se, self.df), *self.others) if se > 0 and df > 0]

    def reach(self, alpha: float) -> float | None:
        """How far the interval of level 1 − `alpha` goes to either side, the widest of all ways.

        None where the data show no variation to build one from.
        """
        return max(
            (float(special.stdtrit(df, 1 - alpha / 2)) * se for se, df in self.ways), default=None
        )

    @property
    def interval(self) -> Interval | None:
        """95 % t interval; None where the data show no variation to build one from."""
        reach = self.reach(0.05)
        return None if reach is None else (self.value - reach, self.value + reach)

    @property
    def p(self) -> float | None:
        """Two-sided p of the hypothesis that the truth is 0; None where it cannot be tested."""
        found = [2 * special.stdtr(df, -abs(self.value) / se) for se, df in self.ways]
        if found:
            return float(min(1.0, max(found)))
        return 1.0 if abs(self.value) < TIE else None

    def equivalence_p(self, margin: float) -> float | None:
        """The p of two one-sided tests (Schuirmann 1987): is the truth within ± `margin`?"""
        found = [float(special.stdtr(df, -(margin - abs(self.value)) / se)) for se, df in self.ways]
        return max(found, default=None)

    def smallest_margin(self, level: float = 0.05) -> float | None:
        """The smallest margin at which two one-sided tests call the truth no different from 0.

        At this level they (Schuirmann 1987) reject for every larger margin, and for none that is
        smaller. None without an interval.
        """
        reach = self.reach(2 * level)
        return None if reach is None else abs(self.value) + reach


@lru_cache(maxsize=256)
def _farthest(n: int, level: float) -> float:
    """How many standard deviations the farthest of n normal values lies from their mean at most."""
    square = float(special.stdtrit(n - 2, level / (2 * n))) ** 2
    return (n - 1) / math.sqrt(n) * math.sqrt(square / (n - 2 + square))


def has_outlier(values: Array, level: float = 0.001) -> bool:
    """Whether one value lies too far out for a normal sample (Grubbs 1969, two-sided).

    Args:
        values: A sample; fewer than three, or without variation, have no outlier.
        level: Of the test.
    """
    if len(values) < 3:
        return False
    deviations = np.abs(values - values.mean())
    spread = float(values.std(ddof=1))
    if spread <= TIE * max(1.0, float(np.abs(values).max())):
        return False
    return bool(deviations.max() / spread > _farthest(len(values), level))


def cluster_mean(values: Array) -> Estimate:
    """Mean of one value per cluster, with the t distribution on clusters − 1 degrees of freedom.

    For clusters of equal size this is the generalised estimating equation with independence
    working correlation, but with the small-sample variance and reference distribution that the
    plain sandwich lacks: with some 28 clusters the sandwich rejects too often.
    """
    n = len(values)
    se = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    value = float(values.mean())
    return Estimate(value, se if se > TIE * max(1.0, abs(value)) else 0.0, n - 1)


def adjust(rows: Sequence[Row], families: Collection[str] = FAMILIES) -> list[Row]:
    """Fills `p_bh` and `p_holm` of every row that has a p and belongs to a family.

    A family is adjusted within its variant, seed and target: each seed is a study of its own, and
    rows over all runs are one more for each target. Corrections are statsmodels' (Benjamini &
    Hochberg 1995, Holm 1979). No rows, or none in a family: nothing to adjust, the rows come back
    as they are.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.family in families and row.p is not None:
            groups[(row.family, row.variant, row.seed, row.target)].append(index)
    adjusted = list(rows)
    # Holm's collects garbage at every call, a quarter of a second among all that is loaded here.
    gc.freeze()
    try:
        for indices in groups.values():
            p = [rows[index].p for index in indices]
            bh = multipletests(p, method="fdr_bh")[1]
            holm = multipletests(p, method="holm")[1]
            for index, one, two in zip(indices, bh, holm, strict=True):
                adjusted[index] = replace(rows[index], p_bh=float(one), p_holm=float(two))
    finally:
        gc.unfreeze()
    return adjusted
