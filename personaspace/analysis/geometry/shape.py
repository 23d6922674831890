"""The shape of persona space: measures that neither a translation nor a scale changes.

Persona vectors of base and of a condition are compared as configurations of points, centred over
personas. Four measures see only inner products, so that a rotation of the whole space is no change
either; the overlap of subspaces sees one.

- `participation_ratio`: (tr S)²/tr(S²) of the covariance S between persona vectors (Gao et al.
  2017, "A theory of multineuronal dimensionality"): in how many directions personas differ.
- `cka`: linear centred kernel alignment of base and condition (Kornblith et al. 2019).
- `rsa`: Pearson correlation of their squared distances, pair by pair (Kriegeskorte, Mur &
  Bandettini 2008).
- `procrustes`: what is left of the squared distance after centring, scaling to unit size and the
  best rotation (Gower 1975; `disparity` of `scipy.spatial.procrustes`).
- `subspace_overlap`: mean squared cosine of the principal angles (Björck & Golub 1973) between the
  subspaces in which personas differ, of one dimension less than there are personas. (Leading
  directions alone have no sampling theory: where two variances are alike, noise swaps them.)

Few questions leave noise in every vector, which would read as a change of shape. So products are
taken between different groups of questions alone, which makes inner products and distances unbiased
(crossnobis: Walther et al. 2016, Diedrichsen et al. 2021), and each likeness of base and condition
across two halves is divided by those of base and of the condition with themselves (correction for
attenuation: Spearman 1904). Two halves of one condition are as alike as base and a condition that
is base: that reads 1, or a distance of 0, on average. Standard errors leave out a group of
questions (or themes) at a time.

Shape suffixes: P personas, G groups of questions, M halvings, J leave-outs (none first, then each
group).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from personaspace.analysis.geometry.cells import Cell, Roles
from personaspace.analysis.geometry.compare import Pseudo
from personaspace.analysis.geometry.halves import (
    LEAST,
    Design,
    Weights,
    blocks_of,
    group_sums,
    pseudo,
)
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import Array, cluster_mean

if TYPE_CHECKING:
    from personaspace.analysis.geometry.tables import Kept

METRIC, FAMILY = "shape", "geometry_shape"
#: Likenesses of base and condition: 1 (or a distance of 0) is the end of their range.
AT_BOUND = ("cka", "rsa", "procrustes", "subspace_overlap")
#: Variance along a direction, relative to the largest, below which it is rounding.
ROUNDING = 1e-10


def _inner(a: Array, b: Array) -> Array:
    """Sum of products of the last two axes' entries, mean over halvings: `[J]`."""
    return np.asarray((a * b).sum(axis=(-2, -1)).mean(axis=0))


def distances(gram: Array) -> Array:
    """Squared distances of all pairs of personas, less their mean, `[…, pair, 1]`."""
    squares = np.diagonal(gram, axis1=-2, axis2=-1)
    i, j = np.triu_indices(gram.shape[-1], 1)
    found = squares[..., i] + squares[..., j] - 2 * gram[..., i, j]
    return np.asarray(found - found.mean(axis=-1, keepdims=True))[..., None]


