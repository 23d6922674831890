"""Pairs of personas: their cosines in every condition, and cosines against leakage."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import StudyCondition
from personaspace.errors import UserError
from personaspace.report.figures import panels, style
from personaspace.report.figures.drawing import Picture
from personaspace.report.text import count, listing, number, pretty, span

_COLUMNS = ["method", "layer", "condition", "persona_i", "persona_j", "cosine"]


def cosines(folder: Path, results: Results) -> pd.DataFrame:
    """Cosines of every pair at the headline place, means over seeds; empty without the table.

    Raises:
        UserError: The table cannot be read.
    """
    path = Path(folder) / "tables" / "cosines.csv"
    if not path.is_file():
        return pd.DataFrame(columns=_COLUMNS[2:])
    try:
        data = pd.read_csv(path, usecols=_COLUMNS)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: {error}") from None
    place = (data.method == results.headline_method) & (data.layer == results.headline_layer)
    data = data[place & data.condition.isin(results.by_name)]
    known = {persona.name for persona in results.personas}
    if known:
        data = data[data.persona_i.isin(known) & data.persona_j.isin(known)]
    keys = ["condition", "persona_i", "persona_j"]
    return data.groupby(keys, sort=False).cosine.mean().reset_index()


def _matrix(data: pd.DataFrame, names: list[str]) -> np.ndarray:
    found = np.full((len(names),) * 2, np.nan)
    for pair in data.itertuples():
        i, j = names.index(str(pair.persona_i)), names.index(str(pair.persona_j))
        found[i, j] = found[j, i] = float(pair.cosine)
    return found


def _order(data: pd.DataFrame, base: str) -> list[str]:
    """Personas, those next to each other that are alike in base (average linkage)."""
    names = sorted({*data.persona_i, *data.persona_j})
    cosines = _matrix(data[data.condition == base], names)
    if len(names) < 3 or np.isnan(cosines[~np.eye(len(names), dtype=bool)]).any():
        return names
    np.fill_diagonal(cosines, 1.0)
    tree = linkage(squareform(1 - cosines, checks=False), "average", optimal_ordering=True)
    return [names[index] for index in leaves_list(tree)]


def _shown(results: Results, data: pd.DataFrame) -> list[StudyCondition]:
    return [c for c in results.ordered_conditions if (data.condition == c.name).any()]


def _image(axes: Axes, grid: np.ndarray, names: list[str], labels: bool, **how: object) -> object:
    axes.axis("on")
    drawn = axes.imshow(grid, interpolation="nearest", aspect="equal", **how)  # type: ignore[arg-type]
    axes.set_xticks([])
    axes.set_yticks(
        range(len(names)) if labels else [],
        [style.wrap(pretty(n), 17, 1) for n in names] if labels else [],
    )
    axes.tick_params(length=0, labelsize=style.points(6))
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


def _paint_matrices(
    data: pd.DataFrame, results: Results, narrow: bool, look: style.Style = style.REPORT
) -> Canvas:
    """Base, and below or beside it every condition and its difference from base."""
    base, *others = _shown(results, data)
    names = _order(data, base.name)
    grids = {c.name: _matrix(data[data.condition == c.name], names) for c in (base, *others)}
    off = np.concatenate([grid[~np.isnan(grid)] for grid in grids.values()])
    change = max(
        (float(np.nanmax(np.abs(grids[c.name] - grids[base.name]))) for c in others), default=0.0
    )
    whole = {"cmap": style.HEAT, "vmin": float(off.min()), "vmax": float(off.max())}
    less = {"cmap": "PuOr_r", "vmin": -max(change, 1e-9), "vmax": max(change, 1e-9)}
    beside = 1 if narrow else 2
    lines = math.ceil(len(grids) / beside)
    width = look.fitting("width", style.NARROW if narrow else style.WIDE)
    height = look.fitting("height", max(1.4, 0.1 * len(names) + 0.3) * lines + 0.7)
    with style.styled(look):
        figure = style.canvas(width, height, None if look is style.REPORT else look.dpi)
        grid = figure.subplots(lines, 2 * beside, squeeze=False)
        cells = grid.reshape(-1, 2)
        for axes in grid.flat:
            axes.axis("off")
        for index, (condition, (one, other)) in enumerate(
            zip((base, *others), cells, strict=False)
        ):
            top = _image(one, grids[condition.name], names, index % beside == 0, **whole)
            one.set_title(style.wrap(condition.title, 16, 1), fontsize=style.points(6.8), pad=3)
            if condition is not base:
                below = grids[condition.name] - grids[base.name]
                bottom = _image(other, below, names, False, **less)
                other.set_title("less base", fontsize=style.points(6.8), pad=3)
        bars = {"location": "bottom", "shrink": 0.9, "pad": 0.02, "aspect": 30}
        for drawn, part, text in (
            (top, grid[:, :beside], "cosine"),
            (bottom, grid[:, beside:], "cosine less base's"),
        ):
            _bar(figure.colorbar(drawn, ax=part, **bars), text)  # type: ignore[arg-type]
        figure.draw_without_rendering()  # square panels need the layout twice
        return style.settled(figure)


def _bar(bar: object, text: str) -> None:
    bar.set_label(text, fontsize=style.points(7))  # type: ignore[attr-defined]
    bar.ax.tick_params(labelsize=style.points(6.5))  # type: ignore[attr-defined]
    bar.ax.locator_params(nbins=4)  # type: ignore[attr-defined]
    bar.outline.set_visible(False)  # type: ignore[attr-defined]


def matrices(data: pd.DataFrame, results: Results) -> Picture | None:
    """The matrices, or None without `cosines` of base and another condition."""
    shown = _shown(results, data)
    if len(shown) < 2 or shown[0].kind != "base":
        return None
    means = data.groupby("condition").cosine.mean()
    parts = [f"{c.title} {number(means[c.name])}" for c in shown]
    return Picture(
        "cosine-matrices",
        "Cosines between personas, and their change",
        f"Cosine of every pair of persona vectors at layer {results.headline_layer}, and less "
        "base's. Personas are in one order everywhere, left to right as top to bottom: those "
        "alike in base are next to each other.",
        f"Persona by persona cosines; means: {listing(parts)}.",
        data,
        partial(_paint_matrices, data, results),
    )


def _leaks(data: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Cosine with the source persona and marker rate of every other persona and condition."""
    records = []
    for pair in data.itertuples():
        both = [str(pair.persona_i), str(pair.persona_j)]
        if results.source not in both:
            continue
        persona = both[both[0] == results.source]
        rate = results.rate(str(pair.condition), persona)
        condition = results.by_name[str(pair.condition)]
        if rate is not None:
            records.append(
                {
                    "condition": condition.name,
                    "persona": persona,
                    "cosine": pair.cosine,
                    "rate": rate,
                    "negative": persona in results.negatives,
                    "induction": condition.kind == "em" and persona == condition.induced,
                }
            )
    columns = ["condition", "persona", "cosine", "rate", "negative", "induction"]
    return pd.DataFrame(records, columns=columns)


