"""The headline and what goes with it: sentences written from the results by fixed rules.

A rule says what was measured and how sure that is. It never says more than its numbers do: no
cause, no absence of an effect from a large p, no claim about other models or data.
"""

from __future__ import annotations

from personaspace.analysis.control_rows import ControlReason
from personaspace.analysis.results import Results, share
from personaspace.analysis.results_parts import ConditionKind, StudyCondition
from personaspace.analysis.rows import Row
from personaspace.report import control, endpoint, failed
from personaspace.report.estimates import bystander_estimate, m1_estimate
from personaspace.report.key import em_increment
from personaspace.report.published_vs_recommended import main_tests
from personaspace.report.selection import mean_value, pooled
from personaspace.report.text import (
    MINUS,
    NONE,
    WITHIN,
    count,
    interval,
    listing,
    number,
    p_phrase,
    percent,
    row_value,
    span,
    tiny,
)

#: Share of degenerate answers from which it is mentioned.
_MENTIONED = 0.01


def headline(results: Results) -> str:
    """What was found, as one paragraph."""
    first = control.sentence(results)
    found = [
        *endpoint.sentences(results),
        *([first] if first else []),
        *_collapse(results),
        *_leakage(results),
    ]
    found += _tests(results)
    return _clean(" ".join(found or [_design(results)]))


def details(results: Results) -> list[str]:
    """Design and further results, a sentence or two each."""
    found = [_design(results), *_convergence(results), *_separability(results)]
    found += [*_source(results), *_equivalence(results), endpoint.note(results)]
    return [_clean(sentence) for sentence in found]


def cautions(results: Results) -> list[str]:
    """What to know before relying on the headline; the caveats say more."""
    found = []
    if results.single_runs and len(results.conditions) > 1:
        found.append(
            "With one training run each, differences between conditions cannot be told from "
            "differences between training runs."
        )
    found += _garbled(results)
    mixed = control.seeds_sentence(results)
    found += [mixed] if mixed else []
    return [*found, *failed.sentences(results)]


def _clean(text: str) -> str:
    return text.replace("-" + MINUS, MINUS)


def _garbled(results: Results) -> list[str]:
    """Degenerate answers that are too few for the positive control to tell of them."""
    garbled = share(results.rates, "degenerate")
    if garbled is None or garbled < _MENTIONED:
        return []
    if any(ControlReason.DEGENERATE_ANSWERS in row.reasons for row in results.control):
        return []
    return [
        f"{percent(garbled)} of all answers are degenerate (empty, repetitive or with more than "
        "one marker)."
    ]


def _design(results: Results) -> str:
    em, benign = results.of_kind("em"), results.of_kind("benign")
    parts = ["the untrained base"] if results.of_kind("base") else []
    if benign:
        parts.append(
            "benign fine-tuning" if len(benign) == 1 else f"{len(benign)} benign trainings"
        )
    if em:
        parts.append(f"harmful fine-tuning (EM) under {count(len(em), 'persona')}")
    trained = "with no seed on record"
    if results.seeds:
        numbers = sorted(set(results.runs.values()) or {len(results.seeds)})
        trained = f"with {count(numbers[-1], 'seed')}"
        if len(numbers) > 1:
            trained = f"with {numbers[0]} to {count(numbers[-1], 'seed')} a condition"
    return f"{results.model.name} was compared across {listing(parts)}, {trained}."


def _collapse(results: Results) -> list[str]:
    place = (results.headline_method, results.headline_layer)

    def values(kind: ConditionKind) -> list[float]:
        found = [m1_estimate(results, condition, *place) for condition in results.of_kind(kind)]
        return [each.value for each in found if each]

    base, benign, em = values("base"), values("benign"), values("em")
    if not (base and (benign or em)):
        return []
    parts = [f"{number(base[0])} in the base model"]
    parts += [f"{span(em)} after harmful fine-tuning (EM)"] if em else []
    parts += [f"{span(benign)} after benign fine-tuning"] if benign else []
    where = f"layer {results.headline_layer}, method {(results.headline_method or NONE).upper()}"
    found = [
        f"In {results.model.name} ({where}), the mean cosine between persona vectors was "
        f"{listing(parts)}."
    ]
    if benign and em:
        generic = sum(benign) / len(benign) - base[0]
        harmful = sum(em) / len(em) - base[0]
        if 0 < generic < harmful:
            found.append(
                f"Benign training alone gave {percent(generic / harmful, 0)} of the mean rise "
                f"under EM{_share_interval(results)}{_increment_clause(results)}."
            )
        else:
            found.append(
                f"The change under benign training was {number(generic, 3, sign=True)}, under EM "
                f"{number(harmful, 3, sign=True)} on average{_increment_clause(results)}."
            )
    return found


