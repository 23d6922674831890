"""What is computed of one cell, and what all cells of a group share.

A cell needs nothing of another one: cells are worked out in any order, in any process, and put
together in theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from personaspace.analysis.geometry import axis as split_axis
from personaspace.analysis.geometry import (
    collapse,
    dimensions,
    published,
    separability,
    shape,
    transfer,
)
from personaspace.analysis.geometry.cells import Cell, Group, Roles
from personaspace.analysis.geometry.halves import LEAST
from personaspace.analysis.geometry.halves import Design as GroupDesign
from personaspace.analysis.geometry.space import space_of
from personaspace.analysis.geometry.tables import Kept
from personaspace.analysis.geometry.wordings import Wordings, read_with_wordings, wordings_of
from personaspace.analysis.results_parts import DimensionRow, PersonaSpace
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import generator
from personaspace.analysis.themes import Places, Themes, places_of, sums
from personaspace.analysis.wordings import unheld

VARIANTS = ("published", "recommended")


@dataclass(frozen=True)
class Settings:
    """What all cells are worked out with; as of `analyse_geometry`."""

    groups: list[Group]
    roles: Roles
    permutations: int
    bootstrap: int
    seed: int
    variants: Collection[str]
    themes: Themes | None
    robust_at: tuple[str, int] | None

    def work(self, group: Group) -> GroupWork:
        """What is drawn and decided for a group."""
        return GroupWork.make(
            group, self.roles, self.permutations, self.bootstrap, self.seed, self.variants,
            self.themes,
        )  # fmt: skip


@dataclass(frozen=True)
class CellFound:
    """What one cell leaves.

    Attributes:
        rows: Of the cell alone.
        cosines: Table of `COSINE_COLUMNS`.
        dimensions: See `GeometryResult`.
        spaces: See `GeometryResult`.
        notes: What was left out and why, for the whole group first.
        kept: For estimates over all runs.
        changed: The same of activations changed in each way.
        positions: For convergence over layers.
    """

    rows: list[Row]
    cosines: pd.DataFrame
    dimensions: list[DimensionRow]
    spaces: list[PersonaSpace]
    notes: list[str]
    kept: Kept
    changed: dict[str, Kept]
    positions: list[split_axis.Positions]


#: The group that this process worked on last, and what all its cells share.
_last: tuple[Settings, int, GroupWork, Wordings | None] | None = None


def cell_found(settings: Settings, place: tuple[int, int]) -> CellFound:
    """Works out one cell, on one thread: several would round sums in another way.

    Args:
        settings: Of the analysis.
        place: The group's, and the layer.

    Raises:
        UserError: Malformed files.
    """
    global _last
    index, layer = place
    group = settings.groups[index]
    with threadpool_limits(1):
        if _last is None or _last[0] is not settings or _last[1] != index:
            _last = None  # its draws are not needed beside the next one's
            _last = (settings, index, settings.work(group), wordings_of(group))
        _, _, shared, several = _last
        cell, without = read_with_wordings(group, layer, several)
        work = replace(shared, kept=Kept(), positions=[])
        rows, notes = work.held(cell, without)
        at_place = (cell.method, cell.layer) == settings.robust_at
        changed = {each: Kept() for each in dimensions.TRANSFORMS}
        if at_place and "recommended" in settings.variants:
            work.repeat(cell, without, changed)
        return CellFound(
            rows=rows,
            cosines=_cosine_table(cell),
            dimensions=dimensions.dimension_rows(cell),
            spaces=[space_of(cell, settings.roles)] if at_place else [],
            notes=[*work.notes, *notes],
            kept=work.kept or Kept(),
            changed=changed,
            positions=work.positions,
        )


@contextmanager
def forgotten() -> Iterator[None]:
    """In the end, let go of what the last group's cells shared."""
    global _last
    try:
        yield
    finally:
        _last = None


