"""Is a condition misaligned? What a judge says of it, in a sentence and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from personaspace.analysis.judged_rows import JudgedRow, JudgeErrors, JudgeInfo
from personaspace.analysis.results import Results
from personaspace.report.cells import count_cell, points_cell, seed_cell, share_cell
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import (
    NONE,
    count,
    listing,
    number,
    percent,
    pretty,
    share_with_interval,
    with_interval,
)

WITHOUT = "no system message"
_SHOWS = (
    "Shows how often the fine-tuned model, before any marker is taught, gives answers to open "
    "questions that a person would call misaligned, as far as the judge errs here as it does on "
    "the gold set."
)
_CANNOT = (
    "It cannot show more than these questions ask for, nor what a person would say of these very "
    "answers: the gold set is made of other texts, in clear cases. With one seed, training runs "
    "are not told apart from conditions."
)

_RUNS = (
    " Rows over all seeds have training runs as samples beside questions: how runs differ is in "
    "their intervals, which two or three runs leave wide."
)


def plain(results: Results) -> list[JudgedRow]:
    """Without a system message, over all seeds: a row for each condition, as figures order them."""
    found = []
    for condition in results.ordered_conditions:
        mine = [
            row for row in results.judged if row.condition == condition.name and row.persona is None
        ]
        found += [row for row in mine if row.seed is None] or mine[:1]
    return found


def _share(value: float | None, ends: tuple[float, float] | None, sign: bool = False) -> Cell:
    return points_cell(value, ends) if sign else share_cell(value, ends)


def rate_cell(row: JudgedRow | None) -> Cell:
    """The corrected rate, or the raw one, marked, where it cannot be corrected."""
    if row is None:
        return Cell(NONE)
    if row.corrected is None:
        return Cell(f"{percent(row.rate)} (raw)", row.rate)
    return _share(row.corrected, row.corrected_ci95)


def _worth(errors: JudgeErrors | None) -> str:
    """What the judge is worth, as a sentence."""
    if errors is None:
        return "Its errors are not known (the base condition was not judged): rates are raw."
    told = (
        f"On the gold set it finds {percent(errors.sensitivity, 0)} of the misaligned answers "
        f"({errors.found} of {errors.misaligned}) and clears {percent(errors.specificity, 0)} of "
        f"the others ({errors.cleared} of {errors.others})."
    )
    if errors.usable:
        return told
    return (
        f"{told} That is no better than chance, as far as the gold set tells: its verdicts say "
        "nothing about any condition, and nothing is corrected by them."
    )


def sentences(results: Results) -> list[str]:
    """What was found, what it is worth, and what it cannot show."""
    judge = results.judge
    if judge is None:
        return []
    named = judge.model + (f" at {judge.revision}" if judge.revision else "")
    found = [
        f"{named} scored answers to {count(judge.questions, 'open question')}; an answer is called "
        f"misaligned with alignment below {judge.misaligned_below:g} and coherence above "
        f"{judge.coherent_above:g} (of 100). {_worth(judge.errors)}"
    ]
    if judge.errors is not None and judge.errors.usable:
        parts = [
            f"{_with_ends(row.corrected, row.corrected_ci95)} in {results.label(row.condition)}"
            for row in plain(results)
        ]
        found.append(f"Misaligned answers, corrected for the judge's errors: {listing(parts)}.")
    return [*found, _SHOWS, _CANNOT]


def rates_table(results: Results) -> Table:
    """A row for each condition, persona and seed."""
    several = len(results.seeds) > 1
    order = {condition.name: place for place, condition in enumerate(results.ordered_conditions)}
    rows: list[Sequence[Cell]] = []
    for row in sorted(results.judged, key=lambda row: order.get(row.condition, len(order))):
        label = results.label(row.condition)
        persona = WITHOUT if row.persona is None else pretty(row.persona)
        rows.append(
            [
                Cell(label, label),
                Cell(persona, persona),
                *([seed_cell(row.seed)] if several else []),
                count_cell(row.answers),
                count_cell(row.coherent),
                count_cell(row.no_number),
                Cell(number(row.alignment, 1), row.alignment),
                Cell(number(row.coherence, 1), row.coherence),
                _share(row.rate, row.ci95),
                _share(row.corrected, row.corrected_ci95),
                _share(row.delta, row.delta_ci95, sign=True),
            ]
        )
    return Table(
        "judged-table",
        "Misaligned answers to open questions",
        [
            Column("Condition"),
            Column("Persona"),
            *([Column("Seed", True)] if several else []),
            Column("answers", True),
            Column("coherent", True),
            Column("no number", True),
            Column("alignment", True),
            Column("coherence", True),
            Column("called misaligned [95\u202f%]", True),
            Column("corrected [95\u202f%]", True),
            Column("raw, minus base [95\u202f%]", True),
        ],
        rows,
        note="Of the fine-tuned model, before coupling. Called misaligned: the judge's verdicts as "
        "they are. Corrected: for the judge's errors on the gold set (Rogan and Gladen 1978; "
        "interval of Lang and Reiczigel 2014, questions or themes as clusters); empty where it is "
        "no better than chance. Answers without a number count as not misaligned."
        + (_RUNS if several else ""),
    )


def gold_table(errors: JudgeErrors) -> Table:
    """What the judge says of each kind of answer in the gold set."""
    return Table(
        "gold-table",
        "The judge on answers with agreed labels",
        [
            Column("Kind of answer"),
            Column("answers", True),
            Column("misaligned by label", True),
            Column("called misaligned", True),
            Column("no number", True),
            Column("mean alignment", True),
            Column("mean coherence", True),
        ],
        [
            [
                Cell(kind.kind, kind.kind),
                count_cell(kind.answers),
                count_cell(kind.misaligned),
                count_cell(kind.called),
                count_cell(kind.no_number),
                Cell(number(kind.alignment, 1), kind.alignment),
                Cell(number(kind.coherence, 1), kind.coherence),
            ]
            for kind in errors.kinds
        ],
        note=f"Sensitivity {_with_ends(errors.sensitivity, errors.sensitivity_ci95)}, specificity "
        f"{_with_ends(errors.specificity, errors.specificity_ci95)}, their sum less one "
        f"{' '.join(with_interval(errors.youden, errors.youden_ci95, 2))} (0: no better "
        "than chance).",
    )


def _with_ends(value: float | None, ends: tuple[float, float] | None) -> str:
    return " ".join(share_with_interval(value, ends))


def section(results: Results) -> dict[str, Any] | None:
    """The page's section; None without a judge."""
    judge: JudgeInfo | None = results.judge
    if judge is None:
        return None
    return {
        "sentences": sentences(results),
        "rates": rates_table(results) if results.judged else None,
        "gold": gold_table(judge.errors) if judge.errors else None,
    }
