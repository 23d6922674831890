"""Where personas are: on base's principal plane, and along the assistant–EM axis."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import StudyCondition
from personaspace.report.figures import marks, panels, style
from personaspace.report.figures.drawing import Picture
from personaspace.report.text import listing, number, percent, pretty


def _table(results: Results) -> pd.DataFrame:
    """Coordinates, the mean over seeds, with what each persona is."""
    records = [
        place.model_dump() | {"seed": space.seed}
        for space in results.spaces
        for place in space.places
    ]
    columns = ["condition", "persona", "first", "second", "along"]
    data = pd.DataFrame(records, columns=[*columns, "seed"])
    data = data[data.condition.isin(results.by_name)]
    data = data.astype({"along": float}).groupby(["condition", "persona"], sort=False)
    means = data[["first", "second", "along"]].mean().reset_index()
    assistants = {space.assistant for space in results.spaces}
    means["assistant"] = means.persona.isin(assistants)
    means["induction"] = [
        results.by_name[c].kind == "em" and p == results.by_name[c].induced
        for c, p in zip(means.condition, means.persona, strict=True)
    ]
    return means


def _shares(results: Results) -> tuple[str, str]:
    pairs = zip(*(space.shares for space in results.spaces), strict=True)
    found = [percent(sum(each) / len(each)) for each in pairs]
    names = [f"base's component {i + 1} ({share} of variance)" for i, share in enumerate(found)]
    first, second, *_ = [*names, "no second component", "no second component"]
    return first, second


def _of(results: Results, data: pd.DataFrame, base: bool) -> list[StudyCondition]:
    return [
        condition
        for condition in results.ordered_conditions
        if (data.condition == condition.name).any() and (condition.kind == "base") == base
    ]


def _paint_plane(results: Results, narrow: bool, look: style.Style = style.REPORT) -> Canvas:
    """Arrows from base to each condition, on base's first two principal components."""
    data, faces = _table(results), style.looks(results, look)
    start = data[data.condition == _of(results, data, True)[0].name].set_index("persona")

    def draw(axes: Axes, condition: StudyCondition) -> None:
        face, mine = faces[condition.name], data[data.condition == condition.name]
        before = start.loc[mine.persona]
        axes.plot(before["first"], before.second, "o", color=style.MUTED, markersize=3,
                  markerfacecolor="none", markeredgewidth=0.7)  # fmt: skip
        axes.quiver(
            before["first"], before.second,
            mine["first"].to_numpy() - before["first"].to_numpy(),
            mine.second.to_numpy() - before.second.to_numpy(),
            angles="xy", scale_units="xy", scale=1, color=face.edge, width=0.007, headwidth=4.5,
            headlength=5, headaxislength=4.5, alpha=0.9, zorder=3,
        )  # fmt: skip
        _marked(axes, mine["first"], mine.second, mine, face)
        every = pd.concat([data["first"], start["first"]])
        room = 0.06 * max(float(every.max() - every.min()), 1e-9)
        axes.set_xlim(float(every.min()) - room, float(every.max()) + room)
        room = 0.06 * max(float(data.second.max() - data.second.min()), 1e-9)
        axes.set_ylim(float(data.second.min()) - room, float(data.second.max()) + room)

    handles = [
        panels.mark("persona in base; arrow: to the condition", "o", style.MUTED, filled=False),
        *_legend(data),
    ]
    return panels.by_condition(
        _of(results, data, False), narrow, look, draw, _shares(results), handles
    )


def _marked(axes: Axes, x: pd.Series, y: pd.Series, mine: pd.DataFrame, face: style.Look) -> None:
    """Star for the assistant, ring for the persona trained under."""
    axes.plot(x[mine.assistant], y[mine.assistant], "*", color=face.colour,
              markeredgecolor=style.INK, markeredgewidth=0.6, markersize=9, zorder=5)  # fmt: skip
    axes.plot(x[mine.induction], y[mine.induction], "o", color=style.INK, markerfacecolor="none",
              markeredgewidth=1.1, markersize=7.5, zorder=5)  # fmt: skip


