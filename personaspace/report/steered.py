"""What vectors cause: steering in a sentence for each vector, and a table of every dose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from personaspace.analysis.results import Results
from personaspace.analysis.steering_rows import SteeringMeasure, SteeringRow
from personaspace.report import published_vs_recommended
from personaspace.report.cells import estimate_cell, seed_cell
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import (
    MINUS,
    NONE,
    count,
    interval,
    number,
    p_phrase,
    pretty,
    probability,
    span,
    with_interval,
)

_MODELS = {"base": "base", "own": "its own model"}
#: What each measure is called in the table, and its sign is of.
MEASURES = {
    SteeringMeasure.ADVICE: "bad less good advice",
    SteeringMeasure.GOOD: "good advice",
    SteeringMeasure.DEGENERATE: "degenerate answers",
    SteeringMeasure.SURPRISE: "surprise of answers",
}
_SHOWS = (
    "Shows what moving the hidden states of one layer does to the model, at every position of "
    "prompt and answer. It cannot show that this vector alone does it. Random directions are mild "
    "opponents, since most of them lead where no text of the model ever does: go by the p among "
    "directions drawn as activations vary."
)


def vector_name(results: Results, row: SteeringRow) -> str:
    """Whose vector, in words."""
    label = results.label(row.condition)
    return f"shift of {label}" if row.vector == "shift" else f"{pretty(row.vector)} ({label})"


def told_rows(results: Results) -> list[SteeringRow]:
    """Rows over all runs of a vector, and those of a run where there is but one."""
    several = {(r.condition, r.mode, r.vector) for r in results.steering if r.runs > 1}
    return [
        row
        for row in results.steering
        if row.runs > 1 or (row.condition, row.mode, row.vector) not in several
    ]


def tests(results: Results) -> list[SteeringRow]:
    """The row of each vector that carries its test: over all doses, or ablated."""
    return [
        row
        for row in told_rows(results)
        if row.measure is SteeringMeasure.ADVICE and row.dose is None and row.delta is not None
    ]


def _sentence(results: Results, row: SteeringRow) -> str:
    """What one vector did to bad advice, and whether random directions do as much."""
    name, seed = vector_name(results, row), ""
    if len(results.seeds) > 1 and row.seed is not None:
        seed = f", seed {row.seed}"
    if row.runs > 1:
        seed = f", mean of {row.runs} runs"
    if row.mode == "add":
        done = f"Adding the {name} to the base model{seed}"
        unit = "per dose"
    else:
        done = f"Projecting the {name} out of {_MODELS[row.model]}{seed}"
        unit = "in all"
    told = (
        f"{done} changes how likely bad advice is against good by "
        f"{' '.join(with_interval(row.delta, row.delta_ci95, sign=True))} nats per token {unit}"
    )
    if not (row.controls or row.matched):
        return f"{told}; there are no other directions to compare with."
    alpha = results.analysis.alpha
    if row.controls:
        what, ends = count(row.controls, "random direction"), (row.control_low, row.control_high)
        told += f"; {what} of its length: {_among(ends, row.p, row.p_floor, alpha)}"
    if row.matched:
        what, ends = count(row.matched, "direction"), (row.matched_low, row.matched_high)
        told += f"; {what} of its length drawn as activations vary: "
        told += _among(ends, row.p_matched, row.p_matched_floor, alpha)
    return f"{told}."


def _among(
    ends: tuple[float | None, float | None], p: float | None, floor: float | None, alpha: float
) -> str:
    """The range of other directions, and the vector's rank among them."""
    known = [end for end in ends if end is not None]
    told = span(known, sign=True) if known else NONE
    if p is None:
        return told
    low = floor is not None and floor > alpha
    few = f"; with so few it cannot be below {probability(floor)}" if low else ""
    return f"{told} ({p_phrase(p)}{few})"


def sentences(results: Results) -> list[str]:
    """A sentence for each vector, what it is worth, and what it cannot show."""
    mine = tests(results)
    found = [_sentence(results, row) for row in mine]
    trained = max((row.trained_on or 0 for row in mine), default=0)
    if trained:
        found.append(
            f"Up to {count(trained, 'pair')} of answers were trained on: what makes these likelier "
            "may be no more than what was learned by heart."
        )
    return [*found, _SHOWS]


def rows_table(results: Results) -> Table:
    """Every vector, dose and measure."""
    several = len({row.seed for row in results.steering}) > 1
    rows: list[Sequence[Cell]] = []
    for row in results.steering:
        name = vector_name(results, row)
        dose = "projected out" if row.mode == "ablate" else "all, per dose"
        if row.dose is not None:
            dose = f"{row.dose:g}".replace("-", MINUS)
        rows.append(
            [
                Cell(name, name),
                *([seed_cell(row.seed)] if several else []),
                Cell(_MODELS[row.model], row.model),
                Cell(dose, row.dose),
                Cell(number(row.relative, 2), row.relative),
                Cell(MEASURES[row.measure], MEASURES[row.measure]),
                Cell(number(row.unsteered, 3), row.unsteered),
                Cell(number(row.value, 3), row.value),
                estimate_cell(row.delta, row.delta_ci95, sign=True),
                _range_cell(row.control_low, row.control_high, row.controls),
                Cell(probability(row.p) if row.p is not None else NONE, row.p),
                _range_cell(row.matched_low, row.matched_high, row.matched),
                Cell(
                    probability(row.p_matched) if row.p_matched is not None else NONE, row.p_matched
                ),
            ]
        )
    return Table(
        "steering-table",
        "Steering: every vector, dose and measure",
        [
            Column("Vector"),
            *([Column("Seed", True)] if several else []),
            Column("Model"),
            Column("dose", True),
            Column("of typical length", True),
            Column("Measure"),
            Column("untouched", True),
            Column("steered", True),
            Column("change [95\u202f%]", True),
            Column("random directions (number)", True),
            Column("p", True),
            Column("as activations vary (number)", True),
            Column("p by these", True),
        ],
        rows,
        note="Dose 1 is the vector as it was measured, the difference of two means. Advice: mean "
        "log p per token of given answers, nats; surprise: \u2212log p per token of the steered "
        "model's answers under the untouched one. Random directions, and those that vary as "
        "activations do: least and greatest change of those of the same length; p: the rank of the "
        "vector's change among theirs. Over all runs these are the units of intervals.",
    )


def _range_cell(low: float | None, high: float | None, number_of: int) -> Cell:
    if low is None or high is None:
        return Cell(NONE)
    return Cell(f"{interval((low, high), 3)} ({number_of})", low)


def section(results: Results) -> dict[str, Any] | None:
    """The page's section; None where nothing was steered."""
    if not results.steering:
        return None
    return {
        "sentences": sentences(results),
        "meaning": published_vs_recommended.meaning_table(
            results, "steering-meaning", ["steering"]
        ),
        "rows": rows_table(results),
    }
