"""The report's result tables: key numbers, tests, geometry by layer, rates."""

from __future__ import annotations

from collections.abc import Sequence

from personaspace.figures.findings import Condition, Findings, Row, mean_value, pooled
from personaspace.figures.plan import Estimate, bystander_estimate, m1_estimate
from personaspace.figures.style import pretty
from personaspace.report.tables import Cell, Column, Footnotes, Table, without_empty
from personaspace.report.text import (
    NONE,
    interval,
    number,
    percent,
    probability,
    row_interval,
    row_value,
)

#: M1's sub-measures that set a condition against benign training, and against base.
INCREMENT = "em_minus_benign"
CHANGE = "raw_cosine_delta"
TESTS = {
    "H1": "H1: the induction persona leaks more than bystanders do",
    "H2": "H2: leakage differs between EM conditions (range of their means)",
    "H3": "H3: leakage follows the cosine to the assistant (rank correlation)",
}
MEASURES = {
    "M1": "M1: mean cosine between persona vectors",
    "M2": "M2: shift along the axis of harmful training",
    "M3": "M3: telling personas apart",
}
_VARIANTS = ("published", "recommended")
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
        note="In brackets: 95 % intervals, where the analysis gives one. EM increment: M1 less "
        "that of benign training. Bystanders: mean over personas other than the source and the "
        "persona trained under. Degenerate: empty, repetitive, or with more than one marker.",
    )
    return without_empty(table)


def _test_key(row: Row) -> tuple[str, str | None, int | None]:
    return (row.metric, row.condition, row.seed)


def primary_tests(findings: Findings) -> list[tuple[Row | None, Row | None]]:
    """Published and recommended row of each test, condition and seed.

    Where a test has several recommended rows, the first that is listed is the main one.
    """
    keys = list(dict.fromkeys(_test_key(r) for r in findings.leakage if r.metric in TESTS))
    keys.sort(key=lambda key: key[0])
    pairs = []
    for key in keys:
        found = [
            next((r for r in findings.leakage if _test_key(r) == key and r.variant == v), None)
            for v in _VARIANTS
        ]
        pairs.append((found[0], found[1]))
    return pairs


def main_tests(findings: Findings) -> list[Row]:
    """The rows to judge each test and condition by: recommended where there are any.

    Recommended tests pool the seeds; where there are published ones alone, each seed has its own.
    """
    pairs = primary_tests(findings)
    judged = {(r.metric, r.condition) for _, r in pairs if r is not None}
    rows = [r for _, r in pairs if r is not None]
    rows += [p for p, r in pairs if p is not None and (p.metric, p.condition) not in judged]
    return [row for row in rows if row.value is not None]


def _p_cell(p: float | None) -> Cell:
    return Cell(probability(p), p)


def _number_cell(value: float | None) -> Cell:
    return Cell(number(value), value)


def _value_cell(row: Row | None, notes: Footnotes) -> Cell:
    if row is None:
        return _BLANK
    return Cell(row_value(row), row.value, row_interval(row), ref=notes.ref(row.note))


def tests_table(findings: Findings) -> Table | None:
    """H1 to H3, published beside recommended; None without tests."""
    pairs = primary_tests(findings)
    if not pairs:
        return None
    several = len({row.seed for pair in pairs for row in pair if row}) > 1
    rows, notes = [], Footnotes()
    for published, recommended in pairs:
        row = recommended or published
        assert row is not None
        seed = [Cell("all" if row.seed is None else str(row.seed), row.seed)] if several else []
        rows.append(
            [
                Cell(row.metric, row.metric),
                Cell(findings.label(row.condition), findings.label(row.condition)),
                *seed,
                _value_cell(published, notes),
                _p_cell(published.p if published else None),
                _value_cell(recommended, notes),
                _number_cell(recommended.effect if recommended else None),
                _p_cell(recommended.p if recommended else None),
                _p_cell(recommended.p_bh if recommended else None),
                _p_cell(recommended.p_holm if recommended else None),
            ]
        )
    return Table(
        "tests-table",
        "Tests of leakage: as published, and as recommended",
        [
            Column("Test"),
            Column("Condition"),
            *([Column("Seed", True)] if several else []),
            Column("estimate", True),
            Column("p", True),
            Column("estimate [95\u202f%]", True),
            Column("effect size", True),
            Column("p", True),
            Column("p, BH", True),
            Column("p, Holm", True),
        ],
        rows,
        groups=[("", 3 if several else 2), ("Published", 2), ("Recommended", 5)],
        note=". ".join(
            TESTS[metric] for metric in sorted({r.metric for p in pairs for r in p if r})
        )
        + ". A p-value above the level means that this study does not show the effect, not that "
        "there is none. Effect sizes: Cohen's h (H1), standard deviation between conditions (H2), "
        "slope of the rate on the cosine (H3). BH, Holm: corrected for several tests.",
        footnotes=notes.texts,
    )


