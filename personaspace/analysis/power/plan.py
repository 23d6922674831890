"""What a study could find, before it runs: the smallest effect that each test would detect.

Everything follows from the design (conditions, personas, questions, samples, seeds) and from a few
variances that nobody knows beforehand. Their defaults are those of the published study; what it
does not tell is said. "Detect" means p ≤ alpha with the stated power. Where the noise is normal, so
is the calculation (noncentral t, F); rank tests are simulated.

Letters: B bystanders, C EM conditions, Q evaluation questions, R training runs (seeds).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import stats

from personaspace.analysis.power.design import Assumptions, Design, Finding, Plan
from personaspace.analysis.power.solve import order_power, range_detectable, smallest, t_detectable
from personaspace.analysis.stats import generator


def _twice(
    detectable: Callable[[float], float | None], alpha: float, tests: int, scale: float = 1.0
) -> dict[str, float | None]:
    """Detectable effects at the level itself and at what Holm's first step leaves of it."""
    found = {"effect": detectable(alpha), "corrected": detectable(alpha / tests)}
    return {name: None if value is None else scale * value for name, value in found.items()}


def _answer_variance(design: Design, guess: Assumptions) -> float:
    """Binomial variance of a persona's rate at one question."""
    return guess.rate * (1 - guess.rate) / design.samples


def _condition_noise(design: Design, guess: Assumptions) -> float:
    """Variance of a condition's mean over common bystanders in one run, from questions alone."""
    cell = _answer_variance(design, guess) / max(1, design.bystanders)
    return (cell + guess.question_sd**2) / design.questions


def _run_noise(design: Design, guess: Assumptions) -> float:
    """Variance of a condition's mean over its runs, all that another training would change."""
    run = guess.run_sd**2 + guess.persona_run_sd**2 / max(1, design.bystanders)
    return (run + _condition_noise(design, guess)) / design.seeds


def _h1(design: Design, guess: Assumptions, tests: int) -> list[Finding]:
    others = design.personas - 2
    if others < 1:
        return []
    spread = 1 + 1 / others
    questions = _answer_variance(design, guess) * spread / design.questions
    if design.seeds == 1:
        se, df = math.sqrt(questions), design.questions - 1.0
        note = "One run: what this run does to the persona by chance counts as effect."
    else:
        runs = guess.persona_run_sd**2 * spread
        se, df = math.sqrt((runs + questions) / design.seeds), design.seeds - 1.0
        note = f"{design.seeds} runs: what differs between them is in the error."
    half = design.margin - float(stats.t.ppf(1 - design.alpha, max(df, 1.0))) * se
    claim = max(0.0, 2 * float(stats.t.cdf(half / se, max(df, 1.0))) - 1) if half > 0 else 0.0
    found = _twice(lambda a: t_detectable(se, df, a, guess.power), design.alpha, tests, 100)
    return [
        Finding(
            "H1",
            "induction_minus_others",
            "induction persona minus the others",
            "points",
            **found,
            note=note,
        ),
        Finding(
            "H1",
            "equivalence",
            f"no difference beyond ±{100 * design.margin:.0f} points, where there is none",
            "% power",
            100 * claim,
            note="Probability to claim it if the true difference is 0.",
        ),
        Finding(
            "H1",
            "published",
            "the published permutation of personas",
            "",
            None,
            floor=1 / (others + 1),
            note=f"Only {others + 1} outcomes: p cannot be below 1/{others + 1}.",
        ),
    ]


def _h2(design: Design, guess: Assumptions, tests: int) -> list[Finding]:
    if design.em < 2 or not design.bystanders:
        return []
    within = (design.em - 1) * (design.questions - 1)
    noise, free = _condition_noise(design, guess), within
    name, note = "common_set", "Between runs, not between induction personas: one run each."
    if design.seeds > 1:
        name, note = "between_runs", "Conditions beyond run-to-run variation."
        noise, free = _run_noise(design, guess), design.em * (design.seeds - 1)
    found = _twice(
        lambda a: range_detectable(noise, design.em, free, a, guess.power), design.alpha, tests, 100
    )
    return [
        Finding(
            "H2",
            name,
            "range of condition means, evenly spaced",
            "points",
            **found,
            note=note,
        )
    ]