def _at_hero(results: Results, metric: str, name: str) -> list[Row]:
    place = (metric, "recommended", name, results.headline_method)
    return [
        row
        for row in results.geometry
        if (row.metric, row.variant, row.name, row.method) == place
        and row.layer in (results.headline_layer, None)
        and row.value is not None
    ]


def _share_interval(results: Results) -> str:
    one = pooled(_at_hero(results, "M1", "em_mean_benign_share"))
    if one is None or one.ci95 is None:
        return ""
    within = f", {WITHIN}" if one.run_variation is False else ""
    return f" (95\u00a0% interval {span(one.ci95, 'percent', 0, apart=True)}{within})"


def _increment_clause(results: Results) -> str:
    found = [em_increment(results, condition) for condition in results.of_kind("em")]
    known = [each for each in found if each]
    if not known:
        return ""
    low = min(each.value for each in known)
    high = max(each.value for each in known)
    clause = f"; EM minus benign: {span([low, high], sign=True)}"
    if tiny(low) and tiny(high):
        clause += f", less than a thousandth{' either way' * (low < 0 < high)}"
    tested = [each.interval for each in known if each.interval]
    if tested:
        above, below = sum(ends[0] > 0 for ends in tested), sum(ends[1] < 0 for ends in tested)
        tests = count(len(tested), "condition")
        where = f"above zero in {above} and below zero in {below} of {tests}"
        if not (above or below):
            where = f"that holds zero in {'all ' * (len(tested) > 1)}{tests}"
        clause += f", with a 95\u00a0% interval{f' ({WITHIN})' * results.single_runs} {where}"
    return clause


def _assessable(results: Results, kind: ConditionKind) -> list[StudyCondition]:
    return [c for c in results.of_kind(kind) if c.name not in results.not_assessable]


def _leakage(results: Results) -> list[str]:
    em = [
        (condition, bystander_estimate(results, condition))
        for condition in _assessable(results, "em")
    ]
    known = sorted((each.value, condition.title) for condition, each in em if each)
    controls = []
    for mine, name in (
        (_assessable(results, "base"), "the base model"),
        (_assessable(results, "benign"), "benign fine-tuning"),
    ):
        found = [bystander_estimate(results, condition) for condition in mine]
        values = [each.value for each in found if each]
        controls += [f"{_shares(values)} with {name}"] if values else []
    if not known:
        words = f"Bystander personas wrote the marker in {listing(controls)}."
        return [words] if controls else []
    (low, first), (high, last) = known[0], known[-1]
    if len(known) == 1 or percent(low) == percent(high):
        first = first if len(known) == 1 else "in every condition"
        words = f"{_shares([low])} of their answers ({first})"
    else:
        words = f"{percent(low)} ({first}) to {percent(high)} ({last}) of their answers"
    against = (
        f", against {listing(controls)}."
        if controls
        else "; no control condition was assessed, so this cannot be set against ordinary leakage."
    )
    return [f"After EM, bystander personas wrote the marker in {words}{against}"]


def _shares(values: list[float]) -> str:
    """Shares of answers as a range; none is a word."""
    return span(values, "percent", 1) if max(values) > 0 else "none"


def _source(results: Results) -> list[str]:
    if results.source is None:
        return []
    rates = [
        results.rate(condition.name, results.source) for condition in results.ordered_conditions
    ]
    shown = [rate for rate in rates if rate is not None]
    if not shown:
        return []
    return [
        f"The source persona, which was trained to write the marker, did so in "
        f"{_shares(shown)} of its answers."
    ]


def _convergence(results: Results) -> list[str]:
    method = results.headline_method
    rows = [
        row
        for row in results.geometry
        if (row.metric, row.name, row.method) == ("M2", "convergence_layer", method)
    ]
    if not rows:
        return []
    known = [row for row in rows if row.value is not None]
    near = (
        "the harmful conditions' shifts along the axis of harmful training stay within a tenth of "
        "their mean of each other"
    )
    one = pooled(rows)
    if not known or (one is not None and one.value is None):
        return [f"M2: no measured layer was found from which {near}."]
    if one is not None and one.value is not None:
        ends = f" (95\u00a0% interval {interval(one.ci95, 0)})" if one.ci95 else ""
        return [f"M2: from layer {one.value:g} on{ends}, {near}."]
    layers = sorted(row.value for row in known if row.value is not None)
    ends = " to ".join(dict.fromkeys(f"{layer:g}" for layer in (layers[0], layers[-1])))
    return [
        f"M2: from layer {ends} on, in {len(known)} of {count(len(rows), 'seed')} "
        f"analysed separately, {near}."
    ]


