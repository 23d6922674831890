"""The headline and what goes with it: sentences written from the results by fixed rules.

A rule says what was measured and how sure that is. It never says more than its numbers do: no
cause, no absence of an effect from a large p, no claim about other models or data.
"""

from __future__ import annotations

from personaspace.analysis.caveats import RARELY
from personaspace.analysis.rows import Row
from personaspace.report.figures.findings import Condition, Findings, mean_value, pooled
from personaspace.report.figures.plan import bystander_estimate, listing, m1_estimate
from personaspace.report.key import em_increment
from personaspace.report.published_vs_recommended import main_tests
from personaspace.report.text import (
    MINUS,
    NONE,
    count,
    interval,
    number,
    p_phrase,
    percent,
    row_value,
    span,
)

#: Share of degenerate answers from which marker rates say little, and from which it is mentioned.
_MOSTLY, _MENTIONED = 0.5, 0.01


def headline(findings: Findings) -> str:
    """What was found, as one paragraph."""
    found = [*_garbled(findings, _MOSTLY), *_collapse(findings), *_leakage(findings)]
    found += _tests(findings)
    return _clean(" ".join(found or [_design(findings)]))


def details(findings: Findings) -> list[str]:
    """Design and further findings, a sentence or two each."""
    found = [_design(findings), *_convergence(findings), *_separability(findings)]
    found += [*_source(findings), *_equivalence(findings)]
    return [_clean(sentence) for sentence in found]


def cautions(findings: Findings) -> list[str]:
    """What to know before relying on the headline; the caveats say more."""
    found = []
    if len(findings.seeds) == 1 and len(findings.conditions) > 1:
        found.append(
            "With one seed, differences between conditions cannot be told from differences "
            "between training runs."
        )
    if not _garbled(findings, _MOSTLY):
        found += _garbled(findings, _MENTIONED)
    found += _uncoupled(findings)
    failed = sum(1 for row in (*findings.geometry, *findings.leakage) if row.warning)
    if failed:
        found.append(
            f"{count(failed, 'result')} failed a check of assumptions; each is marked where it "
            "stands."
        )
    return found


def _clean(text: str) -> str:
    return text.replace("-" + MINUS, MINUS)


def _garbled(findings: Findings, least: float) -> list[str]:
    known = [rate for rate in findings.rates if rate.degenerate is not None]
    total = sum(rate.total for rate in known)
    share = sum(rate.degenerate or 0 for rate in known) / total if total else 0.0
    if share < least or not total:
        return []
    so = ", so that marker rates say little about leakage" if share >= _MOSTLY else ""
    return [
        f"{percent(share)} of all answers are degenerate (empty, repetitive or with more than one "
        f"marker){so}."
    ]


def _uncoupled(findings: Findings) -> list[str]:
    """Conditions in which low leakage says little, since the source does not mark either."""
    if findings.source is None:
        return []
    rates = [findings.rate(arm.name, findings.source) for arm in findings.arms]
    known = [rate for rate in rates if rate is not None]
    rare = sum(rate < RARELY for rate in known)
    if not rare:
        return []
    where = f"{rare} of {count(len(known), 'condition')}" if rare < len(known) else "all conditions"
    return [
        f"In {where} the persona that was taught the marker writes it in less than "
        f"{percent(RARELY, 0)} of its own answers: low leakage says little there."
    ]


def _arms(findings: Findings, kind: str) -> list[Condition]:
    return [arm for arm in findings.arms if arm.kind == kind]


def _design(findings: Findings) -> str:
    em, benign = _arms(findings, "em"), _arms(findings, "benign")
    parts = ["the untrained base"] if _arms(findings, "base") else []
    if benign:
        parts.append(
            "benign fine-tuning" if len(benign) == 1 else f"{len(benign)} benign trainings"
        )
    if em:
        parts.append(f"harmful fine-tuning (EM) under {count(len(em), 'persona')}")
    seeds = findings.seeds
    trained = f"with {count(len(seeds), 'seed')}" if seeds else "with no seed on record"
    return f"{findings.model.name} was compared across {listing(parts)}, {trained}."


