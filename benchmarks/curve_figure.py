"""Draws the loss curves that `benchmarks.curve` and `benchmarks.training --whole` wrote.

    python -m benchmarks.curve_figure --curve curve.json --curve whole-curve.json --out FIGURE.png

Of each file one panel, ours over the plain recipe's, and below it how far they are apart; one more
where the file has the run in float32.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personaspace.report.figures import style

#: A line of the upper row: its run, its name in the figure, colour, pattern, width.
Line = tuple[str, str, str, Any, float]
#: One of the lower row: the run, the other that it is compared with, name, colour, pattern.
Apart = tuple[str, str, str, str, Any]


@dataclass(frozen=True)
class Panel:
    """A column of the figure; `curves` are the losses of each run, all of one length."""

    title: str
    curves: dict[str, list[float]]
    lines: list[Line]
    apart: list[Apart]


def ways(dropout: str) -> list[Line]:
    """The plain recipe and ours."""
    return [
        (f"plain, {dropout}", "plain recipe", style.VERMILLION, "-", 3.0),
        (f"ours, {dropout}", "packed", style.BLUE, (0, (3, 2)), 1.4),
    ]


def panels(curves: dict[str, list[float]], title: str) -> list[Panel]:
    """Ours over the plain recipe's, with dropout where that ran; both beside float32, if it ran."""
    dropout = "dropout" if "ours, dropout" in curves else "no dropout"
    dashed, dotted = (0, (5, 2)), (0, (1.2, 1.2))
    shown = Panel(
        title,
        curves,
        ways(dropout),
        [
            ("ours, dropout", "plain, dropout", "packed", style.BLUE, "-"),
            ("plain, dropout, other masks", "plain, dropout", "other masks", style.MUTED, dashed),
            ("ours, dropout, other masks", "ours, dropout", "other masks", style.MUTED, dashed),
            ("ours, no dropout", "plain, no dropout", "packed, no dropout", style.GREEN, dotted),
        ],
    )
    exact = "float32, no dropout"
    if exact not in curves:
        return [shown]
    theirs, ours = both = ways("no dropout")
    first = {name: losses[: len(curves[exact])] for name, losses in curves.items()}
    beside = Panel(
        f"its first {len(curves[exact])} steps, without dropout",
        first,
        [theirs, (exact, "plain recipe in float32", style.INK, "-", 1.2), ours],
        [(name, exact, f"{label} to float32", colour, "-") for name, label, colour, _, _ in both],
    )
    return [shown, beside]


def draw(files: list[Path], titles: list[str]) -> bytes:
    """The figure as PNG."""
    columns = [
        panel
        for file, title in zip(files, titles, strict=True)
        for panel in panels(json.loads(file.read_text(encoding="utf-8"))["curves"], title)
    ]
    with style.styled():
        figure = style.canvas(style.WIDE, 3.8)
        axes: Any = figure.subplots(
            2, len(columns), squeeze=False, sharex="col", height_ratios=(3, 2)
        )
        for number, panel in enumerate(columns):
            upper, lower = axes[0][number], axes[1][number]
            for name, label, colour, line, width in panel.lines:
                losses = panel.curves[name]
                steps = range(1, len(losses) + 1)
                upper.plot(steps, losses, color=colour, ls=line, lw=width, label=label)
            for name, other, label, colour, line in panel.apart:
                if name in panel.curves and other in panel.curves:
                    pairs = zip(panel.curves[name], panel.curves[other], strict=True)
                    apart = [abs(a / b - 1) for a, b in pairs]
                    steps = range(1, len(apart) + 1)
                    lower.plot(steps, apart, color=colour, ls=line, lw=1.0, label=label)
            style.panel_title(upper, panel.title, "abcd"[number] if len(columns) > 1 else "")
            lower.set_yscale("log")
            lower.set_ylim(3e-6, 1)
            lower.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
            lower.set_xlabel("optimiser step")
            for each in (upper, lower):
                each.grid(axis="y")
            upper.legend(frameon=False, loc="best")
            lower.legend(frameon=False, loc="upper right", ncols=len(panel.apart) // 2)
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
