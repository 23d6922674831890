"""What the cells of each seed leave behind of a measure, for estimates over all training runs.

Shape suffixes: Q questions, P personas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis.geometry.cells import Cell
from personaspace.analysis.geometry.compare import Pseudo


@dataclass(frozen=True)
class Table:
    """One run's pseudo-values of a measure, and their change from base's.

    With `without`, the same without each wording of the personas, if they have several.
    """

    condition: str
    seed: int
    used: NDArray[np.bool_]
    personas: tuple[str, ...]
    own: Pseudo
    change: Pseudo | None
    base: float | None
    without: tuple[Table, ...] = ()

    def by_wording(self, change: bool) -> list[Pseudo]:
        """Pseudo-values of each wording: W·whole − (W − 1)·without it."""
        count = len(self.without)
        return [
            self.pseudo(change) * count - each.pseudo(change) * (count - 1) for each in self.without
        ]

    def fits(self, other: Table) -> bool:
        """Whether both are of one run, and of the same questions and personas."""
        mine, theirs = ((t.condition, t.seed, t.personas) for t in (self, other))
        return mine == theirs and np.array_equal(self.used, other.used)

    def pseudo(self, change: bool) -> Pseudo:
        """Its own, or the change where there is one."""
        return self.change if change and self.change is not None else self.own

    @property
    def before(self) -> float | None:
        """Base's estimate, without the bias that few wordings give it."""
        known = [each.base for each in self.without if each.base is not None]
        if self.base is None or not known:
            return self.base
        return len(known) * self.base - (len(known) - 1) * float(np.mean(known))


@dataclass
class Kept:
    """Tables of every run by method, layer, metric and measure.

    Attributes:
        several: Personas have several wordings.
    """

    tables: dict[tuple[str, int, str, str], list[Table]] = field(default_factory=dict)
    several: bool = False

    def leave_out(self, without: Sequence[Kept]) -> None:
        """Takes the tables of one seed's cell without each wording, where they fit its own."""
        self.several = True
        for key, tables in self.tables.items():
            for place, table in enumerate(tables):
                found = [t for kept in without for t in kept.tables.get(key, ()) if t.fits(table)]
                if len(found) == len(without):
                    tables[place] = replace(table, without=tuple(found))

    def take(self, other: Kept) -> None:
        """Adds all of another's, after its own."""
        self.several |= other.several
        for key, tables in other.tables.items():
            self.tables.setdefault(key, []).extend(tables)

    def at(self, place: tuple[str, int] | None) -> Kept:
        """Those of one method and layer."""
        mine = {key: tables for key, tables in self.tables.items() if key[:2] == place}
        return Kept(mine, self.several)

    def add(
        self,
        cell: Cell,
        metric: str,
        name: str,
        condition: str,
        own: Pseudo,
        base: Pseudo | None = None,
        personas: Sequence[str] | None = None,
    ) -> None:
        """Keeps one run.

        Args:
            own: Its pseudo-values, of the questions that some persona of the cell has.
            base: Base's, in the same cell; None: the measure is a change already.
            personas: Along their axis P; None: the cell's.
        """
        used = np.asarray(cell.valid.any(axis=0))
        names = tuple(cell.personas if personas is None else personas)
        change = None if base is None else own - base
        before = None if base is None else base.mean
        table = Table(condition, cell.seed, used, names, own, change, before)
        self.tables.setdefault((cell.method, cell.layer, metric, name), []).append(table)
