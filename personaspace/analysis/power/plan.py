"""What a study could find, before it runs: the smallest effect that each test would detect.

Everything follows from the design (conditions, personas, questions, samples, seeds) and from a few
variances that nobody knows beforehand. Their defaults are those of the published study; what it
does not tell is said. "Detect" means p ≤ alpha with the stated power. Tests over training runs are
computed on drawn studies (`over_runs`), as are tests of ranges and ranks; the others follow from
noncentral t.

Letters: B bystanders, C EM conditions, Q evaluation questions, R training runs (seeds).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import special

from personaspace.analysis.geometry.axis import FEW_SAMPLES
from personaspace.analysis.leakage.recommended import clustered
from personaspace.analysis.power import over_runs
from personaspace.analysis.power.design import Assumptions, Design, Finding, Plan
from personaspace.analysis.power.solve import order_power, range_detectable, smallest, t_detectable
from personaspace.analysis.stats import Estimate, generator
from personaspace.analysis.themes import by_theme

#: Measures of geometry that are tested at every layer and method.
_MEASURES = 6
IMPOSSIBLE = "More would be needed than any difference that can be: it cannot be detected."
NEVER = "It cannot reject at this level, whatever the data."
ONE_RUN = "One run each: it describes these runs, and what differs between runs counts as effect."


def _twice(
    detectable: Callable[[float], float | None], alpha: float, tests: int, scale: float = 1.0
) -> dict[str, float | None]:
    """Detectable effects at the level itself and at what Holm's first step leaves of it."""
    found = {"effect": detectable(alpha), "corrected": detectable(alpha / tests)}
    return {name: None if value is None else scale * value for name, value in found.items()}


def _points(
    metric: str, name: str, what: str, found: dict[str, float | None], note: str
) -> Finding:
    """An effect on shares of answers, in points; what exceeds 100 is none."""
    possible = {k: None if v is None or v > 100 else v for k, v in found.items()}
    if possible["effect"] is None:
        note = f"{IMPOSSIBLE} {note}".strip()
    return Finding(metric, name, what, "points", **possible, note=note)


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


def _h1(design: Design, guess: Assumptions, tests: int) -> list[Finding]:
    others = design.personas - 2
    if others < 1 or not design.em:
        return []
    runs = {len(seeds) for name, seeds in design.layout.items() if name != over_runs.BENIGN}
    found = []
    for count in sorted({min(runs), max(runs)}, reverse=True):
        found += _h1_of(design, guess, tests, count)
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


