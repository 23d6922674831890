"""A few dimensions that are far larger than the others: how large, and what M1 to M3 are without.

In most chat models one to a few dimensions of the residual stream are a hundred to a thousand times
the median and nearly the same for every text (Sun et al. 2024, "Massive activations"; Timkey & van
Schijndel 2021). They carry most of a persona vector's length, so that cosines are about them.

Shape suffixes: C conditions, P personas, Q questions, H hidden.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis.geometry.cells import Cell
from personaspace.analysis.results_parts import DimensionRow
from personaspace.analysis.stats import Array

#: A dimension is massive if it holds this share of |μ|² and is so many times the median.
SHARE, TIMES = 0.01, 10.0
#: An activation is a norm outlier from so many times the median norm, either way.
FAR = 2.0
#: Dimensions that are named, at most.
NAMED = 10

TRANSFORMS = ("without_massive", "scaled")


def massive(cell: Cell) -> NDArray[np.int64]:
    """The massive dimensions of base's mean vector, largest first; empty where there are none."""
    sizes_H = np.abs(cell.means[0].mean(axis=0))
    squares = sizes_H**2
    found = (squares >= SHARE * squares.sum()) & (sizes_H >= TIMES * np.median(sizes_H))
    order = np.argsort(-sizes_H, kind="stable")
    return np.asarray(order[found[order]])


def transforms(cell: Cell) -> tuple[str, ...]:
    """What changes a cell: without massive dimensions there are none to take out."""
    return TRANSFORMS if len(massive(cell)) else TRANSFORMS[1:]


def transformed(cell: Cell, transform: str) -> Cell:
    """The cell without its massive dimensions, or with each dimension in its own units.

    `scaled`: divided by the standard deviation of base's single activations. Not centred: around
    base's own mean, M1's test of the cosine would have no level (`displacement`).
    """
    if transform == "without_massive":
        kept_H = np.ones(cell.means.shape[2], dtype=bool)
        kept_H[massive(cell)] = False
        return replace(cell, states=cell.states[..., kept_H], means=cell.means[..., kept_H])
    single_NH = cell.states[0][cell.valid]
    spread_H = single_NH.std(axis=0, dtype=np.float64)
    scale_H = np.divide(1.0, spread_H, out=np.zeros_like(spread_H), where=spread_H > 0)
    return replace(
        cell, states=cell.states * scale_H.astype(np.float32), means=cell.means * scale_H
    )


def _top(squares_H: Array, count: int) -> float:
    return float(np.sort(squares_H)[-count:].sum() / squares_H.sum())


def anisotropy(units_NH: NDArray[np.floating]) -> float:
    """Mean cosine of two different activations, from their unit vectors (Ethayarajh 2019)."""
    n = len(units_NH)
    total = units_NH.sum(axis=0, dtype=np.float64)
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else float("nan")


def dimension_rows(cell: Cell) -> list[DimensionRow]:
    """What large dimensions there are, in every condition of a cell."""
    of_base, rows = massive(cell), []
    for index, name in enumerate(cell.conditions):
        squares_H = cell.means[index].mean(axis=0) ** 2
        single_NH = cell.states[index][cell.valid]
        norms_N = np.sqrt(np.einsum("nh,nh->n", single_NH, single_NH, dtype=np.float64))
        middle = float(np.median(norms_N))
        far = (norms_N > FAR * middle) | (norms_N < middle / FAR)
        units_NH = single_NH / np.maximum(norms_N, 1e-30).astype(np.float32)[:, None]
        rows.append(
            DimensionRow(
                method=cell.method,
                layer=cell.layer,
                condition=name,
                seed=cell.seed,
                massive=of_base[:NAMED].tolist(),
                massive_count=len(of_base),
                massive_share=float(squares_H[of_base].sum() / squares_H.sum()),
                top1_share=_top(squares_H, 1),
                top3_share=_top(squares_H, 3),
                top10_share=_top(squares_H, 10),
                anisotropy=anisotropy(units_NH),
                median_norm=middle,
                largest_norm=float(norms_N.max()) / middle,
                norm_outliers=float(far.mean()),
            )
        )
    return rows