def _collapse(findings: Findings) -> list[str]:
    place = (findings.hero_method, findings.hero_layer)

    def values(kind: str) -> list[float]:
        found = [m1_estimate(findings, arm, *place) for arm in _arms(findings, kind)]
        return [each.value for each in found if each]

    base, benign, em = values("base"), values("benign"), values("em")
    if not (base and (benign or em)):
        return []
    parts = [f"{number(base[0])} in the base model"]
    parts += [f"{span(em)} after harmful fine-tuning (EM)"] if em else []
    parts += [f"{span(benign)} after benign fine-tuning"] if benign else []
    where = f"layer {findings.hero_layer}, method {(findings.hero_method or NONE).upper()}"
    found = [
        f"In {findings.model.name} ({where}), the mean cosine between persona vectors was "
        f"{listing(parts)}."
    ]
    if benign and em:
        generic = sum(benign) / len(benign) - base[0]
        harmful = sum(em) / len(em) - base[0]
        if 0 < generic < harmful:
            found.append(
                f"Benign training alone gave {percent(generic / harmful, 0)} of the mean rise "
                f"under EM{_share_interval(findings)}{_increment_clause(findings)}."
            )
        else:
            found.append(
                f"The change under benign training was {number(generic, 3, sign=True)}, under EM "
                f"{number(harmful, 3, sign=True)} on average{_increment_clause(findings)}."
            )
    return found


def _at_hero(findings: Findings, metric: str, name: str) -> list[Row]:
    place = (metric, "recommended", name, findings.hero_method)
    return [
        row
        for row in findings.geometry
        if (row.metric, row.variant, row.name, row.method) == place
        and row.layer in (findings.hero_layer, None)
        and row.value is not None
    ]


def _share_interval(findings: Findings) -> str:
    one = pooled(_at_hero(findings, "M1", "em_mean_benign_share"))
    if one is None or one.ci95 is None:
        return ""
    low, high = one.ci95
    return f" (95\u00a0% interval {percent(low, 0)} to {percent(high, 0)})"


def _increment_clause(findings: Findings) -> str:
    found = [em_increment(findings, arm) for arm in _arms(findings, "em")]
    known = [each for each in found if each]
    if not known:
        return ""
    low = min(each.value for each in known)
    high = max(each.value for each in known)
    ends = [number(low, 3, sign=True), number(high, 3, sign=True)]
    words = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    clause = f"; EM less benign: {words}"
    tested = [each.interval for each in known if each.interval]
    if tested:
        clear = sum(1 for low_end, high_end in tested if low_end > 0 or high_end < 0)
        clause += (
            f", with a 95\u00a0% interval clear of zero in {clear} of {len(tested)} conditions"
        )
    return clause


def _leakage(findings: Findings) -> list[str]:
    em = [(arm, bystander_estimate(findings, arm)) for arm in _arms(findings, "em")]
    known = sorted((each.value, arm.title) for arm, each in em if each)
    controls = []
    for kind, name in (("base", "the base model"), ("benign", "benign fine-tuning")):
        arms = [bystander_estimate(findings, arm) for arm in _arms(findings, kind)]
        values = [each.value for each in arms if each]
        controls += [f"{span(values, 'percent', 1)} with {name}"] if values else []
    if not known:
        words = f"Bystander personas wrote the marker in {listing(controls)}."
        return [words] if controls else []
    (low, first), (high, last) = known[0], known[-1]
    if len(known) == 1:
        words = f"{percent(low)} of their answers ({first})"
    else:
        words = f"{percent(low)} ({first}) to {percent(high)} ({last}) of their answers"
    against = (
        f", against {listing(controls)}."
        if controls
        else "; no control arm was evaluated, so this cannot be set against ordinary leakage."
    )
    return [f"After EM, bystander personas wrote the marker in {words}{against}"]


def _source(findings: Findings) -> list[str]:
    if findings.source is None:
        return []
    rates = [findings.rate(arm.name, findings.source) for arm in findings.arms]
    shown = [rate for rate in rates if rate is not None]
    if not shown:
        return []
    return [
        f"The source persona, which was trained to write the marker, did so in "
        f"{span(shown, 'percent', 1)} of its answers."
    ]


