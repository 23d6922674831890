"""What a study could find, before it runs: the smallest effect that each test would detect.

Everything follows from the design (conditions, personas, questions, samples, seeds) and from a few
variances that nobody knows beforehand. Their defaults are those of the published study; what it
does not tell is said. "Detect" means p ≤ alpha with the stated power. Tests of answers and those
over training runs are run themselves on drawn studies (`over_runs`, `between`), ranks are drawn;
the others follow from noncentral t.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from personaspace.analysis.power import over_runs
from personaspace.analysis.power.design import Assumptions, Design, Finding, Plan
from personaspace.analysis.power.hypotheses import h1, h2, h3
from personaspace.analysis.power.sizes import ONE_RUN, points, sampled, twice
from personaspace.analysis.power.solve import t_detectable

#: Measures of geometry that are tested at every layer and method.
_MEASURES = 6


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
        effects = twice(partial(_t_over, units, guess), design.alpha, tests)
        note = f"{units} personas are the sample; no published figure tells how they vary."
        found.append(Finding(metric, name, what, unit, **effects, note=f"{note} {ONE_RUN}"))
    return found


def _geometry_over_runs(design: Design, guess: Assumptions) -> list[Finding]:
    found = []
    for contrast in over_runs.contrasts(design):
        test = over_runs.plain_contrast(design.layout, contrast.weights, contrast.what)
        tests = _tests_with(design, contrast, in_answers=False)
        effects = twice(partial(test.detectable, power=guess.power), design.alpha, tests)
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
        world = over_runs.answers(
            design, guess, runs_vary=design.replicated, bystanders=shared, only=[*contrast.weights]
        )
        if any(len(design.layout[name]) == 1 for name in contrast.weights):
            world = replace(world, keys=over_runs.keys_of(design.layout))
        test = over_runs.contrast_of(world, contrast.weights, contrast.what)
        tests = _tests_with(design, contrast, in_answers=True)
        effects = sampled(test, design, guess, tests, 100)
        note = "" if design.replicated else ONE_RUN
        note += "A condition with one run borrows the others' variance." * (
            contrast.single and design.replicated
        )
        name = "bystander_pair" if contrast.name == "pair" else contrast.name
        found.append(points("leakage", name, contrast.what, effects, note, guess))
    return found


def _primary(design: Design, guess: Assumptions) -> list[Finding]:
    """The one test that is not corrected."""
    asked = design.primary
    if asked is None or (asked.in_answers and asked.against_base):
        return []
    if not asked.in_answers and not design.replicated:
        effect = _t_over(design.extraction_personas, guess, design.alpha)
        return [Finding("primary", "", asked.what, "sd of personas", effect, note=ONE_RUN)]
    note = "Not corrected." if design.replicated else f"Not corrected. {ONE_RUN}"
    if not asked.in_answers:
        test = over_runs.plain_contrast(design.layout, asked.weights, "primary")
        effect = test.detectable(design.alpha, guess.power)
        return [Finding("primary", "", asked.what, "sd of runs", effect, note=note)]
    world = over_runs.answers(design, guess, runs_vary=design.replicated)
    test = over_runs.contrast_of(world, asked.weights, "primary")
    sizes = sampled(test, design, guess, 1, 100) | {"corrected": None}
    return [points("primary", "", asked.what, sizes, note, guess)]


def plan(design: Design, assumptions: Assumptions) -> Plan:
    """What every test of a design could find."""
    tests = max(1, design.em + int(design.em > 1) + int(len(design.cosines) > 2))
    made = Plan(design, assumptions)
    made.findings += _primary(design, assumptions)
    made.findings += _geometry(design, assumptions)
    made.findings += _leakage_contrasts(design, assumptions)
    for part in (h1, h2, h3):
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
    return found


def _enough(alpha: float) -> int:
    n = 3
    while 2 / math.factorial(n) > alpha:
        n += 1
    return n