def _h3(design: Design, guess: Assumptions, tests: int) -> list[Finding]:
    n, x = len(design.cosines), np.array(design.cosines)
    if n < 3 or np.ptp(x) == 0 or not design.bystanders:
        return []
    sd, reach = math.sqrt(_run_noise(design, guess)), float(np.ptp(x))
    floor = 2 / math.factorial(n)

    def ranked(alpha: float) -> float | None:
        if floor > alpha:
            return None

        def power_at(size: float) -> float:
            rng = generator(0, "power H3", n)
            return order_power(design.cosines, size / reach, sd, alpha, rng)

        return smallest(power_at, guess.power, sd)

    line_se = sd / math.sqrt(float(((x - x.mean()) ** 2).sum())) * reach
    lines = _twice(lambda a: t_detectable(line_se, n - 2, a, guess.power), design.alpha, tests, 100)
    span = f"change of the rate from cosine {x.max():.2f} to {x.min():.2f}"
    best = f"p cannot be below 2/{n}! = {floor:.2g}, for one order in {math.factorial(n) // 2}"
    if floor * tests > design.alpha:
        best += f"; after Holm over {tests} tests not below {min(1.0, floor * tests):.2g}"
    found = [
        Finding(
            "H3",
            "common_set",
            span,
            "points",
            **_twice(ranked, design.alpha, tests, 100),
            floor=floor,
            note=best + ".",
        ),
        Finding(
            "H3",
            "slope",
            span + ", straight line",
            "points",
            **lines,
            note=f"t on {n - 2} degrees of freedom; deviations from the line taken as normal.",
        ),
    ]
    if design.seeds > 1:
        blocks = math.factorial(n) ** design.seeds
        found.append(
            Finding(
                "H3",
                "within_seeds",
                "the same, seeds as blocks",
                "",
                None,
                floor=2 / blocks,
                note="Its null hypothesis is that conditions do not differ at all.",
            )
        )
    return found


def _t_over(units: int, guess: Assumptions, alpha: float) -> float | None:
    se = guess.persona_sd / math.sqrt(max(1, units))
    return t_detectable(se, units - 1, alpha, guess.power)


def _geometry(design: Design, guess: Assumptions) -> list[Finding]:
    found = []
    personas, trained = design.extraction_personas, max(1, design.em + int(design.benign))
    unit = "sd of personas" if guess.persona_sd == 1.0 else "units of the measure"
    pairs = [
        ("M1", "raw_cosine", "change of the mean pair cosine", personas, trained),
        (
            "M2",
            "split_half",
            "change of the cosine with the EM axis",
            personas - 1,
            trained,
        ),
    ]
    if design.benign and design.em:
        one = ("M1", "em_minus_benign", "EM minus benign, mean pair cosine", personas, design.em)
        pairs.insert(1, one)
    for metric, name, what, units, tests in pairs:
        effects = _twice(partial(_t_over, units, guess), design.alpha, tests)
        note = f"{units} personas are the sample; no published figure tells how they vary."
        found.append(Finding(metric, name, what, unit, **effects, note=note))
    return found


def plan(design: Design, assumptions: Assumptions) -> Plan:
    """What every test of a design could find."""
    h1, h2, h3 = design.em, int(design.em > 1), int(len(design.cosines) > 2)
    tests = max(1, h1 + h2 + h3)
    made = Plan(design, assumptions)
    made.findings += _geometry(design, assumptions)
    for part in (_h1, _h2, _h3):
        made.findings += part(design, assumptions, tests)
    n = len(design.cosines)
    if n >= 3 and 2 / math.factorial(n) > design.alpha:
        made.warnings.append(
            f"H3 cannot reach p ≤ {design.alpha:g} with {n} conditions, whatever the data."
        )
    elif n >= 3 and 2 / math.factorial(n) * tests > design.alpha:
        made.warnings.append(
            f"H3 cannot reach p ≤ {design.alpha:g} after Holm's correction over {tests} tests with "
            f"{n} conditions; {_enough(design.alpha / tests)} conditions could."
        )
    if design.seeds == 1:
        made.warnings.append(
            "One seed: H1 and H2 describe these training runs; no test tells a condition's effect "
            "from run-to-run variation."
        )
    if design.em > 1 and not design.bystanders:
        made.warnings.append(
            "No persona is a bystander in every condition: H2 and H3 will have no result."
        )
    if not design.benign:
        made.warnings.append("No benign condition: a collapse may come from any fine-tuning.")
    if 0 < design.questions < 10:
        made.warnings.append(
            f"{design.questions} questions are few clusters for the t-tests of H1."
        )
    return made


def _enough(alpha: float) -> int:
    n = 3
    while 2 / math.factorial(n) > alpha:
        n += 1
    return n
