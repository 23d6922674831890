"""H2 on drawn studies: how far apart conditions must be for their range to be detected.

Its statistics are no sums of effect and chance. A first size comes from tests without counts (the
moved distances of `runs.all_alike`, or the studentised range); then the effect is planted in counts
of answers, and the test itself is run on them, at sizes nearby.

Shape suffixes: C conditions, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from personaspace.analysis.leakage.across import clustered_range
from personaspace.analysis.power.answers import Answers
from personaspace.analysis.power.design import Drawn
from personaspace.analysis.power.over_runs import evenly
from personaspace.analysis.runs import all_alike
from personaspace.analysis.stats import generator

DRAWS = Drawn().ranges
#: Permutations of a study whose conditions have one run, and how many sizes are tried.
PERMUTATIONS, SIZES = 399, 10

PowerAt = Callable[[float, float, object], float]


def between_at(world: Answers, names: Sequence[str]) -> PowerAt:
    """Of the test over runs: the share of studies that it rejects in, by size, level, and draw."""

    def power_at(size: float, alpha: float, again: object = "") -> float:
        rng = generator(0, "power", "H2 over runs", again)
        drawn = (world.rates(rng, evenly(names, size)) for _ in range(DRAWS))
        p = [all_alike(runs, names).p for runs in drawn]
        return float(np.mean([each is not None and each <= alpha for each in p]))

    return power_at


def within_at(world: Answers, names: Sequence[str]) -> PowerAt:
    """The same of the permutation within questions, of one run each."""

    def power_at(size: float, alpha: float, again: object = "") -> float:
        rng = generator(0, "power", "H2 of one run", again)
        hits = 0
        for _ in range(DRAWS):
            runs = world.rates(rng, evenly(names, size))
            means_CQ = runs.by_question[[runs.conditions.index(name) for name in names]]
            hits += clustered_range(means_CQ, PERMUTATIONS, 1, rng).p <= alpha
        return hits / DRAWS

    return power_at


def between_start(world: Answers, names: Sequence[str], alpha: float, power: float) -> float | None:
    """A first size for the test over runs: conditions' means moved, and their chance left."""
    rng, steps = generator(0, "power", "H2 start"), np.linspace(0, 1, len(names))
    studies = [all_alike(world.rates(rng, {}), names) for _ in range(DRAWS)]

    def power_at(size: float) -> float:
        p = [study.moved(size * steps) for study in studies]
        return float(np.mean([each is not None and each <= alpha for each in p]))

    top = 0.01
    while power_at(top) < power:
        top *= 2
        if top > 4:
            return None
    low = top / 2
    while top - low > 0.02 * top:
        middle = (low + top) / 2
        low, top = (low, middle) if power_at(middle) >= power else (middle, top)
    return top


def settled(power_at: Callable[[float], float], start: float | None, wanted: float) -> float | None:
    """The size with this power, looked for around a first one; None above 1, all that can be."""
    if start is None:
        return None
    low, high, size, step = (0.0, 0.0), (math.inf, 1.0), min(start, 1.0), 0.1
    for _ in range(SIZES):
        found = power_at(size)
        if abs(found - wanted) <= 0.01:
            return size
        low, high = ((size, found), high) if found < wanted else (low, (size, found))
        if low[0] >= 1.0:
            return None
        if math.isinf(high[0]):
            size = min(1.0, size * (1 + step))
        elif not low[0]:
            size *= 1 - min(step, 0.5)
        else:
            share = (wanted - low[1]) / (high[1] - low[1])
            size = low[0] + min(max(share, 0.1), 0.9) * (high[0] - low[0])
        step *= 2
    return high[0] if math.isfinite(high[0]) else None
