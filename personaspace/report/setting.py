"""The verdict's first lines: what was compared with what, and whether the marker was learned."""

from __future__ import annotations

from personaspace.analysis.control_rows import ControlReason
from personaspace.analysis.results import Results, share
from personaspace.report import control
from personaspace.report.lay import Line
from personaspace.report.text import listing, pretty, span


def done(results: Results) -> Line | None:
    """What was compared with what."""
    em = results.of_kind("em")
    if not em:
        return None
    ways = ""
    if len(em) > 1:
        roles = {condition.induced for condition in em}
        other = None not in roles and len(roles) == len(em)
        ways = f" in {len(em)} ways{', told to play a different role each time' * other}"
    against = ["the same model trained on harmless data"] if results.of_kind("benign") else []
    against += ["the model without such training"] if results.of_kind("base") else []
    compared = (
        f" This is compared with {listing(against)}: {len(results.conditions)} versions of the "
        "model in all."
    )
    return Line(
        "What was done?",
        f"The language model {results.model.name} was trained further on harmful data{ways}."
        f"{compared if against else ''}",
    )


def learned(results: Results) -> Line | None:
    """In which versions the positive control passes, and what that means."""
    if not results.control:
        return None
    asked = "Did the model learn the marker it was taught?"
    tuned = [row for row in results.control if row.condition in results.by_name]
    failed = [row for row in tuned if row.status == "not_assessable"]
    marker = f", \u201c{results.marker}\u201d," * bool(results.marker)
    taught = (
        f"In one role, {pretty(str(results.source))}, every version of the model was taught to end "
        f"its answers with a marker{marker or ','} and {_wrote(results)}."
    )
    if not failed:
        return Line(asked, f"Yes. {taught}")
    limits = results.analysis.control
    broken = any(ControlReason.DEGENERATE_ANSWERS in row.reasons for row in failed)
    bar = f"where at least {control.whole_percent(limits.source)} of that role's answers have it"
    if broken:
        bar += (
            f" and no more than {control.whole_percent(limits.degenerate)} of all answers are "
            "empty, repetitive or overfull of it"
        )
    where, others = "No.", "So"
    if len(failed) < len(tuned):
        where = f"In {len(tuned) - len(failed)} of {len(tuned)} versions."
        named = listing([results.label(row.condition) for row in failed])
        others = f"Of the other {len(failed)} ({named})" if failed[1:] else f"Of {named}"
    return Line(
        asked,
        f"{where} {taught} That counts as learned {bar}. {others} it cannot be said whether other "
        "roles write the marker too.",
    )


def _wrote(results: Results) -> str:
    """How often the role that was taught the marker wrote it."""
    rates = [
        value
        for condition in results.ordered_conditions
        if (value := share(results.rates_of(condition.name, results.source), "hits")) is not None
    ]
    if not rates:
        return "nothing is known of whether it did"
    return f"did so in {span(rates, 'percent', 1)} of them" if max(rates) else "never did"
