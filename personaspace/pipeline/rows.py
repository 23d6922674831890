"""Rows of hidden states and answers that are to be had, those that former artifacts have, the rest.

A row is of one persona and one question. What it is made from is what its persona's prompt, its
question and all else that the stage reads decide; the other personas and questions do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from personaspace.console import counted
from personaspace.store import Manifest

#: The manifest's field: how many rows were computed, and where the others were taken from.
FIELD = "rows"
#: What a row belongs to: the list of the stage's `reads` that names its persona.
GRID = "personas"


class Row(NamedTuple):
    """One persona and one question; the group is the list in which a stage reads the persona."""

    group: str
    persona: str
    question: str


@dataclass(frozen=True)
class Offer:
    """A former artifact and which of the rows that are wanted it has."""

    manifest: Manifest
    rows: frozenset[Row]


@dataclass(frozen=True)
class Offers:
    """All rows that a stage is to have, and what former artifacts have of them.

    Attributes:
        wanted: All of them.
        found: Former artifacts that have some, the newest first.
    """

    wanted: frozenset[Row] = frozenset()
    found: tuple[Offer, ...] = ()

    @property
    def left(self) -> Left:
        """What would be computed."""
        taken = frozenset[Row]().union(*(offer.rows for offer in self.found))
        return Left(self.wanted, self.wanted - taken)


@dataclass(frozen=True)
class Left:
    """Rows that are to be computed, of all that a stage is to have."""

    wanted: frozenset[Row]
    rows: frozenset[Row]

    @property
    def share(self) -> float:
        """Of the rows, 0 to 1."""
        return len(self.rows) / max(1, len(self.wanted))

    def __str__(self) -> str:
        if not self.rows:
            return "nothing to compute: all rows are taken from former ones"
        personas, questions = _names(self.rows), {row.question for row in self.rows}
        if len(self.rows) == sum(row[:2] in personas for row in self.wanted):
            return f"{len(personas)} of {counted(len(_names(self.wanted)), 'persona')} to compute"
        if len(self.rows) == sum(row.question in questions for row in self.wanted):
            count = counted(len({row.question for row in self.wanted}), "question")
            return f"{len(questions)} of {count} to compute"
        count = counted(len(self.wanted), "pair")
        return f"{len(self.rows)} of {count} of persona and question to compute"

    def to_dict(self) -> dict[str, int]:
        """Plain values."""
        return {
            "personas": len(_names(self.rows)),
            "of_personas": len(_names(self.wanted)),
            "rows": len(self.rows),
            "of_rows": len(self.wanted),
        }


def _names(rows: Iterable[Row]) -> set[tuple[str, str]]:
    return {(row.group, row.persona) for row in rows}
