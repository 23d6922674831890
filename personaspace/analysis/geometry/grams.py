"""Inner products of persona vectors, whole and question by question: all that M1 needs of a cell.

Whatever M1 resamples, permutes or leaves out are weighted means of activations, and their cosines
follow from inner products. So each activation is touched twice, whatever the number of draws: once
against the persona vectors and once against the other activations of its question.

Shape suffixes: N vectors (condition × persona, base first), P personas, Q questions, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis.geometry.cells import Cell, Floats
from personaspace.analysis.stats import Array


@dataclass(frozen=True)
class Grams:
    """Inner products of one cell.

    Products of activations are taken in float32, products of persona vectors in float64; the
    former only enter as deviations from the latter.

    Attributes:
        cell: Where they are from.
        used: `[Q]`, questions that some persona has; axis Q of all else holds these alone.
        valid: `[N, Q]`.
        whole: `[N, N]`, of the persona vectors.
        by_question: `[Q, N, N]`, of the activations of each question.
        on_means: `[Q, N, N]`, of the activations (first N) with the persona vectors.
    """

    cell: Cell
    used: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    whole: Array
    by_question: Floats
    on_means: Floats

    @classmethod
    def of(cls, cell: Cell) -> Grams:
        """Two passes of the data: 2·Q·N²·H multiplications and additions each."""
        conditions, personas, _, hidden = cell.states.shape
        used = np.asarray(cell.valid.any(axis=0))
        states = cell.states if used.all() else cell.states[:, :, used]
        flat = states.reshape(conditions * personas, -1, hidden)
        means = cell.means.reshape(-1, hidden)
        rows = flat.transpose(1, 0, 2)
        on_means = flat.reshape(-1, hidden) @ means.T.astype(np.float32)
        return cls(
            cell,
            used,
            np.tile(cell.valid[:, used], (conditions, 1)),
            means @ means.T,
            np.matmul(rows, rows.transpose(0, 2, 1)),
            on_means.reshape(len(means), -1, len(means)).transpose(1, 0, 2),
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
        # (xᵢq − vᵢ)·vⱼ. Its mean over questions is 0 but for rounding, which must not add up.
        along = self.on_means[:, at[:, None], at].astype(np.float64)
        along -= np.where(valid[:, :, None], along, 0).sum(axis=0) / counts[:, None]
        along = np.where(valid[:, :, None], along, 0)
        both = valid[:, :, None] & valid[:, None, :]
        # (xᵢq − vᵢ)·(xⱼq − vⱼ)
        products = self.by_question[:, at[:, None], at] - along - along.transpose(0, 2, 1) - whole
        products = np.where(both, products, 0)
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

    @cached_property
    def question_means(self) -> Floats:
        """Means over the valid personas, `[C, Q, H]`."""
        counts = self.cell.valid[:, self.used].sum(axis=0).astype(np.float32)
        sums = self.cell.states.sum(axis=1)
        return np.asarray((sums if self.used.all() else sums[:, self.used]) / counts[:, None])
