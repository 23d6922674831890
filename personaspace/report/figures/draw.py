"""Draws every figure that the aggregate folder has data for, and writes the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd

from personaspace.analysis.results import Results
from personaspace.errors import UserError
from personaspace.report.figures import (
    convergence,
    heatmap,
    hero,
    increment,
    pairs,
    profiles,
    space,
    steering,
    style,
    training,
    trajectories,
)
from personaspace.report.figures.drawing import Drawing
from personaspace.report.selection import AGAINST_CHANCE, headline_rows

_FORMATS = ("png", "svg", "pdf")


class Settings(Protocol):
    """What a user may set; `personaspace.study.spec.Figures` is one."""

    @property
    def title(self) -> str:
        """Stands over the hero figure and the report; empty: the study's own."""
        ...

    @property
    def formats(self) -> Sequence[str]:
        """Files to write: any of png, svg, pdf."""
        ...

    @property
    def dpi(self) -> int:
        """Resolution of the PNGs."""
        ...


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        id: Stable name; the files are `<id>.<format>`.
        title: A few words.
        caption: How to read it.
        alt: What it shows, in words and numbers.
        data: The tidy values behind it.
        files: Written files by format.
        svg: The page-wide drawing, for embedding.
        svg_narrow: The same for phones and single columns.
    """

    id: str
    title: str
    caption: str
    alt: str
    data: pd.DataFrame = field(repr=False)
    files: dict[str, Path]
    svg: str = field(repr=False)
    svg_narrow: str = field(repr=False)

    def csv(self) -> str:
        """The tidy values as CSV text."""
        return str(self.data.to_csv(index=False, lineterminator="\n"))


def _chance(folder: Path, results: Results) -> float | None:
    """Guessing accuracy of M3: what its rows are set against, else 1 / number of personas."""
    for row in headline_rows(results.geometry, "M3"):
        if (row.name or "").endswith(AGAINST_CHANCE) and row.base is not None:
            return row.base
    path = folder / "tables" / "cosines.csv"
    if path.is_file():
        try:
            pairs = pd.read_csv(path, usecols=["persona_i", "persona_j"])
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: {error}") from None
        personas = set(pairs.persona_i) | set(pairs.persona_j)
        # Extra extraction rows (the template's default) are no personas of the study.
        personas &= {persona.name for persona in results.personas} or personas
        if personas:
            return 1 / len(personas)
    return None


def drawings(folder: Path, results: Results, title: str) -> list[Drawing]:
    """Every figure there is data for, in the report's order."""
    m1, m2, m3 = (
        profiles.drawing(results, each) for each in profiles.profiles(_chance(folder, results))
    )
    found = [hero.drawing(results, title), heatmap.drawing(results)]
    found += [m1, increment.drawing(results), m2, convergence.drawing(results), m3]
    found += [steering.drawing(results), trajectories.drawing(results)]
    found += [space.plane(results), space.positions(results)]
    cosines = pairs.cosines(folder, results)
    found += [pairs.matrices(cosines, results), pairs.leakage(cosines, results)]
    found.append(training.drawing(results))
    return [drawing for drawing in found if drawing is not None]


def draw(aggregate_folder: Path, out: Path, settings: Settings) -> list[Figure]:
    """Draws the figures of an aggregate folder.

    Args:
        aggregate_folder: Holds `results.json` and, where there is data, `tables/`.
        out: Folder for the files; made if absent. Only whole files are ever put there.
        settings: Title, formats and resolution.

    Returns:
        The figures in the report's order; those without data are absent.

    Raises:
        UserError: Malformed input, or an unknown format.
    """
    folder, out = Path(aggregate_folder), Path(out)
    for kind in settings.formats:
        if kind not in _FORMATS:
            raise UserError(f"figures.formats: {kind}: not one of {', '.join(_FORMATS)}")
    results = Results.read(folder)
    out.mkdir(parents=True, exist_ok=True)
    figures = []
    for drawing in drawings(folder, results, settings.title):
        wide = drawing.paint(False)
        files = {}
        with style.styled():
            svg = style.render(wide, "svg", digest=results.digest)
            for kind in dict.fromkeys(settings.formats):
                files[kind] = out / f"{drawing.id}.{kind}"
                content = svg
                if kind != "svg":
                    content = style.render(wide, kind, settings.dpi, results.digest)
                style.write(files[kind], content)
            narrow = style.render(drawing.paint(True), "svg")
        figures.append(
            Figure(
                drawing.id,
                drawing.title,
                drawing.caption,
                drawing.alt,
                drawing.data,
                files,
                svg.decode(),
                narrow.decode(),
            )
        )
    return figures
