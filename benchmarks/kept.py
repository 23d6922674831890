"""Commands of simulations, world by world; of long ones what is done stays on disk."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Shares = dict[str, dict[str, float]]
World = TypeVar("World")


class Kept:
    """Numbers of a command that simulates for long, beside its page: another run goes on from them.

    Args:
        description: Of the command.
        what: That it goes through, as its help calls them: worlds, designs.
        key: Of the numbers, in the JSON file.
        studies: How many it draws if nothing else is said.

    Attributes:
        studies: How many it is to draw.
        found: Numbers by name, those of a former run of as many studies to begin with.
    """

    def __init__(self, description: str | None, what: str, key: str, studies: int) -> None:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--studies", type=int, default=studies)
        parser.add_argument("--only", default="", help=f"{what} whose name contains this")
        parser.add_argument(
            "--out", type=Path, help="Markdown page; its numbers go beside it as JSON"
        )
        options = parser.parse_args()
        self.studies: int = options.studies
        self.found: dict[str, Any] = {}
        self._only, self._key, self._page = options.only, key, options.out
        self._numbers = self._page and self._page.with_suffix(".json")
        if self._numbers and self._numbers.is_file():
            former = json.loads(self._numbers.read_text(encoding="utf-8"))
            self.found = former[key] if former["studies"] == self.studies else {}

    def wants(self, name: str) -> bool:
        """Whether a name was asked for."""
        return self._only in name

    def save(self) -> None:
        """Keep what was found so far."""
        if self._numbers:
            text = json.dumps({"studies": self.studies, self._key: self.found}, indent=1)
            self._numbers.write_text(text + "\n", encoding="utf-8")

    def write(self, names: Iterable[str], markdown: Callable[[Any, int], str]) -> None:
        """Write the page of what was found, in the order of these names."""
        if self._page is not None:
            ordered = {name: self.found[name] for name in names if name in self.found}
            self._page.write_text(markdown(ordered, self.studies), encoding="utf-8")


def rejections(p_NC: NDArray[Any], names: Sequence[str]) -> dict[str, float]:
    """Share of studies N with p ≤ 0.05 of those that have a p (the others NaN), by check C."""
    return {
        name: float((p_N[np.isfinite(p_N)] <= 0.05 + 1e-12).mean())
        for name, p_N in zip(names, p_NC.T, strict=True)
    }


def error(studies: int) -> float:
    """Half of a 95 % interval of a share of 5 %, in percentage points."""
    return float(196 * np.sqrt(0.05 * 0.95 / studies))


def by_world(shares: Mapping[str, Mapping[str, float]], kind: str = "") -> list[str]:
    """Shares in %, a line a world; of those tests whose name begins so, and called without it."""
    tests = list(dict.fromkeys(t for one in shares.values() for t in one if t.startswith(kind)))
    heads = [test.removeprefix(kind) for test in tests]
    heads = [head.replace("_", " ") if kind else head for head in heads]
    lines = ["| world | " + " | ".join(heads) + " |", "|---" * (1 + len(tests)) + "|"]
    for name, one in shares.items():
        cells = [f"{100 * one[test]:.1f}" if test in one else "–" for test in tests]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def by_test(shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The same, a line a test, of worlds that have all of them."""
    lines = ["| test | " + " | ".join(shares) + " |", "|---" * (1 + len(shares)) + "|"]
    for test in next(iter(shares.values())):
        cells = " | ".join(f"{100 * one[test]:.1f}" for one in shares.values())
        lines.append(f"| {test} | {cells} |")
    return lines


def legend(shares: Iterable[str], worlds: Mapping[str, Any]) -> list[str]:
    """What each world is."""
    return [f"- *{name}*: {worlds[name].what}" for name in shares]


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
    kept = Kept(description, "worlds", "rejected", 2000)
    for name, world in worlds.items():
        if not kept.wants(name) or name in kept.found:
            continue
        shares = kept.found[name] = rejected(world, name, kept.studies)
        print(name, {test: round(100 * s, 1) for test, s in shares.items()}, flush=True)
        kept.save()
    kept.write(worlds, markdown)


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