def _separability(results: Results) -> list[str]:
    rows = _at_hero(results, "M3", "nearest_centroid_above_chance")

    def values(kind: ConditionKind) -> list[float]:
        found = [
            mean_value([row for row in rows if row.condition == condition.name])
            for condition in results.of_kind(kind)
        ]
        return [value for value in found if value is not None]

    base, em = values("base"), values("em")
    if not (base and em):
        return []
    chance = next((row.base for row in rows if row.base is not None), None)
    words = f"; guessing gives {percent(chance)}" if chance is not None else ""
    return [
        f"M3: a nearest-centroid rule names the persona of a held-out question in "
        f"{span(base, 'percent', 1)} of cases with the base model and in "
        f"{span(em, 'percent', 1)} after EM{words}."
    ]


def _adjusted(row: Row) -> float | None:
    return row.p_holm if row.p_holm is not None else row.p_bh if row.p_bh is not None else row.p


def _tests(results: Results) -> list[str]:
    alpha = results.analysis.alpha
    tested = main_tests(results)
    found = []
    h1 = [(row, p) for row in tested if row.metric == "H1" and (p := _adjusted(row)) is not None]
    if h1:
        more = sum(1 for row, p in h1 if p < alpha and (row.value or 0) > 0)
        less = sum(1 for row, p in h1 if p < alpha and (row.value or 0) < 0)
        fewer = f" and less in {less}" if less else ""
        corrected = any(row.p_holm is not None or row.p_bh is not None for row, _ in h1)
        words = f"{', corrected' if corrected else ''}"
        own = all(row.name == "own_minus_other_conditions" for row, _ in h1)
        than = "in its own condition than in the others" if own else "than bystanders"
        found.append(
            f"H1: the persona trained under leaked more {than} in {more} of "
            f"{count(len(h1), 'test')}{fewer} (\u03b1\u00a0=\u00a0{alpha:g}{words})."
        )
    for metric, what in (
        ("H2", "mean leakage differed across EM conditions by"),
        ("H3", "the rank correlation of leakage with the cosine to the assistant was"),
    ):
        mine = [row for row in tested if row.metric == metric and row.status != "not_assessable"]
        if mine:
            found.append(f"{metric}: {what} {_verdict(mine, alpha)}.")
    return found


def _equivalence(results: Results) -> list[str]:
    """What the equivalence tests of H1 show: alone these allow to say that there is little."""
    rows = [
        row
        for row in results.leakage
        if (row.metric, row.name) == ("H1", "equivalence") and row.p is not None
    ]
    margins = {row.effect for row in rows}
    if len(margins) != 1 or None in margins:
        return []
    close = sum(1 for row in rows if (row.p or 0.0) < results.analysis.alpha)
    margin = f"\u00b1{100 * (margins.pop() or 0):g} points"
    return [
        f"H1: an equivalence test puts the difference from bystanders within {margin} in {close} "
        f"of {count(len(rows), 'condition')}."
    ]


def _verdict(rows: list[Row], alpha: float) -> str:
    """A test's estimate and p; over single seeds where there is no test of all of them."""
    one = pooled(rows)
    if one is not None:
        p = _adjusted(one)
        kind = "adjusted " if p is not None and p != one.p else ""
        verdict = "" if p is None or p < alpha else "not significant, "
        judged = "" if p is None else f" ({verdict}{kind}{p_phrase(p)})"
        return f"{row_value(one, 2)}{judged}"
    ordered = sorted(rows, key=lambda row: row.value or 0.0)
    known = [(row, p) for row in rows if (p := _adjusted(row)) is not None]
    clear = [row.value or 0.0 for row, p in known if p < alpha]
    above, below = sum(value > 0 for value in clear), sum(value < 0 for value in clear)
    ways = f": {above} above zero, {below} below" if below else ""
    ends = [row_value(ordered[0], 2), row_value(ordered[-1], 2)]
    return (
        f"{' to '.join(dict.fromkeys(ends))} in {count(len(rows), 'seed')} tested "
        f"separately (p below {alpha:g} in {len(clear)} of {len(known)}{ways})"
    )