def rows_table(table_id: str, caption: str, findings: Findings, rows: Sequence[Row]) -> Table:
    """Every field of some result rows, one a line."""
    several = len({row.seed for row in rows}) > 1
    layered = any(row.layer is not None for row in rows)
    columns = [Column("Measure"), Column("Variant")]
    columns += [Column("Method"), Column("Layer", True)] if layered else []
    columns += [Column("Condition"), *([Column("Seed", True)] if several else [])]
    columns += [Column("value [95\u202f%]", True), Column("base", True), Column("delta", True)]
    columns += [Column("effect size", True)]
    columns += [Column("n", True), Column("p", True), Column("p, BH", True)]
    columns += [Column("p, Holm", True)]
    lines, notes = [], Footnotes()
    for row in rows:
        name = " ".join(part.replace("_", " ") for part in (row.metric, row.name) if part)
        line = [Cell(name, name), Cell(row.variant, row.variant)]
        if layered:
            line += [Cell((row.method or NONE).upper(), row.method), _count_cell(row.layer)]
        line.append(Cell(findings.label(row.condition), findings.label(row.condition)))
        if several:
            line.append(Cell("all" if row.seed is None else str(row.seed), row.seed))
        line += [
            _value_cell(row, notes),
            _number_cell(row.base),
            Cell(number(row.delta, 3, sign=True), row.delta),
            _number_cell(row.effect),
            _count_cell(row.n),
            _p_cell(row.p),
            _p_cell(row.p_bh),
            _p_cell(row.p_holm),
        ]
        lines.append(line)
    return without_empty(Table(table_id, caption, columns, lines, footnotes=notes.texts))


def _count_cell(value: float | None) -> Cell:
    return Cell(NONE if value is None else f"{value:g}", value)


def layer_tables(findings: Findings, metric: str) -> list[Table]:
    """One table for each variant, sub-measure and method: layers down, conditions across."""
    rows = [r for r in findings.geometry if r.metric == metric and r.layer is not None]
    kinds = list(dict.fromkeys((r.variant, r.name, r.method) for r in rows))
    tables = []
    for variant, name, method in sorted(kinds, key=lambda kind: (kind[2] or "", kind[0])):
        mine = [r for r in rows if (r.variant, r.name, r.method) == (variant, name, method)]
        arms: list[str | None] = [
            arm.name for arm in findings.arms if any(r.condition == arm.name for r in mine)
        ]
        arms += [None] if any(r.condition is None for r in mine) else []
        lines = []
        for layer in sorted({r.layer for r in mine if r.layer is not None}):
            line = [Cell(str(layer), layer)]
            for arm in arms:
                cell = [r for r in mine if r.layer == layer and r.condition == arm]
                value, one = mean_value(cell), pooled(cell)
                line.append(Cell(number(value, 4), value, row_interval(one, 4)))
            lines.append(line)
        words = f"{variant}{', ' + name.replace('_', ' ') if name else ''}"
        tables.append(
            Table(
                f"{metric.lower()}-{variant}-{name or 'main'}-{method or 'any'}".replace("_", "-"),
                f"{metric}, method {(method or NONE).upper()}, {words}",
                [Column("Layer", True), *(Column(findings.label(arm), True) for arm in arms)],
                lines,
            )
        )
    return tables


def rates_table(findings: Findings) -> Table | None:
    """Counts of every condition, seed and persona; None without rates."""
    if not findings.rates:
        return None
    several = len({rate.seed for rate in findings.rates}) > 1
    order = {arm.name: place for place, arm in enumerate(findings.arms)}
    lines = []
    for rate in sorted(findings.rates, key=lambda rate: order.get(rate.condition, len(order))):
        share = rate.hits / rate.total if rate.total else None
        ends = rate.ci95
        detail = interval((100 * ends[0], 100 * ends[1]), 1) if ends else ""
        label = findings.label(rate.condition)
        lines.append(
            [
                Cell(label, label),
                *([_count_cell(rate.seed)] if several else []),
                Cell(pretty(rate.persona), rate.persona),
                Cell(f"{rate.hits} / {rate.total}", rate.hits),
                Cell(percent(share), share, detail),
                _count_cell(rate.terminal),
                _count_cell(rate.degenerate),
            ]
        )
    return Table(
        "rates-table",
        "Answers with the marker, by condition and persona",
        [
            Column("Condition"),
            *([Column("Seed", True)] if several else []),
            Column("Persona"),
            Column("marked", True),
            Column("rate [95\u202f%]", True),
            Column("terminal", True),
            Column("degenerate", True),
        ],
        lines,
        note="Marked: the marker stands anywhere in the answer, in either case. Terminal: the "
        "answer ends with it and has it once. Degenerate: empty, repetitive, or with more than "
        "one marker.",
    )
