"""M2, recommended: the EM axis from one half of the questions, measured on the other half.

The axis is the shift of the assistant's vector from base to the axis condition. Made from all
questions, it shares their noise with the vectors that it is then compared with. Here the questions
are halved at random, many times, each half serving once for the axis and once for the measurement.

- `split_half`: signed cosine of persona vectors with the axis.
- `split_half_absolute`: its absolute value, as published.
- `displacement`: cosine of a persona's own shift from base with the axis: 1 if it moves the way the
  assistant did, 0 if at a right angle. It does not depend on where the vectors started.

Every split's cosine is also computed without each question in turn, in closed form, which gives
jackknife pseudo-values of the average over splits by question and persona.

Shape suffixes: S splits, P personas, Q questions, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis.crossed import two_way_estimate
from personaspace.analysis.geometry.cells import Cell, Floats, Roles
from personaspace.analysis.geometry.compare import (
    Pseudo,
    leave_one_out_questions,
    lopsided,
    rows_against_base,
)
from personaspace.analysis.geometry.published import pre_post_family
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import Array

if TYPE_CHECKING:
    from personaspace.analysis.geometry.tables import Kept

#: Halvings of the questions, each used both ways round.
HALVINGS = 25

_ON_ITSELF = "This condition defines the axis, from the other half of the questions."


def halve(questions: int, rng: np.random.Generator, halvings: int = HALVINGS) -> NDArray[np.bool_]:
    """Which questions make the axis, `[S, Q]`: random halves and their complements."""
    first = np.zeros((halvings, questions), dtype=bool)
    first[:, : questions // 2] = True
    first = rng.permuted(first, axis=1)
    return np.concatenate([first, ~first])


@dataclass(frozen=True)
class Axis:
    """The axis of every split.

    Attributes:
        shifts: `[Q, H]`, the assistant's shift, question by question; 0 where not valid.
        makes: `[S, Q]`, which questions make the axis.
        axes: `[S, H]`, mean shift of those.
        on_axis: `[Q, S]`, inner products of the shifts with the axes.
    """

    shifts: Floats
    makes: NDArray[np.bool_]
    axes: Floats
    on_axis: Floats

    @classmethod
    def make(cls, shifts: Floats, valid: NDArray[np.bool_], halves: NDArray[np.bool_]) -> Axis:
        """From the assistant's shifts `[Q, H]`, their validity `[Q]` and the halves `[S, Q]`."""
        makes = halves & valid
        axes = (makes.astype(np.float32) @ shifts) / makes.sum(axis=1, keepdims=True)
        axes = axes.astype(np.float32)
        return cls(shifts, makes, axes, shifts @ axes.T)


@dataclass(frozen=True)
class Halves:
    """Half means of some activations, and inner products with what they are compared with.

    Attributes:
        states: `[P, Q, H]` activations, 0 where not valid.
        means: `[P, S, H]`, over the half that does not make the axis.
        on_axis: `[P, Q, S]`, activations with the axes.
        shifts_on_means: `[P, Q, S]`, the assistant's shifts with the half means.
    """

    states: Floats
    means: Floats
    on_axis: Floats
    shifts_on_means: Floats

    @classmethod
    def make(cls, states: Floats, measures_PSQ: NDArray[np.bool_], axis: Axis) -> Halves:
        """From activations, and the questions that each mean is taken over."""
        weights = measures_PSQ.astype(np.float32) / measures_PSQ.sum(axis=2, keepdims=True)
        means = np.matmul(weights.astype(np.float32), states)
        return cls(
            states,
            means,
            np.matmul(states, axis.axes.T),
            np.matmul(axis.shifts, means.transpose(0, 2, 1)),
        )

    def minus(self, other: Halves) -> Halves:
        """Those of the differences: all but the lengths follows without another pass."""
        return Halves(
            self.states - other.states,
            self.means - other.means,
            self.on_axis - other.on_axis,
            self.shifts_on_means - other.shifts_on_means,
        )


@dataclass(frozen=True)
class Cosines:
    """Cosines of half means with the axes of the other halves.

    Attributes:
        whole: `[P, S]`.
        without: `[Q, P, S]`, the same without each question.
        growth: `[P]`, by which factor the jackknife lengthens a persona's cosines: noise of few
            questions makes means too long, and so cosines too short.
    """

    whole: Array
    without: Array
    growth: Array


