"""The study's figures: `draw` for all of an aggregate folder, `draw_hero` for one's own.

Every figure of `draw` comes in two widths (page and phone), with alt text and the tidy data behind
it. Drawing the same folder twice gives the same bytes.
"""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from personaspace.analysis.results import Results
from personaspace.report.figures import hero
from personaspace.report.figures.draw import Figure, Settings, draw
from personaspace.report.figures.style import Style

__all__ = ["Figure", "Settings", "Style", "draw", "draw_hero"]


def draw_hero(results: Results, *, title: str = "", style: Style | None = None) -> Canvas:
    """The hero figure in one's own colours, font and sizes: leakage, and collapse of persona space.

    Args:
        results: Of a study.
        title: Over the figure; empty: none.
        style: None: as in the report.

    Returns:
        A matplotlib figure; its `savefig` writes it.

    Raises:
        UserError: Neither leakage nor geometry to show, or a style that does not fit the results.
    """
    return hero.draw_styled(results, title, style or Style())
