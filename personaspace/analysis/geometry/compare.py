"""Rows of a measure that is compared between a condition and base."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from personaspace.analysis.crossed import two_way_estimate
from personaspace.analysis.jackknife import jackknife_excess
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import Array, Estimate, has_outlier

#: Relative size below which a whole table of differences is rounding: float32's unit is 1.2e-7,
#: and pseudo-values magnify it by the number of questions; fine-tuning moves them by 1e-3 or more.
ROUNDING = 1e-6
LOPSIDED = "One persona lies far outside the range of the others, and may drive this result."


def lopsided(values_QP: Array) -> str | None:
    """A warning where one persona's value is an outlier among the few that a t-test rests on."""
    return LOPSIDED if has_outlier(values_QP.mean(axis=0)) else None


def leave_one_out_personas(pairs_QPP: Array) -> Array:
    """Persona pseudo-values of the mean over pairs, `[Q, P]`.

    The jackknife of a mean over pairs: n·(mean of all pairs) − (n − 1)·(mean of the pairs without
    this persona). Their mean is the mean over pairs; their spread is the pairs' true uncertainty,
    in which each persona counts once although it is in n − 1 pairs.

    Args:
        pairs_QPP: Symmetric in the personas; the diagonal is ignored. At least three personas;
            with two, the one pair is returned as one column.
    """
    personas = pairs_QPP.shape[-1]
    off = pairs_QPP * (1 - np.eye(personas))
    totals, own = off.sum(axis=(-2, -1)), off.sum(axis=-1)
    if personas < 3:
        return np.asarray(totals[:, None] / (personas * (personas - 1)))
    whole = totals / (personas * (personas - 1))
    without = (totals[:, None] - 2 * own) / ((personas - 1) * (personas - 2))
    return np.asarray(personas * whole[:, None] - (personas - 1) * without)


def leave_one_out_questions(whole: Array, without: Array) -> Array:
    """Question pseudo-values `[Q, …]`: n·whole − (n − 1)·(statistic without the question).

    Their mean is the statistic without the bias of order 1/n that question noise gives it.

    Args:
        whole: `[…]`.
        without: `[Q, …]`.
    """
    n = len(without)
    return np.asarray(n * whole - (n - 1) * without)


def _difference(mine: Array, other: Array) -> Array:
    """Mine − other, and exactly 0 where all of it is the rounding of equal activations.

    Inner products come from float32 GEMMs, whose last bits depend on the processor and on where in
    memory a matrix lies.
    """
    found = np.asarray(mine - other)
    scale = max(float(np.abs(mine).max(initial=0)), float(np.abs(other).max(initial=0)))
    return np.zeros_like(found) if np.abs(found).max(initial=0) <= ROUNDING * scale else found


@dataclass(frozen=True)
class Pseudo:
    """Pseudo-values of a measure that is averaged over pairs of personas, or over personas.

    Attributes:
        values: `[Q, P]`, by question and persona.
        pairs: `[P, P]`, the measure of every pair without question bias; None: no pairs.
    """

    values: Array
    pairs: Array | None = None

    def __sub__(self, other: Pseudo) -> Pseudo:
        values = _difference(self.values, other.values)
        if self.pairs is None or other.pairs is None:
            return Pseudo(values)
        return Pseudo(values, _difference(self.pairs, other.pairs))

    def __add__(self, other: Pseudo) -> Pseudo:
        return self - Pseudo(-other.values, None if other.pairs is None else -other.pairs)

    def __mul__(self, factor: float) -> Pseudo:
        pairs = None if self.pairs is None else factor * self.pairs
        return Pseudo(factor * self.values, pairs)

    @property
    def mean(self) -> float:
        """The estimate."""
        return float(self.values.mean())

    @property
    def estimate(self) -> Estimate:
        """With its two-way standard error (`inference.two_way`)."""
        excess = 0.0 if self.pairs is None else jackknife_excess(self.pairs)
        return two_way_estimate(self.values, excess)


def rows_against_base(
    row: Row, mine: Pseudo, base: Pseudo, effect: float | None, p: float | None = None
) -> list[Row]:
    """The row of a measure, and the row of its difference to base.

    Questions and personas are both samples (`inference.two_way`); condition and base share them,
    so the difference is taken within each.

    Args:
        row: Metric, place, name, family and note; the numbers are filled in.
        mine: Pseudo-values of the condition.
        base: Pseudo-values of base.
        effect: Effect size.
        p: Of a test of its own; None: the t-test of the difference.
    """
    own, change = mine.estimate, (mine - base).estimate
    filled = replace(
        row,
        value=own.value,
        base=base.mean,
        delta=change.value,
        p=change.p if p is None else p,
        ci95=own.interval,
        n=mine.values.shape[1],
        effect=effect,
        warning=lopsided((mine - base).values),
    )
    companion = replace(
        filled,
        value=change.value,
        base=None,
        delta=None,
        ci95=change.interval,
        family=None,
        name=f"{row.name}_delta",
    )
    return [filled, companion]
