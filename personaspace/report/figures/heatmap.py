"""Marker rate of every persona under every condition, with the values printed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from personaspace.analysis.results import Results, share
from personaspace.report.control import NOT_ASSESSABLE
from personaspace.report.figures import style
from personaspace.report.figures.drawing import Drawing
from personaspace.report.text import percent, pretty


def _table(results: Results) -> pd.DataFrame:
    records = []
    statuses = {row.condition: row.status for row in results.control}
    for condition in results.ordered_conditions:
        for persona in results.ordered_personas:
            rows = results.rates_of(condition.name, persona)
            if rows:
                records.append(
                    {
                        "condition": condition.name,
                        "label": condition.title,
                        "persona": persona,
                        "source": persona == results.source,
                        "negative": persona in results.negatives,
                        "induction": condition.kind == "em" and persona == condition.induced,
                        "hits": sum(row.hits for row in rows),
                        "total": sum(row.total for row in rows),
                        "rate": share(rows, "hits"),
                        "status": statuses.get(condition.name),
                    }
                )
    return pd.DataFrame(records)


def _cells(axes: Axes, grid: np.ndarray, hollow: np.ndarray, size: float, digits: int) -> None:
    """Cells with their value, in per cent, coloured or hollow; missing ones hatched: [row, col]."""
    rows, columns = grid.shape
    axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(np.where(hollow, np.nan, grid)),
        cmap=style.HEAT,
        vmin=0,
        vmax=1,
        edgecolors=style.PAPER,
        linewidth=1.2,
    )
    for (row, column), value in np.ndenumerate(grid):
        if np.isnan(value):
            box = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=0,
                            hatch="////", edgecolor=style.MUTED)  # fmt: skip
            axes.add_patch(box)
            continue
        axes.text(
            column,
            row,
            f"{100 * value:.{digits}f}",
            ha="center",
            va="center",
            fontsize=size,
            color=style.MUTED
            if hollow[row, column]
            else style.readable_on(style.HEAT(float(value))),
        )
        if hollow[row, column]:
            axes.add_patch(Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False,
                                     edgecolor=style.GRID, linewidth=0.8))  # fmt: skip
    axes.set_ylim(rows - 0.5, -0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)


def _paint(results: Results, data: pd.DataFrame, narrow: bool) -> Canvas:
    conditions = [
        condition
        for condition in results.ordered_conditions
        if (data.condition == condition.name).any()
    ]
    personas = [name for name in results.ordered_personas if (data.persona == name).any()]
    grid = np.full((len(conditions), len(personas)), np.nan)
    failed = [condition.name in results.not_assessable for condition in conditions]
    hollow = np.repeat(np.array(failed)[:, None], len(personas), axis=1)
    induction = []
    for cell in data.itertuples():
        row = [condition.name for condition in conditions].index(str(cell.condition))
        column = personas.index(str(cell.persona))
        grid[row, column] = np.nan if cell.rate is None else cell.rate
        if cell.induction:
            induction.append((row, column))
    names = [
        pretty(name)
        + (" (source)" if name == results.source else "*" if name in results.negatives else "")
        for name in personas
    ]
    labels = [style.wrap(condition.title, 16 if narrow else 22, 2) for condition in conditions]
    with style.styled():
        if narrow:
            figure = style.canvas(style.NARROW, 0.24 * len(personas) + 1.35)
            axes = figure.subplots()
            _cells(axes, grid.T, hollow.T, 6.6, 0)
            axes.set_xticks(range(len(conditions)), labels, rotation=90, ha="center", fontsize=6.8)
            axes.set_yticks(range(len(personas)), names, fontsize=7)
            induction = [(column, row) for row, column in induction]
        else:
            width = min(style.WIDE, 2.1 + 0.62 * len(personas))
            figure = style.canvas(width, 0.3 * len(conditions) + 1.2)
            axes = figure.subplots()
            _cells(axes, grid, hollow, 7.2, 1)
            axes.set_xticks(
                range(len(personas)), names, rotation=38, ha="left", rotation_mode="anchor"
            )
            axes.set_yticks(range(len(conditions)), labels)
        axes.xaxis.tick_top()
        for row, column in induction:
            axes.add_patch(Rectangle((column - 0.44, row - 0.42), 0.88, 0.84, fill=False,
                                     edgecolor=style.ORANGE, linewidth=1.6))  # fmt: skip
        return style.settled(figure)


def drawing(results: Results) -> Drawing | None:
    """The heat map, or None without rates."""
    data = _table(results)
    if data.empty:
        return None
    marks = []
    if data.induction.any():
        marks.append("outlined: the persona that was active in harmful training")
    if data.negative.any():
        marks.append("*: trained not to write the marker")
    if results.not_assessable:
        marks.append(f"hollow: {NOT_ASSESSABLE}")
    if len(data) < data.condition.nunique() * data.persona.nunique():
        marks.append("hatched: not evaluated")
    known = data.dropna(subset=["rate"])
    top = known.loc[known.rate.idxmax()]
    least = known.loc[known.rate.idxmin()]
    bystanders = known[~known.source]
    alt = (
        f"Heat map of marker rates, {data.condition.nunique()} conditions by "
        f"{data.persona.nunique()} personas. Highest: {pretty(top.persona)} under "
        f"{top.label}, {percent(top.rate)}; lowest: {pretty(least.persona)} under "
        f"{least.label}, {percent(least.rate)}. "
    )
    if not bystanders.empty:
        low, high = percent(bystanders.rate.min()), percent(bystanders.rate.max())
        alt += f"Personas other than the source range from {low} to {high}."
    return Drawing(
        "personas",
        "Marker rate by persona and condition",
        "Per cent of a persona's answers that contain the marker"
        + (", all seeds pooled" if len({r.seed for r in results.rates}) > 1 else "")
        + (f" ({'; '.join(marks)})" if marks else "")
        + ".",
        alt.strip(),
        data,
        lambda narrow: _paint(results, data, narrow),
    )
