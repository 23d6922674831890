"""The headline: a few sentences written from the results by fixed rules.

A rule says what was measured and how sure that is. It never says more than its numbers do: no
cause, no absence of an effect from a large p, no claim about other models or data.
"""

from __future__ import annotations

from personaspace.figures.findings import Condition, Findings, Row, pooled
from personaspace.figures.plan import bystander_estimate, listing, m1_estimate
from personaspace.report.results import em_increment, main_tests
from personaspace.report.text import (
    MINUS,
    count,
    number,
    p_phrase,
    percent,
    row_value,
    span,
)


def sentences(findings: Findings) -> list[str]:
    """The headline's sentences, in order."""
    found = [_design(findings), *_collapse(findings), *_leakage(findings), *_tests(findings)]
    return [*found, *_limits(findings)]


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
    parts += [f"{span(benign)} after benign fine-tuning"] if benign else []
    parts += [f"{span(em)} after EM"] if em else []
    method = (findings.hero_method or "").upper()
    where = f"At layer {findings.hero_layer} (method {method})"
    found = [f"{where} the mean cosine between persona vectors was {listing(parts)}."]
    if benign and em:
        generic = sum(benign) / len(benign) - base[0]
        harmful = sum(em) / len(em) - base[0]
        if 0 < generic < harmful:
            found.append(
                f"Benign training alone gave {percent(generic / harmful, 0)} of the mean rise "
                f"under EM{_increment_clause(findings)}."
            )
        else:
            found.append(
                f"The change under benign training was {number(generic, 3, sign=True)}, under EM "
                f"{number(harmful, 3, sign=True)} on average{_increment_clause(findings)}."
            )
    return found


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
        clause += f", with a 95 % interval clear of zero in {clear} of {len(tested)} conditions"
    return clause


def _leakage(findings: Findings) -> list[str]:
    em = [(arm, bystander_estimate(findings, arm)) for arm in _arms(findings, "em")]
    known = sorted((each.value, arm.title) for arm, each in em if each)
    found: list[str] = []
    if known:
        (low, first), (high, last) = known[0], known[-1]
        if len(known) == 1:
            words = f"in {percent(low)} of their answers ({first})"
        else:
            words = f"in {percent(low)} ({first}) to {percent(high)} ({last}) of their answers"
        found.append(f"After EM, bystander personas wrote the marker {words}.")
    controls = []
    for kind, name in (("base", "the base model"), ("benign", "benign fine-tuning")):
        arms = [bystander_estimate(findings, arm) for arm in _arms(findings, kind)]
        values = [each.value for each in arms if each]
        controls += [f"{span(values, 'percent', 1)} with {name}"] if values else []
    if controls:
        subject = "they did so" if known else "bystander personas wrote the marker"
        found.append(f"Without harmful training, {subject} in {listing(controls)}.")
    elif known:
        found.append(
            "No control arm was evaluated, so this cannot be set against ordinary leakage."
        )
    if findings.source:
        rates = [findings.rate(arm.name, findings.source) for arm in findings.arms]
        shown = [rate for rate in rates if rate is not None]
        if shown:
            found.append(
                f"The source persona, which was trained to write it, did so in "
                f"{span(shown, 'percent', 1)} of its answers."
            )
    return found


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
        words = f"{', corrected for multiple tests' if corrected else ''}"
        found.append(
            f"H1: the persona trained under was found to leak more than bystanders in {more} of "
            f"{count(len(h1), 'test')}{fewer} (\u03b1\u00a0=\u00a0{alpha:g}{words})."
        )
    found += _equivalence(findings)
    common = "over the personas that are bystanders in all of them, "
    for metric, what in (
        ("H2", "the range of mean leakage across EM conditions{set}was"),
        ("H3", "the rank correlation of mean leakage with the cosine to the assistant{set}was"),
    ):
        mine = [row for row in tested if row.metric == metric]
        if mine:
            on_common = all(row.name == "common_set" for row in mine) and metric == "H2"
            words = what.format(set=f", {common}" if on_common else " ")
            found.append(f"{metric}: {words} {_verdict(mine, alpha)}.")
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
    return [f"An equivalence test puts the difference within {margin} in {close} of {len(rows)}."]


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


def _limits(findings: Findings) -> list[str]:
    found = []
    if len(findings.seeds) == 1 and len(findings.conditions) > 1:
        found.append(
            "With one seed, differences between conditions cannot be told from differences "
            "between training runs."
        )
    known = [rate for rate in findings.rates if rate.degenerate is not None]
    total = sum(rate.total for rate in known)
    garbled = sum(rate.degenerate or 0 for rate in known)
    if total and garbled / total >= 0.01:
        found.append(
            f"{percent(garbled / total)} of all answers are degenerate (empty, repetitive or with "
            "more than one marker)."
        )
    return found


def headline(findings: Findings) -> str:
    """The headline as one paragraph."""
    return " ".join(sentences(findings)).replace("-" + MINUS, MINUS)
