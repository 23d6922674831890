"""Marks and axes that several figures share."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from personaspace.report.figures import style


def interval_row(
    axes: Axes,
    y: float,
    rows: pd.DataFrame,
    look: style.Look,
    scale: float,
    hollow: bool = False,
) -> None:
    """A mean with its interval at height `y`, and a tick for each seed if there are several.

    Args:
        rows: `value`, `ci_low`, `ci_high`, `seed`; the row without a seed is the mean.
        scale: Factor of the values: 100 for per cent.
        hollow: The mean is no more than a number: its symbol is drawn empty.
    """
    overall = rows[rows.seed.isna()].iloc[0]
    if pd.notna(overall.ci_low):
        axes.plot(
            [overall.ci_low * scale, overall.ci_high * scale],
            [y, y],
            color=look.edge,
            linewidth=2,
            solid_capstyle="butt",
            zorder=3,
        )
    seeds = rows[rows.seed.notna()]
    axes.plot(seeds.value * scale, [y] * len(seeds), "|", color=look.edge, markersize=9, zorder=3)
    marker = "D" if look.marker == "_" else look.marker
    axes.plot(
        [overall.value * scale],
        [y],
        marker,
        color=style.PAPER if hollow else look.colour,
        markeredgecolor=look.edge,
        markersize=6,
        zorder=4,
    )


def condition_rows(axes: Axes, titles: Sequence[str], narrow: bool) -> None:
    """A row for each condition, the first on top."""
    axes.set_yticks(range(len(titles)))
    axes.set_yticklabels([style.wrap(title, 15 if narrow else 20) for title in titles])
    axes.set_ylim(len(titles) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def value_label(axes: Axes, y: float, text: str) -> None:
    """A number at the right of a row."""
    axes.annotate(
        text,
        (1.015, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=style.points(7.5),
        fontweight="bold",
    )


def layer_ticks(axes: Axes, layers: list[int], hero: int | None, room: float) -> None:
    """A minor tick for each layer; labels where they do not touch, the hero layer's first.

    Args:
        room: Least distance between labels, in layers.
    """
    kept: list[int] = []
    ends = [layer for layer in (hero, layers[0], layers[-1]) if layer in layers]
    for layer in [*ends, *layers]:
        if all(abs(layer - other) >= room for other in kept):
            kept.append(layer)
    axes.set_xticks(sorted(kept))
    axes.set_xticks(layers, minor=True)
    axes.set_xlabel("layer")
