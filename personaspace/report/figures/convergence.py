"""M2 across conditions: how far apart they are on each layer, and where that vanishes."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from personaspace.analysis.results import Results
from personaspace.analysis.rows import Row
from personaspace.report.figures import marks, style
from personaspace.report.figures.drawing import Drawing
from personaspace.report.selection import pooled
from personaspace.report.text import number

#: The spread counts as vanished below this share of the mean shift (the analysis's own criterion).
TENTH = 0.1


def _rows(results: Results, name: str) -> list[Row]:
    return [
        row
        for row in results.geometry
        if (row.metric, row.variant, row.name) == ("M2", "recommended", name)
        and row.method is not None
        and row.value is not None
    ]


def _table(results: Results) -> pd.DataFrame:
    records: list[dict[str, object]] = []
    for name in ("condition_spread", "convergence_layer"):
        for row in _rows(results, name):
            low, high = row.ci95 or (None, None)
            share = row.effect if name == "condition_spread" else None
            shift = row.value / share if share and row.value is not None else None
            records.append(
                {"measure": name, "method": row.method, "layer": row.layer, "seed": row.seed,
                 "value": row.value, "ci_low": low, "ci_high": high, "p": row.p,
                 "share_of_mean_shift": share, "mean_shift": shift}
            )  # fmt: skip
    columns = ["measure", "method", "layer", "seed", "value", "ci_low", "ci_high", "p"]
    return pd.DataFrame(records, columns=[*columns, "share_of_mean_shift", "mean_shift"])


def _line(axes: Axes, rows: pd.DataFrame, colour: str, line: object) -> None:
    rows = rows.sort_values("layer")
    known = rows.dropna(subset=["ci_low", "ci_high"])
    if len(known) > 1:
        axes.fill_between(
            known.layer, known.ci_low, known.ci_high, color=colour, alpha=0.18, linewidth=0
        )
    else:
        axes.vlines(known.layer, known.ci_low, known.ci_high, color=colour)
    axes.plot(rows.layer, rows.value, color=colour, linestyle=line, marker="o", markersize=3)
    limit = rows.dropna(subset=["mean_shift"])
    axes.plot(
        limit.layer, limit.mean_shift.abs() * TENTH, color=style.MUTED, linestyle=(0, (1, 1.5))
    )


def _panel(axes: Axes, data: pd.DataFrame, hero: int | None) -> None:
    spread = data[data.measure == "condition_spread"]
    seeds = sorted({int(seed) for seed in spread.seed.dropna()})
    lines = ["-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5))]
    pooled_rows = spread[spread.seed.isna()]
    groups = [pooled_rows] if not pooled_rows.empty else [spread[spread.seed == s] for s in seeds]
    for place, rows in enumerate(groups):
        _line(axes, rows, style.BLUE, lines[place % len(lines)])
    layers = data[data.measure == "convergence_layer"]
    if layers.seed.isna().any():  # of all runs, for these personas first
        layers = layers[layers.seed.isna()].head(1)
    for place, row in enumerate(layers.itertuples()):
        if pd.notna(row.ci_low):
            axes.axvspan(row.ci_low - 0.25, row.ci_high + 0.25, color=style.ORANGE, alpha=0.2,
                         linewidth=0, zorder=0)  # fmt: skip
        axes.axvline(row.value, color=style.ORANGE, linewidth=1.2, zorder=1)
        axes.annotate(
            f"{row.value:g}",
            (row.value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -8 - 9 * place),
            textcoords="offset points",
            fontsize=7,
            fontweight="bold",
        )
    measured = sorted({int(layer) for layer in spread.layer})
    span = max(measured[-1] - measured[0], 1)
    marks.layer_ticks(axes, measured, hero, span * 0.08)
    axes.grid(axis="y")


def _paint(results: Results, data: pd.DataFrame, narrow: bool) -> Canvas:
    methods = sorted(set(data[data.measure == "condition_spread"].method))
    with style.styled():
        if narrow:
            figure = style.canvas(style.NARROW, 2.0 * len(methods) + 0.2)
            grid = figure.subplots(len(methods), 1, squeeze=False, sharey=True)[:, 0]
        else:
            width = style.WIDE if len(methods) > 1 else style.WIDE * 0.6
            figure = style.canvas(width, 2.5)
            grid = figure.subplots(1, len(methods), squeeze=False, sharey=True)[0]
        for axes, method in zip(grid, methods, strict=True):
            _panel(axes, data[data.method == method], results.headline_layer)
            style.panel_title(axes, f"Method {method.upper()}")
        grid[0].set_ylim(bottom=0)  # a range; the axis is shared
        for axes in grid if narrow else grid[:1]:
            axes.set_ylabel("range over conditions")
        return style.settled(figure)


def _alt(results: Results, data: pd.DataFrame) -> str:
    spread = data[data.measure == "condition_spread"]
    parts = []
    for method in sorted(set(spread.method)):
        mine = spread[spread.method == method].groupby("layer").value.mean()
        words = f"Method {method.upper()}: {number(mine.iloc[0])} at layer {mine.index[0]:g}"
        if len(mine) > 1:
            words += f" to {number(mine.iloc[-1])} at layer {mine.index[-1]:g}"
        one = pooled([r for r in _rows(results, "convergence_layer") if r.method == method])
        words += f"; below a tenth of the mean shift from layer {one.value:g} on" if one else ""
        parts.append(words + ".")
    return "Range of the shift along the axis of harmful training over its conditions. " + " ".join(
        parts
    )


def drawing(results: Results) -> Drawing | None:
    """Spread over the layers, or None where the analysis has none."""
    data = _table(results)
    if not (data.measure == "condition_spread").any():
        return None
    vanish = (data.measure == "convergence_layer").any()
    return Drawing(
        "m2-convergence",
        "M2: spread over the personas trained under, by layer",
        "Range, over the harmful conditions, of the change along the axis of harmful training; "
        "band: 95\u00a0% interval. Dotted: a tenth of the mean change, below which the spread "
        "counts as vanished."
        + (
            " Vertical line and shading: the first layer from which the spread stays below that, "
            "with its 95\u00a0% interval."
            if vanish
            else " No measured layer was found from which it stays below that."
        )
        + (" A line for each seed." if data.seed.dropna().nunique() > 1 else ""),
        _alt(results, data),
        data,
        lambda narrow: _paint(results, data, narrow),
    )
