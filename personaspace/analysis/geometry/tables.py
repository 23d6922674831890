"""What the cells of each seed leave behind of a measure, for estimates over all training runs.

Shape suffixes: Q questions, P personas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis.geometry.cells import Cell
from personaspace.analysis.geometry.compare import Pseudo


@dataclass(frozen=True)
class Table:
    """One run's pseudo-values of a measure, and their change from base's."""

    condition: str
    seed: int
    used: NDArray[np.bool_]
    personas: tuple[str, ...]
    own: Pseudo
    change: Pseudo | None
    base: float | None


@dataclass
class Kept:
    """Tables of every run by method, layer, metric and measure."""

    tables: dict[tuple[str, int, str, str], list[Table]] = field(default_factory=dict)

    def at(self, place: tuple[str, int] | None) -> Kept:
        """Those of one method and layer."""
        return Kept({key: mine for key, mine in self.tables.items() if key[:2] == place})

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
