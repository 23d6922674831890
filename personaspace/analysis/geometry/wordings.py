"""Personas in several wordings: what a cell is without each of them.

The k-th wordings of all personas are left out together (a grouped jackknife: Wolter 2007, Shao & Tu
1995). That holds what wordings of one persona and what a form that all personas share bring, and
costs as many analyses as there are wordings. Where a persona has one, that stays.

Shape suffixes: C conditions, P personas, W wordings, Q questions, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from personaspace.activations.files import (
    ActivationFile,
    open_activations,
    wording_name,
    wordings_file,
)
from personaspace.analysis.geometry.cells import Cell, Group, read_cell
from personaspace.errors import UserError


@dataclass(frozen=True)
class Wordings:
    """The files of single wordings of a group.

    Attributes:
        files: By condition, in the group's order.
        rows: Of each persona with several, the places of its wordings in the files.
        count: How many these are.
    """

    files: dict[str, ActivationFile]
    rows: dict[str, list[int]]
    count: int

    def cells(self, cell: Cell) -> tuple[Cell, list[Cell]]:
        """The cell with the wordings that all conditions have, and without each of them in turn."""
        states, valid = self._read(cell)
        everyone = _cell(cell, states, valid, None)
        return everyone, [_cell(cell, states, valid, left) for left in range(self.count)]

    def _read(
        self, cell: Cell
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.bool_]]]:
        """Of each persona `[C, W, Q, H]` and which wordings all conditions have, `[W, Q]`."""
        layers = [file.read_layer(cell.layer) for file in self.files.values()]
        states, valid = {}, {}
        for name, rows in self.rows.items():
            states[name] = np.stack([layer[rows] for layer in layers])
            valid[name] = np.logical_and.reduce([file.valid[rows] for file in self.files.values()])
        return states, valid


def _cell(
    cell: Cell,
    states: dict[str, NDArray[np.float32]],
    valid: dict[str, NDArray[np.bool_]],
    left: int | None,
) -> Cell:
    """The cell whose activations are means over the wordings but one."""
    changed = cell.states.copy()
    for name, states_CWQH in states.items():
        kept_WQ = valid[name].copy()
        if left is not None:
            kept_WQ[left] = False
        weights = kept_WQ / np.maximum(1, kept_WQ.sum(axis=0))
        found = np.einsum("wq,cwqh->cqh", weights.astype(np.float32), states_CWQH)
        # Where no other wording has an answer, what is there stays.
        some = kept_WQ.any(axis=0) & cell.valid[cell.personas.index(name)]
        changed[:, cell.personas.index(name), some] = found[:, some]
    counts = cell.valid.sum(axis=1)
    sums = np.matmul(cell.valid[:, None, :].astype(np.float32), changed)[:, :, 0]
    return replace(cell, states=changed, means=(sums / counts[:, None]).astype(np.float64))


def wordings_of(group: Group) -> Wordings | None:
    """The wordings of a group's personas; None: each has one.

    Raises:
        UserError: Some files have wordings and others none, or they do not fit.
    """
    there = [wordings_file(file.path) for file in group.files.values()]
    if not any(path.is_file() for path in there):
        return None
    files = {name: open_activations(path) for name, path in zip(group.files, there, strict=True)}
    first = next(iter(files.values()))
    files = {name: file.ordered_like(first) for name, file in files.items()}
    for file in files.values():
        for what in ("personas", "questions", "layers", "hidden"):
            if getattr(file, what) != getattr(first, what):
                raise UserError(f"{file.path}: other {what} than {first.path.name}")
    rows = {name: list(_rows(first, name)) for name in group.kept}
    rows = {name: places for name, places in rows.items() if places}
    counts = {len(places) for places in rows.values()}
    if len(counts) > 1:
        raise UserError(f"{first.path}: personas have unequal numbers of wordings")
    return Wordings(files, rows, counts.pop()) if counts else None


def read_with_wordings(
    group: Group, layer: int, several: Wordings | None
) -> tuple[Cell, list[Cell]]:
    """A group's cell, and what it is without each wording in turn (`wordings_of`)."""
    cell = read_cell(group, layer)
    return (cell, []) if several is None else several.cells(cell)


def _rows(file: ActivationFile, persona: str) -> Iterator[int]:
    number = 1
    while (name := wording_name(persona, number)) in file.personas:
        yield file.personas.index(name)
        number += 1
