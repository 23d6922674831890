"""H2 and H3, recommended: differences between EM conditions on the common bystander set.

H2 permutes conditions within questions: under the null hypothesis that conditions do not differ, a
question's mean rates could have come in any order, and whatever makes answers to one question
alike stays together. Shape suffixes: C conditions, P personas, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from personaspace.analysis.leakage import trend
from personaspace.analysis.leakage.pooled import between_runs, run_tables
from personaspace.analysis.leakage.published import (
    FAMILY,
    NOTES,
    SECONDARY,
    order_floor,
    slope,
    spearman_test,
)
from personaspace.analysis.leakage.recommended import INDEPENDENT, split_questions
from personaspace.analysis.leakage.scores import ConditionInfo, Key, Scores, Table, tabulate
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import (
    Array,
    Interval,
    bootstrap_draws,
    generator,
    permutation_p,
    tail_count,
)

_CHUNK = 1000

UNEVEN = (
    "Conditions differ much in how their questions vary (ratio of variances above 4), while the "
    "permutation of conditions assumes that they vary alike."
)


@dataclass(frozen=True)
class RangeTest:
    """The range of the condition means, tested and bounded.

    Attributes:
        value: Largest minus smallest mean rate.
        p: Of as large a range if conditions did not differ.
        interval: From simultaneous intervals of all pairwise differences.
        sd: Standard deviation between conditions net of sampling noise.
    """

    value: float
    p: float
    interval: Interval
    sd: float


def _bounded(value: float, reach: float) -> Interval:
    return max(0.0, value - reach), min(1.0, value + reach)


def clustered_range(
    means_CQ: Array, permutations: int, bootstrap: int, rng: np.random.Generator
) -> RangeTest:
    """The range of condition means, with questions as clusters.

    The interval is that of the largest pairwise difference when all differences are bounded at
    once: the 95 % point of the range of resampled deviations (questions resampled, enlarged by
    √(Q/(Q − 1)) as in the variance). It is cautious: the range of noisy means is itself too large.

    Args:
        means_CQ: Mean rate of the common bystanders by condition and question; two of each.
        permutations: Draws of the test.
        bootstrap: Draws of the interval.
        rng: Source of randomness.
    """
    conditions, questions = means_CQ.shape
    means = means_CQ.mean(axis=1)
    value = float(np.ptp(means))
    count = 0
    for start in range(0, permutations, _CHUNK):
        size = min(_CHUNK, permutations - start)
        orders = rng.permuted(np.tile(means_CQ.T, (size, 1, 1)), axis=2)
        null = np.ptp(orders.mean(axis=1), axis=1)
        count += int(tail_count(null, value, two_sided=False))
    deviations = bootstrap_draws(questions, bootstrap, rng).null((means_CQ - means[:, None]).T)
    reach = float(np.quantile(np.ptp(deviations, axis=1), 0.95))
    reach *= math.sqrt(questions / (questions - 1))
    rest = means_CQ - means[:, None] - means_CQ.mean(axis=0) + means_CQ.mean()
    noise = float((rest**2).sum()) / ((conditions - 1) * (questions - 1)) / questions
    sd = math.sqrt(max(0.0, float(means.var(ddof=1)) - noise))
    return RangeTest(value, permutation_p(count, permutations), _bounded(value, reach), sd)


def independent_range(
    hits_CP: Array, totals_CP: Array, permutations: int, rng: np.random.Generator
) -> RangeTest:
    """The range of condition means if every answer is independent (no counts by question).

    The null distribution draws binomial counts with each persona's rate over all conditions.
    """
    rates = hits_CP / totals_CP
    means = rates.mean(axis=1)
    value = float(np.ptp(means))
    shape = (permutations, *hits_CP.shape)
    whole = totals_CP.astype(np.int64)
    pooled = np.broadcast_to(hits_CP.sum(axis=0) / totals_CP.sum(axis=0), hits_CP.shape)
    null = (rng.binomial(whole, pooled, shape) / totals_CP).mean(axis=2)
    count = int(tail_count(np.ptp(null, axis=1), value, two_sided=False))
    drawn = (rng.binomial(whole, rates, shape) / totals_CP).mean(axis=2) - means
    reach = float(np.quantile(np.ptp(drawn, axis=1), 0.95))
    noise = float((rates * (1 - rates) / totals_CP).sum(axis=1).mean()) / rates.shape[1] ** 2
    sd = math.sqrt(max(0.0, float(means.var(ddof=1)) - noise))
    return RangeTest(value, permutation_p(count, permutations), _bounded(value, reach), sd)


def _range_row(
    row: Row, table: Table, name: str, permutations: int, bootstrap: int, seed: int
) -> Row:
    rng = generator(seed, "H2", "recommended", name)
    if table.by_question:
        means = table.rates.mean(axis=1)
        test = clustered_range(means, permutations, bootstrap, rng)
        n, warning = table.samples, uneven(means)
    else:
        hits, totals = table.hits.sum(axis=2), table.totals.sum(axis=2)
        test = independent_range(hits, totals, permutations, rng)
        n, warning = int(totals.sum()), INDEPENDENT
    return replace(
        row,
        value=test.value,
        p=test.p,
        ci95=test.interval,
        n=n,
        effect=test.sd,
        name=name,
        warning=warning,
    )


def uneven(means_CQ: Array) -> str | None:
    """Whether conditions' deviations from their question's mean vary unlike each other."""
    rest = means_CQ - means_CQ.mean(axis=0)
    variances = rest.var(axis=1, ddof=1)
    return UNEVEN if variances.max() > 4 * variances.min() else None


def h2_rows(
    scores: Mapping[Key, Scores],
    em: Sequence[ConditionInfo],
    common: Sequence[str],
    *,
    negatives: Sequence[str],
    unseen: set[str] | None,
    permutations: int,
    bootstrap: int,
    seed: int,
    training_seed: int | None,
) -> list[Row]:
    """H2 on the common set, without the negatives, by kind of question, by marker at the end.

    Where conditions have several training runs, the test over whole runs comes first and is the one
    in the family. Effect: standard deviation between conditions net of sampling noise.
    """
    row = Row("H2", "recommended", seed=training_seed)
    names = [c.name for c in em]
    table = tabulate(scores, names)
    mine = [name for name in common if table is not None and name in table.personas]
    if table is None or len(em) < 2 or not mine:
        reason = NOTES["H2_few"] if len(em) < 2 else "No persona is a bystander in every condition."
        return [replace(row, name="common_set", note=reason)]
    parts = {"common_set": table.pick(mine)}
    neutral = [name for name in mine if name not in negatives]
    if neutral:
        parts["common_set_without_negatives"] = table.pick(neutral)
    for part, questions in split_questions(table, unseen).items():
        parts[part] = table.pick(mine, questions)
    terminal = tabulate(scores, names, "terminal")
    if terminal is not None:
        parts["terminal"] = terminal.pick(mine)
    rows = [
        _range_row(row, part, name, permutations, bootstrap, seed) for name, part in parts.items()
    ]
    runs = between_runs(scores, em, mine, row)
    rows = [runs, *rows] if runs else rows
    return [replace(rows[0], family=FAMILY), *(replace(r, family=SECONDARY) for r in rows[1:])]


def bonett_wright(rho: float, n: int) -> Interval | None:
    """95 % interval of Spearman's rho (Bonett & Wright 2000); None below four pairs or at ±1."""
    if n < 4 or not abs(rho) < 1:
        return None
    reach = stats.norm.ppf(0.975) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    middle = math.atanh(rho)
    return math.tanh(middle - reach), math.tanh(middle + reach)


