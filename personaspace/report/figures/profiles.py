"""M1, M2 and M3 over the layers, a panel for each extraction method, a line for each condition."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import StudyCondition
from personaspace.analysis.rows import Row
from personaspace.report.estimates import PointEstimate, estimate
from personaspace.report.figures import marks, style
from personaspace.report.figures.drawing import Drawing
from personaspace.report.selection import AGAINST_CHANCE, headline_rows
from personaspace.report.text import listing, number


@dataclass(frozen=True)
class Profile:
    """What differs between the three profiles.

    Attributes:
        level: A horizontal reference, with its label.
        limits: Ends of the vertical axis, where it has natural ones.
        base: Whether the base model belongs in it.
    """

    metric: str
    id: str
    title: str
    axis: str
    caption: str
    level: tuple[float, str] | None = None
    base: bool = True
    limits: tuple[float, float] | None = None


def _base_of(rows: list[Row]) -> PointEstimate | None:
    """The base model's value as it stands in the other conditions' rows."""
    bases = [
        row.base
        for row in rows
        if row.base is not None and not (row.name or "").endswith(AGAINST_CHANCE)
    ]
    return PointEstimate(sum(bases) / len(bases), None) if bases else None


def _points(results: Results, profile: Profile) -> pd.DataFrame:
    rows = [
        row
        for row in headline_rows(results.geometry, profile.metric)
        if row.layer is not None and row.method is not None
    ]
    records: list[dict[str, object]] = []
    for method in sorted({row.method for row in rows if row.method}):
        for layer in sorted({row.layer for row in rows if row.layer is not None}):
            cell = [row for row in rows if row.method == method and row.layer == layer]
            for condition in results.ordered_conditions:
                found = estimate([row for row in cell if row.condition == condition.name])
                if condition.kind == "base":
                    found = (found or _base_of(cell)) if profile.base else None
                if found is None:
                    continue
                low, high = found.interval or (None, None)
                head = {"method": method, "layer": layer, "condition": condition.name}
                head |= {"label": condition.title}
                total = {"value": found.value, "ci_low": low, "ci_high": high}
                records.append({**head, "seed": None, **total})
                records.extend({**head, "seed": s, "value": value} for s, value in found.seeds)
    columns = ["method", "layer", "condition", "label", "seed", "value", "ci_low", "ci_high"]
    return pd.DataFrame(records, columns=columns)


def _line(axes: Axes, rows: pd.DataFrame, look: style.Look) -> None:
    overall = rows[rows.seed.isna()]
    spans = rows[rows.seed.notna()].groupby("layer").value.agg(["min", "max"])
    if len(spans) > 1:
        axes.fill_between(
            spans.index, spans["min"], spans["max"], color=look.edge, alpha=0.15, linewidth=0
        )
    else:
        axes.vlines(spans.index, spans["min"], spans["max"], color=look.edge, alpha=0.4)
    if len(overall) <= 10:
        known = overall.dropna(subset=["ci_low", "ci_high"])
        axes.vlines(
            known.layer, known.ci_low, known.ci_high, color=look.edge, linewidth=0.8, alpha=0.7
        )
    marker = None if look.marker == "_" and len(overall) > 1 else look.marker
    axes.plot(
        overall.layer,
        overall.value,
        color=look.edge,
        linestyle=look.line,
        marker=marker,
        markerfacecolor=look.colour,
        markeredgecolor=look.edge,
        markevery=max(1, len(overall) // 8),
    )


def _labels(
    axes: Axes, anchors: list[tuple[StudyCondition, float]], results: Results, gap: float
) -> None:
    """Names at the right of the last panel, each led to the end of its line."""
    faces = style.looks(results)
    low, high = axes.get_ylim()
    places = style.spread([value for _, value in anchors], gap, low + gap / 2, high - gap / 2)
    for (condition, value), place in zip(anchors, places, strict=True):
        look = faces[condition.name]
        axes.plot([0, 0.1], [value, place], color=look.edge, linewidth=0.6, clip_on=False)
        axes.plot(
            [0.1, 0.24],
            [place, place],
            color=look.edge,
            linestyle=look.line,
            marker=None if look.marker == "_" else look.marker,
            markevery=[1],
            markerfacecolor=look.colour,
            clip_on=False,
        )
        axes.text(0.31, place, style.wrap(condition.title, 24, 1), va="center", fontsize=7.5)
    axes.set_xlim(0, 1)
    axes.axis("off")


def _panel(
    axes: Axes, results: Results, data: pd.DataFrame, profile: Profile, width: float
) -> None:
    faces = style.looks(results)
    for condition in results.ordered_conditions:
        rows = data[data.condition == condition.name].sort_values("layer")
        if not rows.empty:
            _line(axes, rows, faces[condition.name])
    layers = sorted({int(layer) for layer in data.layer})
    span = max(layers[-1] - layers[0], 1)
    axes.set_xlim(layers[0] - 0.05 * span - 0.2, layers[-1] + 0.05 * span + 0.2)
    marks.layer_ticks(axes, layers, results.headline_layer, span * 0.2 / width)
    axes.grid(axis="y")


def _reference(axes: Axes, profile: Profile) -> None:
    if profile.level is None:
        return
    level, text = profile.level
    axes.axhline(level, color=style.MUTED, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=1)
    if text:
        axes.annotate(text, (0.02, level), xycoords=("axes fraction", "data"), xytext=(0, 2),
                      textcoords="offset points", fontsize=7, color=style.MUTED)  # fmt: skip


def legend_handles(results: Results, shown: set[str]) -> list[Line2D]:
    """For a legend: the line of each condition that is shown, in the order of every figure."""
    faces = style.looks(results)
    return [
        Line2D(
            [],
            [],
            color=faces[condition.name].edge,
            linestyle=faces[condition.name].line,
            marker=None if faces[condition.name].marker == "_" else faces[condition.name].marker,
            markerfacecolor=faces[condition.name].colour,
            label=style.wrap(condition.title, 24, 1),
        )
        for condition in results.ordered_conditions
        if condition.name in shown
    ]


def _paint(results: Results, data: pd.DataFrame, profile: Profile, narrow: bool) -> Canvas:
    methods = sorted(set(data.method))
    shown = set(data.condition)
    with style.styled():
        if narrow:
            height = 1.9 * len(methods) + 0.18 * ((len(shown) + 1) // 2) + 0.2
            figure = style.canvas(style.NARROW, height)
            grid = list(figure.subplots(len(methods), 1, squeeze=False, sharey=True)[:, 0])
            side = None
        else:
            height = max(2.5, 0.17 * len(shown) + 0.9)
            label = 1.6
            width = style.WIDE if len(methods) > 1 else style.WIDE * 0.72
            figure = style.canvas(width, height)
            each = (width - label) / len(methods)
            row = figure.subplots(
                1,
                len(methods) + 1,
                squeeze=False,
                sharey=True,
                width_ratios=[each] * len(methods) + [label],
            )[0]
            grid, side = list(row[:-1]), row[-1]
        for axes, method in zip(grid, methods, strict=True):
            room = 2.9 if narrow else each - 0.5
            _panel(axes, results, data[data.method == method], profile, room)
            _reference(axes, profile)
            style.panel_title(axes, f"Method {method.upper()}")
        if profile.limits:
            grid[0].set_ylim(*profile.limits)
        for axes in grid if narrow else grid[:1]:
            axes.set_ylabel(profile.axis)
        if side is not None:
            last = data[(data.method == methods[-1]) & data.seed.isna()]
            ends = last.sort_values("layer").groupby("condition").value.last()
            anchors = [
                (a, float(ends[a.name])) for a in results.ordered_conditions if a.name in ends.index
            ]
            low, high = grid[0].get_ylim()
            _labels(side, anchors, results, (high - low) * 11 / ((height - 0.75) * 72))
            grid[0].set_ylim(low, high)
        else:
            figure.legend(
                handles=legend_handles(results, shown),
                loc="outside lower center",
                ncols=2,
                frameon=False,
                fontsize=6.8,
                handlelength=2.4,
                columnspacing=1,
            )
        return style.settled(figure)


def _alt(results: Results, data: pd.DataFrame, profile: Profile) -> str:
    layers = sorted({int(layer) for layer in data.layer})
    parts = []
    for method in sorted(set(data.method)):
        overall = data[(data.method == method) & data.seed.isna()]
        words = []
        for condition in results.ordered_conditions:
            rows = overall[overall.condition == condition.name].sort_values("layer")
            if rows.empty:
                continue
            first, last = rows.iloc[0], rows.iloc[-1]
            words.append(
                f"{condition.title} {number(first.value)}"
                + (f" to {number(last.value)}" if len(rows) > 1 else "")
            )
        span = f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
        parts.append(f"Method {method.upper()}, {span}: {listing(words)}.")
    level = f" Reference line: {profile.level[1]}." if profile.level and profile.level[1] else ""
    return f"{profile.title}. " + " ".join(parts) + level


def drawing(results: Results, profile: Profile) -> Drawing | None:
    """A profile over layers, or None where the metric has no rows."""
    data = _points(results, profile)
    if data.empty:
        return None
    several = data.seed.notna().any()
    variant = headline_rows(results.geometry, profile.metric)[0].variant
    extra = f" Values of the {variant} analysis."
    extra += " Bands: from the lowest to the highest seed." if several else ""
    if data.ci_low.notna().any() and data.layer.nunique() <= 10:
        extra += " Vertical bars: 95\u00a0% intervals."
    return Drawing(
        profile.id,
        profile.title,
        profile.caption + extra,
        _alt(results, data, profile),
        data,
        lambda narrow: _paint(results, data, profile, narrow),
    )


def profiles(chance: float | None) -> list[Profile]:
    """The three profiles.

    Args:
        chance: Accuracy of guessing for M3, 1 / personas, if known.
    """
    return [
        Profile(
            "M1",
            "m1-layers",
            "M1: mean cosine between personas, by layer",
            "mean cosine",
            "Mean cosine over all pairs of persona vectors. Higher: personas lie closer together.",
        ),
        Profile(
            "M2",
            "m2-layers",
            "M2: shift along the axis of harmful training, by layer",
            "change of cosine",
            "Change from base in the mean cosine between persona vectors (all but the assistant) "
            "and the axis of harmful training, which is the assistant's own shift. Where the lines "
            "meet, the change does not depend on the persona trained under.",
            (0.0, ""),
            base=False,
        ),
        Profile(
            "M3",
            "m3-layers",
            "M3: telling personas apart, by layer",
            "accuracy",
            "Share of held-out questions whose activation is assigned to the right persona.",
            (chance, f"chance, {chance:.3f}") if chance else None,
            limits=(0, 1.03),
        ),
    ]
