"""What H1, H2 and H3 detect.

Letters: B bystanders, C EM conditions, Q evaluation questions, R training runs (seeds).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from personaspace.analysis.power import between, over_runs
from personaspace.analysis.power.answers import Answers
from personaspace.analysis.power.design import Assumptions, Design, Finding
from personaspace.analysis.power.sizes import (
    NEVER,
    ONE_OF_H1,
    Sizes,
    points,
    sampled,
    twice,
)
from personaspace.analysis.power.solve import order_p, order_power, range_detectable, smallest
from personaspace.analysis.stats import Estimate, generator


def _answer_variance(design: Design, guess: Assumptions) -> float:
    """Binomial variance of a persona's rate at one question."""
    return guess.rate * (1 - guess.rate) / design.samples


def _condition_noise(design: Design, guess: Assumptions) -> float:
    """Variance of a condition's mean over common bystanders in one run, from questions alone."""
    cell = _answer_variance(design, guess) / max(1, design.bystanders)
    return cell / design.questions + design.lasting(guess)


def _scatter(design: Design, guess: Assumptions) -> float:
    """Mean variance of a condition's mean over its runs, all that another training would change."""
    run = guess.run_sd**2 + guess.persona_run_sd**2 / max(1, design.bystanders)
    cell = _answer_variance(design, guess) / max(1, design.bystanders)
    counts = [len(design.layout[name]) for name in design.anchored]
    each = run + cell / design.questions
    return design.lasting(guess) + each * float(np.mean([1 / count for count in counts]))


def h1(design: Design, guess: Assumptions, tests: int) -> list[Finding]:
    """H1: the induction persona, in its own condition and beside others."""
    others = design.personas - 2
    if others < 1 or not design.em:
        return []
    em = {name: len(s) for name, s in design.layout.items() if name != over_runs.BENIGN}
    ends = [max(em, key=lambda name: em[name]), min(em, key=lambda name: em[name])]
    found = []
    for condition in ends[: 1 + (em[ends[0]] > em[ends[1]])]:
        found += _h1_of(design, guess, tests, condition)
    return [
        *found,
        Finding(
            "H1",
            "published",
            "the published permutation of personas",
            "",
            None,
            floor=1 / (others + 1),
            note=f"Only {others + 1} outcomes: p cannot be below 1/{others + 1}."
            + (f" {NEVER}" if 1 / (others + 1) > design.alpha else ""),
        ),
    ]


def _h1_of(design: Design, guess: Assumptions, tests: int, condition: str) -> list[Finding]:
    em = [name for name in design.layout if name != over_runs.BENIGN]
    runs = len(design.layout[condition])
    said = f"{runs} runs: what differs between them is in the error." if runs > 1 else ONE_OF_H1
    found = []
    if len(em) > 1 and design.bystanders:
        world = over_runs.answers(design, guess, runs_vary=design.replicated, only=em)
        test = over_runs.own_less_others(world, condition, "other conditions")
        sizes = sampled(test, design, guess, tests, 100)
        what, note = "its excess there less that in other conditions", f"The test of H1. {said}"
        found.append(points("H1", "own_minus_other_conditions", what, sizes, note, guess))
    world = over_runs.answers(
        design, guess, runs_vary=runs > 1, bystanders=design.personas - 2, only=[condition]
    )
    test = over_runs.own_less_others(world, condition, "alone")
    sizes = sampled(test, design, guess, tests, 100)
    claimed = _claims(test.estimates, design)
    what = "induction persona minus the others"
    return [
        *found,
        points("H1", "induction_minus_others", what, sizes, said, guess),
        Finding(
            "H1",
            "equivalence",
            f"no difference beyond ±{100 * design.margin:.0f} points, where there is none",
            "% power",
            100 * claimed,
            note=f"Probability to claim it if the true difference is 0, {runs} "
            f"run{'s' if runs > 1 else ''}.",
        ),
    ]


def _claims(estimates: list[Estimate], design: Design) -> float:
    """Share of studies without a difference that claim there is none beyond the margin."""
    margins = [e.smallest_margin(design.alpha) for e in estimates]
    found = [margin < design.margin for margin in margins if margin is not None]
    return float(np.mean(found)) if found else 0.0


def h2(design: Design, guess: Assumptions, tests: int) -> list[Finding]:
    """H2: how far apart conditions must be."""
    if design.em < 2 or not design.bystanders:
        return []
    what = "range of condition means, evenly spaced"
    em = [name for name in design.layout if name != over_runs.BENIGN]
    several = [name for name in em if len(design.layout[name]) > 1]
    if len(several) < 2:
        world = over_runs.answers(design, guess, runs_vary=False, only=em)
        sizes = _within(design, guess, tests, between.within_at(world, em))
        note = "Between runs, not between induction personas: one run each."
        # As extreme are all orders that only rename conditions.
        floor = float(math.factorial(design.em)) ** (1 - design.clusters)
        if floor > design.alpha:
            sizes, note = {"effect": None, "corrected": None}, f"{note} {NEVER}"
            return [Finding("H2", "common_set", what, "points", **sizes, floor=floor, note=note)]
        if floor > design.alpha / tests:
            sizes["corrected"] = None
        least = floor if floor > 1e-4 else None
        return [replace(points("H2", "common_set", what, sizes, note, guess), floor=least)]
    world = over_runs.answers(design, guess, only=em)
    power_at = between.between_at(world, several)
    sizes = twice(
        lambda a: between.settled(
            lambda size: power_at(size, a, ""),
            between.between_start(world, several, a, guess.power),
            guess.power,
        ),
        design.alpha, tests,
    )  # fmt: skip
    left = design.em - len(several)
    note = f"{len(several)} conditions beyond run-to-run variation." + (
        f" {left} with one run each are not compared." if left else ""
    )
    return [points("H2", "between_runs", what, _again(sizes, power_at, design), note, guess)]


