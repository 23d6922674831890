"""The geometry analysis: activation files in, rows of M1, M2 and M3 and all cosines out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from personaspace.activations.files import open_activations
from personaspace.analysis import cores
from personaspace.analysis.geometry import axis as split_axis
from personaspace.analysis.geometry import convergence, dimensions
from personaspace.analysis.geometry.cells import Group, Roles, group_files
from personaspace.analysis.geometry.convergence_runs import convergence_over_runs
from personaspace.analysis.geometry.group_work import (
    VARIANTS,
    CellFound,
    Settings,
    cell_found,
    forgotten,
)
from personaspace.analysis.geometry.pooled import pooled_rows, robust_rows
from personaspace.analysis.geometry.tables import Kept
from personaspace.analysis.metrics import described
from personaspace.analysis.ranges import in_range
from personaspace.analysis.results_parts import DimensionRow, PersonaSpace, RobustRow
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import adjust
from personaspace.analysis.themes import Themes
from personaspace.analysis.wordings import unheld
from personaspace.errors import UserError

DEFAULT_AXIS = "e0-assistant"
DEFAULT_BENIGN = "benign"
DEFAULT_ASSISTANT = "assistant"
#: Bytes that a process takes for each byte of its cell, at most.
_LIKE_A_CELL = 3
#: Bytes of activations that are worked out while a process loads its libraries.
_WORTH_A_PROCESS = 256 << 20
#: A cell's tests alone take as long as these bytes.
_TESTS = 8 << 20

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

    def note(self, notes: Sequence[str]) -> None:
        """Takes notes, each once."""
        self.notes.extend(each for each in dict.fromkeys(notes) if each not in self.notes)

    def take(self, found: CellFound) -> None:
        """Takes what a cell left, but its tables."""
        self.rows.extend(found.rows)
        self.dimensions.extend(found.dimensions)
        self.spaces.extend(found.spaces)
        self.note(found.notes)


def _processes(groups: Sequence[Group], wanted: int | None) -> int:
    """How many are to share the cells of these groups."""
    cells = sum(len(group.layers) for group in groups)
    sizes = [
        4 * len(group.files) * group.valid.size * next(iter(group.files.values())).hidden
        for group in groups
    ]
    work = sum(
        len(group.layers) * (size + _TESTS) for group, size in zip(groups, sizes, strict=True)
    )
    each = _LIKE_A_CELL * max(sizes, default=0)
    return cores.sharing(wanted, cells, work // _WORTH_A_PROCESS, each)


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
    if roles.axis is not None and roles.axis == roles.benign:
        raise UserError(
            f"{roles.axis!r} is both the axis condition and the benign one; they must differ"
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
    processes: int | None = 1,
    advance: Callable[[int], None] | None = None,
) -> GeometryResult:
    """M1, M2 and M3, published and recommended, for every method, seed, layer and condition.

    One layer of all conditions is in memory at a time (in each process), as float32, and about as
    much again.

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
        processes: That share the cells; their number changes no result. None: as many as there are
            cores for us, while memory lasts and where the cells are worth it.
        advance: Called with 1 after each method, seed and layer.

    Returns:
        No files, or base alone: no rows (there is nothing to compare), and a note that says so.

    Raises:
        UserError: Malformed files, a condition or persona that was named but is absent, or one
            condition as axis and benign.
    """
    if not files:
        return GeometryResult(notes=["there are no activation files"])
    groups = group_files(files, base)
    roles, notes = _roles(groups, base, axis, benign, assistant, placebo)
    settings = Settings(groups, roles, permutations, bootstrap, seed, variants, themes, robust_at)
    result = GeometryResult(notes=notes)
    tables, changed = _cell_by_cell(settings, result, processes, advance)
    result.rows.extend(pooled_rows(tables, roles))
    result.rows.extend(convergence_over_runs(tables, roles))
    result.robustness = robust_rows({"as_is": tables.at(robust_at)} | changed, roles)
    kept = [row for row in result.rows if row.variant in variants]
    return replace(result, rows=[described(in_range(row)) for row in adjust(kept)])


def _cell_by_cell(
    settings: Settings,
    result: GeometryResult,
    processes: int | None,
    advance: Callable[[int], None] | None,
) -> tuple[Kept, dict[str, Kept]]:
    """Puts together what cells leave, in their order; for estimates over all runs their tables."""
    groups = settings.groups
    places = [
        (index, layer)
        for index, group in enumerate(groups)
        if len(group.kept) > 1
        for layer in group.layers
    ]
    cosines: list[pd.DataFrame] = []
    tables, changed = Kept(), {each: Kept() for each in dimensions.TRANSFORMS}
    count = _processes([group for group in groups if len(group.kept) > 1], processes)
    with forgotten(), cores.shared(cell_found, settings, places, count) as cells:
        for group in groups:
            positions: list[split_axis.Positions] = []
            if len(group.kept) < 2:
                result.note(settings.work(group).notes)
                continue
            for found in itertools.islice(cells, len(group.layers)):
                result.take(found)
                cosines.append(found.cosines)
                positions.extend(found.positions)
                tables.take(found.kept)
                for name, mine in found.changed.items():
                    changed[name].take(mine)
                if advance is not None:
                    advance(1)
            moved = convergence.convergence_rows(positions, group.method, group.seed, settings.seed)
            result.rows.extend(unheld(moved) if tables.several else moved)
    result.cosines = pd.concat(cosines, ignore_index=True) if cosines else result.cosines
    return tables, changed


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
