"""Products of persona vectors from different groups of questions, for every half and leave-out.

An inner product of two means over the same questions holds their noise. Taken between different
questions alone it has no bias (crossnobis: Walther et al. 2016). Groups of questions, whole themes
where there are any, are what is halved, and left out one at a time.

Shape suffixes: P personas, Q questions, G groups of questions, H hidden, M halvings, J leave-outs
(none first, then each group).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis.geometry.axis import halve
from personaspace.analysis.geometry.cells import Floats
from personaspace.analysis.geometry.compare import Pseudo
from personaspace.analysis.stats import Array, generator
from personaspace.analysis.themes import Places, samples, widening

#: Groups of questions, at most; of fewer than six a half without one has no pairs.
GROUPS, LEAST = 12, 6
HALVINGS = 8

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """Which questions go together, and what halves they make.

    Attributes:
        group_Q: The group of each question; those of a theme are in one.
        halves_MG: Which groups make the first half.
    """

    group_Q: Ints
    halves_MG: NDArray[np.bool_]

    @classmethod
    def make(cls, questions: int, seed: int, places_Q: Places | None = None) -> Design | None:
        """None where there are too few questions or themes."""
        count = samples(questions, places_Q)
        each = math.ceil(count / GROUPS)
        groups = math.ceil(count / each)
        if groups < LEAST:
            return None
        order = generator(seed, "shape groups", count).permutation(count)
        number = np.empty(count, dtype=np.int64)
        number[order] = np.arange(count) // each
        halves = halve(groups, generator(seed, "shape halves", groups), HALVINGS)[:HALVINGS]
        return cls(number if places_Q is None else number[places_Q], halves)


def group_sums(
    states_PQH: Floats, valid_PQ: NDArray[np.bool_], group_Q: Ints
) -> tuple[Floats, Array]:
    """Activations less their question's mean over personas, summed over each group's questions.

    A persona that lacks answers of a group has the mean of those it has as many times; without
    any, its mean over all.

    Returns:
        `[P, G, H]`, and the usable questions of each group, `[G]`.
    """
    asked_Q = valid_PQ.sum(axis=0)
    used = np.flatnonzero(asked_Q)
    used = used[np.argsort(group_Q[used], kind="stable")]
    mean_QH = states_PQH[:, used].sum(axis=0) / asked_Q[used, None].astype(np.float32)
    centred_PQH = states_PQH[:, used] - mean_QH
    mine_PQ = valid_PQ[:, used]
    centred_PQH[~mine_PQ] = 0.0
    _, starts, sizes_G = np.unique(group_Q[used], return_index=True, return_counts=True)
    sums_PGH = np.add.reduceat(centred_PQH, starts, axis=1)
    if mine_PQ.all():
        return sums_PGH, sizes_G.astype(np.float64)
    counts_PG = np.add.reduceat(mine_PQ.astype(np.float64), starts, axis=1)
    whole_PH = sums_PGH.sum(axis=1) / counts_PG.sum(axis=1)[:, None]
    factor_PG = np.divide(sizes_G, counts_PG, out=np.zeros_like(counts_PG), where=counts_PG > 0)
    sums_PGH *= factor_PG.astype(np.float32)[:, :, None]
    sums_PGH += ((counts_PG == 0) * sizes_G)[:, :, None] * whole_PH[:, None]
    return sums_PGH.astype(np.float32), sizes_G.astype(np.float64)


@dataclass(frozen=True)
class Weights:
    """Which pairs of groups are in a mean, for each halving and each group left out.

    Attributes:
        sizes_G: Questions of the groups.
        first: `[M, J, G]`, 1 for the groups of the first half that are not left out.
        second: Those of the second half.
    """

    sizes_G: Array
    first: Array
    second: Array

    @classmethod
    def of(cls, sizes_G: Array, halves_MG: NDArray[np.bool_]) -> Weights:
        """Weights of these halvings."""
        left_JG = np.vstack([np.ones(len(sizes_G)), 1 - np.eye(len(sizes_G))])
        first = halves_MG[:, None, :] * left_JG
        return cls(sizes_G, first, (1 - halves_MG)[:, None, :] * left_JG)

    def mean(self, blocks: Array, one: Array, other: Array, *, same: bool) -> Array:
        """Mean product of two sets of groups, centred over personas, `[M, J, P, P]`.

        Args:
            blocks: `[G, G, P, P]`, products of the groups' sums.
            one: `[M, J, G]`, groups of the first factor.
            other: Groups of the second.
            same: Leave out what a group has with itself, if both are of one condition: its mean
                is that of the persona vectors and of noise.
        """
        pairs = one[..., :, None] * other[..., None, :]
        if same:
            pairs = pairs * (1 - np.eye(len(self.sizes_G)))
        counts = pairs @ self.sizes_G @ self.sizes_G
        groups, personas = blocks.shape[1:3]
        flat = pairs.reshape(-1, groups**2) @ blocks.reshape(groups**2, personas**2)
        found = flat.reshape(*counts.shape, personas, personas) / counts[..., None, None]
        found = found - found.mean(axis=-1, keepdims=True)
        return np.asarray(found - found.mean(axis=-2, keepdims=True))


def blocks_of(one_PGH: Floats, other_PGH: Floats) -> Array:
    """Inner products of two conditions' groups, `[G, G, P, P]`."""
    personas, groups, hidden = one_PGH.shape
    left = one_PGH.reshape(-1, hidden)
    right = left if other_PGH is one_PGH else other_PGH.reshape(-1, hidden)
    gram = (left @ right.T).astype(np.float64).reshape(personas, groups, personas, groups)
    return np.ascontiguousarray(gram.transpose(1, 3, 0, 2))


def pseudo(values_J: Array, sizes_G: Array) -> Pseudo | None:
    """Jackknife pseudo-values of groups, `[G, 1]`; None where a value is missing.

    Groups of unequal sizes count by these (Busing, Meijer & van der Leeden 1999), and their
    deviations are enlarged as those of themes are.
    """
    if not np.isfinite(values_J).all():
        return None
    count, whole = len(sizes_G), float(values_J[0])
    share_G = sizes_G / sizes_G.sum()
    moved_G = (1 / share_G - 1) * (whole - values_J[1:])
    middle = whole + float(share_G @ moved_G)
    part_G = count * share_G * moved_G
    values_G = middle + widening(sizes_G) * (part_G - part_G.mean())
    return Pseudo(values_G[:, None])
