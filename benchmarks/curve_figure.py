"""Draws the loss curves that `benchmarks.curve` and `benchmarks.training --whole` wrote.

    python -m benchmarks.curve_figure --curve curve.json --curve whole-curve.json --out FIGURE.png

Of each file one panel, ours over the plain recipe's, and below it how far they are apart.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from personaspace.figures import style

#: Ways drawn, their names in the figure, colours and line patterns; with dropout where that ran.
LINES: tuple[tuple[str, str, str, Any, float], ...] = (
    ("plain", "plain recipe", style.VERMILLION, "-", 3.0),
    ("ours", "packed", style.BLUE, (0, (3, 2)), 1.4),
)
APART: tuple[tuple[str, str, str, str, Any], ...] = (
    ("ours, dropout", "plain, dropout", "packed", style.BLUE, "-"),
    ("plain, dropout, other masks", "plain, dropout", "other masks", style.MUTED, (0, (5, 2))),
    ("ours, dropout, other masks", "ours, dropout", "other masks", style.MUTED, (0, (5, 2))),
    ("ours, no dropout", "plain, no dropout", "packed, no dropout", style.GREEN, (0, (1.2, 1.2))),
)


def draw(files: list[Path], titles: list[str]) -> bytes:
    """The figure as PNG."""
    with style.styled():
        figure = style.canvas(style.WIDE, 3.8)
        axes: Any = figure.subplots(
            2, len(files), squeeze=False, sharex="col", height_ratios=(3, 2)
        )
        for column, (file, title) in enumerate(zip(files, titles, strict=True)):
            curves = json.loads(file.read_text(encoding="utf-8"))["curves"]
            upper, lower = axes[0][column], axes[1][column]
            dropout = "dropout" if "ours, dropout" in curves else "no dropout"
            for way, label, colour, line, width in LINES:
                name = f"{way}, {dropout}"
                steps = range(1, len(curves[name]) + 1)
                upper.plot(steps, curves[name], color=colour, ls=line, lw=width, label=label)
            for name, other, label, colour, line in APART:
                if name in curves and other in curves:
                    apart = [
                        abs(a / b - 1) for a, b in zip(curves[name], curves[other], strict=True)
                    ]
                    steps = range(1, len(apart) + 1)
                    lower.plot(steps, apart, color=colour, ls=line, lw=1.0, label=label)
            style.panel_title(upper, title, "ab"[column] if len(files) > 1 else "")
            lower.set_yscale("log")
            lower.set_ylim(3e-6, 1)
            lower.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
            lower.set_xlabel("optimiser step")
            for each in (upper, lower):
                each.grid(axis="y")
            upper.legend(frameon=False, loc="upper right")
            lower.legend(frameon=False, loc="upper right", ncols=2)
        axes[0][0].set_ylabel("loss (nats)")
        axes[1][0].set_ylabel("relative difference")
        return style.render(style.settled(figure), "png", dpi=130)


def main() -> None:
    """Read the options, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curve", type=Path, action="append", required=True)
    parser.add_argument("--title", action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    style.write(options.out, draw(options.curve, options.title))


if __name__ == "__main__":
    main()
