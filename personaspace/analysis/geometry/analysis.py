"""The geometry analysis: activation files in, rows of M1, M2 and M3 and all cosines out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from personaspace.activations.files import open_activations
from personaspace.analysis.geometry import axis as split_axis
from personaspace.analysis.geometry import (
    collapse,
    convergence,
    dimensions,
    published,
    separability,
    shape,
    transfer,
)
from personaspace.analysis.geometry.cells import Cell, Group, Roles, group_files
from personaspace.analysis.geometry.halves import LEAST
from personaspace.analysis.geometry.halves import Design as GroupDesign
from personaspace.analysis.geometry.pooled import pooled_rows, robust_rows
from personaspace.analysis.geometry.space import space_of
from personaspace.analysis.geometry.tables import Kept
from personaspace.analysis.geometry.wordings import read_with_wordings
from personaspace.analysis.metrics import described
from personaspace.analysis.ranges import in_range
from personaspace.analysis.results_parts import DimensionRow, PersonaSpace, RobustRow
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import adjust, generator
from personaspace.analysis.themes import Places, Themes, places_of, sums
from personaspace.analysis.wordings import unheld
from personaspace.errors import UserError

DEFAULT_AXIS = "e0-assistant"
DEFAULT_BENIGN = "benign"
DEFAULT_ASSISTANT = "assistant"
VARIANTS = ("published", "recommended")

COSINE_COLUMNS = (
    "method",
    "layer",
    "condition",
    "seed",
    "persona_i",
    "persona_j",
    "cosine",
)


@dataclass
class GeometryResult:
    """What the analysis found.

    Attributes:
        rows: By method, seed, layer; within these M1, M2, M3, published first. After the layers of
            a method and seed, M2 across conditions. Last, the estimates over all seeds.
        cosines: Tidy table of `COSINE_COLUMNS`, each pair of persona vectors once. `seed` is that
            of the comparison, so that base stands beside each seed that it is compared with.
        dimensions: What a few large dimensions make of the activations, cell by cell.
        robustness: M1 to M3 at one place without these, and with all dimensions of one scale.
        spaces: Coordinates of persona vectors there.
        notes: What was left out and why.
    """

    rows: list[Row] = field(default_factory=list)
    cosines: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COSINE_COLUMNS))
    dimensions: list[DimensionRow] = field(default_factory=list)
    robustness: list[RobustRow] = field(default_factory=list)
    spaces: list[PersonaSpace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _role(named: str | None, default: str, there: set[str], what: str) -> str | None:
    """A condition by name, or the default one if it is there.

    Raises:
        UserError: A named condition is absent.
    """
    if named is None:
        return default if default in there else None
    if named not in there:
        raise UserError(f"no activations of the {what} {named!r}; there are {_listed(there)}")
    return named


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _roles(
    groups: list[Group],
    base: str,
    axis: str | None,
    benign: str | None,
    assistant: str | None,
    placebo: Collection[str],
) -> tuple[Roles, list[str]]:
    conditions = {name for group in groups for name in group.files} - {base}
    personas = {name for group in groups for name in (*group.kept, *group.dropped)}
    if assistant is not None and assistant not in personas:
        raise UserError(
            f"no activations of the persona {assistant!r}; there are {_listed(personas)}"
        )
    roles = Roles(
        base=base,
        axis=_role(axis, DEFAULT_AXIS, conditions, "axis condition"),
        benign=_role(benign, DEFAULT_BENIGN, conditions, "benign condition"),
        assistant=assistant or DEFAULT_ASSISTANT,
        placebo=tuple(sorted(placebo)),
    )
    notes = []
    if conditions and roles.axis is None:
        notes.append(
            f"M2 is left out: there is no condition {DEFAULT_AXIS!r}; name the condition that "
            f"defines the axis, one of {_listed(conditions)}"
        )
    elif conditions and roles.assistant not in personas:
        notes.append(f"M2 is left out: there is no persona {roles.assistant!r}")
    return roles, notes


def analyse_geometry(
    files: Sequence[Path],
    *,
    base: str = "base",
    axis: str | None = None,
    assistant: str | None = None,
    benign: str | None = None,
    placebo: Collection[str] = (),
    permutations: int = 10_000,
    bootstrap: int = 2_000,
    seed: int = 42,
    variants: Collection[str] = VARIANTS,
    themes: Themes | None = None,
    robust_at: tuple[str, int] | None = None,
    advance: Callable[[int], None] | None = None,
) -> GeometryResult:
    """M1, M2 and M3, published and recommended, for every method, seed, layer and condition.

    One layer of all conditions is in memory at a time, as float32, and about as much again.

    Args:
        files: Activation files, in any order.
        base: The condition that the others are compared with.
        axis: Condition that defines the axis of M2; None: e0-assistant, and no M2 without it.
        assistant: Persona whose shift defines the axis; None: `assistant`, and no M2 without it.
        benign: Condition fine-tuned on harmless data; None: `benign`, if there is one.
        placebo: Further such conditions, compared with it and no EM.
        permutations, bootstrap: Draws of every permutation test, of the published interval.
        seed: Of all random draws.
        variants: `published`, `recommended` or both.
        themes: Of the questions, which are then the clusters of the recommended analysis.
        robust_at: Method and layer of `robustness` and `spaces`; None: there are none.
        advance: Called with 1 after each method, seed and layer.

    Returns:
        No files, or base alone: no rows (there is nothing to compare), and a note that says so.

    Raises:
        UserError: Malformed files, or a condition or persona that was named but is absent.
    """
    if not files:
        return GeometryResult(notes=["there are no activation files"])
    groups = group_files(files, base)
    roles, notes = _roles(groups, base, axis, benign, assistant, placebo)
    result = GeometryResult(notes=notes)
    cosines: list[pd.DataFrame] = []
    tables, changed = Kept(), {each: Kept() for each in dimensions.TRANSFORMS}
    for group in groups:
        made = GroupWork.make(group, roles, permutations, bootstrap, seed, variants, themes)
        work = replace(made, kept=tables)
        result.notes.extend(note for note in work.notes if note not in result.notes)
        for cell, without in read_with_wordings(group) if len(group.kept) > 1 else ():
            cosines.append(_cosine_table(cell))
            result.dimensions.extend(dimensions.dimension_rows(cell))
            if (cell.method, cell.layer) == robust_at:
                result.spaces.append(space_of(cell, roles))
            rows, more = work.held(cell, without)
            result.rows.extend(rows)
            result.notes.extend(note for note in more if note not in result.notes)
            if (cell.method, cell.layer) == robust_at and "recommended" in variants:
                work.repeat(cell, without, changed)
            if advance is not None:
                advance(1)
        moved = convergence.convergence_rows(work.positions, group.method, group.seed, seed)
        result.rows.extend(unheld(moved) if tables.several else moved)
    result.rows.extend(pooled_rows(tables, roles))
    result.robustness = robust_rows({"as_is": tables.at(robust_at)} | changed, roles)
    result.cosines = pd.concat(cosines, ignore_index=True) if cosines else result.cosines
    kept = [row for row in result.rows if row.variant in variants]
    return replace(result, rows=[described(in_range(row)) for row in adjust(kept)])


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


def cosine_to(
    files: Sequence[Path], reference: str = DEFAULT_ASSISTANT
) -> dict[int, dict[str, float]]:
    """Cosine of every persona's mean activation to the reference persona's, by layer.

    Args:
        files: Activation files of one condition, seed and method; their personas are put together.
        reference: Persona that the others are compared with.

    Returns:
        `{layer: {persona: cosine}}`, layers ascending; personas without a valid question are left
        out. No files: an empty dict.

    Raises:
        UserError: Malformed files, different layers or sizes, a persona in two files, or no
            reference.
    """
    opened = [open_activations(path) for path in files]
    for file in opened[1:]:
        if (file.layers, file.hidden) != (opened[0].layers, opened[0].hidden):
            raise UserError(f"{file.path}: other layers or sizes than {opened[0].path.name}")
    names = [name for file in opened for name in file.personas]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{opened[-1].path}: duplicate persona {repeated!r}")
    cosines: dict[int, dict[str, float]] = {}
    for layer in sorted(opened[0].layers) if opened else ():
        vectors: dict[str, np.ndarray] = {}
        for file in opened:
            states, valid = file.read_layer(layer), file.valid
            for index, name in enumerate(file.personas):
                if valid[index].any():
                    vectors[name] = states[index, valid[index]].mean(axis=0, dtype=np.float64)
        if reference not in vectors:
            raise UserError(f"{opened[0].path}: no activations of persona {reference!r}")
        target = vectors[reference] / np.linalg.norm(vectors[reference])
        cosines[layer] = {
            name: float(vector @ target / np.linalg.norm(vector))
            for name, vector in vectors.items()
        }
    return cosines