def _legend(data: pd.DataFrame) -> list[Line2D]:
    found = [panels.mark("assistant", "*", style.MUTED, size=8)] if data.assistant.any() else []
    if data.induction.any():
        found.append(panels.mark("persona trained under", "o", style.INK, filled=False, size=6.5))
    return found


def _paint_positions(results: Results, narrow: bool, look: style.Style = style.REPORT) -> Canvas:
    """Every persona along the axis, a row for each condition."""
    data, faces = _table(results), style.looks(results, look)
    conditions = [c for c in results.ordered_conditions if (data.condition == c.name).any()]
    width = look.fitting("width", style.NARROW if narrow else style.WIDE * 0.8)
    height = look.fitting("height", 0.33 * len(conditions) + (1.25 if narrow else 0.95))
    with style.styled(look):
        figure = style.canvas(width, height, None if look is style.REPORT else look.dpi)
        axes = figure.subplots()
        for y, condition in enumerate(conditions):
            face, mine = faces[condition.name], data[data.condition == condition.name]
            level = pd.Series(float(y), index=mine.index)
            axes.plot(mine.along, level, "o", color=face.edge, markersize=3.2, alpha=0.6, zorder=3)
            axes.plot([mine.along.mean()], [y], "|", color=style.INK, markersize=13, zorder=4)
            _marked(axes, mine.along, level, mine, face)
        marks.condition_rows(axes, [condition.title for condition in conditions], narrow)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("position along the assistant–EM axis")
        handles = [
            panels.mark("persona", "o", style.MUTED, size=3.5),
            panels.mark("mean", "|", style.INK, size=9),
            *_legend(data),
        ]
        panels.legend(figure, handles, 2 if narrow else 4)
        return style.settled(figure)


def plane(results: Results) -> Picture | None:
    """The plane, or None without coordinates of base and another condition."""
    data = _table(results)
    if data.empty or not _of(results, data, True) or not _of(results, data, False):
        return None
    first, second = _shares(results)
    return Picture(
        "persona-plane",
        "Persona vectors on base's principal plane",
        f"Each arrow runs from a persona in base to the same persona in the condition, at layer "
        f"{results.headline_layer}; axes are {first} and {second}, the same in every panel. "
        "Distances out of this plane are not shown." + _seeds(results),
        "Arrows from base to each condition on base's first two principal components, for "
        f"{data.persona.nunique()} personas. Mean shift on the two: "
        + listing([_shift(data, results, c) for c in _of(results, data, False)])
        + ".",
        data,
        partial(_paint_plane, results),
    )


def _shift(data: pd.DataFrame, results: Results, condition: StudyCondition) -> str:
    base = data[data.condition == _of(results, data, True)[0].name]
    mine = data[data.condition == condition.name]
    moved = mine[["first", "second"]].mean() - base[["first", "second"]].mean()
    return f"{condition.title} {number(moved['first'], 2)} and {number(moved.second, 2)}"


def _seeds(results: Results) -> str:
    return " Means over training runs." if len(results.spaces) > 1 else ""


def positions(results: Results) -> Picture | None:
    """Positions along the axis, or None where there is none."""
    data = _table(results).dropna(subset=["along"])
    if data.empty:
        return None
    space = results.spaces[0]
    means = data.groupby("condition").along.mean()
    parts = [
        f"{c.title} {number(means[c.name], 2)}"
        for c in results.ordered_conditions
        if c.name in means
    ]
    return Picture(
        "axis-positions",
        "Personas along the assistant–EM axis",
        f"0 is {pretty(space.assistant)} in base, 1 the same persona in "
        f"{results.label(space.axis)}, by construction; the mean over all personas is not bound "
        f"to these. Layer {results.headline_layer}." + _seeds(results),
        f"Mean position of all personas along the axis: {listing(parts)}.",
        data,
        partial(_paint_positions, results),
    )
