"""M1 to M3 of conditions as they stood after some of the steps of their training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from personaspace.analysis.geometry.cells import Roles, group_files, read_cell
from personaspace.analysis.geometry.group_work import GroupWork
from personaspace.analysis.geometry.pooled import condition_rows
from personaspace.analysis.geometry.tables import Kept
from personaspace.analysis.ranges import in_range
from personaspace.analysis.rows import Row
from personaspace.analysis.themes import Themes


def rows_at_step(
    files: Sequence[Path],
    names: Collection[str],
    *,
    base: str,
    axis: str | None,
    assistant: str,
    place: tuple[str, int],
    seed: int,
    themes: Themes | None = None,
) -> list[Row]:
    """What `analyse_geometry` says of conditions over all runs, at one method and layer.

    Conditions of another step do not come in: estimates are those of a study that has these alone.
    M2's axis is that of a whole training, so that all steps are measured along one direction; a
    condition that is base yet has no M2.

    Args:
        files: Activations of base, of these conditions, and of the condition that makes the axis.
        names: The conditions.
        base: What they are compared with.
        axis: The condition that makes the axis; None: no M2.
        assistant: Persona whose shift makes it.
        place: Method and layer.
        seed: Of all random draws.
        themes: Of the questions.

    Raises:
        UserError: Malformed files.
    """
    roles = Roles(base=base, axis=axis, benign=None, assistant=assistant)
    kept = Kept()
    unmoved: set[str] = set()
    for group in group_files(files, base):
        if group.method == place[0] and place[1] in group.layers and len(group.kept) > 1:
            work = GroupWork.make(group, roles, 1, 1, seed, ("recommended",), themes)
            cell = read_cell(group, place[1])
            work.tabulate(cell, kept)
            # A step of warm-up may have a rate of zero: no shift has a direction.
            start = cell.states_of(base)
            unmoved |= {n for n in cell.conditions if np.array_equal(cell.states_of(n), start)}
    rows = condition_rows(kept, roles, names)
    return [in_range(row) for row in rows if row.metric != "M2" or row.condition not in unmoved]
