"""Means over two crossed ways, both of them samples: personas and questions of one run.

The variance is closed form; how sure p may be is bounded by the way with fewer levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from personaspace.analysis.stats import TIE, Array, Estimate, Interval


def two_way(
    values: Array, other: Array | None = None, excess: float = 0.0
) -> tuple[float, float, float]:
    """Mean of a crossed two-way layout and its variance when both ways are samples.

    Rows and columns are crossed random effects. V = V_rows + V_columns − V_cells, the two-way
    cluster variance (Cameron, Gelbach & Miller 2011), which does not count the cell noise twice.
    The way with fewer levels decides how well V is known: its part is kept whole, the other one
    counts only as far as it exceeds the cells' part. Degrees of freedom are Satterthwaite's for
    these two; where the other way brings nothing, this is the t-test over the fewer levels.

    Args:
        values: `[row, column]`, at least 2 × 2.
        other: Same shape: returns the covariance of the two means instead of a variance.
        excess: Taken off the fewer levels' part, which keeps at least half (pseudo-values of a
            statistic that is not linear in the levels overstate it).

    Returns:
        Mean of `values`, (co)variance of the mean, degrees of freedom.
    """
    parts = _parts(values, other, excess)
    return float(values.mean()), parts.variance, parts.df


@dataclass(frozen=True)
class _Parts:
    """What the (co)variance of a mean of a two-way layout is made of.

    Attributes:
        few: That of the way with fewer levels.
        beyond: By how much the other's exceeds the cells'.
        few_df: Degrees of freedom of the one.
        many_df: And of the other.
    """

    few: float
    beyond: float
    few_df: int
    many_df: int

    @property
    def variance(self) -> float:
        return self.few + self.beyond

    @property
    def df(self) -> float:
        squares = self.few**2 / self.few_df + self.beyond**2 / self.many_df
        return self.variance**2 / squares if squares > 0 else 0.0


def _parts(values: Array, other: Array | None, excess: float) -> _Parts:
    """Those of a variance, or with another layout of a covariance, which may be negative."""
    first, second = values, values if other is None else other
    if first.shape[0] < first.shape[1]:
        first, second = first.T, second.T
    many, few = first.shape
    centred = [v - v.mean() for v in (first, second)]
    rows = [v.mean(axis=1) for v in centred]
    columns = [v.mean(axis=0) for v in centred]
    rests = [v - r[:, None] - c for v, r, c in zip(centred, rows, columns, strict=True)]
    by_row = float(rows[0] @ rows[1]) / (many - 1) / many
    by_column = float(columns[0] @ columns[1]) / (few - 1) / few
    by_cell = float((rests[0] * rests[1]).sum()) / ((many - 1) * (few - 1)) / (many * few)
    by_column = max(by_column / 2, by_column - excess) if excess else by_column
    beyond = by_row - by_cell
    return _Parts(by_column, max(0.0, beyond) if other is None else beyond, few - 1, many - 1)


def two_way_estimate(values: Array, excess: float = 0.0) -> Estimate:
    """`two_way` as an estimate; without an interval below 2 × 2.

    Nothing is surer than the way with fewer levels alone makes it. Where its few values lie close
    together by luck, the many levels' degrees of freedom would count for all of the variance, and
    p far below 5 % come out too small (docs/calibration-crossed.md).
    """
    mean = float(values.mean())
    if min(values.shape) < 2:
        return Estimate(mean, 0.0, 0.0)
    parts = _parts(values, None, excess)
    # Rounding of identical inputs is no variation.
    if parts.variance <= (TIE * max(1.0, abs(mean))) ** 2:
        return Estimate(mean, 0.0, parts.df)
    alone = math.sqrt(parts.few), parts.few_df
    return Estimate(mean, math.sqrt(parts.variance), parts.df, (alone,))


def fieller(numerator: Array, denominator: Array) -> tuple[float, Interval | None]:
    """Ratio of two means of one two-way layout, with Fieller's (1954) 95 % interval.

    The interval is None where the denominator is not clearly different from 0: the set that
    Fieller's theorem then gives is unbounded.

    Args:
        numerator: `[row, column]`.
        denominator: Same shape and units.
    """
    ratio = float(numerator.mean() / denominator.mean()) if denominator.mean() else math.nan
    if min(numerator.shape) < 2:
        return ratio, None
    a, var_a, _ = two_way(numerator)
    b, var_b, df = two_way(denominator)
    _, cov, _ = two_way(numerator, denominator)
    if df <= 0:
        return ratio, None
    square = float(special.stdtrit(df, 0.975)) ** 2
    lead = b**2 - square * var_b
    root = (a * b - square * cov) ** 2 - lead * (a**2 - square * var_a)
    if lead <= 0 or root < 0:
        return ratio, None
    middle, reach = (a * b - square * cov) / lead, math.sqrt(root) / lead
    return ratio, (middle - reach, middle + reach)
