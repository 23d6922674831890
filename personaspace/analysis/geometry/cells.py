"""From files to cells: one method, layer and seed with the activations of all its conditions.

Shape suffixes: C conditions, P personas, Q questions, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personaspace.activations.files import ActivationFile, open_activations
from personaspace.analysis.themes import Places, members, sums, widening
from personaspace.errors import UserError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Roles:
    """Which condition plays which part.

    Attributes:
        base: What the others are compared with.
        axis: Defines the axis of M2 together with base; None: no M2.
        benign: Fine-tuned on harmless data; None: no such arm.
        assistant: The persona whose shift defines the axis.
        placebo: Further benign conditions: compared with benign, and with it no EM.
    """

    base: str
    axis: str | None
    benign: str | None
    assistant: str
    placebo: tuple[str, ...] = ()

    @property
    def harmless(self) -> set[str | None]:
        """Base and every benign condition."""
        return {self.base, self.benign, *self.placebo}


@dataclass(frozen=True)
class Group:
    """The files that are compared with each other: one method and seed.

    Attributes:
        method: `a` or `b`.
        seed: Training seed of the conditions (base may be of another one).
        files: By condition; base first, then by name.
        kept: Personas with at least one usable question.
        dropped: The other personas.
        valid: `[P, Q]`, of the kept personas: usable in every condition.
    """

    method: str
    seed: int
    files: dict[str, ActivationFile]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    valid: NDArray[np.bool_]

    @property
    def questions(self) -> tuple[str, ...]:
        """Texts along axis Q."""
        return next(iter(self.files.values())).questions

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers in ascending order."""
        return tuple(sorted(next(iter(self.files.values())).layers))


@dataclass(frozen=True)
class Cell:
    """Activations of one method, layer and seed, and what is computed from them once.

    Attributes:
        method: `a` or `b`.
        layer: Decoder layer, counted from 0.
        seed: Training seed.
        conditions: Names along axis C; base is the first.
        personas: Names along axis P.
        states: `[C, P, Q, H]` activations, 0 where not valid.
        valid: `[P, Q]` usable (persona, question) pairs, the same for all conditions.
        means: `[C, P, H]` persona vectors: means over the usable questions.
    """

    method: str
    layer: int
    seed: int
    conditions: tuple[str, ...]
    personas: tuple[str, ...]
    states: Floats
    valid: NDArray[np.bool_]
    means: NDArray[np.float64]

    def vectors(self, condition: str) -> NDArray[np.float64]:
        """Persona vectors of one condition, `[P, H]`."""
        vectors_PH: NDArray[np.float64] = self.means[self.conditions.index(condition)]
        return vectors_PH

    def states_of(self, condition: str) -> Floats:
        """Activations of one condition, `[P, Q, H]`."""
        states_PQH: Floats = self.states[self.conditions.index(condition)]
        return states_PQH

    def by_theme(self, places_Q: Places | None) -> Cell:
        """The cell whose questions are themes, with the same persona vectors (`themes.by_theme`).

        A persona's themes are those of its usable questions. None: the cell as it is.
        """
        if places_Q is None:
            return self
        counts_PT = sums(self.valid.astype(np.float64), places_Q)
        valid_PT = counts_PT > 0
        themes_P = valid_PT.sum(axis=1)
        wide_P = np.array([widening(row[row > 0]) for row in counts_PT])
        factor_P = themes_P / self.valid.sum(axis=1) * wide_P
        means_CPH = self.means.astype(np.float32)
        states = np.matmul(members(places_Q).astype(np.float32), self.states)
        states *= factor_P.astype(np.float32)[:, None, None]
        left_PT = (1 - factor_P[:, None] * counts_PT) * valid_PT
        if np.abs(left_PT).max() > 1e-9:  # themes of unequal sizes
            states += left_PT.astype(np.float32)[:, :, None] * means_CPH[:, :, None]
        return replace(self, states=states, valid=valid_PT)

    def cosines(self, condition: str) -> NDArray[np.float64]:
        """Cosines of one condition's persona vectors, `[P, P]`."""
        return cosine_matrix(self.vectors(condition))


