"""Personas in several wordings: which tests hold that, and what becomes of those that do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from personaspace.analysis.rows import Row

NOT_HELD = (
    "Personas have several wordings, and here these are no sample: the estimate is of these "
    "wordings, and has no p and no interval."
)
HELD = "Wordings of personas are a sample: p and interval hold what others would have changed."


def held(rows: Iterable[Row]) -> list[Row]:
    """Rows whose p and interval hold the choice of wordings, and say so."""
    return [replace(row, note=_with(row.note, HELD)) for row in rows]


def unheld(rows: Iterable[Row]) -> list[Row]:
    """Rows without what would be too sure: p, interval and margin; published ones as they are."""
    return [
        row
        if row.variant == "published"
        else replace(
            row,
            p=None,
            ci95=None,
            equivalence=None,
            family=None,
            p_floor=None,
            note=_with(row.note, NOT_HELD),
        )
        for row in rows
    ]


def _with(note: str | None, more: str) -> str:
    return f"{note} {more}" if note else more
