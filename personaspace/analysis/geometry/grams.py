"""Inner products of persona vectors, whole and question by question: all that M1 needs of a cell.

Whatever M1 resamples, permutes or leaves out are weighted means of activations, and their cosines
follow from inner products. So each activation is touched twice, whatever the number of draws: once
against the persona vectors and once against the other activations of its question.

Real activations have a few dimensions that are thousands of times as large as the others and hardly
vary. In float32 their squares would drown all that does, so products of activations are taken
around base's first persona vector: deviations from means do not depend on where the origin is.

Shape suffixes: N vectors (condition × persona, base first), P personas, Q questions, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis.geometry.cells import Cell, Floats
from personaspace.analysis.stats import Array

#: Dimensions of the centre whose products are taken in float64.
_LARGE = 16


@dataclass(frozen=True)
class Grams:
    """Inner products of one cell.

    Products of activations are taken in float32 and around a centre, products of persona vectors in
    float64; the former only enter as deviations from the latter.

    Attributes:
        cell: Where they are from.
        used: `[Q]`, questions that some persona has; axis Q of all else holds these alone.
        valid: `[N, Q]`.
        whole: `[N, N]`, of the persona vectors.
        near: `[N, N]`, of the persona vectors, around the centre.
        by_question: `[Q, N, N]`, of the activations of each question, around the centre.
        on_means: `[Q, N, N]`, of the activations (first N) with the persona vectors, both around
            the centre.
        on_centre: `[Q, N]`, of the activations around the centre with the centre itself.
        question_means: `[C, Q, H]`, means over the valid personas, around the centre.
    """

    cell: Cell
    used: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    whole: Array
    near: Array
    by_question: Floats
    on_means: Floats
    on_centre: Array
    question_means: Floats

    @classmethod
    def of(cls, cell: Cell) -> Grams:
        """Two passes of the data: 2·Q·N²·H multiplications and additions each."""
        conditions, personas, _, hidden = cell.states.shape
        used = np.asarray(cell.valid.any(axis=0))
        valid = cell.valid[:, used]
        means = cell.means.reshape(-1, hidden)
        centre = means[0].astype(np.float32)
        # The one copy: of all activations, or of those used.
        states = (cell.states if used.all() else cell.states[:, :, used]) - centre
        if not valid.all():
            states[:, ~valid] = 0.0
        flat = states.reshape(conditions * personas, -1, hidden)
        rows = flat.transpose(1, 0, 2)
        near = means - centre
        on_means = flat.reshape(-1, hidden) @ near.T.astype(np.float32)
        return cls(
            cell,
            used,
            np.tile(valid, (conditions, 1)),
            means @ means.T,
            near @ near.T,
            np.matmul(rows, rows.transpose(0, 2, 1)),
            on_means.reshape(len(means), -1, len(means)).transpose(1, 0, 2),
            _along(rows, centre),
            states.sum(axis=1) / valid.sum(axis=0).astype(np.float32)[:, None],
        )

    def places(self, *conditions: str) -> NDArray[np.int64]:
        """Where the vectors of these conditions stand along axis N."""
        size = len(self.cell.personas)
        starts = [size * self.cell.conditions.index(name) for name in conditions]
        return np.concatenate([np.arange(start, start + size) for start in starts])

    def leave_one_out(self, *conditions: str) -> tuple[Array, Array]:
        """Inner products of the persona vectors of these conditions, whole and without a question.

        Leaving out question q moves vector vᵢ (mean of nᵢ) by −(xᵢq − vᵢ)/(nᵢ − 1).

        Returns:
            `[n, n]` and `[Q, n, n]`, n vectors of these conditions in their order.
        """
        at = self.places(*conditions)
        whole, valid = self.whole[at[:, None], at], self.valid[at].T  # [n, n], [Q, n]
        counts = valid.sum(axis=0)
        # (xᵢq − vᵢ)·(vⱼ − c). Its mean over questions is 0 but for rounding, which must not add up.
        along = _deviations(self.on_means[:, at[:, None], at].astype(np.float64), valid, counts)
        both = valid[:, :, None] & valid[:, None, :]
        # (xᵢq − vᵢ)·(xⱼq − vⱼ)
        near = self.near[at[:, None], at]
        products = self.by_question[:, at[:, None], at] - along - along.transpose(0, 2, 1) - near
        products = np.where(both, products, 0)
        along = along + _deviations(self.on_centre[:, at][:, :, None], valid, counts)
        step = 1.0 / (counts - 1)
        moved = along * step[None, :, None]
        without = whole - moved - moved.transpose(0, 2, 1)
        without += products * (step[:, None] * step[None, :])
        return whole, without

    def displacement_squares(self, condition: str) -> Array:
        """‖activation − base's‖² of each question and persona, `[Q, P]`; 0 where not valid."""
        mine, base = self.places(condition), self.places(self.cell.conditions[0])
        inner = self.by_question.astype(np.float64)
        squares = inner[:, mine, mine] + inner[:, base, base] - 2 * inner[:, mine, base]
        return np.asarray(np.maximum(squares, 0.0))


def _along(rows_QNH: Floats, centre_H: Floats) -> Array:
    """Products with the centre, `[Q, N]`, its large dimensions in float64."""
    large = np.argsort(np.abs(centre_H))[-_LARGE:]
    rest = centre_H.copy()
    rest[large] = 0.0
    of_large = rows_QNH[:, :, large].astype(np.float64) @ centre_H[large].astype(np.float64)
    return np.asarray(rows_QNH @ rest + of_large)


def _deviations(values_QNJ: Array, valid_QN: NDArray[np.bool_], counts_N: Array) -> Array:
    """From the mean over a vector's questions, 0 where it has none."""
    kept = valid_QN[:, :, None]
    means = np.where(kept, values_QNJ, 0).sum(axis=0) / counts_N[:, None]
    return np.where(kept, values_QNJ - means, 0)