def _h1_of(design: Design, guess: Assumptions, tests: int, runs: int) -> list[Finding]:
    spread = 1 + 1 / (design.personas - 2)
    cell_sd = math.sqrt(_answer_variance(design, guess) * spread)
    run_sd = guess.persona_run_sd * math.sqrt(spread) if runs > 1 else 0.0
    rng = generator(0, "power H1", runs)
    estimates = []
    for _ in range(over_runs.DRAWS):
        values = run_sd * rng.normal(size=(runs, 1))
        values = values + cell_sd * rng.normal(size=(runs, design.questions))
        estimates.append(clustered(by_theme(values, design.theme_of)))
    needed = over_runs.Needed(estimates)
    note = (
        f"{runs} runs: what differs between them is in the error."
        if runs > 1
        else "One run: what this run does to the persona by chance counts as effect."
    )
    found = _twice(partial(needed.detectable, power=guess.power), design.alpha, tests, 100)
    claimed = _claims(estimates, design)
    return [
        _points("H1", "induction_minus_others", "induction persona minus the others", found, note),
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
    found = [
        abs(e.value) + float(special.stdtrit(e.df, 1 - design.alpha)) * e.se < design.margin
        for e in estimates
        if e.df > 0
    ]
    return float(np.mean(found)) if found else 0.0


def _h2(design: Design, guess: Assumptions, tests: int) -> list[Finding]:
    if design.em < 2 or not design.bystanders:
        return []
    what = "range of condition means, evenly spaced"
    several = [n for n, s in design.layout.items() if n != over_runs.BENIGN and len(s) > 1]
    noise = _condition_noise(design, guess)
    if len(several) < 2:
        free, wide = (design.em - 1) * (design.clusters - 1), design.widened
        found = _twice(
            lambda a: range_detectable(noise, design.em, free, a, guess.power, wide),
            design.alpha, tests, 100,
        )  # fmt: skip
        note = "Between runs, not between induction personas: one run each."
        return [_points("H2", "common_set", what, found, note)]
    drawn = over_runs.between_studies(over_runs.drawn(design, guess, "H2"), several)
    unit = math.sqrt(guess.run_sd**2 + noise)
    found = _twice(
        lambda a: over_runs.between_detectable(drawn, a, guess.power, unit),
        design.alpha, tests, 100,
    )  # fmt: skip
    left = design.em - len(several)
    note = f"{len(several)} conditions beyond run-to-run variation." + (
        f" {left} with one run each are not compared." if left else ""
    )
    return [_points("H2", "between_runs", what, found, note)]


def _h3(design: Design, guess: Assumptions, tests: int) -> list[Finding]:
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
    ranks = _twice(ranked, design.alpha, tests, 100)
    found = [
        Finding(
            "H3", "common_set", span, "points", **ranks, floor=floor,
            note=f"{best} {NEVER}" if floor > design.alpha else best,
        )
    ]  # fmt: skip
    lines = [("slope", False, f"t on {n - 2} degrees of freedom, conditions as units.")]
    if design.replicated:
        lines.append(("slope_over_runs", True, "A trend of these very conditions, runs as units."))
    for name, as_units, note in lines:
        needed = over_runs.slope_needed(
            over_runs.drawn(design, guess, "H3", name), design.anchored, as_units
        )
        sizes = _twice(partial(needed.detectable, power=guess.power), design.alpha, tests, 100)
        found.append(_points("H3", name, f"{span}, straight line", sizes, note))
    return found + _blocks(design)


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


def _t_over(units: int, guess: Assumptions, alpha: float) -> float | None:
    se = guess.persona_sd / math.sqrt(max(1, units))
    return t_detectable(se, units - 1, alpha, guess.power)


def _families(design: Design) -> dict[str, int]:
    """Contrasts of a measure at one place, by the family that they are corrected in."""
    pairs = math.comb(design.em, 2)
    benign = design.em + int(design.em > 1) if design.benign else 0
    return {"delta": design.em, "benign": benign, "pair": pairs}


def _tests_with(design: Design, contrast: over_runs.Contrast, in_answers: bool) -> int:
    """How many tests a contrast is corrected with."""
    families = _families(design)
    if in_answers:
        return max(1, sum(families.values()) + int(design.benign))
    kind = contrast.name if contrast.name in families else "benign"
    return max(1, families[kind] * _MEASURES * design.places)


def _geometry(design: Design, guess: Assumptions) -> list[Finding]:
    if design.replicated:
        return _geometry_over_runs(design, guess)
    found = []
    personas = design.extraction_personas
    unit = "sd of personas" if guess.persona_sd == 1.0 else "units of the measure"
    before = max(1, design.em) * _MEASURES * design.places
    pairs = [
        ("M1", "raw_cosine", "change of the mean pair cosine", personas, before),
        ("M2", "split_half", "change of the cosine with the EM axis", personas - 1, before),
    ]
    if design.benign and design.em:
        what, tests = "EM minus benign, mean pair cosine", design.em * 2 * design.places
        pairs.insert(1, ("M1", "em_minus_benign", what, personas, tests))
    for metric, name, what, units, tests in pairs:
        effects = _twice(partial(_t_over, units, guess), design.alpha, tests)
        note = f"{units} personas are the sample; no published figure tells how they vary."
        found.append(Finding(metric, name, what, unit, **effects, note=f"{note} {ONE_RUN}"))
    return found


def _geometry_over_runs(design: Design, guess: Assumptions) -> list[Finding]:
    found = []
    draw = over_runs.drawn_plain(design.layout, "geometry")
    for contrast in over_runs.contrasts(design):
        needed = over_runs.contrast_needed(draw, contrast.weights)
        tests = _tests_with(design, contrast, in_answers=False)
        effects = _twice(partial(needed.detectable, power=guess.power), design.alpha, tests)
        note = "In standard deviations between runs of a condition; chance in questions comes on "
        note += "top." + (" A condition with one run borrows the others'." * contrast.single)
        found.append(
            Finding("M1 to M3", contrast.name, contrast.what, "sd of runs", **effects, note=note)
        )
    return found


def _leakage_contrasts(design: Design, guess: Assumptions) -> list[Finding]:
    found = []
    for contrast in over_runs.contrasts(design):
        if contrast.name == "delta":  # base has runs of its own, by coupling
            continue
        shared = max(design.bystanders, design.personas - 1 - contrast.induced)
        draw = over_runs.drawn(
            design, guess, "contrasts", runs_vary=design.replicated, bystanders=shared
        )
        needed = over_runs.contrast_needed(draw, contrast.weights)
        tests = _tests_with(design, contrast, in_answers=True)
        effects = _twice(partial(needed.detectable, power=guess.power), design.alpha, tests, 100)
        note = "" if design.replicated else ONE_RUN
        note += "A condition with one run borrows the others' variance." * (
            contrast.single and design.replicated
        )
        name = "bystander_pair" if contrast.name == "pair" else contrast.name
        found.append(_points("leakage", name, contrast.what, effects, note))
    return found


def _primary(design: Design, guess: Assumptions) -> list[Finding]:
    """The one test that is not corrected."""
    asked = design.primary
    if asked is None or (asked.in_answers and asked.against_base):
        return []
    if not asked.in_answers and not design.replicated:
        effect = _t_over(design.extraction_personas, guess, design.alpha)
        return [Finding("primary", "", asked.what, "sd of personas", effect, note=ONE_RUN)]
    draw = over_runs.drawn_plain(design.layout, "primary")
    if asked.in_answers:
        draw = over_runs.drawn(design, guess, "primary", runs_vary=design.replicated)
    needed = over_runs.contrast_needed(draw, asked.weights)
    effect = needed.detectable(design.alpha, guess.power)
    note = "Not corrected." if design.replicated else f"Not corrected. {ONE_RUN}"
    if not asked.in_answers:
        return [Finding("primary", "", asked.what, "sd of runs", effect, note=note)]
    sizes = {"effect": None if effect is None else 100 * effect, "corrected": None}
    return [_points("primary", "", asked.what, sizes, note)]


def plan(design: Design, assumptions: Assumptions) -> Plan:
    """What every test of a design could find."""
    h1, h2, h3 = design.em, int(design.em > 1), int(len(design.cosines) > 2)
    tests = max(1, h1 + h2 + h3)
    made = Plan(design, assumptions)
    made.findings += _primary(design, assumptions)
    made.findings += _geometry(design, assumptions)
    made.findings += _leakage_contrasts(design, assumptions)
    for part in (_h1, _h2, _h3):
        made.findings += part(design, assumptions, tests)
    made.warnings += _warnings(design, tests)
    return made


def _warnings(design: Design, tests: int) -> list[str]:
    found = []
    n = len(design.cosines)
    if n >= 3 and 2 / math.factorial(n) > design.alpha:
        found.append(
            f"H3 cannot reach p ≤ {design.alpha:g} with {n} conditions, whatever the data."
        )
    elif n >= 3 and 2 / math.factorial(n) * tests > design.alpha:
        found.append(
            f"H3 cannot reach p ≤ {design.alpha:g} after Holm's correction over {tests} tests with "
            f"{n} conditions; {_enough(design.alpha / tests)} conditions could."
        )
    if not design.replicated:
        found.append(
            "One seed: H1 and H2 describe these training runs; no test tells a condition's effect "
            "from run-to-run variation, and M3 has none at all."
        )
    if design.em > 1 and not design.bystanders:
        found.append("No persona is a bystander in every condition: H2 and H3 will have no result.")
    if not design.benign:
        found.append("No benign condition: a collapse may come from any fine-tuning.")
    if 0 < design.clusters < 10:
        what = "themes of questions" if design.themes else "questions"
        found.append(f"{design.clusters} {what} are few clusters for the t-tests of H1.")
    halved = design.extraction_themes or design.extraction_questions
    if design.em and halved < FEW_SAMPLES:
        what = "themes" if design.extraction_themes else "questions"
        found.append(
            f"M2 halves {halved} {what}: with fewer than {FEW_SAMPLES} its tests reject too often."
        )
    return found


def _enough(alpha: float) -> int:
    n = 3
    while 2 / math.factorial(n) > alpha:
        n += 1
    return n