def cosine_matrix(vectors_PH: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines between the rows. The rows must not be zero."""
    units = vectors_PH / np.linalg.norm(vectors_PH, axis=1, keepdims=True)
    return np.asarray(units @ units.T)


def _check_alike(first: ActivationFile, other: ActivationFile) -> None:
    for what in ("personas", "questions", "layers", "hidden"):
        mine, theirs = getattr(first, what), getattr(other, what)
        if mine != theirs:
            raise UserError(f"{other.path}: other {what} than {first.path.name}")


def group_files(paths: Sequence[Path], base: str) -> list[Group]:
    """Opens files and puts those together that are compared: sorted by method, then seed.

    A condition's seed is compared with base of the same seed, else with base's only seed.

    Raises:
        UserError: A file is malformed or does not fit the others, a condition is a duplicate,
            or base is missing.
    """
    files: dict[tuple[str, str, int], ActivationFile] = {}
    for path in sorted(paths):
        file = open_activations(path)
        key = (file.method, file.condition, file.seed)
        if key in files:
            raise UserError(f"{path}: same condition, seed and method as {files[key].path.name}")
        files[key] = file
    groups = []
    for method in sorted({key[0] for key in files}):
        mine = {key[1:]: file for key, file in files.items() if key[0] == method}
        bases = {seed: file for (name, seed), file in mine.items() if name == base}
        others = {key: file for key, file in mine.items() if key[0] != base}
        if not bases:
            there = ", ".join(sorted({name for name, _ in others}))
            raise UserError(
                f"no activations of the base condition {base!r} for method {method}; there are "
                f"those of {there}"
            )
        for seed in sorted({seed for _, seed in others} or bases):
            if seed not in bases and len(bases) > 1:
                raise UserError(
                    f"base condition {base!r} has seeds {sorted(bases)} for method {method}, "
                    f"which of them goes with seed {seed}?"
                )
            chosen = {base: bases.get(seed, next(iter(bases.values())))}
            chosen |= {name: others[name, s] for name, s in sorted(others) if s == seed}
            groups.append(_group(method, seed, chosen))
    return groups


def _group(method: str, seed: int, files: dict[str, ActivationFile]) -> Group:
    first = next(iter(files.values()))
    files = {name: file.ordered_like(first) for name, file in files.items()}
    for file in files.values():
        _check_alike(first, file)
    # A pair that one condition lacks is left out of all: the study's paired filter.
    valid = np.logical_and.reduce([file.valid for file in files.values()])
    used = valid.any(axis=1)
    names = np.array(first.personas)
    return Group(
        method=method,
        seed=seed,
        files=files,
        kept=tuple(names[used].tolist()),
        dropped=tuple(names[~used].tolist()),
        valid=valid[used],
    )


def read_cell(group: Group, layer: int) -> Cell:
    """Reads one layer of all files of a group.

    Raises:
        UserError: NaN or infinity in a file, or a persona vector that is zero.
    """
    valid = group.valid
    first = next(iter(group.files.values()))
    rows = [first.personas.index(persona) for persona in group.kept]
    counts = valid.sum(axis=1)
    states = np.empty((len(group.files), *valid.shape, first.hidden), dtype=np.float32)
    means = np.empty((len(group.files), len(rows), first.hidden))
    for index, file in enumerate(group.files.values()):
        stored = file.read_layer(layer)
        states[index] = stored if len(rows) == len(first.personas) else stored[rows]
        if not valid.all():
            states[index][~valid] = 0.0
        sums = np.matmul(valid[:, None, :].astype(np.float32), states[index])[:, 0]
        means[index] = sums / counts[:, None]
        empty = np.flatnonzero(~means[index].any(axis=1))
        if len(empty):
            raise UserError(
                f"{file.path}: mean activation of persona {group.kept[empty[0]]!r} at layer "
                f"{layer} is zero, which has no direction"
            )
    return Cell(
        method=group.method,
        layer=layer,
        seed=group.seed,
        conditions=tuple(group.files),
        personas=group.kept,
        states=states,
        valid=valid,
        means=means,
    )


def read_cells(group: Group) -> Iterator[Cell]:
    """A group's cells, one layer at a time."""
    for layer in group.layers:
        yield read_cell(group, layer)
