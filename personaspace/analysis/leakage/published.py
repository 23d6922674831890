"""Mean bystander leakage and H1–H3 as the study computed them, one seed at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from personaspace.analysis.leakage.scores import ConditionInfo, Scores, bystanders, rate
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import Array, generator, published_p, tail_count

FAMILY = "behavioral"
#: Tests of leakage beside the main one of each hypothesis.
SECONDARY = "behavioral_secondary"

#: Orders are all tried up to this many conditions (8! = 40,320), drawn at random beyond.
EXACT_ORDERS = 8

NOTES = {
    "H3_few": "H3 needs three conditions whose persona's cosine to the assistant is known in this "
    "model: measured in its activations, or published for it.",
    "H2_few": "H2 needs two EM conditions.",
}


def bystander_rates(scores: Scores, condition: ConditionInfo, source: str) -> Array:
    """Rates of the bystanders, `[persona]`; empty if there are none."""
    names = bystanders(scores, condition, source)
    return np.array([rate(scores, name) for name in names])


def h1_p(rates: Array, difference: float, draws: int, rng: np.random.Generator) -> float:
    """Share of random choices of "the induction persona" with at least this difference.

    Args:
        rates: Of all personas but the source.
        difference: The real one's rate minus the mean of the others.
        draws: Random choices; there are only as many outcomes as personas, so p ≥ 1/personas.
        rng: Source of randomness.
    """
    null = one_against_rest(rates)[rng.integers(0, len(rates), size=draws)]
    return published_p(int(tail_count(null, difference, two_sided=False)), draws)


def one_against_rest(rates: Array) -> Array:
    """Each rate minus the mean of the others; at least two."""
    return np.asarray(rates - (rates.sum() - rates) / (len(rates) - 1))


def order_floor(x: Array, y: Array) -> float | None:
    """Smallest two-sided p over all orders of y against x; None where orders are drawn.

    Ties in x count as one order; those in y are the data's and not the design's.
    """
    if len(x) > EXACT_ORDERS or len(x) != len(y):
        return None
    _, ties = np.unique(x, return_counts=True)
    same = math.prod(math.factorial(int(count)) for count in ties)
    return min(1.0, 2 * same / math.factorial(len(x)))


def _assignments(units: tuple[int, ...], sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every way to deal units to groups of these sizes, as the units group by group."""
    if len(sizes) == 1:
        yield units
        return
    for chosen in itertools.combinations(units, sizes[0]):
        rest = tuple(unit for unit in units if unit not in chosen)
        for others in _assignments(rest, sizes[1:]):
            yield chosen + others


