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
both counts question-by-persona noise three times (Owen 2007) and hardly ever rejects.

Shape suffixes: N vectors, P personas, Q questions, H hidden.
"""

from __future__ import annotations

import numpy as np

from personaspace.geometry.cells import Cell, Roles
from personaspace.geometry.compare import (
    leave_one_out_personas,
    leave_one_out_questions,
    rows_against_base,
)
from personaspace.geometry.published import pre_post_family
from personaspace.inference import Array, fieller, two_way_estimate
from personaspace.rows import Row

MEASURES = ("raw_cosine", "centred_cosine", "spread")

NOTES = {
    "raw_cosine": (
        "Shows whether persona vectors point more alike; a grown common mean does that too."
    ),
    "centred_cosine": (
        "Shows how far personas were moved together, measured from base's mean vector."
    ),
    "spread": (
        "Shows whether personas came closer to each other; effect: relative change of the spread."
    ),
    "em_minus_benign": (
        "What EM adds to the collapse of a harmless fine-tuning; effect: benign's share of the "
        "collapse. One training run each, so run-to-run variation is not in the interval."
    ),
    "benign_share": (
        "Collapse under harmless fine-tuning as a share of this condition's; no interval where "
        "this condition's own collapse is not clearly above 0."
    ),
}


def leave_one_out_grams(cell: Cell, condition: str, base: str) -> tuple[Array, Array]:
    """Inner products of the persona vectors of a condition and base, whole and without a question.

    Leaving out question q moves vector vᵢ (mean of nᵢ) by −(xᵢq − vᵢ)/(nᵢ − 1). The products of
    the residuals are taken in float32, which is exact enough for residuals; those of the means in
    float64.

    Returns:
        `[N, N]` and `[Q, N, N]`, N = 2P: the condition's vectors, then base's.
    """
    used = cell.valid.any(axis=0)
    valid = np.concatenate([cell.valid, cell.valid])[:, used]
    means = np.concatenate([cell.vectors(condition), cell.vectors(base)])
    states = [cell.states_of(name)[:, used] for name in (condition, base)]
    residuals = np.concatenate(states) - means[:, None].astype(np.float32)
    residuals[~valid] = 0.0
    gram = means @ means.T
    with_means = np.matmul(residuals, means.T.astype(np.float32))  # [N, Q, N]
    by_question = residuals.transpose(1, 0, 2)
    with_each_other = np.matmul(by_question, by_question.transpose(0, 2, 1))  # [Q, N, N]
    step = 1.0 / (valid.sum(axis=1) - 1)
    moved = with_means.transpose(1, 0, 2) * step[None, :, None]
    without = gram - moved - moved.transpose(0, 2, 1)
    without += with_each_other * (step[:, None] * step[None, :])
    return gram, without


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


def pseudo_values(grams: tuple[Array, Array], of_base: bool) -> dict[str, Array]:
    """Pseudo-values of each measure by question and persona, `[Q, P]`."""
    whole, without = (pair_measures(gram, of_base) for gram in grams)
    return {
        name: leave_one_out_personas(leave_one_out_questions(whole[name], without[name]))
        for name in MEASURES
    }


def _effect(name: str, value: float, before: float) -> float | None:
    if name == "raw_cosine":
        return (value - before) / (1 - before) if before < 1 else None
    if name == "spread":
        return value / before - 1 if before > 0 else None
    return None


def m1(cell: Cell, roles: Roles) -> list[Row]:
    """Rows of M1; needs two usable questions of every persona.

    Effect: of `raw_cosine` the share of base's distance to 1 that is gone, of `spread` the
    relative change.
    """
    values: dict[str, dict[str, Array]] = {}
    for name in cell.conditions[1:]:
        grams = leave_one_out_grams(cell, name, roles.base)
        values[name] = pseudo_values(grams, of_base=False)
        if roles.base not in values:
            values[roles.base] = pseudo_values(grams, of_base=True)
    rows = []
    for name in cell.conditions[1:]:
        for measure in MEASURES:
            mine, base = values[name][measure], values[roles.base][measure]
            row = Row(
                "M1",
                "recommended",
                cell.method,
                cell.layer,
                name,
                cell.seed,
                family=pre_post_family(name, roles),
                name=measure,
                note=NOTES[measure],
            )
            effect = _effect(measure, float(mine.mean()), float(base.mean()))
            rows.extend(rows_against_base(row, mine, base, effect))
        if roles.benign in values and name != roles.benign:
            rows.extend(_increment(cell, name, roles, values))
    return rows


def _increment(
    cell: Cell, name: str, roles: Roles, values: dict[str, dict[str, Array]]
) -> list[Row]:
    """EM against benign: the difference of their raw cosines, and the ratio of their collapses."""
    base = values[roles.base]["raw_cosine"]
    mine = values[name]["raw_cosine"]
    benign = values[str(roles.benign)]["raw_cosine"]
    increment = two_way_estimate(mine - benign)
    share, interval = fieller(benign - base, mine - base)
    place = (cell.method, cell.layer, name, cell.seed)
    return [
        Row(
            "M1",
            "recommended",
            *place,
            value=increment.value,
            p=increment.p,
            ci95=increment.interval,
            n=mine.shape[1],
            family="geometry_em_vs_benign",
            effect=share,
            name="em_minus_benign",
            note=NOTES["em_minus_benign"],
        ),
        Row(
            "M1",
            "recommended",
            *place,
            value=share,
            ci95=interval,
            n=mine.shape[1],
            name="benign_share",
            note=NOTES["benign_share"],
        ),
    ]
