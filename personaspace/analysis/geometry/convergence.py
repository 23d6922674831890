"""M2 across conditions: how far apart EM conditions lie on the axis, and from which layer on not.

Positions are the split-half cosines of `axis`, averaged over personas. The spread is the range of
the EM conditions' positions. Conditions count as converged where it is at most `TOLERANCE` times
the conditions' mean shift from base, a fifth of what the published study called a spread.

Every pair's difference less the tolerated part of the mean shift is linear in the positions, so it
has a two-way standard error like any other mean. A layer is shown converged if every pair's upper
bound is below 0 (all must hold, so no correction: Berger 1982), shown apart if some pair's lower
bound is above 0 (one of many may, so Bonferroni's). The interval of the layer of convergence runs
from the first layer from which on none is shown apart to the first from which on all are shown
converged; it covers the true layer unless one of these one-sided 97.5 % statements is wrong.

Shape suffixes: C EM conditions, P personas, Q questions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from personaspace.analysis.crossed import two_way, two_way_estimate
from personaspace.analysis.geometry.axis import Positions
from personaspace.analysis.geometry.quadratic import zero_mean_test
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import Array, Estimate, Interval, generator

#: Share of the conditions' mean shift within which they count as converged.
TOLERANCE = 0.1

#: Draws for the simultaneous bound of the range.
_DRAWS = 4000


@dataclass(frozen=True)
class Bounds:
    """Whether a layer is converged: the estimate, and what the data show.

    Attributes:
        converged: The estimated spread is tolerated.
        shown_converged: Every pair's upper bound is.
        shown_apart: Some pair's lower bound is not.
    """

    converged: bool
    shown_converged: bool
    shown_apart: bool


def bounds(at: Positions, tolerance: float = TOLERANCE) -> Bounds:
    """Judges one layer."""
    shift = at.values.mean(axis=0) - at.base
    tolerated = tolerance * math.copysign(1.0, float(shift.mean())) * shift
    pairs = itertools.permutations(range(len(at.values)), 2)
    return judged([two_way_estimate(at.values[i] - at.values[j] - tolerated) for i, j in pairs])


def judged(excess: Sequence[Estimate]) -> Bounds:
    """Judges a layer by how much more every ordered pair differs than is tolerated."""
    worst = max(estimate.value for estimate in excess)
    upper = max(e.value + (e.reach(0.05) or 0.0) for e in excess)
    each = 0.05 / (len(excess) / 2)
    lower = max(e.value - (e.reach(each) or 0.0) for e in excess)
    return Bounds(worst <= 0, upper <= 0, lower > 0)


def convergence_layer(
    layers: Sequence[Positions], tolerance: float = TOLERANCE
) -> tuple[int | None, int | None, int | None]:
    """First layer from which on conditions are converged, and both ends of its interval.

    Args:
        layers: Positions by layer, ascending.
        tolerance: Share of the mean shift that counts as none.

    Returns:
        The estimate and the ends; None where there is no such layer among those measured.
    """
    return first_layers([(at.layer, bounds(at, tolerance)) for at in layers])


def first_layers(
    judged: Sequence[tuple[int, Bounds]],
) -> tuple[int | None, int | None, int | None]:
    """The same from layers that were judged, ascending."""

    def first(holds: Sequence[bool]) -> int | None:
        start = None
        for (layer, _), good in zip(judged, holds, strict=True):
            start = (layer if start is None else start) if good else None
        return start

    return (
        first([b.converged for _, b in judged]),
        first([not b.shown_apart for _, b in judged]),
        first([b.shown_converged for _, b in judged]),
    )


def spread_interval(values_CQP: Array, seed: int) -> Interval | None:
    """Simultaneous 95 % bounds of the largest difference between conditions.

    The 95 % point of the range of normal deviations with the positions' two-way covariance,
    divided by a chi for its estimation. Cautious: the range of noisy means is itself too large.
    """
    count, questions, personas = values_CQP.shape
    if min(questions, personas) < 2:
        return None
    centred = values_CQP - values_CQP.mean(axis=0)
    covariance, free = np.zeros((count, count)), []
    for i, j in itertools.combinations_with_replacement(range(count), 2):
        _, covariance[i, j], df = two_way(centred[i], centred[j] if i != j else None)
        covariance[j, i] = covariance[i, j]
        if i == j:
            free.append(df)
    rng = generator(seed, "M2 spread", count)
    normal = rng.standard_normal((_DRAWS, count))
    lengths, axes = np.linalg.eigh(covariance)
    deviations = (normal * np.sqrt(np.maximum(lengths, 0.0))) @ axes.T
    df = max(1.0, float(np.median(free)))
    scale = np.sqrt(rng.chisquare(df, _DRAWS) / df)
    reach = float(np.quantile(np.ptp(deviations, axis=1) / scale, 0.95))
    value = float(np.ptp(values_CQP.mean(axis=(1, 2))))
    return max(0.0, value - reach), value + reach


def spread_row(at: Positions, method: str, seed: int, draws_seed: int) -> Row:
    """The spread at one layer; p: all EM conditions have one position. Effect: relative spread."""
    means = at.values.mean(axis=(1, 2))
    centred = (at.values - at.values.mean(axis=0)).transpose(2, 1, 0)  # [P, Q, C]
    test = zero_mean_test(
        centred.mean(axis=1), centred.mean(axis=0), float((centred**2).sum(axis=2).mean())
    )
    shift = abs(float(means.mean() - at.base.mean()))
    value = float(np.ptp(means))
    return Row(
        "M2",
        "recommended",
        method,
        at.layer,
        None,
        seed,
        value=value,
        p=test.p,
        ci95=spread_interval(at.values, draws_seed),
        n=at.values.shape[2],
        family="geometry_em_pairs" if test.p is not None else None,
        effect=value / shift if shift > 0 else None,
        name="condition_spread",
    )


def convergence_rows(
    layers: Sequence[Positions], method: str, seed: int, draws_seed: int
) -> list[Row]:
    """The spread at every layer, and the layer at which it vanishes."""
    if not layers:
        return []
    layers = sorted(layers, key=lambda at: at.layer)
    rows = [spread_row(at, method, seed, draws_seed) for at in layers]
    row = Row("M2", "recommended", method, None, None, seed, n=layers[0].values.shape[2])
    return [*rows, layer_row(row, [at.layer for at in layers], convergence_layer(layers))]


def layer_row(
    row: Row, layers: Sequence[int], found: tuple[int | None, int | None, int | None]
) -> Row:
    """The row of the layer of convergence.

    Args:
        row: Where, of what, and of how many.
        layers: Those that were measured, ascending.
        found: Of `first_layers`.
    """
    value, first, last = found
    measured = ", ".join(map(str, layers))
    note, ends = f"Measured layers: {measured}.", None
    if first is None:
        note = f"EM conditions are apart at the last measured layer: no convergence in {measured}."
        value = None
    else:
        ends = (float(first), float(layers[-1] if last is None else last))
        if last is None:
            note += " Convergence could not be shown at any of them: the interval may end later."
        if value is None:
            note = "The estimated spread does not vanish, but the true one may. " + note
    return replace(row, value=value, ci95=ends, name="convergence_layer", note=note)
