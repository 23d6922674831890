"""M1 against benign training: how much of the collapse any fine-tuning brings."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import StudyCondition
from personaspace.report.estimates import PointEstimate, estimate
from personaspace.report.figures import marks, style
from personaspace.report.figures.drawing import Drawing
from personaspace.report.text import listing, number

#: Panels: what M1's sub-measure of that name says.
_PANELS = {
    "A": ("raw_cosine_delta", "Change from base"),
    "B": ("em_minus_benign", "EM minus benign"),
}


def _estimate(results: Results, condition: StudyCondition, name: str) -> PointEstimate | None:
    return estimate(
        [
            row
            for row in results.geometry
            if (row.metric, row.variant, row.name) == ("M1", "recommended", name)
            and row.condition == condition.name
            and (row.layer, row.method) == (results.headline_layer, results.headline_method)
        ]
    )


def _table(results: Results) -> pd.DataFrame:
    records: list[dict[str, object]] = []
    for panel, (name, _) in _PANELS.items():
        for condition in results.ordered_conditions:
            found = _estimate(results, condition, name)
            if found is None:
                continue
            head: dict[str, object] = {"panel": panel, "measure": name, "condition": condition.name}
            head |= {"label": condition.title, "kind": condition.kind}
            low, high = found.interval or (None, None)
            records.append({**head, "value": found.value, "ci_low": low, "ci_high": high})
            records.extend({**head, "seed": seed, "value": value} for seed, value in found.seeds)
    columns = ["panel", "measure", "condition", "label", "kind", "seed", "value"]
    return pd.DataFrame(records, columns=[*columns, "ci_low", "ci_high"])


def _panel(axes: Axes, results: Results, data: pd.DataFrame, panel: str, narrow: bool) -> None:
    faces = style.looks(results)
    rows = data[data.panel == panel]
    conditions = [
        condition
        for condition in results.ordered_conditions
        if (data.condition == condition.name).any()
    ]
    axes.axvline(0, color=style.INK, linestyle=(0, (4, 2)), linewidth=0.9, zorder=1)
    for y, condition in enumerate(conditions):
        mine = rows[rows.condition == condition.name]
        if not mine.empty:
            marks.interval_row(axes, y, mine, faces[condition.name], 1)
            value = mine[mine.seed.isna()].value.iloc[0]
            marks.value_label(axes, y, number(value, sign=True))
    marks.condition_rows(axes, [condition.title for condition in conditions], narrow)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("change of the mean cosine" if panel == "A" else "difference of the changes")
    style.panel_title(axes, _PANELS[panel][1], panel)


def _paint(results: Results, data: pd.DataFrame, narrow: bool) -> Canvas:
    count = data.condition.nunique()
    height = 0.36 * count + 0.85
    with style.styled():
        if narrow:
            figure = style.canvas(style.NARROW, 2 * height)
            grid = figure.subplots(2, 1, squeeze=False)[:, 0]
        else:
            figure = style.canvas(style.WIDE, height)
            grid = figure.subplots(1, 2, squeeze=False)[0]
        for axes, panel in zip(grid, _PANELS, strict=True):
            _panel(axes, results, data, panel, narrow)
        if not narrow:
            grid[1].set_yticklabels([])
        return style.settled(figure)


def drawing(results: Results) -> Drawing | None:
    """Collapse and increment with intervals, or None where there is no benign condition."""
    data = _table(results)
    if set(data.panel) != set(_PANELS):
        return None
    overall = data[data.seed.isna()]

    def words(panel: str) -> str:
        rows = overall[overall.panel == panel].itertuples()
        return listing([f"{row.label} {number(row.value, sign=True)}" for row in rows])

    where = f"layer {results.headline_layer}, method {(results.headline_method or '').upper()}"
    marks = "Bars: 95\u00a0% intervals. " if data.ci_low.notna().any() else ""
    marks += "Ticks: seeds. " if data.seed.notna().any() else ""
    return Drawing(
        "m1-increment",
        "M1: what harmful training adds to benign training",
        f"A: change of the mean cosine from the base model ({where}); benign training is what any "
        "fine-tuning brings. B: the change under harmful training minus that under benign "
        f"training; an interval that contains 0 leaves open whether there is any. {marks}".strip(),
        f"Change of the mean cosine from base, {where}: {words('A')}. Minus benign: {words('B')}.",
        data,
        lambda narrow: _paint(results, data, narrow),
    )