def _paint_leakage(
    data: pd.DataFrame, results: Results, narrow: bool, look: style.Style = style.REPORT
) -> Canvas:
    """A dot for each persona: cosine with the source persona, and its rate of the marker."""
    faces = style.looks(results, look)

    def draw(axes: Axes, condition: StudyCondition) -> None:
        face, mine = faces[condition.name], data[data.condition == condition.name]
        for rows, filled in ((mine[~mine.negative.astype(bool)], True),
                             (mine[mine.negative.astype(bool)], False)):  # fmt: skip
            axes.plot(rows.cosine, 100 * rows.rate, "o", color=face.edge, markersize=3.6,
                      markerfacecolor=face.colour if filled else "none", zorder=3)  # fmt: skip
        ring = mine[mine.induction.astype(bool)]
        axes.plot(ring.cosine, 100 * ring.rate, "o", color=style.INK, markerfacecolor="none",
                  markersize=7.5, markeredgewidth=1.1, zorder=4)  # fmt: skip
        axes.set_ylim(-4, 104)

    handles = [panels.mark("persona", "o", style.MUTED, size=4)]
    if data.negative.any():
        handles.append(panels.mark("trained not to mark", "o", style.MUTED, filled=False, size=4))
    if data.induction.any():
        handles.append(panels.mark("persona trained under", "o", style.INK, filled=False, size=6.5))
    labels = (
        f"cosine with {pretty(str(results.source))}, the source",
        "answers with the marker, %",
    )
    return panels.by_condition(_shown(results, data), narrow, look, draw, labels, handles)


def leakage(data: pd.DataFrame, results: Results) -> Picture | None:
    """Geometry (`cosines`) against leakage, or None where one of them is lacking."""
    data = _leaks(data, results)
    if data.empty:
        return None
    return Picture(
        "leakage-geometry",
        "Geometry against leakage, pair by pair",
        "Each dot is a persona: the cosine of its vector with that of the source persona in the "
        f"same condition, at layer {results.headline_layer}, and its share of answers with the "
        "marker. A picture, not a test: personas of a condition share its training run.",
        f"{count(len(data), 'pair')} of a persona with the source; cosines of "
        f"{span(list(data.cosine))}, rates of {span(list(data.rate), 'percent', 1)}.",
        data,
        partial(_paint_leakage, data, results),
    )
