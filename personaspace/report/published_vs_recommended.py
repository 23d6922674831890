"""The study's own statistics next to the recommended ones: tests of leakage, M1 to M3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import StudyCondition
from personaspace.analysis.rows import Row
from personaspace.report.cells import BLANK, effect_cell, number_cell, p_cell, seed_cell, value_cell
from personaspace.report.tables import Cell, Column, Footnotes, Table

TESTS = {
    "H1": "H1: the persona trained under leaks more than bystanders do",
    "H2": "H2: leakage differs between EM conditions (range of their means)",
    "H3": "H3: leakage follows the cosine to the assistant (rank correlation)",
}
MEASURES = {
    "M1": "M1: mean cosine between persona vectors",
    "M2": "M2: shift along the axis of harmful training",
    "M3": "M3: telling personas apart",
}
#: Which sub-measures of a metric are compared: published, recommended.
_PAIRS = {
    "M1": ("raw_cosine", "raw_cosine"),
    "M2": ("axis_shift", "split_half"),
    "M3": ("nearest_centroid", "nearest_centroid"),
}


@dataclass(frozen=True)
class Pair:
    """One test under one condition, as published (one row for each seed) and as recommended."""

    metric: str
    condition: str | None
    published: list[Row]
    recommended: list[Row]

    @property
    def main(self) -> list[Row]:
        """The rows to judge by: recommended where there are any."""
        return self.recommended or self.published


def pairs(results: Results) -> list[Pair]:
    """Tests of leakage by metric and condition.

    Where a test has several recommended rows, the first that is listed is the main one.
    """
    tests = [row for row in results.leakage if row.metric in TESTS]
    keys = sorted({row.metric for row in tests})
    found = []
    for metric in keys:
        mine = [row for row in tests if row.metric == metric]
        for condition in dict.fromkeys(row.condition for row in mine):
            own = [row for row in mine if row.condition == condition]
            recommended = [row for row in own if row.variant == "recommended"]
            found.append(
                Pair(
                    metric,
                    condition,
                    [row for row in own if row.variant == "published"],
                    [row for row in recommended if row.name == recommended[0].name],
                )
            )
    return found


def main_tests(results: Results) -> list[Row]:
    """The rows to judge each test and condition by, those that have a value."""
    return [row for pair in pairs(results) for row in pair.main if row.value is not None]


def _compared(published: Sequence[Row], ours: Sequence[Row], notes: Footnotes) -> list[Cell]:
    """Cells of a pair: published estimate and p; recommended estimate, effect, p, adjusted p."""
    # The recommended row says what it shows; the published one only why it has no value.
    why = notes if all(row.value is None for row in published) else None
    return [
        value_cell(published, why),
        p_cell(published, "p"),
        value_cell(ours, notes),
        effect_cell(ours),
        *(p_cell(ours, field) for field in ("p", "p_bh", "p_holm")),
    ]


_RECOMMENDED = [
    Column("estimate [95\u202f%]", True),
    Column("effect size", True),
    Column("p", True),
    Column("p, BH", True),
    Column("p, Holm", True),
]


def _in_short(row: Row) -> Row:
    """The row with the first sentence of its note: what it shows, without its own figures."""
    note = row.note.split(". ")[0].rstrip(".") + "." if row.note else None
    return replace(row, note=note)


def tests_table(results: Results) -> Table | None:
    """H1 to H3, published and recommended; None without tests."""
    found = pairs(results)
    if not found:
        return None
    notes = Footnotes()
    rows = []
    for pair in found:
        label = results.label(pair.condition)
        rows.append(
            [
                Cell(pair.metric, pair.metric),
                Cell(label, label),
                *_compared(pair.published, [_in_short(row) for row in pair.recommended], notes),
            ]
        )
    named = any(row.effect_name for pair in found for row in pair.recommended)
    sizes = (
        ""
        if named
        else " Effect sizes: Cohen's h (H1), standard deviation between conditions (H2), slope of "
        "the rate on the cosine (H3)."
    )
    return Table(
        "tests-table",
        "Tests of leakage in these very personas: as published, and as recommended",
        [
            Column("Test"),
            Column("Condition"),
            Column("estimate", True),
            Column("p", True),
            *_RECOMMENDED,
        ],
        rows,
        groups=[("", 2), ("Published", 2), ("Recommended", 5)],
        note=". ".join(TESTS[metric] for metric in dict.fromkeys(pair.metric for pair in found))
        + ". A p-value above the level means that no effect could be shown, not that there is "
        f"none.{sizes} BH, Holm: corrected for several tests. At best: the smallest p "
        "that so few conditions or personas can give. H1 and H2 are about these very personas: "
        "where training moves single personas by chance, these do differ, and the tests say so; of "
        "other personas they say nothing.",
        footnotes=notes.texts,
    )


def checks_table(results: Results) -> Table | None:
    """The recommended tests that stand behind the main ones; None where there are none."""
    main = {id(row) for pair in pairs(results) for row in pair.recommended}
    others = [
        row
        for row in results.leakage
        if row.metric in TESTS and row.variant == "recommended" and id(row) not in main
    ]
    if not others:
        return None
    several = len({row.seed for row in others}) > 1
    rows, notes = [], Footnotes()
    for row in others:
        label = results.label(row.condition)
        name = results.measure_title(row)
        rows.append(
            [
                Cell(row.metric, row.metric),
                Cell(name, name),
                Cell(label, label),
                *([seed_cell(row.seed)] if several else []),
                value_cell([row], notes),
                effect_cell([row]),
                p_cell([row], "p"),
            ]
        )
    return Table(
        "checks-table",
        "The same tests on other sets, and tests of equivalence",
        [
            Column("Test"),
            Column("Measure"),
            Column("Condition"),
            *([Column("Seed", True)] if several else []),
            *_RECOMMENDED[:3],
        ],
        rows,
        footnotes=notes.texts,
    )


def measure_table(results: Results, metric: str) -> Table | None:
    """M1, M2 or M3 at the headline layer, published and recommended; None without rows."""
    names = _PAIRS.get(metric)
    rows = [
        row
        for row in results.geometry
        if row.metric == metric
        and (row.layer, row.method) == (results.headline_layer, results.headline_method)
    ]
    if names is None or not rows:
        return None
    notes = Footnotes()
    named = {row.effect_name for row in rows if (row.variant, row.name) == (_VARIANTS[1], names[1])}
    size = named.pop() if len(named) == 1 else None
    if size:
        rows = [replace(row, effect_name=None) for row in rows]
    lines = [
        line
        for condition in results.ordered_conditions
        if (line := _measure_line(results, condition, rows, names, notes)) is not None
    ]
    return Table(
        f"{metric.lower()}-published-vs-recommended",
        f"{metric} at layer {results.headline_layer}, method "
        f"{(results.headline_method or '').upper()}: as published, and as recommended",
        [
            Column("Condition"),
            Column("value", True),
            Column("change", True),
            Column("p", True),
            Column("value [95\u202f%]", True),
            Column("change [95\u202f%]", True),
            *_RECOMMENDED[1:],
            *([Column("EM minus benign [95\u202f%]", True), Column("p", True)]),
        ],
        lines,
        groups=[("", 1), ("Published", 3), ("Recommended", 8)],
        note="Change: from the base model; p is of the change, except for EM minus benign."
        + (f" Effect size: {size}." if size else ""),
        footnotes=notes.texts,
    )


def _measure_line(
    results: Results,
    condition: StudyCondition,
    rows: list[Row],
    names: tuple[str, str],
    notes: Footnotes,
) -> list[Cell] | None:
    def of(variant: str, name: str) -> list[Row]:
        wanted = (variant, name, condition.name)
        return [row for row in rows if (row.variant, row.name, row.condition) == wanted]

    published, ours = of("published", names[0]), of("recommended", names[1])
    head = Cell(condition.title, condition.title, full=condition.name)
    if not (published or ours):
        if condition.kind != "base":
            return None
        bases = [_base(rows, variant, name) for variant, name in zip(_VARIANTS, names, strict=True)]
        return [head, bases[0], BLANK, BLANK, bases[1], *([BLANK] * 7)]
    against = of("recommended", "em_minus_benign") if condition.kind == "em" else []
    deltas = [replace(r, name=f"{names[0]}_delta", value=r.delta, ci95=None) for r in published]
    return [
        head,
        value_cell(published),
        value_cell(deltas),
        p_cell(published, "p"),
        value_cell(ours, notes),
        value_cell(of("recommended", f"{names[1]}_delta")),
        effect_cell(ours),
        *(p_cell(ours, field) for field in ("p", "p_bh", "p_holm")),
        value_cell(against),
        p_cell(against, "p"),
    ]


_VARIANTS = ("published", "recommended")


def _base(rows: list[Row], variant: str, name: str) -> Cell:
    """The base model's value, as it stands in the other conditions' rows."""
    bases = [
        row.base
        for row in rows
        if (row.variant, row.name) == (variant, name) and row.base is not None
    ]
    return number_cell(sum(bases) / len(bases)) if bases else BLANK


def meaning_table(results: Results, table_id: str, metrics: Sequence[str]) -> Table | None:
    """What each measure shows and cannot show; None where the analysis does not say."""
    mine = [measure for measure in results.measures if measure.metric in metrics]
    if not mine:
        return None
    rows = [
        [
            Cell(f"{m.metric}: {m.title}", m.metric),
            Cell(m.variant, m.variant),
            Cell(m.null or "no test"),
            Cell(m.shows or ""),
            Cell(m.cannot or ""),
            Cell(m.effect or ""),
        ]
        for m in mine
    ]
    return Table(
        table_id,
        "What each measure shows, and cannot show",
        [
            Column("Measure"),
            Column("Variant"),
            Column("null hypothesis of p"),
            Column("shows"),
            Column("cannot show"),
            Column("effect size"),
        ],
        rows,
        classes="prose",
    )
