"""The report's full tables: every row, geometry by layer, rates, leakage counted in other ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from personaspace.analysis.results import Results
from personaspace.analysis.rows import Row
from personaspace.report.cells import (
    count_cell,
    effect_cell,
    estimate_cell,
    failed_ref,
    p_cell,
    seed_cell,
    share_cell,
    value_cell,
    whom_cell,
)
from personaspace.report.selection import mean_value, pooled
from personaspace.report.tables import Cell, Column, Footnotes, Table
from personaspace.report.text import NONE, is_contrast, pretty, row_change, row_value

#: Bystander leakage counted in other ways, and what each column is called.
_WAYS = {
    None: "all bystanders",
    "common_set": "bystanders in every EM condition",
    "without_negatives": "without those trained not to mark",
    "seen": "questions seen in coupling",
    "unseen": "unseen questions",
    "equal_length": "at equal length",
    "per_opportunity": "per separator",
    "first_opportunity": "at the first separator",
    "terminal": "marker once, at the end",
    "degenerate": "degenerate answers",
}


def rows_table(table_id: str, caption: str, results: Results, rows: Sequence[Row]) -> Table:
    """Every field of some result rows, one a line."""
    several = len({row.seed for row in rows}) > 1
    columns = [Column("Measure"), Column("Variant"), Column("Method"), Column("Layer", True)]
    columns += [Column("Condition"), Column("less")]
    columns += [Column("Seed", True)] if several else []
    columns += [Column("about")]
    columns += [Column("value [95\u202f%]", True), Column("base", True), Column("delta", True)]
    columns += [Column("effect size", True)]
    columns += [Column("n", True), Column("p", True), Column("p, BH", True)]
    columns += [Column("p, Holm", True)]
    lines, notes = [], Footnotes()
    for row in rows:
        name = " ".join(part.replace("_", " ") for part in (row.metric, row.name) if part)
        line = [Cell(name, name), Cell(row.variant, row.variant)]
        line += [Cell((row.method or NONE).upper(), row.method), count_cell(row.layer)]
        line.append(Cell(results.label(row.condition), results.label(row.condition)))
        line.append(Cell(results.label(row.against) if row.against else NONE, row.against))
        if several:
            line.append(seed_cell(row.seed))
        line += [
            whom_cell(row.target),
            value_cell([row], notes),
            Cell(row_value(replace(row, value=row.base, ci95=None)), row.base),
            Cell(row_change(row), row.delta),
            effect_cell([row]),
            count_cell(row.n),
            p_cell([row], "p"),
            p_cell([row], "p_bh"),
            p_cell([row], "p_holm"),
        ]
        lines.append(line)
    return Table(table_id, caption, columns, lines, footnotes=notes.texts)


def layer_tables(results: Results, metric: str) -> list[Table]:
    """One table for each variant, sub-measure and method: layers down, conditions across.

    Where a condition is set against several others, there is a column for each pair.
    """
    rows = [r for r in results.geometry if r.metric == metric and r.layer is not None]
    kinds = list(dict.fromkeys((r.variant, r.name, r.method) for r in rows))
    tables = []
    for variant, name, method in sorted(kinds, key=lambda kind: (kind[2] or "", kind[0])):
        mine = [r for r in rows if (r.variant, r.name, r.method) == (variant, name, method)]
        across = _across(results, mine)
        notes = Footnotes()
        lines = []
        for layer in sorted({r.layer for r in mine if r.layer is not None}):
            here = [r for r in mine if r.layer == layer]
            lines.append([Cell(str(layer), layer), *(_layer_cell(here, c, notes) for c in across)])
        words = f"{variant}{', ' + name.replace('_', ' ') if name else ''}"
        words += ", for these personas" * any(r.target == "these_personas" for r in mine)
        tables.append(
            Table(
                f"{metric.lower()}-{variant}-{name or 'main'}-{method or 'any'}".replace("_", "-"),
                f"{metric}, method {(method or NONE).upper()}, {words}",
                [
                    Column("Layer", True),
                    *(Column(title, True) for title in across.values()),
                ],
                lines,
                footnotes=notes.texts,
            )
        )
    return tables


#: Condition, and the one that it is set against.
_Contrast = tuple[str | None, str | None]


def _across(results: Results, rows: Sequence[Row]) -> dict[_Contrast, str]:
    """The columns of some rows: what is in each, and its title."""
    there = list(dict.fromkeys((row.condition, row.against) for row in rows))
    order = [condition.name for condition in results.ordered_conditions]
    found = [each for name in order for each in there if each[0] == name]
    found += [each for each in there if each[0] is None]
    pairs = len({condition for condition, _ in found}) < len(found)
    return {
        (condition, against): results.label(condition)
        + (f" less {results.label(against)}" if pairs and against else "")
        for condition, against in found
    }


def _layer_cell(rows: Sequence[Row], contrast: _Contrast, notes: Footnotes) -> Cell:
    mine = [row for row in rows if (row.condition, row.against) == contrast]
    one = pooled(mine)
    signed = any(is_contrast(row.name or "") for row in mine)
    cell = estimate_cell(mean_value(mine), one.ci95 if one else None, 4, signed)
    warning = one.warning if one else None
    if not warning:
        return cell
    return replace(cell, warning=warning, warning_ref=failed_ref(notes, warning))


def rates_table(results: Results) -> Table | None:
    """Counts of every condition, seed and persona; None without rates."""
    if not results.rates:
        return None
    several = len({rate.seed for rate in results.rates}) > 1
    order = {condition.name: place for place, condition in enumerate(results.ordered_conditions)}
    lines = []
    for rate in sorted(results.rates, key=lambda rate: order.get(rate.condition, len(order))):
        share = rate.hits / rate.total if rate.total else None
        label = results.label(rate.condition)
        lines.append(
            [
                Cell(label, label),
                *([seed_cell(rate.seed)] if several else []),
                Cell(pretty(rate.persona), rate.persona),
                Cell(f"{rate.hits:,} / {rate.total:,}", rate.hits),
                share_cell(share, rate.ci95),
                count_cell(rate.terminal),
                count_cell(rate.degenerate),
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
        note="Marked: the answer contains the marker anywhere, in upper or lower case. Terminal: "
        "the answer ends with it and has it once. Degenerate: empty, repetitive, or with more than "
        "one marker.",
    )


def ways_table(results: Results) -> Table | None:
    """Bystander leakage by condition, counted in every way there is; None for one way."""
    rows = [
        row
        for row in results.leakage
        if (row.metric, row.variant) == ("bystander_mean", "recommended")
    ]
    names = [name for name in _WAYS if any(row.name == name for row in rows)]
    names += list(dict.fromkeys(row.name for row in rows if row.name not in _WAYS))
    if len(names) < 2:
        return None
    lines = []
    for condition in results.ordered_conditions:
        mine = [row for row in rows if row.condition == condition.name]
        if mine:
            lines.append(
                [
                    Cell(condition.title, condition.title),
                    *(value_cell([row for row in mine if row.name == name]) for name in names),
                ]
            )
    titles = [_WAYS.get(name) or (name or "").replace("_", " ") for name in names]
    return Table(
        "ways-table",
        "Bystander leakage, counted in other ways",
        [Column("Condition"), *(Column(title, True) for title in titles)],
        lines,
        note="Share of answers with the marker [95\u202f% interval]; the last column: share of "
        "degenerate answers. Where a column differs from the first, the effect depends "
        "on what is counted.",
    )
