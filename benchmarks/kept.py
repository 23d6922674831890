"""Commands of simulations, world by world; of long ones what is done stays on disk."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

Shares = dict[str, dict[str, float]]
World = TypeVar("World")


def calibrate(
    description: str | None,
    worlds: Mapping[str, Any],
    rejected: Callable[[Any, str, int], dict[str, float]],
    markdown: Callable[[Shares, int], str],
) -> None:
    """The command of a calibration: every world's shares of rejections, as a page and as JSON.

    Args:
        description: Of the command.
        worlds: By name.
        rejected: Shares of a world, its name and so many studies.
        markdown: The page of shares and the number of studies.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--only", default="", help="worlds whose name contains this")
    parser.add_argument("--out", type=Path, help="Markdown page; its numbers go beside it as JSON")
    options = parser.parse_args()
    kept = options.out and options.out.with_suffix(".json")
    shares: Shares = {}
    if kept and kept.is_file():
        former = json.loads(kept.read_text(encoding="utf-8"))
        shares = former["rejected"] if former["studies"] == options.studies else {}
    for name, world in worlds.items():
        if options.only not in name or name in shares:
            continue
        shares[name] = rejected(world, name, options.studies)
        print(name, {test: round(100 * s, 1) for test, s in shares[name].items()}, flush=True)
        if kept:
            text = json.dumps({"studies": options.studies, "rejected": shares}, indent=1)
            kept.write_text(text + "\n", encoding="utf-8")
    if options.out is not None:
        ordered = {name: shares[name] for name in worlds if name in shares}
        options.out.write_text(markdown(ordered, options.studies), encoding="utf-8")


def tabulate(
    description: str | None,
    heads: Sequence[str],
    worlds: Iterable[World],
    line: Callable[[World, int], list[str]],
    page: Callable[[str, int], str],
) -> None:
    """The command of a short simulation: a line of a table for every world, told as it comes.

    Args:
        description: Of the command.
        heads: Of the table's columns.
        worlds: In order.
        line: Cells of a world and so many studies.
        page: The page of the table and the number of studies.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    began = time.monotonic()
    lines = [" | ".join(heads), "|".join(["---"] * len(heads))]
    for world in worlds:
        lines.append(" | ".join(line(world, chosen.studies)))
        print(lines[-1], f"{time.monotonic() - began:.0f} s", flush=True)
    if chosen.out is not None:
        table = "\n".join(f"| {each} |" for each in lines)
        chosen.out.write_text(page(table, chosen.studies), encoding="utf-8")
