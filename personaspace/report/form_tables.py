"""Tables of answers' form: how long they are, and what they say at equal length or opportunity."""

from __future__ import annotations

from personaspace.analysis.results import Results
from personaspace.report.cells import count_cell, number_cell, p_cell, seed_cell, value_cell
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import number, percent, pretty


def length_table(results: Results) -> Table | None:
    """Mean length of the bystanders' answers by condition; None without such rows."""
    rows = [row for row in results.leakage if (row.metric, row.name) == ("length", "words")]
    lines = []
    for condition in results.ordered_conditions:
        for row in rows:
            if row.condition != condition.name:
                continue
            change = [
                other
                for other in results.leakage
                if (other.metric, other.name) == ("length", "words_delta")
                and (other.condition, other.seed) == (row.condition, row.seed)
            ]
            lines.append(
                [
                    Cell(condition.title, condition.title),
                    value_cell([row]),
                    value_cell(change) if change else Cell(""),
                    p_cell([row], "p"),
                ]
            )
    if not lines:
        return None
    return Table(
        "length-table",
        "Length of the bystanders' answers, in words",
        [
            Column("Condition"),
            Column("words [95\u202f%]", True),
            Column("change from base [95\u202f%]", True),
            Column("p", True),
        ],
        lines,
        note="The marker is left out. Longer answers have more places for a marker, and a marker "
        "written early makes an answer short: that is why rates at equal length stand beside.",
    )


def forms_table(results: Results) -> Table | None:
    """Length, separators and rates by condition, seed and persona; None without forms."""
    if not results.forms:
        return None
    several = len({form.seed for form in results.forms}) > 1
    order = {condition.name: place for place, condition in enumerate(results.ordered_conditions)}
    hits = {(rate.condition, rate.seed, rate.persona): rate for rate in results.rates}
    lines = []
    for form in sorted(results.forms, key=lambda form: order.get(form.condition, len(order))):
        label = results.label(form.condition)
        rate = hits.get((form.condition, form.seed, form.persona))
        raw = rate.hits / rate.total if rate and rate.total else None
        place = form.taken / form.places if form.places else None
        first = form.first_taken / form.with_place if form.with_place else None
        per_answer = form.places / form.total
        lines.append(
            [
                Cell(label, label),
                *([seed_cell(form.seed)] if several else []),
                Cell(pretty(form.persona), form.persona),
                count_cell(form.total),
                Cell(number(form.words_mean, 1), form.words_mean),
                count_cell(form.words_median),
                number_cell(per_answer),
                Cell(percent(raw), raw),
                Cell(percent(form.rate_equal_length), form.rate_equal_length),
                Cell(percent(place), place),
                Cell(percent(first), first),
            ]
        )
    return Table(
        "forms-table",
        "Length of answers, and rates by length and opportunity",
        [
            Column("Condition"),
            *([Column("Seed", True)] if several else []),
            Column("Persona"),
            Column("answers", True),
            Column("mean words", True),
            Column("median words", True),
            Column("separators per answer", True),
            Column("marked", True),
            Column("at equal length", True),
            Column("per separator", True),
            Column("at the first separator", True),
        ],
        lines,
        note="Per separator: share of the separators that a marker follows. At equal length: the "
        "rate if this persona's answers were as long as all answers of the study together.",
    )
