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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from personaspace.geometry.cells import Cell, Floats, Roles
from personaspace.geometry.compare import leave_one_out_questions, rows_against_base
from personaspace.geometry.published import pre_post_family
from personaspace.inference import Array, two_way_estimate
from personaspace.rows import Row

#: Halvings of the questions, each used both ways round.
HALVINGS = 25

NOTES = {
    "split_half": (
        "Shows whether personas lie further along the axis than in base, on questions that did "
        "not make it; any fine-tuning moves them somewhere, so compare with benign."
    ),
    "split_half_absolute": "As split_half without the sign: a move to either side of 0 counts.",
    "displacement": (
        "Shows whether personas move the way the assistant did; its p asks only whether that is "
        "0, so compare with benign."
    ),
    "axis": " This condition defines the axis, from the other half of the questions.",
}


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


def split_cosines(
    states_PQH: Floats, measures_PSQ: NDArray[np.bool_], axis: Axis
) -> tuple[Array, Array]:
    """Cosines of half means with the axes of the other halves, whole and without each question.

    Args:
        states_PQH: Activations, 0 where not valid.
        measures_PSQ: Which questions the half means are taken over.

    Returns:
        `[P, S]` and `[Q, P, S]`.
    """
    n = measures_PSQ.sum(axis=2)  # [P, S]
    m = axis.makes.sum(axis=1)  # [S]
    weights = measures_PSQ.astype(np.float32) / n[:, :, None].astype(np.float32)
    means = np.matmul(weights, states_PQH)  # [P, S, H]
    to_means = means.transpose(0, 2, 1)
    states_on_axis = np.matmul(states_PQH, axis.axes.T).astype(np.float64)  # [P, Q, S]
    states_on_means = np.matmul(states_PQH, to_means).astype(np.float64)
    shifts_on_means = np.matmul(axis.shifts, to_means).astype(np.float64)
    state_squares = np.einsum("pqh,pqh->pq", states_PQH, states_PQH).astype(np.float64)[:, :, None]
    shift_squares = np.einsum("qh,qh->q", axis.shifts, axis.shifts).astype(np.float64)
    shift_squares = shift_squares[None, :, None]
    on_axis = axis.on_axis[None].astype(np.float64)

    makes = axis.makes.T[None]  # [1, Q, S]
    measures = measures_PSQ.transpose(0, 2, 1)  # [P, Q, S]
    n, m = n[:, None, :], m[None, None, :]
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
        whole = (dot / np.sqrt(mean_square * axis_square))[:, 0]
        left = dots / np.sqrt(mean_squares * axis_squares)
    return whole, left.transpose(1, 0, 2)


def _pseudo_values(whole_PS: Array, without_QPS: Array, absolute: bool) -> Array:
    """Pseudo-values `[Q, P]` of the average over splits."""
    if absolute:
        whole_PS, without_QPS = np.abs(whole_PS), np.abs(without_QPS)
    return leave_one_out_questions(whole_PS.mean(axis=-1), without_QPS.mean(axis=-1))


def m2(cell: Cell, roles: Roles, halves_SQ: NDArray[np.bool_]) -> tuple[list[Row], str | None]:
    """Rows of M2, or none and why not.

    Effect: mean over personas in units of their standard deviation.
    """
    where = f"method {cell.method}, seed {cell.seed}"
    if roles.axis not in cell.conditions or roles.assistant not in cell.personas:
        return [], f"M2 is left out for {where}: no activations of the axis"
    assistant = cell.personas.index(roles.assistant)
    others = [index for index in range(len(cell.personas)) if index != assistant]
    valid = cell.valid[others]
    measures = ~halves_SQ & valid[:, None, :]
    makes = halves_SQ & cell.valid[assistant]
    if not others or min(measures.sum(axis=2).min(), makes.sum(axis=1).min()) < 2:
        return [], f"M2 by halves is left out for {where}: fewer than two questions in some half"
    base = cell.states_of(roles.base)
    shifts = cell.states_of(roles.axis)[assistant] - base[assistant]
    if not shifts.any():
        return [], f"M2 is left out for {where}: {roles.axis} does not differ from {roles.base}"
    axis = Axis.make(shifts, cell.valid[assistant], halves_SQ)
    used = cell.valid.any(axis=0)

    def measure(states: Floats) -> tuple[Array, Array]:
        whole, without = split_cosines(states, measures, axis)
        return whole, without[used]

    before = measure(base[others])
    rows = []
    for name in cell.conditions[1:]:
        states = cell.states_of(name)[others]
        after, moved = measure(states), measure(states - base[others])
        rows.extend(_rows(cell, name, roles, before, after, moved))
    return rows, None


def _rows(
    cell: Cell,
    name: str,
    roles: Roles,
    before: tuple[Array, Array],
    after: tuple[Array, Array],
    moved: tuple[Array, Array],
) -> list[Row]:
    rows = []
    suffix = NOTES["axis"] if name == roles.axis else ""
    for measure, absolute in (("split_half", False), ("split_half_absolute", True)):
        values, bases = (_pseudo_values(*pair, absolute) for pair in (after, before))
        row = Row(
            "M2",
            "recommended",
            cell.method,
            cell.layer,
            name,
            cell.seed,
            family=None if absolute else pre_post_family(name, roles),
            name=measure,
            note=NOTES[measure] + suffix,
        )
        rows.extend(rows_against_base(row, values, bases, _standardised(values - bases)))
    shifts = _pseudo_values(*moved, absolute=False)
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
            n=shifts.shape[1],
            effect=_standardised(shifts),
            name="displacement",
            note=NOTES["displacement"] + suffix,
        )
    )
    return rows


def _standardised(values_QP: Array) -> float | None:
    by_persona = values_QP.mean(axis=0)
    spread = float(by_persona.std(ddof=1)) if len(by_persona) > 1 else 0.0
    return float(by_persona.mean()) / spread if spread > 0 else None
