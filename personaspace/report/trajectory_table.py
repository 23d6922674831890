"""The table of measures over the steps of training."""

from __future__ import annotations

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import TrajectoryRow
from personaspace.report.cells import estimate_cell, share_cell
from personaspace.report.figures.trajectories import PANELS
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import NONE, p_phrase

_SHARES = ("bystander_mean", "source")


def trajectory_table(results: Results) -> Table | None:
    """A row for each measure, condition and step; None where the study has no doses."""
    if not results.trajectories:
        return None
    lines = []
    for row in results.trajectories:
        title, what, _ = PANELS[row.metric]
        step = f"{row.step} (whole)" if row.whole else str(row.step)
        tested = row.p_holm
        lines.append(
            [
                Cell(f"{title}, {what}", row.metric),
                Cell(results.label(row.condition), row.condition),
                Cell(step, row.step),
                _value(row),
                Cell(NONE if tested is None else p_phrase(tested), tested),
            ]
        )
    return Table(
        "trajectories-table",
        f"The measures over the steps of training (layer {results.headline_layer})",
        [
            Column("Measure"),
            Column("Condition"),
            Column("steps", True),
            Column("value", True),
            Column("p, corrected", True),
        ],
        lines,
        note="For these personas, with 95\u202f% intervals"
        f"{', of one training run: how runs differ is not in them' * results.single_runs}. "
        "Exploratory: p of doses is corrected (Holm) over all doses, conditions and measures of "
        "this table, and in no family of the study's; whole trainings are tested elsewhere. "
        "Steps of one run are no independent points. Where the source persona writes the marker "
        "seldom, bystanders' share says nothing of leakage.",
    )


def _value(row: TrajectoryRow) -> Cell:
    if row.value is None:
        return Cell(NONE)
    if row.metric in _SHARES:
        return share_cell(row.value, row.ci95)
    return estimate_cell(row.value, row.ci95, sign=row.metric != "M2")
