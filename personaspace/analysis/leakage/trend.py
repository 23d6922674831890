"""H3 beside the exact test: the slope with its interval, and seeds as blocks.

Shape suffixes: C conditions, S seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from personaspace.analysis.leakage.published import slope
from personaspace.analysis.leakage.scores import Key, Scores, tabulate
from personaspace.analysis.rows import Row
from personaspace.analysis.runs import Runs
from personaspace.analysis.stats import Array, Estimate, permutation_p, tail_count
from personaspace.console import counted

HINGES = "Leaving out one of the conditions reverses the sign of the slope."

Block = tuple[Array, Array]


def slope_row(row: Row, x: Array, y: Array) -> Row:
    """Least-squares slope of the conditions' rates on their cosines, with conditions as units.

    Its variance is robust to conditions that scatter unlike each other (HC3, MacKinnon & White
    1985), t on conditions − 2: the usual one, which takes their variances as equal, rejects a true
    null hypothesis in 13 % of studies where the outermost condition alone is noisy. Effect:
    Pearson's correlation.
    """
    if np.ptp(x) == 0:
        return replace(row, note="The cosines do not vary.")
    estimate = robust_slope(x, y)
    correlation = float(np.corrcoef(x, y)[0, 1]) if np.ptp(y) > 0 else None
    return replace(
        row,
        value=estimate.value,
        p=estimate.p,
        ci95=estimate.interval,
        n=len(x),
        effect=correlation,
        warning=_hinges(x, y),
    )


def slope_weights(x: Array) -> Array:
    """Weights of the least-squares slope: it is their product with the rates."""
    centred = x - x.mean()
    return np.asarray(centred / float(centred @ centred))


def robust_slope(x: Array, y: Array) -> Estimate:
    """Least-squares slope with the variance HC3; at least three points."""
    weights, centred = slope_weights(x), x - x.mean()
    leverage = 1 / len(x) + weights * centred
    value = float(weights @ y)
    rest = (y - y.mean() - value * centred) / np.maximum(1 - leverage, 1e-9)
    se = math.sqrt(float(((weights * rest) ** 2).sum()))
    # Rounding of points on a line is no scatter.
    scale = float(np.abs(y).max(initial=0)) * float(np.abs(weights).max())
    return Estimate(value, se if se > 1e-12 * max(scale, 1e-300) else 0.0, len(x) - 2)


def over_runs_row(row: Row, runs: Runs, cosines: Mapping[str, float]) -> Row:
    """The slope as a contrast of these conditions, with runs and questions as samples.

    Args:
        runs: Of these conditions.
        cosines: By condition.
    """
    shares = slope_weights(np.array(list(cosines.values()), dtype=np.float64))
    weights = {name: float(share) for name, share in zip(cosines, shares, strict=True)}
    found = runs.contrast(weights, "these_personas")
    return replace(
        row,
        value=found.estimate.value,
        p=found.estimate.p,
        ci95=found.estimate.interval,
        n=found.runs,
        run_variation=True,
        target="these_personas",
        warning=found.warning,
    )


def _hinges(x: Array, y: Array) -> str | None:
    """Whether one condition decides the sign of the slope."""
    if len(x) < 4:
        return None
    signs = {
        math.copysign(1.0, slope(np.delete(x, i), np.delete(y, i)) or 0.0) for i in range(len(x))
    }
    return HINGES if len(signs) > 1 else None


def seed_blocks(
    scores: Mapping[Key, Scores], anchors: Mapping[str, float], personas: Sequence[str]
) -> list[Block]:
    """Cosines and mean rates of each seed's conditions; seeds with fewer than two are left out."""
    blocks = []
    for seed in sorted({seed for _, seed in scores}):
        names = [name for name in anchors if (name, seed) in scores]
        table = tabulate({(name, seed): scores[name, seed] for name in names}, names)
        if table is None or len(names) < 2:
            continue
        rates = table.pick(personas).mean_rates.mean(axis=1)
        blocks.append((np.array([anchors[name] for name in names]), rates))
    return blocks


def _ranks(values: Array) -> Array:
    ranks = stats.rankdata(values)
    centred = ranks - ranks.mean()
    length = float(np.linalg.norm(centred))
    return np.asarray(centred / length if length > 0 else centred)


def within_seeds_row(
    row: Row, blocks: Sequence[Block], permutations: int, rng: np.random.Generator
) -> Row:
    """Mean rank correlation within seeds, each weighted by its conditions less one.

    The weights are the inverse null variances of the correlations. p, two-sided: every order of the
    conditions within every seed, where there are no more than `permutations` combinations of them,
    else random ones. Effect: mean slope within seeds.
    """
    weights = np.array([len(x) - 1.0 for x, _ in blocks])
    weights /= weights.sum()
    pairs = [(_ranks(x), _ranks(y)) for x, y in blocks]
    value = float(sum(w * (a @ b) for w, (a, b) in zip(weights, pairs, strict=True)))
    ways = math.prod(math.factorial(len(a)) for a, _ in pairs)
    if ways <= permutations:
        null = np.zeros(1)
        for weight, (a, b) in zip(weights, pairs, strict=True):
            orders = np.array(list(itertools.permutations(b)))
            null = np.add.outer(null, weight * (orders @ a)).ravel()
    else:
        null = np.zeros(permutations)
        for weight, (a, b) in zip(weights, pairs, strict=True):
            null += weight * (rng.permuted(np.tile(b, (permutations, 1)), axis=1) @ a)
    exact = ways <= permutations
    count = int(tail_count(null, value, two_sided=True))
    slopes = [slope(x, y) for x, y in blocks]
    known = [(s, w) for s, w in zip(slopes, weights, strict=True) if s is not None]
    return replace(
        row,
        value=value,
        p=permutation_p(count, len(null), exact=exact),
        n=len(blocks),
        effect=float(np.average([s for s, _ in known], weights=[w for _, w in known]))
        if known
        else None,
        note=f"{counted(len(blocks), 'seed')}.",
        p_floor=2 / ways if exact else 1 / (permutations + 1),
    )
