"""Key numbers: one row for each condition, and the estimates that the headline shares with it."""

from __future__ import annotations

from personaspace.report.figures.findings import Condition, Findings, mean_value, pooled
from personaspace.report.figures.plan import Estimate, bystander_estimate, m1_estimate
from personaspace.report.figures.style import pretty
from personaspace.report.tables import Cell, Column, Table, without_empty
from personaspace.report.text import NONE, interval, number, percent

#: M1's sub-measures that set a condition against benign training, and against base.
INCREMENT = "em_minus_benign"
CHANGE = "raw_cosine_delta"
_BLANK = Cell(NONE)


def _contrast(findings: Findings, arm: Condition, name: str) -> Estimate | None:
    """A contrast of M1 as the analysis gives it, at the headline layer and method."""
    rows = [
        row
        for row in findings.geometry
        if (row.metric, row.variant, row.name) == ("M1", "recommended", name)
        and row.condition == arm.name
        and (row.layer, row.method) == (findings.hero_layer, findings.hero_method)
    ]
    value, one = mean_value(rows), pooled(rows)
    return None if value is None else Estimate(value, one.ci95 if one else None)


def _difference(findings: Findings, arm: Condition, other: Condition | None) -> Estimate | None:
    """Plain difference of two conditions' M1, where the analysis has no contrast."""
    place = (findings.hero_method, findings.hero_layer)
    mine = m1_estimate(findings, arm, *place)
    theirs = m1_estimate(findings, other, *place) if other else None
    return Estimate(mine.value - theirs.value, None) if mine and theirs else None


def em_increment(findings: Findings, arm: Condition) -> Estimate | None:
    """What an EM condition adds to benign training in M1, at the headline layer and method."""
    if arm.kind != "em":
        return None
    benign = next((c for c in findings.arms if c.kind == "benign"), None)
    return _contrast(findings, arm, INCREMENT) or _difference(findings, arm, benign)


def change_from_base(findings: Findings, arm: Condition) -> Estimate | None:
    """How far a condition's M1 is from the base model's, at the headline layer and method."""
    if arm.kind == "base":
        return None
    return _contrast(findings, arm, CHANGE) or _difference(findings, arm, findings.base)


def _share_cell(found: Estimate | None) -> Cell:
    if found is None:
        return _BLANK
    ends = found.interval
    detail = interval((100 * ends[0], 100 * ends[1]), 1) if ends else ""
    return Cell(percent(found.value), found.value, detail)


def _plain_cell(found: Estimate | None, sign: bool = False) -> Cell:
    if found is None:
        return _BLANK
    return Cell(number(found.value, 3, sign), found.value, interval(found.interval))


def _degenerate_share(findings: Findings, arm: Condition) -> Cell:
    """Share of all answers of a condition that are degenerate, marked or not."""
    rows = [r for r in findings.rates if r.condition == arm.name and r.degenerate is not None]
    total = sum(row.total for row in rows)
    if not total:
        return _BLANK
    share = sum(row.degenerate or 0 for row in rows) / total
    return Cell(percent(share), share)


def _source_estimate(findings: Findings, arm: Condition) -> Estimate | None:
    if findings.source is None:
        return None
    rate = findings.rate(arm.name, findings.source)
    rows = [r for r in findings.rates if (r.condition, r.persona) == (arm.name, findings.source)]
    return None if rate is None else Estimate(rate, rows[0].ci95 if len(rows) == 1 else None)


def key_table(findings: Findings) -> Table:
    """A row for each condition with its headline numbers."""
    place = (findings.hero_method, findings.hero_layer)
    rows = []
    for arm in findings.arms:
        m1 = m1_estimate(findings, arm, *place)
        measured = (arm.cosine_measured or {}).get(str(findings.hero_layer))
        rows.append(
            [
                Cell(arm.title, arm.title, full=arm.name),
                Cell(pretty(arm.induced) if arm.induced else NONE, arm.induced),
                Cell(number(arm.cosine_anchor, 2), arm.cosine_anchor),
                Cell(number(measured, 3), measured),
                _plain_cell(m1),
                _plain_cell(change_from_base(findings, arm), sign=True),
                _plain_cell(em_increment(findings, arm), sign=True),
                _share_cell(bystander_estimate(findings, arm)),
                _share_cell(_source_estimate(findings, arm)),
                _degenerate_share(findings, arm),
            ]
        )
    where = f"layer {findings.hero_layer}, method {(findings.hero_method or NONE).upper()}"
    table = Table(
        "key-table",
        f"Key numbers by condition (geometry: {where})",
        [
            Column("Condition"),
            Column("Trained under"),
            Column("as given", True),
            Column("measured", True),
            Column("M1", True),
            Column("change from base", True),
            Column("EM increment", True),
            Column("bystanders", True),
            Column("source", True),
            Column("Degenerate answers", True),
        ],
        rows,
        groups=[
            ("", 2),
            ("Cosine to assistant", 2),
            ("Mean cosine of personas", 3),
            ("Answers with the marker", 2),
            ("", 1),
        ],
        note="In brackets: 95\u00a0% intervals, where the analysis gives one. EM: emergent "
        "misalignment, fine-tuning on narrowly bad data. EM increment: M1 less that of benign "
        "training. Bystanders: mean over personas other than the source and the persona trained "
        "under. Degenerate: empty, repetitive, or with more than one marker.",
    )
    return without_empty(table)