def roots(gram: Array) -> Array:
    """Square roots of Gram matrices of unit trace; what is negative by noise counts as 0."""
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)
    size = np.maximum(values.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
    return np.asarray((vectors * np.sqrt(values / size)[..., None, :]) @ vectors.swapaxes(-1, -2))


def fidelity(root: Array, other: Array) -> Array:
    """Sum of singular values of two roots' product: cosine after the best rotation, `[J]`."""
    return np.asarray(np.linalg.svd(root @ other, compute_uv=False).sum(axis=-1).mean(axis=0))


def directions(gram: Array, rank: int) -> Array:
    """Combinations of persona vectors that are unit vectors along leading directions, `[…, P, k]`.

    Args:
        gram: Inner products of centred vectors.
        rank: How many directions, k; those without variance are zero.
    """
    values, vectors = np.linalg.eigh(gram)
    kept, most = values[..., None, -rank:], values[..., None, -1:]
    good = kept > ROUNDING * most
    return np.asarray(vectors[..., -rank:] * good / np.sqrt(np.where(good, kept, 1.0)))


@dataclass(frozen=True)
class Halves:
    """One condition's persona vectors by halves, as inner products `[M, J, P, P]`.

    Attributes:
        first: Of the first half, without bias.
        second: Of the second.
        square_roots: Of both.
        leading: Directions of both, from the halves' own vectors.
        cross: Products of the first half's vectors with the second's.
    """

    first: Array
    second: Array
    square_roots: tuple[Array, Array]
    leading: tuple[Array, Array]
    cross: Array

    @classmethod
    def of(cls, blocks: Array, weights: Weights, rank: int) -> Halves:
        """Of the products `[G, G, P, P]` of one condition's groups."""
        a, b = weights.first, weights.second
        first, second = (weights.mean(blocks, one, one, same=True) for one in (a, b))
        own = [weights.mean(blocks, one, one, same=False) for one in (a, b)]
        return cls(
            first,
            second,
            (roots(first), roots(second)),
            (directions(own[0], rank), directions(own[1], rank)),
            weights.mean(blocks, a, b, same=False),
        )


def _overlap(mine: Array, cross: Array, other: Array) -> Array:
    """Mean squared cosine of the principal angles, `[J]`."""
    cosines = mine.swapaxes(-1, -2) @ cross @ other
    return np.asarray((cosines**2).sum(axis=(-2, -1)).mean(axis=0) / mine.shape[-1])


def _known(sums_J: Array, sizes_G: Array) -> bool:
    """Whether what a likeness is divided by lies clearly above what noise makes of 0."""
    part = pseudo(sums_J, sizes_G)
    ends = cluster_mean(part.values[:, 0]).interval if part else None
    return sums_J.min() > 0 and (ends is None or ends[0] > 0)


def dimensionality(halves: Halves, sizes_G: Array) -> Array:
    """Participation ratio, `[J]`; NaN where personas do not differ by more than noise."""
    traces = (np.trace(each, axis1=-2, axis2=-1) for each in (halves.first, halves.second))
    squares = _inner(halves.first, halves.second)
    scale = squares if _known(squares, sizes_G) else np.full_like(squares, np.nan)
    return np.asarray(math.prod(traces).mean(axis=0) / scale)


def likeness(
    base: Halves, mine: Halves, crossed: tuple[Array, Array], sizes_G: Array
) -> dict[str, Array]:
    """Base and a condition by each measure, `[J]`; NaN where personas differ by noise alone.

    Args:
        base: Base's halves.
        mine: The condition's.
        crossed: Products of base's first half with the condition's second, and of base's second
            with the condition's first.
        sizes_G: Questions of the groups.
    """
    both = {
        "cka": _four(_inner, (base.first, base.second), (mine.first, mine.second)),
        "rsa": _four(
            _inner,
            (distances(base.first), distances(base.second)),
            (distances(mine.first), distances(mine.second)),
        ),
        "procrustes": _four(fidelity, base.square_roots, mine.square_roots),
        "subspace_overlap": (
            _overlap(base.leading[0], crossed[0], mine.leading[1]),
            _overlap(base.leading[1], crossed[1], mine.leading[0]),
            _overlap(base.leading[0], base.cross, base.leading[1]),
            _overlap(mine.leading[0], mine.cross, mine.leading[1]),
        ),
    }
    # Where personas differ by no more than noise, there is no shape, nor a subspace.
    differ = all(_known(each, sizes_G) for each in both["cka"][2:])
    found = {}
    for name, (one, other, of_base, of_mine) in both.items():
        good = differ and _known(of_base, sizes_G) and _known(of_mine, sizes_G)
        scale = np.sqrt(of_base * of_mine) if good else np.full_like(one, np.nan)
        found[name] = (one + other) / 2 / scale
    found["procrustes"] = 1 - found["procrustes"] ** 2
    return found


def _four(
    alike: Callable[[Array, Array], Array], base: tuple[Array, Array], mine: tuple[Array, Array]
) -> tuple[Array, Array, Array, Array]:
    """Across halves: base with the condition, both ways, and each with itself."""
    return (
        alike(base[0], mine[1]),
        alike(base[1], mine[0]),
        alike(base[0], base[1]),
        alike(mine[0], mine[1]),
    )


def measured(cell: Cell, design: Design) -> dict[str, dict[str, Pseudo]]:
    """Every measure of every condition; base has its participation ratio alone."""
    used = np.unique(design.group_Q[cell.valid.any(axis=0)])
    halves_MG = design.halves_MG[:, used]
    few = min(halves_MG.sum(axis=1).min(), (~halves_MG).sum(axis=1).min()) < LEAST // 2
    if few or len(used) < LEAST or len(cell.personas) < 3:
        return {}
    sums, sizes_G = {}, np.empty(0)
    for index, name in enumerate(cell.conditions):
        sums[name], sizes_G = group_sums(cell.states[index], cell.valid, design.group_Q)
    base_name, *others = cell.conditions
    rank = min(len(cell.personas) - 1, cell.states.shape[3])
    own = {name: blocks_of(each, each) for name, each in sums.items()}
    with_base = {name: blocks_of(sums[base_name], sums[name]) for name in others}
    weights = Weights.of(sizes_G, halves_MG)
    a, b = weights.first, weights.second
    with threadpool_limits(1):  # threads only wait for each other in so small decompositions
        halves = {name: Halves.of(blocks, weights, rank) for name, blocks in own.items()}
        found = {
            name: {"participation_ratio": dimensionality(each, sizes_G)}
            for name, each in halves.items()
        }
        for name, blocks in with_base.items():
            crossed = (
                weights.mean(blocks, a, b, same=False),
                weights.mean(blocks, b, a, same=False),
            )
            found[name] |= likeness(halves[base_name], halves[name], crossed, sizes_G)
    kept = {
        name: {measure: pseudo(values, sizes_G) for measure, values in mine.items()}
        for name, mine in found.items()
    }
    return {n: {m: v for m, v in mine.items() if v is not None} for n, mine in kept.items()}


def rows(cell: Cell, roles: Roles, design: Design, kept: Kept | None = None) -> list[Row]:
    """Rows of every condition against base, for these personas.

    Args:
        kept: Takes the run's tables, for the estimates over all runs.
    """
    values = measured(cell, design)
    base = values.get(roles.base, {}).get("participation_ratio")
    found = []
    for condition in cell.conditions[1:]:
        for name, mine in values.get(condition, {}).items():
            place = Row(
                METRIC, "recommended", cell.method, cell.layer, condition, cell.seed,
                n=len(mine.values), name=name,
            )  # fmt: skip
            of_base = base if name == "participation_ratio" else None
            if of_base is None and name == "participation_ratio":
                continue
            if kept is not None:
                groups = np.ones((1, len(mine.values)), dtype=bool)
                kept.add(
                    replace(cell, valid=groups), METRIC, name, condition, mine, of_base,
                    personas=("all",),
                )  # fmt: skip
            found.extend(_rows(place, mine, of_base))
    return found


def _rows(place: Row, mine: Pseudo, base: Pseudo | None) -> list[Row]:
    own = cluster_mean(mine.values[:, 0])
    row = replace(place, value=own.value, ci95=own.interval)
    if base is None:
        angle = math.degrees(math.acos(math.sqrt(min(1.0, max(0.0, own.value)))))
        return [replace(row, effect=angle if place.name == "subspace_overlap" else None)]
    change = cluster_mean((mine - base).values[:, 0])
    effect = change.value / base.mean if base.mean > 0 else None
    row = replace(row, base=base.mean, delta=change.value, p=change.p, effect=effect)
    row = replace(row, family=FAMILY if row.p is not None else None)
    delta = replace(row, value=change.value, ci95=change.interval, base=None, delta=None)
    return [row, replace(delta, family=None, name=f"{place.name}_delta")]
