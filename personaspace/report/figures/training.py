"""First and last training loss of each run."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from personaspace.analysis.results import Results
from personaspace.report.figures import style
from personaspace.report.figures.drawing import Drawing
from personaspace.report.text import listing, number

_STAGES = {"train": "Fine-tuning", "couple": "Marker coupling"}


def _table(results: Results) -> pd.DataFrame:
    rows = [run.model_dump() for run in results.training]
    columns = ["condition", "seed", "stage", "steps", "examples", "tokens"]
    data = pd.DataFrame(rows, columns=[*columns, "loss_first", "loss_last"])
    return data.dropna(subset=["loss_first", "loss_last"]).reset_index(drop=True)


def _panel(axes: Axes, results: Results, data: pd.DataFrame, narrow: bool) -> None:
    faces = style.looks(results)
    conditions = [
        condition
        for condition in results.ordered_conditions
        if (data.condition == condition.name).any()
    ]
    for y, condition in enumerate(conditions):
        runs = data[data.condition == condition.name]
        look = faces[condition.name]
        for index, run in enumerate(runs.itertuples()):
            height = y + 0.22 * (index - (len(runs) - 1) / 2)
            axes.annotate(
                "",
                (run.loss_last, height),
                (run.loss_first, height),
                arrowprops={"arrowstyle": "-|>", "color": look.edge, "linewidth": 1.1,
                            "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
            axes.plot([run.loss_first], [height], "|", color=look.edge, markersize=6)
            if len(runs) == 1:
                axes.annotate(
                    number(run.loss_last, 2),
                    (run.loss_last, height),
                    xytext=(-3, 0),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    fontsize=7,
                )
    axes.set_yticks(
        range(len(conditions)), [style.wrap(a.title, 15 if narrow else 20) for a in conditions]
    )
    axes.set_ylim(len(conditions) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    values = pd.concat([data.loss_first, data.loss_last])
    span = max(float(values.max()), 0.1)
    axes.set_xlim(min(-0.12 * span, float(values.min()) - 0.12 * span), span * 1.06)
    axes.grid(axis="x")
    axes.set_xlabel("loss, nats per trained token")


def _paint(results: Results, data: pd.DataFrame, narrow: bool) -> Canvas:
    stages = [stage for stage in _STAGES if (data.stage == stage).any()]
    counts = [data[data.stage == stage].condition.nunique() for stage in stages]
    with style.styled():
        if narrow:
            heights = [0.3 * count + 0.7 for count in counts]
            figure = style.canvas(style.NARROW, sum(heights))
            grid = figure.subplots(len(stages), 1, squeeze=False, height_ratios=heights)[:, 0]
        else:
            width = style.WIDE if len(stages) > 1 else style.WIDE * 0.6
            figure = style.canvas(width, 0.27 * max(counts) + 0.8)
            grid = figure.subplots(1, len(stages), squeeze=False)[0]
        for axes, stage in zip(grid, stages, strict=True):
            _panel(axes, results, data[data.stage == stage], narrow)
            style.panel_title(axes, _STAGES[stage])
        return style.settled(figure)


def drawing(results: Results) -> Drawing | None:
    """Losses before and after, or None where no run reports them."""
    data = _table(results)
    data = data[data.stage.isin(_STAGES) & data.condition.isin(results.by_name)]
    if data.empty:
        return None
    parts = []
    for stage, name in _STAGES.items():
        means = data[data.stage == stage].groupby("condition")[["loss_first", "loss_last"]].mean()
        words = [
            f"{results.label(name)} {number(means.loss_first[name], 2)} to "
            f"{number(means.loss_last[name], 2)}"
            for name in (condition.name for condition in results.ordered_conditions)
            if name in means.index
        ]
        if words:
            parts.append(f"{name}: {listing(words)}.")
    return Drawing(
        "training",
        "Training loss, first to last",
        "Each arrow runs from a run's first reported loss to its last"
        + (", one for each seed." if data.seed.nunique() > 1 else "."),
        "Training loss, first to last. " + " ".join(parts),
        data,
        lambda narrow: _paint(results, data, narrow),
    )
