"""Steering: what each dose of a vector does, and where random directions of its length come out."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from personaspace.analysis.results import Results
from personaspace.analysis.steering_rows import SteeringMeasure, SteeringRow
from personaspace.report.figures import style
from personaspace.report.figures.drawing import Drawing
from personaspace.report.steered import told_rows, vector_name
from personaspace.report.text import number

#: Panels: the measure, and what its axis says.
_PANELS = {
    SteeringMeasure.ADVICE: ("Bad less good advice", "change, nats per token"),
    SteeringMeasure.GOOD: ("Good advice", "change, nats per token"),
    SteeringMeasure.DEGENERATE: ("Degenerate answers", "change of their share"),
}
#: More vectors than these make a figure that nobody reads; the table has all.
_MOST = 6
#: Directions that the vector is compared with: how many, and the ends of their range.
_OTHERS = (
    ("controls", "control_low", "control_high"),
    ("matched", "matched_low", "matched_high"),
)
_LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


def _record(results: Results, row: SteeringRow) -> dict[str, object]:
    low, high = row.delta_ci95 or (None, None)
    return {
        "vector": vector_name(results, row), "condition": row.condition, "seed": row.seed,
        "measure": row.measure.value, "dose": row.dose, "relative": row.relative,
        "change": row.delta, "ci_low": low, "ci_high": high,
        "runs": row.runs,
        "controls": row.controls, "control_low": row.control_low, "control_high": row.control_high,
        "matched": row.matched, "matched_low": row.matched_low, "matched_high": row.matched_high,
    }  # fmt: skip


def _table(results: Results) -> pd.DataFrame:
    records = [
        _record(results, row)
        for row in told_rows(results)
        if row.mode == "add" and row.dose is not None and row.delta is not None
    ]
    return pd.DataFrame(records)


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """The curve with the untouched model in it, which changes nothing."""
    columns = ["change", "ci_low", "ci_high", *(end for _, *ends in _OTHERS for end in ends)]
    start = rows.iloc[:1].assign(dose=0.0, **dict.fromkeys(columns, 0.0))
    return pd.concat([rows, start]).sort_values("dose")


def _panel(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    axes.axhline(0, color=style.INK, linestyle=(0, (4, 2)), linewidth=0.9, zorder=1)
    for place, (_, mine) in enumerate(rows.groupby("seed", dropna=False)):
        curve = _whole(mine)
        for number_of, low, high in _OTHERS:
            known = curve.dropna(subset=[low, high])
            if not (known[number_of] > 0).any():
                continue
            if number_of == "matched":
                for end in (low, high):
                    axes.plot(known.dose, known[end], color=style.MUTED, linestyle=":", zorder=1)
            else:
                axes.fill_between(
                    known.dose, known[low], known[high],
                    color=style.MUTED, alpha=0.22, linewidth=0, zorder=0,
                )  # fmt: skip
        axes.plot(curve.dose, curve.change, color=colour, linestyle=_LINES[place % len(_LINES)],
                  marker="o", markersize=3, zorder=3)  # fmt: skip
        axes.vlines(curve.dose, curve.ci_low, curve.ci_high, color=colour, linewidth=1, zorder=2)
    axes.set_xticks(sorted({0.0, *rows.dose}))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\u2212"))
    axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y")


def _paint(results: Results, data: pd.DataFrame, narrow: bool) -> Canvas:
    faces = style.looks(results)
    vectors = list(dict.fromkeys(data.vector))[:_MOST]
    measures = [measure for measure in _PANELS if (data.measure == measure.value).any()]
    count = len(vectors) * len(measures)
    with style.styled():
        if narrow:
            figure = style.canvas(style.NARROW, 1.7 * count)
            grid = figure.subplots(count, 1, squeeze=False).reshape(len(vectors), -1)
        else:
            figure = style.canvas(style.WIDE, 1.9 * len(vectors) + 0.2)
            grid = figure.subplots(len(vectors), len(measures), squeeze=False)
        for line, vector in enumerate(vectors):
            for column, measure in enumerate(measures):
                axes = grid[line][column]
                mine = data[(data.vector == vector) & (data.measure == measure.value)]
                _panel(axes, mine, faces[str(mine.condition.iloc[0])].colour)
                title, label = _PANELS[measure]
                axes.set_ylabel(label)
                if narrow or line == len(vectors) - 1:
                    axes.set_xlabel("dose, in lengths of the vector")
                style.panel_title(axes, f"{title}\n{style.wrap(vector, 26, 2)}")
        return style.settled(figure)


def _alt(data: pd.DataFrame) -> str:
    parts = []
    for vector in dict.fromkeys(data.vector):
        mine = data[(data.vector == vector) & (data.measure == SteeringMeasure.ADVICE.value)]
        told = [f"{number(row.change, 3, sign=True)} at dose {row.dose:g}" for row in
                mine.sort_values("dose").itertuples()]  # fmt: skip
        parts.append(f"{vector}: {', '.join(told)}.")
    return "Change of log p of bad less good advice, nats per token. " + " ".join(parts)


def drawing(results: Results) -> Drawing | None:
    """Dose curves, or None where nothing was added."""
    data = _table(results)
    if data.empty:
        return None
    pooled = (data.runs > 1).any()
    left_out = data.vector.nunique() - _MOST
    more = f" {left_out} more vectors are in the table." if left_out > 0 else ""
    return Drawing(
        "steering",
        "Steering: what each dose of a vector does to the base model",
        "Change from the untouched model with the vector added at one layer, at every position. "
        f"Bars: 95\u00a0% intervals over {'training runs' if pooled else 'questions'}. Grey: from "
        "the least to the greatest change among random directions of the same length; between the "
        "dotted lines: among those drawn as activations vary."
        + (" A line for each seed." if data.seed.nunique() > 1 else "")
        + more,
        _alt(data),
        data,
        lambda narrow: _paint(results, data, narrow),
    )
