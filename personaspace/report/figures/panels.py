"""Small multiples: a panel for each condition, on the same axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from personaspace.analysis.results_parts import StudyCondition
from personaspace.report.figures import style


def mark(label: str, marker: str, colour: str, *, filled: bool = True, size: float = 5) -> Line2D:
    """An entry of a legend."""
    return Line2D(
        [], [], linestyle="none", marker=marker, color=colour, markersize=size, label=label,
        markerfacecolor=colour if filled else "none",
    )  # fmt: skip


def legend(
    figure: Canvas,
    handles: Sequence[Line2D],
    columns: int,
    place: Literal["outside lower left", "outside upper left"] = "outside lower left",
) -> None:
    """Below the panels, or above them, where a common label stands below."""
    figure.legend(
        handles=handles,
        loc=place,
        ncols=columns,
        frameon=False,
        fontsize=style.points(7),
        handletextpad=0.4,
        columnspacing=1.4,
    )


def by_condition(
    conditions: Sequence[StudyCondition],
    narrow: bool,
    look: style.Style,
    draw: Callable[[Axes, StudyCondition], None],
    labels: tuple[str, str],
    handles: Sequence[Line2D],
) -> Canvas:
    """A panel for each condition.

    Args:
        conditions: In order.
        narrow: Two columns, else up to three.
        look: Font and sizes.
        draw: Draws one panel.
        labels: Of the common axes, x and y.
        handles: Of the legend.
    """
    columns = min(len(conditions), 2 if narrow else 3)
    lines = math.ceil(len(conditions) / columns)
    each = 1.45 if narrow else 1.85
    rows = math.ceil(len(handles) / (1 if narrow else 3))
    least = style.NARROW if narrow else style.WIDE * max(columns, 2) / 3
    width = look.fitting("width", least)
    height = look.fitting("height", each * lines + 0.45 + 0.17 * rows)
    with style.styled(look):
        figure = style.canvas(width, height, None if look is style.REPORT else look.dpi)
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for axes, condition in zip(grid.flat, conditions, strict=False):
            draw(axes, condition)
            axes.set_title(
                style.wrap(condition.title, 20 if narrow else 28, 1), fontsize=style.points(7.5)
            )
            axes.grid(True)
            axes.locator_params(nbins=4)
            axes.tick_params(labelsize=style.points(6.8), labelbottom=True)
        for axes in list(grid.flat)[len(conditions) :]:
            axes.set_visible(False)
        figure.supxlabel(labels[0], fontsize=style.points(7.5))
        figure.supylabel(labels[1], fontsize=style.points(7.5))
        legend(figure, handles, 1 if narrow else 3, "outside upper left")
        return style.settled(figure)
