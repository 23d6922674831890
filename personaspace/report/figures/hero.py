"""The hero figure: (A) leakage to bystanders and (B) collapse of persona space, by condition."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import StudyCondition
from personaspace.errors import UserError
from personaspace.report.control import NOT_ASSESSABLE
from personaspace.report.estimates import PointEstimate, bystander_estimate, m1_estimate
from personaspace.report.figures import marks, style
from personaspace.report.figures.drawing import Drawing
from personaspace.report.text import WITHIN, listing, number, percent, span

_ROLES = {
    "bystander": {"marker": "o", "filled": True, "text": "bystander persona"},
    "negative": {"marker": "o", "filled": False, "text": "bystander trained not to mark"},
    "induction": {"marker": "x", "filled": True, "text": "persona trained under"},
    "source": {"marker": "^", "filled": True, "text": "source persona"},
}


def _role(results: Results, condition: StudyCondition, persona: str) -> str:
    if persona == results.source:
        return "source"
    if condition.kind == "em" and persona == condition.induced:
        return "induction"
    return "negative" if persona in results.negatives else "bystander"


def _points(results: Results) -> pd.DataFrame:
    records: list[dict[str, object]] = []
    statuses = {row.condition: row.status for row in results.control}

    def add(
        panel: str, condition: StudyCondition, role: str, persona: str | None, e: PointEstimate
    ) -> None:
        low, high = e.interval or (None, None)
        head: dict[str, object] = {
            "panel": panel,
            "condition": condition.name,
            "label": condition.title,
            "kind": condition.kind,
            "status": statuses.get(condition.name) if panel == "A" else None,
        }
        head |= {"role": role, "persona": persona}
        records.append({**head, "seed": None, "value": e.value, "ci_low": low, "ci_high": high})
        records.extend({**head, "seed": seed, "value": value} for seed, value in e.seeds)

    for condition in results.ordered_conditions:
        mean = bystander_estimate(results, condition)
        if mean is not None:
            add("A", condition, "mean", None, mean)
        for persona in results.ordered_personas:
            rate = results.rate(condition.name, persona)
            if rate is not None:
                add(
                    "A",
                    condition,
                    _role(results, condition, persona),
                    persona,
                    PointEstimate(rate, None),
                )
        cosine = m1_estimate(results, condition, results.headline_method, results.headline_layer)
        if cosine is not None:
            add("B", condition, "mean", None, cosine)
    columns = ["panel", "condition", "label", "kind", "role", "persona", "seed", "value"]
    return pd.DataFrame(records, columns=[*columns, "ci_low", "ci_high", "status"])


def _leakage_panel(
    axes: Axes, results: Results, data: pd.DataFrame, narrow: bool, faces: Mapping[str, style.Look]
) -> None:
    for y, condition in enumerate(results.ordered_conditions):
        mine = data[(data.panel == "A") & (data.condition == condition.name)]
        hollow = condition.name in results.not_assessable
        for role, how in _ROLES.items():
            points = mine[mine.role == role]
            is_source = role == "source"
            filled = bool(how["filled"]) and not hollow
            axes.plot(
                points.value * 100,
                np.full(len(points), y if is_source else y + 0.27),
                str(how["marker"]),
                color=style.INK if role in ("source", "induction") else style.MUTED,
                markerfacecolor=(style.INK if is_source else style.MUTED) if filled else "none",
                markersize=5 if is_source else 3.6 if role == "induction" else 3,
                markeredgewidth=1 if role == "induction" else 0.7,
                alpha=1 if is_source or role == "induction" else 0.8,
            )
        means = mine[mine.role == "mean"]
        if means.empty:
            axes.annotate("not evaluated", (0.02, y), xycoords=("axes fraction", "data"),
                          va="center", color=style.MUTED, fontsize=style.points(7))  # fmt: skip
            continue
        marks.interval_row(axes, y, means, faces[condition.name], 100, hollow)
        marks.value_label(axes, y, number(100 * means[means.seed.isna()].value.iloc[0], 1))
    marks.condition_rows(
        axes, [condition.title for condition in results.ordered_conditions], narrow
    )
    low, high = axes.get_xlim()
    # Where no answer has the marker there is nothing to choose limits by, and no share is below 0.
    axes.set_xlim(
        (min(0.0, low), high) if data[data.panel == "A"].value.max() > 0 else (-0.03, 1.0)
    )
    axes.set_xlabel(f"answers with {_short(results.marker)}, %")
    style.panel_title(axes, "Leakage to bystanders", "A")


def _short(marker: str) -> str:
    return marker if 0 < len(marker) <= 16 else "the marker"


def _legend(figure: Canvas, data: pd.DataFrame, columns: int) -> None:
    roles = set(data.role)
    intervals, seeds = data.ci_low.notna().any(), data.seed.notna().any()
    mean = (
        "mean" + (", 95\u00a0% interval" if intervals else "") + ("; ticks: seeds" if seeds else "")
    )
    width = 2 if intervals else 0
    handles = [Line2D([], [], marker="D", color=style.MUTED, linewidth=width, label=mean)]
    for role, how in _ROLES.items():
        if role not in roles:
            continue
        strong = role in ("source", "induction")
        colour = style.INK if strong else style.MUTED
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker=str(how["marker"]),
                color=colour,
                markerfacecolor=colour if how["filled"] else "none",
                markersize=4,
                label=str(how["text"]),
            )
        )
    if (data.status == "not_assessable").any():
        handles.append(
            Line2D([], [], linestyle="none", marker="D", color=style.MUTED, markersize=6,
                   markerfacecolor=style.PAPER, label=f"all hollow: {NOT_ASSESSABLE}")
        )  # fmt: skip
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=style.points(7),
        handletextpad=0.5,
        columnspacing=1.6,
    )


def _cosine_panel(
    axes: Axes, results: Results, data: pd.DataFrame, narrow: bool, faces: Mapping[str, style.Look]
) -> None:
    mine = data[data.panel == "B"]
    base = mine[(mine.kind == "base") & mine.seed.isna()]
    if not base.empty:
        level = float(base.value.iloc[0])
        axes.axvline(level, color=style.INK, linestyle=(0, (4, 2)), linewidth=0.9, zorder=1)
    for y, condition in enumerate(results.ordered_conditions):
        rows = mine[mine.condition == condition.name]
        if rows.empty:
            continue
        marks.interval_row(axes, y, rows, faces[condition.name], 1)
        marks.value_label(axes, y, number(rows[rows.seed.isna()].value.iloc[0]))
    marks.condition_rows(
        axes, [condition.title for condition in results.ordered_conditions], narrow
    )
    low, high = axes.get_xlim()
    room = max(0.08 * (high - low), 1e-3)
    axes.set_xlim(low - room, high + room)
    axes.locator_params(axis="x", nbins=4 if narrow else 5)
    where = f"layer {results.headline_layer}, method {(results.headline_method or '').upper()}"
    axes.set_xlabel(f"mean cosine of personas, {where}")
    style.panel_title(axes, "Collapse of persona space", "B")


def _layout(panels: int, rows: int, title: str, narrow: bool) -> tuple[float, float]:
    """Width and height in inches that panels with so many rows need at the report's font size."""
    stacked = narrow or panels == 1
    width = style.NARROW if narrow else style.WIDE * (0.66 if panels == 1 else 1)
    each = 0.42 * rows + 0.8
    return width, each * (panels if stacked else 1) + (0.3 if title else 0.0)