def _convergence(findings: Findings) -> list[str]:
    method = findings.hero_method
    rows = [
        row
        for row in findings.geometry
        if (row.metric, row.name, row.method) == ("M2", "convergence_layer", method)
    ]
    if not rows:
        return []
    known = [row for row in rows if row.value is not None]
    near = (
        "the harmful conditions' shifts along the axis of harmful training lie within a tenth of "
        "their mean of each other"
    )
    if not known:
        return [f"M2: there is no layer, of those measured, from which on {near}."]
    one = pooled(known)
    if one is not None and one.value is not None:
        ends = f" (95\u00a0% interval {interval(one.ci95, 0)})" if one.ci95 else ""
        return [f"M2: from layer {one.value:g} on{ends}, {near}."]
    layers = sorted(row.value for row in known if row.value is not None)
    return [
        f"M2: from layer {layers[0]:g} to {layers[-1]:g} on, in {len(known)} of {len(rows)} seeds "
        f"taken one by one, {near}."
    ]


def _separability(findings: Findings) -> list[str]:
    rows = _at_hero(findings, "M3", "nearest_centroid_above_chance")
    values = {
        kind: [
            value
            for arm in _arms(findings, kind)
            if (value := mean_value([row for row in rows if row.condition == arm.name])) is not None
        ]
        for kind in ("base", "em")
    }
    if not (values["base"] and values["em"]):
        return []
    chance = next((row.base for row in rows if row.base is not None), None)
    words = f"; guessing gives {percent(chance)}" if chance is not None else ""
    return [
        f"M3: a nearest-centroid rule names the persona of a held-out question in "
        f"{span(values['base'], 'percent', 1)} of cases with the base model and in "
        f"{span(values['em'], 'percent', 1)} after EM{words}."
    ]


def _adjusted(row: Row) -> float | None:
    return row.p_holm if row.p_holm is not None else row.p_bh if row.p_bh is not None else row.p


def _tests(findings: Findings) -> list[str]:
    alpha = findings.analysis.alpha
    tested = main_tests(findings)
    found = []
    h1 = [(row, p) for row in tested if row.metric == "H1" and (p := _adjusted(row)) is not None]
    if h1:
        more = sum(1 for row, p in h1 if p < alpha and (row.value or 0) > 0)
        less = sum(1 for row, p in h1 if p < alpha and (row.value or 0) < 0)
        fewer = f" and less in {less}" if less else ""
        corrected = any(row.p_holm is not None or row.p_bh is not None for row, _ in h1)
        words = f"{', corrected' if corrected else ''}"
        found.append(
            f"H1: the persona trained under leaked more than bystanders in {more} of "
            f"{count(len(h1), 'test')}{fewer} (\u03b1\u00a0=\u00a0{alpha:g}{words})."
        )
    for metric, what in (
        ("H2", "mean leakage differed across EM conditions by"),
        ("H3", "the rank correlation of leakage with the cosine to the assistant was"),
    ):
        mine = [row for row in tested if row.metric == metric]
        if mine:
            found.append(f"{metric}: {what} {_verdict(mine, alpha)}.")
    return found


def _equivalence(findings: Findings) -> list[str]:
    """What the equivalence tests of H1 show: alone these allow to say that there is little."""
    rows = [
        row
        for row in findings.leakage
        if (row.metric, row.name) == ("H1", "equivalence") and row.p is not None
    ]
    margins = {row.effect for row in rows}
    if len(margins) != 1 or None in margins:
        return []
    close = sum(1 for row in rows if (row.p or 0.0) < findings.analysis.alpha)
    margin = f"\u00b1{100 * (margins.pop() or 0):g} points"
    return [
        f"H1: an equivalence test puts the difference to bystanders within {margin} in {close} of "
        f"{count(len(rows), 'condition')}."
    ]


def _verdict(rows: list[Row], alpha: float) -> str:
    """A test's estimate and p; over single seeds where there is no test of all of them."""
    one = pooled(rows)
    if one is not None:
        p = _adjusted(one)
        kind = "adjusted " if p is not None and p != one.p else ""
        judged = "" if p is None else f" ({kind}{p_phrase(p)}{'' if p < alpha else ', not shown'})"
        return f"{row_value(one, 2)}{judged}"
    ordered = sorted(rows, key=lambda row: row.value or 0.0)
    known = [p for row in rows if (p := _adjusted(row)) is not None]
    clear = sum(1 for p in known if p < alpha)
    return (
        f"{row_value(ordered[0], 2)} to {row_value(ordered[-1], 2)} in {len(rows)} seeds taken one "
        f"by one (p below {alpha:g} in {clear} of {len(known)})"
    )