def split_cosines(halves: Halves, measures_PSQ: NDArray[np.bool_], axis: Axis) -> Cosines:
    """Cosines of half means with the axes of the other halves, whole and without each question.

    Args:
        halves: Half means of the personas.
        measures_PSQ: Which questions the half means are taken over.
    """
    states = halves.states
    states_on_axis = halves.on_axis.astype(np.float64)
    shifts_on_means = halves.shifts_on_means.astype(np.float64)
    states_on_means = np.matmul(states, halves.means.transpose(0, 2, 1)).astype(np.float64)
    state_squares = np.einsum("pqh,pqh->pq", states, states).astype(np.float64)[:, :, None]
    shift_squares = np.einsum("qh,qh->q", axis.shifts, axis.shifts).astype(np.float64)
    shift_squares = shift_squares[None, :, None]
    on_axis = axis.on_axis[None].astype(np.float64)

    makes = axis.makes.T[None]  # [1, Q, S]
    measures = measures_PSQ.transpose(0, 2, 1)  # [P, Q, S]
    n, m = measures_PSQ.sum(axis=2)[:, None, :], axis.makes.sum(axis=1)[None, None, :]
    dot = np.where(measures, states_on_axis, 0).sum(axis=1, keepdims=True) / n
    mean_square = np.where(measures, states_on_means, 0).sum(axis=1, keepdims=True) / n
    axis_square = np.where(makes, on_axis, 0).sum(axis=1, keepdims=True) / m

    def without(square: Array, inner: Array, own: Array, size: Array) -> Array:
        """Squared length of a mean once one of its members is left out."""
        step = 1 / (size - 1)
        moved = square - 2 * step * (inner - square) + step**2 * (own - 2 * inner + square)
        return np.asarray(moved)

    dots = np.where(measures, dot - (states_on_axis - dot) / (n - 1), dot)
    dots = np.where(makes, dot - (shifts_on_means - dot) / (m - 1), dots)
    mean_squares = np.where(
        measures, without(mean_square, states_on_means, state_squares, n), mean_square
    )
    axis_squares = np.where(makes, without(axis_square, on_axis, shift_squares, m), axis_square)
    with np.errstate(divide="ignore", invalid="ignore"):
        length = 1 / np.sqrt(mean_square * axis_square)
        lengths = 1 / np.sqrt(mean_squares * axis_squares)
        whole, left = (dot * length)[:, 0], dots * lengths
        used = axis.makes.any(axis=0) | measures_PSQ.any(axis=(0, 1))
        inverse_P = length[:, 0].mean(axis=-1)
        inverses_QP = lengths[:, used].mean(axis=-1).T
        growth = leave_one_out_questions(inverse_P, inverses_QP).mean(axis=0) / inverse_P
    growth = np.where(np.isfinite(growth), np.maximum(growth, 1.0), 1.0)
    return Cosines(whole, left.transpose(1, 0, 2), growth)


def _pseudo_values(found: Cosines, absolute: bool) -> Array:
    """Pseudo-values `[Q, P]` of the average over splits.

    The jackknife corrects estimates, but takes the variance of those that are not corrected: the
    deviations of questions are enlarged by the factor that estimates are.
    """
    whole_PS, without_QPS = found.whole, found.without
    if absolute:
        whole_PS, without_QPS = np.abs(whole_PS), np.abs(without_QPS)
    values = leave_one_out_questions(whole_PS.mean(axis=-1), without_QPS.mean(axis=-1))
    middle = values.mean(axis=0)
    return np.asarray(middle + found.growth * (values - middle))


@dataclass(frozen=True)
class Positions:
    """Where each EM condition stands on the axis at one layer, for the spread between them.

    Attributes:
        layer: Decoder layer.
        values: `[C, Q, P]` pseudo-values of `split_half`, EM conditions in order.
        base: `[Q, P]` those of base.
    """

    layer: int
    values: Array
    base: Array