def h2_test(groups: Sequence[Array], draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """Range of the groups' means and its p under permuted labels.

    All assignments are tried where there are no more than `draws`. (scipy's permutation test does
    the same, but refuses groups of one.)
    """
    values = np.concatenate(groups)
    sizes = [len(group) for group in groups]
    ways = math.factorial(len(values)) // math.prod(math.factorial(size) for size in sizes)
    if ways <= draws:
        dealt = values[np.array(list(_assignments(tuple(range(len(values))), sizes)))]
    else:
        dealt = rng.permuted(np.tile(values, (draws, 1)), axis=1)
    starts = np.cumsum([0, *sizes[:-1]])
    null = np.ptp(np.add.reduceat(dealt, starts, axis=1) / sizes, axis=1)
    observed = float(np.ptp([group.mean() for group in groups]))
    return observed, published_p(int(tail_count(null, observed, two_sided=False)), len(null))


def spearman_test(
    x: Array, y: Array, draws: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Spearman's rho, its two-sided p over the orders of y, and the asymptotic p.

    Every order is tried up to eight pairs; beyond that `draws` random ones. No rho (NaN, p = 1)
    where x or y does not vary.
    """
    a, b = stats.rankdata(x), stats.rankdata(y)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan, 1.0, 1.0
    a = (a - a.mean()) / np.linalg.norm(a - a.mean())
    b = (b - b.mean()) / np.linalg.norm(b - b.mean())
    result = stats.permutation_test(
        (b,),
        lambda order, axis: (order * a).sum(axis=axis),
        permutation_type="pairings",
        n_resamples=math.factorial(len(b)) if len(b) <= EXACT_ORDERS else draws,
        vectorized=True,
        rng=rng,
    )
    null = np.asarray(result.null_distribution)
    rho = float(result.statistic)
    p = published_p(int(tail_count(null, rho, two_sided=True)), len(null))
    return rho, p, float(stats.spearmanr(x, y).pvalue)


def analyse_seed(
    scores: Mapping[str, Scores],
    conditions: Sequence[ConditionInfo],
    training_seed: int,
    source: str,
    permutations: int,
    seed: int,
) -> list[Row]:
    """All published rows of one training seed.

    Args:
        scores: By condition.
        conditions: In the order of the rows; those without scores are passed over.
        training_seed: Goes into the rows.
        source: Persona that the marker was coupled to.
        permutations: Draws of H1 and H2.
        seed: Of the random draws.
    """
    there = [c for c in conditions if c.name in scores]
    rates = {c.name: bystander_rates(scores[c.name], c, source) for c in there}
    rows = [
        Row(
            "bystander_mean",
            "published",
            condition=c.name,
            seed=training_seed,
            value=float(rates[c.name].mean()),
            n=len(rates[c.name]),
        )
        for c in there
        if len(rates[c.name])
    ]
    em = [c for c in there if c.kind == "em" and len(rates[c.name])]
    for c in em:
        rng = generator(seed, "H1", c.name, training_seed)
        rows.append(_h1(scores[c.name], c, training_seed, source, permutations, rng))
    if em:
        rng = generator(seed, "H2", training_seed)
        rows.append(_h2([rates[c.name] for c in em], training_seed, permutations, rng))
        rng = generator(seed, "H3", training_seed)
        rows.append(_h3(em, rates, training_seed, permutations, rng))
    return rows


def _h1(
    scores: Scores,
    condition: ConditionInfo,
    training_seed: int,
    source: str,
    permutations: int,
    rng: np.random.Generator,
) -> Row:
    blank = Row(
        "H1",
        "published",
        condition=condition.name,
        seed=training_seed,
        name="induction_minus_others",
    )
    persona = condition.induction_persona
    reason = not_evaluable(scores, persona, source)
    if reason is not None:
        return replace(blank, note=reason)
    names = [name for name in scores["per_persona"] if name != source]
    rates = np.array([rate(scores, name) for name in names])
    differences = one_against_rest(rates)
    difference = float(differences[names.index(str(persona))])
    others = rate(scores, str(persona)) - difference
    return replace(
        blank,
        value=difference,
        p=h1_p(rates, difference, permutations, rng),
        n=len(names),
        family=FAMILY,
        note=(
            f"{persona} {rate(scores, str(persona)):.1%}, the other bystanders {others:.1%}; p "
            f"cannot be below 1/{len(names)}, whatever the data."
        ),
        p_floor=1 / len(names),
    )


def not_evaluable(scores: Scores, persona: str | None, source: str) -> str | None:
    """Why H1 cannot be tested here; None if it can."""
    if persona is None:
        return "Not evaluated: the condition has no induction persona."
    if persona == source:
        return f"Not evaluated: the induction persona {persona} is the source of the marker."
    if persona not in scores["per_persona"]:
        return f"Not evaluated: the induction persona {persona} is not among those asked."
    if len(set(scores["per_persona"]) - {source}) < 2:
        return "Not evaluated: there is no other bystander."
    return None


def _h2(groups: list[Array], training_seed: int, draws: int, rng: np.random.Generator) -> Row:
    blank = Row("H2", "published", seed=training_seed, name="range")
    if len(groups) < 2:
        return replace(blank, note=NOTES["H2_few"])
    value, p = h2_test(groups, draws, rng)
    size = sum(len(group) for group in groups)
    return replace(blank, value=value, p=p, n=size, family=FAMILY)


def _h3(
    conditions: Sequence[ConditionInfo],
    rates: Mapping[str, Array],
    training_seed: int,
    draws: int,
    rng: np.random.Generator,
) -> Row:
    blank = Row("H3", "published", seed=training_seed, name="spearman")
    anchored = [c for c in conditions if c.cosine is not None]
    if len(anchored) < 3:
        return replace(blank, note=NOTES["H3_few"])
    x = np.array([c.cosine for c in anchored], dtype=np.float64)
    y = np.array([rates[c.name].mean() for c in anchored])
    rho, p, asymptotic = spearman_test(x, y, draws, rng)
    return replace(
        blank,
        value=rho,
        p=p,
        n=len(anchored),
        family=FAMILY,
        effect=slope(x, y),
        note=f"p over the orders of the conditions; the asymptotic p would be {asymptotic:.4f}.",
        p_floor=order_floor(x, y),
    )


def slope(x: Array, y: Array) -> float | None:
    """Least-squares slope of leakage on cosine; None where the cosines do not vary."""
    return float(stats.linregress(x, y).slope) if np.ptp(x) > 0 else None
