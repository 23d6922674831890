"""The study's figures: `draw` for all of an aggregate folder, `draw_hero` for one's own.

Every figure of `draw` comes in two widths (page and phone), with alt text and the tidy data behind
it. Drawing the same folder twice gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure as Canvas

from personaspace.analysis.results import Results
from personaspace.errors import UserError
from personaspace.report.figures import hero, pairs, space
from personaspace.report.figures.draw import Figure, Settings, draw
from personaspace.report.figures.style import WIDE, Style

__all__ = ["PICTURES", "Figure", "Settings", "Style", "draw", "draw_hero", "draw_picture"]

#: Pictures that can be drawn in one's own style.
PICTURES = ("hero", "persona-plane", "axis-positions", "cosine-matrices", "leakage-geometry")


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


def draw_picture(name: str, folder: Path, results: Results, look: Style | None = None) -> Canvas:
    """One of `PICTURES` in one's own colours, font and sizes.

    Args:
        name: Which.
        folder: Of the results, with their `tables/`.
        results: Of a study.
        look: None: as in the report.

    Returns:
        A matplotlib figure; its `savefig` writes it.

    Raises:
        UserError: An unknown name, nothing to draw, or a style that does not fit the results.
    """
    if name not in PICTURES:
        raise UserError(f"no figure {name!r} (there are {', '.join(PICTURES)})")
    if name == "hero":
        return draw_hero(results, style=look)
    look = look or Style()
    look.check(results)
    there = {
        "persona-plane": lambda: space.plane(results),
        "axis-positions": lambda: space.positions(results),
        "cosine-matrices": lambda: pairs.matrices(pairs.cosines(folder, results), results),
        "leakage-geometry": lambda: pairs.leakage(pairs.cosines(folder, results), results),
    }[name]()
    if there is None:
        raise UserError(f"{results.study}: nothing to draw of {name}")
    narrow = look.width is not None and look.width < WIDE * look.scale
    return there.paint(narrow, look)