def _cosine_table(cell: Cell) -> pd.DataFrame:
    first, second = np.triu_indices(len(cell.personas), 1)
    names = np.array(cell.personas, dtype=object)
    parts = [
        pd.DataFrame(
            {
                "method": cell.method,
                "layer": cell.layer,
                "condition": condition,
                "seed": cell.seed,
                "persona_i": names[first],
                "persona_j": names[second],
                "cosine": cell.cosines(condition)[first, second],
            }
        )
        for condition in cell.conditions
    ]
    return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class GroupWork:
    """Random draws and decisions that all layers of a group share."""

    roles: Roles
    seed: int
    draws: published.PublishedDraws | None
    halves: np.ndarray | None
    design: separability.Design | None
    notes: list[str]
    places: Places | None = None
    positions: list[split_axis.Positions] = field(default_factory=list)
    kept: Kept | None = None
    groups: GroupDesign | None = None

    @classmethod
    def make(
        cls,
        group: Group,
        roles: Roles,
        permutations: int,
        bootstrap: int,
        seed: int,
        variants: Collection[str] = VARIANTS,
        themes: Themes | None = None,
    ) -> GroupWork:
        """Decides what can be computed of a group, and draws."""
        where = f"method {group.method}, seed {group.seed}"
        notes = [
            f"{name!r} is left out for {where}: no question is usable in every condition"
            for name in group.dropped
        ]
        if len(group.files) < 2:
            notes.append(f"there is nothing to compare {roles.base!r} with for {where}")
            return cls(roles, seed, None, None, None, notes)
        if len(group.kept) < 2:
            notes.append(f"fewer than two personas are left for {where}: nothing is computed")
            return cls(roles, seed, None, None, None, notes)
        draws = published.PublishedDraws.make(len(group.kept), permutations, bootstrap, seed)
        if "recommended" not in variants:
            return cls(roles, seed, draws, None, None, notes)
        places = places_of(group.questions, themes) if themes else None
        usable = sums(group.valid.astype(float), places) > 0
        if usable.sum(axis=1).min() < 2:
            unit = "question" if places is None else "theme"
            notes.append(f"only published tests for {where}: a persona has one usable {unit}")
            return cls(roles, seed, draws, None, None, notes)
        samples = usable.shape[1]
        halves = split_axis.halve(samples, generator(seed, "M2 halves", samples))
        design = separability.Design.make(group.valid, permutations, seed, places)
        groups = GroupDesign.make(group.valid.shape[1], seed, places)
        if groups is None:
            unit = "questions" if places is None else "themes"
            notes.append(f"shape is left out for {where}: fewer than {LEAST} {unit}")
        return cls(roles, seed, draws, halves, design, notes, places, groups=groups)

    def analyse(self, cell: Cell) -> tuple[list[Row], list[str]]:
        """All rows of one cell, and what was left out."""
        if self.draws is None:
            return [], []
        wants_axis = self.roles.axis is not None and self.roles.assistant in cell.personas
        rows, notes = published.m1(cell, self.roles, self.draws), []
        sampled = cell.by_theme(self.places)
        if self.design is not None:
            rows.extend(collapse.m1(sampled, self.roles, self.kept))
        if wants_axis:
            rows.extend(published.m2(cell, self.roles, self.draws))
        if wants_axis and self.halves is not None:
            more, at, note = split_axis.m2(sampled, self.roles, self.halves, self.kept)
            rows.extend(more)
            self.positions.extend([at] if at else [])
            notes = [note] if note else []
        rows.extend(published.m3(cell, self.roles))
        if self.design is not None:
            flat = separability.components(cell, self.seed)
            rows.extend(separability.m3(cell, self.roles, self.design, self.seed, self.kept, flat))
            rows.extend(transfer.rows(cell, self.roles, self.design, flat, self.kept))
        if self.groups is not None:
            rows.extend(shape.rows(cell, self.roles, self.groups, self.kept))
        return rows, notes

    def held(self, cell: Cell, without: Sequence[Cell]) -> tuple[list[Row], list[str]]:
        """As `analyse`; with wordings, of one seed none is tested, and tables hold them.

        Args:
            without: The cell without each wording, if personas have several.
        """
        rows, notes = self.analyse(cell)
        if without and self.kept is not None:
            self.kept.leave_out([self.left_out(each) for each in without])
        return (unheld(rows) if without else rows), notes

    def left_out(self, cell: Cell) -> Kept:
        """M1 of a cell without a wording, for estimates over all runs.

        M2 to M3 and shape are no smooth functions of persona vectors where these hardly differ or
        the axis is noise: left out one by one, wordings do not say how sure they are.
        """
        kept = Kept()
        if self.design is not None:
            collapse.m1(cell.by_theme(self.places), self.roles, kept)
        return kept

    def repeat(self, cell: Cell, without: Sequence[Cell], changed: Mapping[str, Kept]) -> None:
        """The same of activations changed in each way, for estimates over all runs alone.

        Args:
            without: The cell without each wording, if personas have several.
        """
        for transform in dimensions.transforms(cell):
            self.tabulate(dimensions.transformed(cell, transform), changed[transform])
            if without:
                left = [self.left_out(dimensions.transformed(each, transform)) for each in without]
                changed[transform].leave_out(left)

    def tabulate(self, cell: Cell, kept: Kept) -> None:
        """What M1 to M3 of a cell leave for estimates over all runs, and nothing else."""
        if self.design is None:
            return
        sampled = cell.by_theme(self.places)
        collapse.m1(sampled, self.roles, kept)
        if self.halves is not None and self.roles.axis is not None:
            split_axis.m2(sampled, self.roles, self.halves, kept)
        flat = separability.components(cell, self.seed)
        separability.m3(cell, self.roles, self.design, self.seed, kept, flat)
        transfer.rows(cell, self.roles, self.design, flat, kept)
        if self.groups is not None:
            shape.rows(cell, self.roles, self.groups, kept)