def _within(design: Design, guess: Assumptions, tests: int, power_at: between.PowerAt) -> Sizes:
    """H2 of one run each; after Holm by the ratio of studentised ranges at the two levels."""
    free, wide = (design.em - 1) * (design.clusters - 1), design.widened
    noise = _condition_noise(design, guess)
    first = twice(
        lambda a: range_detectable(noise, design.em, free, a, guess.power, wide),
        design.alpha, tests,
    )  # fmt: skip
    size = between.settled(lambda s: power_at(s, design.alpha, ""), first["effect"], guess.power)
    after = None
    if size is not None and first["effect"] and first["corrected"]:
        after = size * first["corrected"] / first["effect"]
    return _again({"effect": size, "corrected": after}, power_at, design)


def _again(sizes: Sizes, power_at: between.PowerAt, design: Design) -> Sizes:
    """Sizes in points, and how often the first is found in other studies."""
    size = sizes["effect"]
    found = None if size is None else power_at(size, design.alpha, "again")
    points = {name: None if value is None else 100 * value for name, value in sizes.items()}
    return points | {"found": found}


def h3(design: Design, guess: Assumptions, tests: int) -> list[Finding]:
    """H3: ranks and a straight line on the cosine."""
    n, x = len(design.cosines), np.array(design.cosines)
    if n < 3 or np.ptp(x) == 0 or not design.bystanders:
        return []
    sd, reach = math.sqrt(_scatter(design, guess)), float(np.ptp(x))
    floor = 2 / math.factorial(n)

    def ranked(alpha: float) -> float | None:
        if floor > alpha:
            return None

        def power_at(size: float) -> float:
            rng = generator(0, "power H3", n)
            return order_power(design.cosines, size / reach, sd, alpha, rng)

        return smallest(power_at, guess.power, sd)

    span = f"change of the rate from cosine {x.max():.2f} to {x.min():.2f}"
    best = f"p cannot be below 2/{n}! = {floor:.2g}, for one order in {math.factorial(n) // 2}"
    if floor * tests > design.alpha:
        best += f"; after Holm over {tests} tests not below {min(1.0, floor * tests):.2g}"
    best += "."
    world = over_runs.answers(design, guess)
    ranks = twice(ranked, design.alpha, tests, 100)
    if ranks["effect"] is not None:
        ranks["found"] = _ranks_found(world, design, ranks["effect"] / 100)
    first = points("H3", "common_set", span, ranks, best, guess)
    if floor > design.alpha:
        first = replace(first, note=f"{best} {NEVER}")
    found = [replace(first, floor=floor)]
    lines = [("slope", False, f"t on {n - 2} degrees of freedom, conditions as units.")]
    if design.replicated:
        lines.append(("slope_over_runs", True, "A trend of these very conditions, runs as units."))
    for name, as_units, note in lines:
        test = over_runs.slope_of(world, design.anchored, as_units)
        sizes = sampled(test, design, guess, tests, 100)
        found.append(points("H3", name, f"{span}, straight line", sizes, note, guess))
    return found + _blocks(design)


def _ranks_found(world: Answers, design: Design, size: float) -> float:
    """In which share of drawn studies the ranks of means give a small p."""
    rng, shifts = generator(0, "power", "H3 ranks"), over_runs.line(design.anchored, size)
    drawn = (world.rates(rng, shifts) for _ in range(over_runs.DRAWS))
    means = np.array([over_runs.means_of(runs, design.anchored) for runs in drawn])
    return float((order_p(design.cosines, means, rng) <= design.alpha).mean())


def _blocks(design: Design) -> list[Finding]:
    """H3 with seeds as blocks: its floor alone."""
    of_seed: dict[int, int] = {}
    for name in design.anchored:
        for seed in design.layout[name]:
            of_seed[seed] = of_seed.get(seed, 0) + 1
    sizes = [count for count in of_seed.values() if count > 1]
    if len(sizes) < 2:
        return []
    ways = math.prod(math.factorial(count) for count in sizes)
    floor = 2 / ways if ways <= design.permutations else 1 / (design.permutations + 1)
    note = "Its null hypothesis is that conditions do not differ at all."
    note += f" {NEVER}" if floor > design.alpha else ""
    return [
        Finding(
            "H3", "within_seeds", "the same, seeds as blocks", "", None, floor=floor, note=note
        )
    ]  # fmt: skip
