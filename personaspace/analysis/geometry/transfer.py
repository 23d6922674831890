"""Probe transfer: does a classifier of base's activations tell a condition's personas apart?

M3 trains its classifier anew in every condition, so that it cannot see that personas have moved to
other places. Here linear discriminant analysis (as M3's) learns from base's activations and is
tested on the condition's, on questions that it has not seen. Each condition is centred on its own
mean and scaled to base's size beforehand, both from the questions that the classifier learns from:
a shift of all personas, or a common scale, is no change.

Shape suffixes: C conditions, P personas, Q questions, K components.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis.geometry.cells import Cell, Floats, Roles
from personaspace.analysis.geometry.separability import (
    Design,
    Ints,
    against_base,
    filled_in,
    fit_lda,
)
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import clustered_wilson
from personaspace.analysis.themes import sums

if TYPE_CHECKING:
    from personaspace.analysis.geometry.tables import Kept

NAME = "probe_transfer"


def predictions(states_CPQK: Floats, valid_PQ: NDArray[np.bool_], folds_Q: Ints) -> Ints:
    """Predicted persona `[C, P, Q]` by the first condition's classifiers; −1 where not valid."""
    labels, questions = np.nonzero(valid_PQ)
    rows_CNK = states_CPQK[:, labels, questions].astype(np.float64)
    predicted = np.full((len(states_CPQK), *valid_PQ.shape), -1)
    for fold in range(folds_Q.max() + 1):
        test = folds_Q[questions] == fold
        seen, classes = np.unique(labels[~test], return_inverse=True)
        if not test.any() or len(seen) < 2:
            continue
        centred_CNK = rows_CNK - rows_CNK[:, ~test].mean(axis=1, keepdims=True)
        size_C = np.sqrt((centred_CNK[:, ~test] ** 2).sum(axis=2).mean(axis=1))
        scale_C = np.divide(size_C[0], size_C, out=np.zeros_like(size_C), where=size_C > 0)
        weights, offsets = fit_lda(centred_CNK[0, ~test], classes)
        scores = scale_C[:, None, None] * (centred_CNK[:, test] @ weights) + offsets
        predicted[:, labels[test], questions[test]] = seen[scores.argmax(axis=2)]
    return predicted


def rows(
    cell: Cell, roles: Roles, design: Design, projected_CPQK: Floats, kept: Kept | None = None
) -> list[Row]:
    """Accuracy in every condition of the classifier that was trained on base.

    Args:
        projected_CPQK: The cell's `components`.
        kept: Takes the run's tables, for the estimates over all runs.
    """
    valid, names = cell.valid, cell.conditions
    counts = sums(valid.astype(np.float64), design.places)
    sampled, totals = replace(cell, valid=counts > 0), counts.sum(axis=0)
    used = totals > 0
    predicted = predictions(projected_CPQK, valid, design.folds)
    right = predicted == np.arange(len(valid))[:, None]
    found: list[Row] = []
    for index, name in enumerate(names):
        if name == roles.base:
            continue
        hits = sums(right[index].astype(np.float64), design.places).sum(axis=0)[used]
        value, chance = float(hits.sum() / totals.sum()), 1 / len(cell.personas)
        row = Row(
            "shape",
            "recommended",
            cell.method,
            cell.layer,
            name,
            cell.seed,
            value=value,
            ci95=clustered_wilson(hits, totals[used]),
            n=int(used.sum()),
            effect=(value - chance) / (1 - chance),
            name=NAME,
        )
        found.extend(against_base(row, right[index], right[0], valid, design.places))
        if kept is not None:
            own = filled_in(right[index], valid, design.places)
            base = filled_in(right[0], valid, design.places)
            kept.add(sampled, "shape", NAME, name, own, base)
    return found