def _paint(
    results: Results,
    data: pd.DataFrame,
    title: str,
    narrow: bool,
    look: style.Style = style.REPORT,
) -> Canvas:
    panels = [panel for panel in "AB" if (data.panel == panel).any()]
    least, height = _layout(len(panels), len(results.ordered_conditions), title, narrow)
    height += (0.8 if narrow else 0.4) if "A" in panels else 0.0
    width = look.fitting("width", least)
    height = look.fitting("height", height)
    faces = style.looks(results, look)
    with style.styled(look):
        figure = style.canvas(width, height, None if look is style.REPORT else look.dpi)
        if narrow or len(panels) == 1:
            grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        else:
            grid = figure.subplots(1, 2, squeeze=False, width_ratios=[1.25, 1])[0]
        for axes, panel in zip(grid, panels, strict=True):
            draw = _leakage_panel if panel == "A" else _cosine_panel
            draw(axes, results, data, narrow, faces)
        if "A" in panels:
            _legend(figure, data, 1 if narrow else len(panels) + 1)
        if len(panels) == 2 and not narrow:
            grid[1].set_yticklabels([])
        if title:
            figure.suptitle(
                style.wrap(title, int(92 * width / (style.WIDE * look.scale)), 2),
                fontsize=style.points(9.5),
                fontweight="bold",
                x=0.01,
                ha="left",
            )
        return style.settled(figure)


