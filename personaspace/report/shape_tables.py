"""Tables of the shape of persona space: against base, and what EM adds to benign training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from personaspace.analysis.results import Results
from personaspace.analysis.rows import Row
from personaspace.report.cells import number_cell, p_cell, value_cell
from personaspace.report.full_tables import layer_tables
from personaspace.report.published_vs_recommended import meaning_table
from personaspace.report.tables import Cell, Column, Table

METRIC = "shape"
#: In the order of the columns.
_MEASURES = {
    "participation_ratio": "participation ratio",
    "cka": "kernel alignment",
    "rsa": "correlation of distances",
    "procrustes": "Procrustes distance",
    "subspace_overlap": "overlap of subspaces",
    "probe_transfer": "base's classifier",
}


def _headline(results: Results) -> list[Row]:
    place = (METRIC, results.headline_method, results.headline_layer)
    return [row for row in results.geometry if (row.metric, row.method, row.layer) == place]


def shape_table(results: Results) -> Table | None:
    """Every measure of every condition at the headline layer; None without rows."""
    rows = _headline(results)
    names = [name for name in _MEASURES if any(row.name == name for row in rows)]
    if not names:
        return None
    lines = []
    for condition in results.ordered_conditions:
        mine = [row for row in rows if row.condition == condition.name]
        if condition.kind == "base":
            cells = [_base(rows, name) for name in names]
        elif mine:
            cells = [value_cell([row for row in mine if row.name == name]) for name in names]
        else:
            continue
        lines.append([Cell(condition.title, condition.title, full=condition.name), *cells])
    return Table(
        "shape-table",
        f"Shape of persona space at layer {results.headline_layer}, method "
        f"{(results.headline_method or '').upper()}, against base",
        [Column("Condition"), *(Column(f"{_MEASURES[name]} [95\u202f%]", True) for name in names)],
        lines,
        note="None of these depends on where personas lie or on how far apart they are. "
        "Participation ratio: in how many directions they differ. Alignment and correlation: 1 "
        "where their arrangement is base's. Procrustes distance: what no rotation undoes, 0 to 1. "
        "Overlap: whether they differ along base's directions. Base's classifier: its accuracy on "
        "the condition's activations. Corrected for the noise of questions, so that two halves of "
        "one condition read as no change; empty where that noise is all there is.",
    )


def _base(rows: Sequence[Row], name: str) -> Cell:
    known = [row for row in rows if row.name == name and row.base is not None]
    mean = sum(float(row.base or 0) for row in known) / len(known) if known else None
    return number_cell(mean)


def increments_table(results: Results) -> Table | None:
    """What EM adds to benign training, by measure and condition; None without such rows."""
    rows = [row for row in _headline(results) if (row.name or "").endswith("_minus_benign")]
    lines = []
    for name, title in _MEASURES.items():
        mine = [row for row in rows if (row.name or "").startswith(f"{name}_")]
        for condition in dict.fromkeys(row.condition for row in mine):
            # Of new personas, and of single runs, there may be rows too.
            found = [row for row in mine if row.condition == condition]
            who = results.label(condition) if condition else "mean of EM"
            lines.append(
                [
                    Cell(title, title),
                    Cell(who, who),
                    value_cell(found),
                    *(p_cell(found, field) for field in ("p", "p_bh", "p_holm")),
                ]
            )
    if not lines:
        return None
    return Table(
        "shape-increments",
        f"Shape at layer {results.headline_layer}: what EM adds to benign training",
        [
            Column("Measure"),
            Column("Condition"),
            Column("EM minus benign [95\u202f%]", True),
            *(Column(title, True) for title in ("p", "p, BH", "p, Holm")),
        ],
        lines,
        note="For these personas. Exploratory; BH, Holm: corrected over all tests of shape, layers "
        "and methods.",
    )


def section(results: Results) -> dict[str, Any] | None:
    """The report's part on shape; None without rows."""
    table = shape_table(results)
    if table is None:
        return None
    return {
        "table": table,
        "increments": increments_table(results),
        "meaning": meaning_table(results, "shape-meaning", [METRIC]),
        "layers": layer_tables(results, METRIC),
    }
