"""Rows of a measure that is compared between a condition and base."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from personaspace.inference import Array, has_outlier, two_way_estimate
from personaspace.rows import Row

LOPSIDED = "One persona lies far outside what the others would let expect, and may carry this."


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


def rows_against_base(
    row: Row, values_QP: Array, base_QP: Array, effect: float | None, p: float | None = None
) -> list[Row]:
    """The row of a measure, and the row of its difference to base.

    Questions and personas are both samples (`inference.two_way`); condition and base share them,
    so the difference is taken within each.

    Args:
        row: Metric, place, name, family and note; the numbers are filled in.
        values_QP: Pseudo-values of the condition by question and persona.
        base_QP: Pseudo-values of base.
        effect: Effect size.
        p: Of a test of its own; None: the t-test of the difference.
    """
    mine, change = two_way_estimate(values_QP), two_way_estimate(values_QP - base_QP)
    filled = replace(
        row,
        value=mine.value,
        base=float(base_QP.mean()),
        delta=change.value,
        p=change.p if p is None else p,
        ci95=mine.interval,
        n=values_QP.shape[1],
        effect=effect,
        warning=lopsided(values_QP - base_QP),
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
