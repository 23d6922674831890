"""Key numbers: one row for each condition, and the estimates that the headline shares with it."""

from __future__ import annotations

from personaspace.analysis.results import Results, share
from personaspace.analysis.results_parts import StudyCondition
from personaspace.report.cells import estimate_cell, share_cell
from personaspace.report.control import limits_note, status_of
from personaspace.report.estimates import PointEstimate, bystander_estimate, m1_estimate
from personaspace.report.selection import mean_value, pooled
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import NONE, number, percent, pretty

#: M1's sub-measures that set a condition against benign training, and against base.
INCREMENT = "em_minus_benign"
CHANGE = "raw_cosine_delta"
_BLANK = Cell(NONE)


def _contrast(results: Results, condition: StudyCondition, name: str) -> PointEstimate | None:
    """A contrast of M1 as the analysis gives it, at the headline layer and method."""
    rows = [
        row
        for row in results.geometry
        if (row.metric, row.variant, row.name) == ("M1", "recommended", name)
        and row.condition == condition.name
        and (row.layer, row.method) == (results.headline_layer, results.headline_method)
    ]
    value, one = mean_value(rows), pooled(rows)
    return None if value is None else PointEstimate(value, one.ci95 if one else None)


def _difference(
    results: Results, condition: StudyCondition, other: StudyCondition | None
) -> PointEstimate | None:
    """Plain difference of two conditions' M1, where the analysis has no contrast."""
    place = (results.headline_method, results.headline_layer)
    mine = m1_estimate(results, condition, *place)
    theirs = m1_estimate(results, other, *place) if other else None
    return PointEstimate(mine.value - theirs.value, None) if mine and theirs else None


def em_increment(results: Results, condition: StudyCondition) -> PointEstimate | None:
    """What an EM condition adds to benign training in M1, at the headline layer and method."""
    if condition.kind != "em":
        return None
    benign = next(iter(results.of_kind("benign")), None)
    return _contrast(results, condition, INCREMENT) or _difference(results, condition, benign)


def change_from_base(results: Results, condition: StudyCondition) -> PointEstimate | None:
    """How far a condition's M1 is from the base model's, at the headline layer and method."""
    if condition.kind == "base":
        return None
    return _contrast(results, condition, CHANGE) or _difference(results, condition, results.base)


def _share_cell(found: PointEstimate | None) -> Cell:
    return _BLANK if found is None else share_cell(found.value, found.interval)


def _plain_cell(found: PointEstimate | None, sign: bool = False) -> Cell:
    return _BLANK if found is None else estimate_cell(found.value, found.interval, sign=sign)


def _degenerate_share(results: Results, condition: StudyCondition) -> Cell:
    """Share of all answers of a condition that are degenerate, marked or not."""
    garbled = share(results.rates_of(condition.name), "degenerate")
    return _BLANK if garbled is None else Cell(percent(garbled), garbled)


def _source_estimate(results: Results, condition: StudyCondition) -> PointEstimate | None:
    if results.source is None:
        return None
    rate = results.rate(condition.name, results.source)
    rows = results.rates_of(condition.name, results.source)
    return None if rate is None else PointEstimate(rate, rows[0].ci95 if len(rows) == 1 else None)


def key_table(results: Results) -> Table:
    """A row for each condition with its headline numbers."""
    place = (results.headline_method, results.headline_layer)
    unequal = len(set(results.runs.values())) > 1
    rows = []
    for condition in results.ordered_conditions:
        runs = results.runs.get(condition.name)
        m1 = m1_estimate(results, condition, *place)
        measured = (condition.cosine_measured or {}).get(str(results.headline_layer))
        rows.append(
            [
                Cell(condition.title, condition.title, full=condition.name),
                Cell(pretty(condition.induced) if condition.induced else NONE, condition.induced),
                *([Cell(NONE if runs is None else str(runs), runs)] if unequal else []),
                Cell(number(condition.cosine_anchor, 2), condition.cosine_anchor),
                Cell(number(measured, 3), measured),
                _plain_cell(m1),
                _plain_cell(change_from_base(results, condition), sign=True),
                _plain_cell(em_increment(results, condition), sign=True),
                _share_cell(bystander_estimate(results, condition)),
                _share_cell(_source_estimate(results, condition)),
                _degenerate_share(results, condition),
                Cell(status_of(results, condition.name)),
            ]
        )
    where = f"layer {results.headline_layer}, method {(results.headline_method or NONE).upper()}"
    return Table(
        "key-table",
        f"Key numbers by condition (geometry: {where})",
        [
            Column("Condition"),
            Column("Trained under"),
            *([Column("Runs", True)] if unequal else []),
            Column("as given", True),
            Column("measured", True),
            Column("M1", True),
            Column("change from base", True),
            Column("EM increment", True),
            Column("bystanders", True),
            Column("source", True),
            Column("Degenerate answers", True),
            Column("Leakage"),
        ],
        rows,
        groups=[
            ("", 2 + unequal),
            ("Cosine to assistant", 2),
            ("Mean cosine of personas", 3),
            ("Answers with the marker", 2),
            ("", 2),
        ],
        note="In brackets: 95\u00a0% intervals, where the analysis gives one"
        f"{', of one training run: how runs differ is not in them' * results.single_runs}. "
        "EM: emergent "
        "misalignment, fine-tuning on narrowly bad data. EM increment: M1 minus that of benign "
        "training. Bystanders: mean over personas other than the source and the persona trained "
        "under. Degenerate: empty, repetitive, or with more than one marker."
        + (f" {limits_note(results)}" if results.control else ""),
    )