def h3_rows(
    scores: Mapping[Key, Scores],
    em: Sequence[ConditionInfo],
    common: Sequence[str],
    *,
    measured: Mapping[str, float] | None,
    permutations: int,
    seed: int,
    training_seed: int | None,
) -> list[Row]:
    """H3 on the common set by measured cosines; by published ones beside them, or without these.

    Conditions are the units, their seeds put together: what differs between training runs is in the
    scatter of the conditions. Effect: slope of the rate on the cosine.
    """
    sources = {}
    if measured:
        sources["measured_cosine"] = {c.name: measured[c.name] for c in em if c.name in measured}
    given = {c.name: c.cosine for c in em if c.cosine is not None}
    if given or not sources:
        sources["common_set"] = given
    main = next(iter(sources))
    rows = []
    for name, anchors in sources.items():
        row = Row("H3", "recommended", seed=training_seed, name=name)
        there = list(anchors)
        table = tabulate(scores, there)
        mine = [persona for persona in common if table is not None and persona in table.personas]
        if table is None or len(there) < 3 or not mine:
            rows.append(replace(row, note=NOTES["H3_few"]))
            continue
        x = np.array([anchors[condition] for condition in there], dtype=np.float64)
        y = table.pick(mine).mean_rates.mean(axis=1)
        rho, p, _ = spearman_test(x, y, permutations, generator(seed, "H3", "recommended", name))
        n, floor = len(there), order_floor(x, y)
        if floor is None:
            p, floor = max(p, 1 / (permutations + 1)), 1 / (permutations + 1)
            note = f"{n} conditions; p from random orders."
        else:
            note = f"{n} conditions; p is exact over all orders and cannot be below {floor:.2g}."
        filled = replace(row, value=rho, p=p, ci95=bonett_wright(rho, n), n=n)
        family = FAMILY if name == main else SECONDARY
        rows.append(replace(filled, family=family, effect=slope(x, y), note=note, p_floor=floor))
        if name == main:
            row = replace(row, family=SECONDARY)
            rows.append(trend.slope_row(replace(row, name="slope"), x, y))
            runs = run_tables(scores, there, mine)
            if runs is not None and runs.replicated and np.ptp(x) > 0:
                rows.append(
                    trend.over_runs_row(replace(row, name="slope_over_runs"), runs, anchors)
                )
            blocks = trend.seed_blocks(scores, anchors, mine)
            if len(blocks) > 1:
                rng = generator(seed, "H3", "within seeds")
                within = replace(row, name="within_seeds")
                rows.append(trend.within_seeds_row(within, blocks, permutations, rng))
    return rows