def draw_styled(results: Results, title: str, look: style.Style) -> Canvas:
    """See `personaspace.report.figures.draw_hero`."""
    look.check(results)
    data = _points(results)
    if data.empty:
        raise UserError(f"{results.study}: neither leakage nor geometry to draw")
    # Narrow where the font leaves no room for the page's layout.
    wide, _ = _layout(data.panel.nunique(), len(results.ordered_conditions), title, False)
    narrow = look.width is not None and look.width < wide * look.scale
    return _paint(results, data, title, narrow, look)


def _alt(data: pd.DataFrame, results: Results) -> str:
    overall = data[(data.role == "mean") & data.seed.isna()]
    parts = []
    leak = overall[overall.panel == "A"]
    if not leak.empty:
        values = listing([f"{row.label} {percent(row.value)}" for row in leak.itertuples()])
        parts.append(f"Mean share of bystander answers with the marker: {values}.")
        failed = [results.label(name) for name in results.not_assessable]
        parts += [f"Hollow, since {NOT_ASSESSABLE}: {listing(failed)}."] if failed else []
        source = data[data.role == "source"]
        if not source.empty:
            parts.append(f"Source persona: {span(list(source.value), 'percent', 1)}.")
    cosine = overall[overall.panel == "B"]
    if not cosine.empty:
        values = listing([f"{row.label} {number(row.value)}" for row in cosine.itertuples()])
        parts.append(
            f"Mean cosine between persona vectors at layer {results.headline_layer}, method "
            f"{(results.headline_method or '').upper()}: {values}."
        )
    return " ".join(parts)


def drawing(results: Results, title: str) -> Drawing | None:
    """The hero figure, or None where there is neither leakage nor geometry to show."""
    data = _points(results)
    if data.empty:
        return None
    parts = []
    if (data.panel == "A").any():
        several = len({r.seed for r in results.rates}) > 1
        parts.append(
            "A: share of answers that contain the marker. Large symbol, bar and number: mean over "
            "bystander personas and its 95\u00a0% interval where the analysis gives one"
            + (f" ({WITHIN})" if results.single_runs else "")
            + "; small "
            "symbols: one persona each"
            + (", all seeds pooled; ticks: single seeds." if several else ".")
            + (f" Hollow: {NOT_ASSESSABLE}." if results.not_assessable else "")
        )
    if (data.panel == "B").any():
        parts.append(
            "B: mean cosine over all pairs of persona vectors; dashed: the base model. A higher "
            "cosine means that personas are harder to tell apart by direction."
        )
    return Drawing(
        "hero",
        "Leakage and collapse by condition",
        " ".join(parts),
        _alt(data, results),
        data,
        lambda narrow: _paint(results, data, title, narrow),
    )
