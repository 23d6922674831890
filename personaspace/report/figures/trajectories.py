"""Measures over the steps of training, a line a condition."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from personaspace.analysis.results import Results
from personaspace.report.figures import profiles, style
from personaspace.report.figures.drawing import Drawing
from personaspace.report.text import listing, number

#: Metric, what is drawn of it, and where it begins: at base nothing has changed.
PANELS = {
    "M1": ("M1: mean cosine", "change from base", 0.0),
    "M2": ("M2: along the EM axis", "cosine of shifts", None),
    "M3": ("M3: LDA accuracy", "change from base", 0.0),
    "bystander_mean": ("Bystanders", "share with the marker", None),
    "source": ("Source", "share with the marker", None),
}


def _table(results: Results) -> pd.DataFrame:
    records = [
        {
            "metric": row.metric,
            "condition": row.condition,
            "label": results.label(row.condition),
            "step": row.step,
            "whole": row.whole,
            "value": row.value,
            "ci_low": row.ci95[0] if row.ci95 else None,
            "ci_high": row.ci95[1] if row.ci95 else None,
        }
        for row in results.trajectories
        if row.value is not None
    ]
    columns = ["metric", "condition", "label", "step", "whole", "value", "ci_low", "ci_high"]
    return pd.DataFrame(records, columns=columns)


def _panel(axes: Axes, results: Results, data: pd.DataFrame, metric: str) -> None:
    faces = style.looks(results)
    title, label, start = PANELS[metric]
    last = max(data.step)
    shown = [c for c in results.ordered_conditions if (data.condition == c.name).any()]
    if start is not None:
        axes.axhline(start, color=style.MUTED, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=1)
    for place, condition in enumerate(shown):
        rows = data[data.condition == condition.name].sort_values("step")
        look = faces[condition.name]
        # Bars of conditions at one step stand beside each other.
        x = rows.step + (place - (len(shown) - 1) / 2) * 0.012 * last
        begin = ([0.0], [start]) if start is not None else ([], [])
        axes.plot(
            [*begin[0], *x],
            [*begin[1], *rows.value],
            color=look.edge,
            linestyle=look.line,
            linewidth=1.3,
            zorder=3,
        )
        known = rows.ci_low.notna()
        axes.vlines(
            x[known], rows.ci_low[known], rows.ci_high[known], color=look.edge, linewidth=0.9,
            zorder=2,
        )  # fmt: skip
        marker = None if look.marker == "_" else look.marker
        axes.plot(
            x, rows.value, linestyle="none", marker=marker, markersize=4, zorder=4,
            markerfacecolor=look.colour, markeredgecolor=look.edge,
        )  # fmt: skip
    axes.set_xlim(-0.04 * last, 1.06 * last)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.locator_params(axis="y", nbins=5)
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel(label)
    axes.grid(axis="y")
    style.panel_title(axes, title)


def _paint(results: Results, data: pd.DataFrame, narrow: bool) -> Canvas:
    metrics = [metric for metric in PANELS if (data.metric == metric).any()]
    shown = [c for c in results.ordered_conditions if (data.condition == c.name).any()]
    across = 1 if narrow else min(len(metrics), 3)
    down = -(-len(metrics) // across)
    with style.styled():
        height = (1.9 if narrow else 2.1) * down + 0.2 * -(-len(shown) // (2 if narrow else 4))
        figure = style.canvas(style.NARROW if narrow else style.WIDE, height)
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, metric in zip(grid, metrics, strict=False):
            _panel(axes, results, data[data.metric == metric], metric)
        for axes in grid[len(metrics) :]:
            axes.axis("off")
        figure.legend(
            handles=profiles.legend_handles(results, set(data.condition)),
            loc="outside lower center",
            ncols=2 if narrow else min(4, len(shown)),
            frameon=False,
            fontsize=6.8,
            handlelength=2.4,
        )
        return style.settled(figure)


def _alt(data: pd.DataFrame) -> str:
    parts = []
    for metric, (title, label, _) in PANELS.items():
        rows = data[data.metric == metric]
        told = []
        for name, mine in rows.groupby("label", sort=False):
            ends = mine.sort_values("step")
            first, last = ends.iloc[0], ends.iloc[-1]
            told.append(
                f"{name} {number(first.value)} after {first.step} to {number(last.value)} after "
                f"{last.step} steps"
            )
        if told:
            parts.append(f"{title} ({label}): {listing(told)}.")
    return " ".join(parts)


def drawing(results: Results) -> Drawing | None:
    """The measures over steps, or None where the study has no doses."""
    data = _table(results)
    if data.empty:
        return None
    where = f"layer {results.headline_layer}, method {(results.headline_method or '').upper()}"
    return Drawing(
        "trajectories",
        "The measures over the steps of training",
        f"Each condition as it stood after some of its optimiser steps, the last point being the "
        f"whole training ({where}). M2: cosine of the personas' shifts with the axis of the whole "
        "training, at every step. Vertical bars: 95\u00a0% intervals, of one step each; "
        "conditions are set apart a little. Exploratory: no test of the study is about these "
        "points.",
        _alt(data),
        data,
        lambda narrow: _paint(results, data, narrow),
    )
