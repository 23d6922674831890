"""M1, recommended: do persona vectors collapse, with personas and questions as samples.

Three measures of a pair of persona vectors v, averaged over pairs:

- `raw_cosine`: cos(vᵢ, vⱼ), the published one. All vectors share a large common mean, so it is
  near 1 from the start, and rises when that mean grows even if no persona moves closer to another.
- `centred_cosine`: cos(vᵢ − μ, vⱼ − μ) with μ the mean vector of *base*, in both conditions. With
  a condition's own mean the average would be about −1/(n − 1) whatever happened. It is that for
  base, and rises as far as the personas were moved together, relative to how they differ.
- `spread`: ½‖vᵢ − vⱼ‖²/‖μ‖², whose mean is the variance between personas in units of base's
  squared mean. A common displacement leaves it alone: it falls only if personas come closer.

Uncertainty: jackknife pseudo-values by question and persona, analysed as a crossed layout
(`inference.two_way`). That is the hierarchical resampling of both in closed form; the bootstrap of
both counts question-by-persona noise three times (Owen 2007) and hardly ever rejects. What the
jackknife counts twice of a mean over pairs is taken off (`runs.jackknife_excess`). The centred
cosine against base is tested by `displacement` instead, for a reason given there.

Shape suffixes: N vectors, P personas, Q questions, H hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np

from personaspace.analysis.crossed import fieller
from personaspace.analysis.geometry.cells import Cell, Roles
from personaspace.analysis.geometry.compare import (
    Pseudo,
    leave_one_out_personas,
    leave_one_out_questions,
    lopsided,
    rows_against_base,
)
from personaspace.analysis.geometry.displacement import common_displacement
from personaspace.analysis.geometry.grams import Grams
from personaspace.analysis.geometry.published import pre_post_family
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import Array, Interval

if TYPE_CHECKING:
    from personaspace.analysis.geometry.tables import Kept

MEASURES = ("raw_cosine", "centred_cosine", "spread")

#: Rows that set an EM condition against benign training, by measure.
INCREMENTS = {
    "raw_cosine": "em_minus_benign",
    "centred_cosine": "centred_em_minus_benign",
    "spread": "spread_em_minus_benign",
}
FAMILY = "geometry_em_vs_benign"
#: An interval of the difference would be another statement than p: near 0 it covers too little.
OF_LENGTH = "p is of the common displacement's length, so the difference itself has no interval."

Values = dict[str, dict[str, Pseudo]]


def pair_measures(gram: Array, of_base: bool) -> dict[str, Array]:
    """The three measures for all pairs, `[…, P, P]`.

    Args:
        gram: `[…, N, N]` of a condition's and base's vectors.
        of_base: Measure base's own vectors instead of the condition's.
    """
    personas = gram.shape[-1] // 2
    mine = slice(personas, None) if of_base else slice(personas)
    inner = gram[..., mine, mine]
    with_centre = gram[..., mine, personas:].mean(axis=-1)
    centre = gram[..., personas:, personas:].mean(axis=(-2, -1))[..., None, None]
    centred = inner - with_centre[..., :, None] - with_centre[..., None, :] + centre
    squares = np.diagonal(inner, axis1=-2, axis2=-1)
    distance = (squares[..., :, None] + squares[..., None, :]) / 2 - inner
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "raw_cosine": _cosines(inner),
            "centred_cosine": _cosines(centred),
            "spread": distance / centre,
        }


def _cosines(inner: Array) -> Array:
    lengths = np.sqrt(np.diagonal(inner, axis1=-2, axis2=-1))
    return np.asarray(inner / (lengths[..., :, None] * lengths[..., None, :]))


def pseudo_values(grams: tuple[Array, Array], of_base: bool) -> dict[str, Pseudo]:
    """Pseudo-values of each measure."""
    whole, without = (pair_measures(gram, of_base) for gram in grams)
    found = {}
    for name in MEASURES:
        pairs_QPP = leave_one_out_questions(whole[name], without[name])
        found[name] = Pseudo(leave_one_out_personas(pairs_QPP), pairs_QPP.mean(axis=0))
    return found


def _effect(name: str, value: float, before: float) -> float | None:
    if name == "raw_cosine":
        return (value - before) / (1 - before) if before < 1 else None
    if name == "spread":
        return value / before - 1 if before > 0 else None
    return None


@dataclass(frozen=True)
class _Place:
    """Where the rows of one cell belong."""

    cell: Cell
    roles: Roles
    values: Values

    def row(self, name: str, condition: str | None) -> Row:
        cell = self.cell
        return Row("M1", "recommended", cell.method, cell.layer, condition, cell.seed, name=name)


def m1(cell: Cell, roles: Roles, kept: Kept | None = None) -> list[Row]:
    """Rows of M1; needs two usable questions of every persona.

    Args:
        kept: Takes the run's tables, for the estimates over all runs.
    """
    grams = Grams.of(cell)
    values: Values = {}
    for name in cell.conditions[1:]:
        pair = grams.leave_one_out(name, roles.base)
        values[name] = pseudo_values(pair, of_base=False)
        if roles.base not in values:
            values[roles.base] = pseudo_values(pair, of_base=True)
    place = _Place(cell, roles, values)
    rows = []
    for name in cell.conditions[1:]:
        moved = common_displacement(grams, name)
        for measure in MEASURES:
            mine, base = values[name][measure], values[roles.base][measure]
            row = replace(place.row(measure, name), family=pre_post_family(name, roles))
            if kept is not None and measure != "centred_cosine":
                kept.add(cell, "M1", measure, name, mine, base)
            if measure == "centred_cosine":
                own, change = rows_against_base(row, mine, base, moved.size, moved.p)
                rows.extend([own, replace(change, ci95=None, note=OF_LENGTH)])
            else:
                effect = _effect(measure, mine.mean, base.mean)
                rows.extend(rows_against_base(row, mine, base, effect))
        if roles.benign in values and name not in roles.harmless:
            rows.extend(_increments(place, name))
    rows.extend(_mean_increment(place))
    return rows


def _increments(place: _Place, name: str) -> list[Row]:
    """EM against benign: differences of their measures, and the ratio of their collapses."""
    benign, base = place.values[str(place.roles.benign)], place.values[place.roles.base]
    mine = place.values[name]
    share, interval = _share(benign["raw_cosine"], mine["raw_cosine"], base["raw_cosine"])
    rows = []
    for measure, title in INCREMENTS.items():
        effect = None
        if measure == "raw_cosine":
            effect = share
        elif measure == "spread":
            before = benign[measure].mean
            effect = mine[measure].mean / before - 1 if before > 0 else None
        row = _difference(place.row(title, name), mine[measure], benign[measure], effect)
        if measure == "centred_cosine":
            # Where neither moved its personas together, a t-test has no level (`displacement`).
            row = replace(row, p=None)
        rows.append(replace(row, family=FAMILY if row.p is not None else None))
    shared = replace(place.row("benign_share", name), value=share, ci95=interval)
    rows.append(replace(shared, n=rows[0].n))
    return rows


def _difference(row: Row, mine: Pseudo, other: Pseudo, effect: float | None) -> Row:
    change = mine - other
    estimate = change.estimate
    return replace(
        row,
        value=estimate.value,
        p=estimate.p,
        ci95=estimate.interval,
        n=change.values.shape[1],
        effect=effect,
        warning=lopsided(change.values),
    )


def _share(part: Pseudo, whole: Pseudo, base: Pseudo) -> tuple[float | None, Interval | None]:
    ratio, interval = fieller((part - base).values, (whole - base).values)
    return (ratio if math.isfinite(ratio) else None), interval


def _mean_increment(place: _Place) -> list[Row]:
    """The mean of the EM conditions against benign; none without benign or with one EM arm."""
    values, roles = place.values, place.roles
    em = [name for name in place.cell.conditions[1:] if name not in roles.harmless]
    if roles.benign not in values or len(em) < 2:
        return []
    benign, base = values[str(roles.benign)]["raw_cosine"], values[roles.base]["raw_cosine"]
    mean = reduce(add, (values[name]["raw_cosine"] for name in em)) * (1 / len(em))
    share, interval = _share(benign, mean, base)
    increment = _difference(place.row("em_mean_minus_benign", None), mean, benign, share)
    shared = replace(place.row("em_mean_benign_share", None), value=share, ci95=interval)
    increment = replace(increment, family=FAMILY if increment.p is not None else None)
    return [increment, replace(shared, n=increment.n)]