def m2(
    cell: Cell, roles: Roles, halves_SQ: NDArray[np.bool_], kept: Kept | None = None
) -> tuple[list[Row], Positions | None, str | None]:
    """Rows of M2 and the EM conditions' positions on the axis, or none and why not.

    Effect: mean over personas in units of their standard deviation.

    Args:
        kept: Takes the run's tables, for the estimates over all runs.
    """
    where = f"method {cell.method}, seed {cell.seed}"
    if roles.axis not in cell.conditions or roles.assistant not in cell.personas:
        return [], None, f"M2 is left out for {where}: no activations of the axis"
    assistant = cell.personas.index(roles.assistant)
    others = [index for index in range(len(cell.personas)) if index != assistant]
    valid = cell.valid[others]
    measures = ~halves_SQ & valid[:, None, :]
    makes = halves_SQ & cell.valid[assistant]
    if not others or min(measures.sum(axis=2).min(), makes.sum(axis=1).min()) < 2:
        why = f"M2 by halves is left out for {where}: fewer than two questions (or themes of "
        why += "questions, where they have some) in some half"
        return [], None, why
    base = cell.states_of(roles.base)
    shifts = cell.states_of(roles.axis)[assistant] - base[assistant]
    if not shifts.any():
        why = f"M2 is left out for {where}: {roles.axis} does not differ from {roles.base}"
        return [], None, why
    axis = Axis.make(shifts, cell.valid[assistant], halves_SQ)
    used = cell.valid.any(axis=0)

    def measure(halves: Halves) -> Cosines:
        found = split_cosines(halves, measures, axis)
        return replace(found, without=found.without[used])

    base_halves = Halves.make(base[others], measures, axis)
    before = measure(base_halves)
    rows, positions = [], []
    for name in cell.conditions[1:]:
        halves = Halves.make(cell.states_of(name)[others], measures, axis)
        after, moved = measure(halves), measure(halves.minus(base_halves))
        rows.extend(_rows(cell, name, roles, before, after, moved))
        if kept is not None:
            names = [cell.personas[index] for index in others]
            own, unmoved = (Pseudo(_pseudo_values(pair, False)) for pair in (after, before))
            kept.add(cell, "M2", "split_half", name, own, unmoved, personas=names)
            shifts_QP = _pseudo_values(moved, absolute=False)
            kept.add(cell, "M2", "displacement", name, Pseudo(shifts_QP), personas=names)
        if name not in roles.harmless:
            positions.append(_pseudo_values(after, absolute=False))
    if len(positions) < 2:
        return rows, None, None
    start = _pseudo_values(before, absolute=False)
    return rows, Positions(cell.layer, np.stack(positions), start), None


def _rows(
    cell: Cell,
    name: str,
    roles: Roles,
    before: Cosines,
    after: Cosines,
    moved: Cosines,
) -> list[Row]:
    rows = []
    note = _ON_ITSELF if name == roles.axis else None
    for measure, absolute in (("split_half", False), ("split_half_absolute", True)):
        values, bases = (_pseudo_values(pair, absolute) for pair in (after, before))
        row = Row(
            "M2",
            "recommended",
            cell.method,
            cell.layer,
            name,
            cell.seed,
            family=pre_post_family(name, roles),
            name=measure,
            note=note,
        )
        rows.extend(
            rows_against_base(row, Pseudo(values), Pseudo(bases), _standardised(values - bases))
        )
    shifts = _pseudo_values(moved, absolute=False)
    estimate = two_way_estimate(shifts)
    rows.append(
        Row(
            "M2",
            "recommended",
            cell.method,
            cell.layer,
            name,
            cell.seed,
            value=estimate.value,
            p=estimate.p,
            ci95=estimate.interval,
            family=pre_post_family(name, roles) if estimate.p is not None else None,
            n=shifts.shape[1],
            effect=_standardised(shifts),
            name="displacement",
            note=note,
            warning=lopsided(shifts),
        )
    )
    return rows


def _standardised(values_QP: Array) -> float | None:
    by_persona = values_QP.mean(axis=0)
    spread = float(by_persona.std(ddof=1)) if len(by_persona) > 1 else 0.0
    return float(by_persona.mean()) / spread if spread > 0 else None
