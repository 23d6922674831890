"""What a figure is before it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pandas as pd
from matplotlib.figure import Figure as Canvas

from personaspace.report.figures import style


@dataclass(frozen=True)
class Drawing:
    """A figure's words, data and painter.

    Attributes:
        id: Stable name, for files and anchors.
        title: A few words.
        caption: What is drawn and how to read it.
        alt: What the figure shows, with its numbers, for those who do not see it.
        data: Tidy values behind the marks, one a row.
        paint: Draws it; takes whether the narrow (phone, one-column) layout is wanted.
    """

    id: str
    title: str
    caption: str
    alt: str
    data: pd.DataFrame
    paint: Callable[[bool], Canvas]


class Painter(Protocol):
    """Draws a figure as in the report, or in one's own style."""

    def __call__(self, narrow: bool, look: style.Style = style.REPORT) -> Canvas:
        """See `Drawing.paint`."""


@dataclass(frozen=True)
class Picture(Drawing):
    """A figure that can be drawn in one's own style as well."""

    paint: Painter
