"""Rows of the statistics as tables: one column a field, and what each column holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from personaspace.analysis.rows import Row

if TYPE_CHECKING:
    import pandas as pd

#: Of the table of rows; everything else is a float.
_TEXTS = (
    *("metric", "variant", "method", "condition", "family"),
    *("name", "note", "effect_name", "warning", "status", "target", "against"),
)
_INTEGERS = ("layer", "seed", "n")
_YES_OR_NO = ("run_variation",)


def frame(rows: Sequence[Row], base: str | None = None) -> pd.DataFrame:
    """Rows of the statistics as a table; `personaspace.columns()` says what each column is.

    Args:
        rows: Of geometry or leakage.
        base: Name of the base condition: its own values become rows too, taken from what the
            others were compared with, where all say the same.
    """
    import pandas as pd

    names = [field.name for field in fields(Row)]
    found = [row.to_dict() for row in rows]
    if base is not None:
        found = [*_base_rows(found, base, names), *found]
    table = pd.DataFrame(found, columns=names)
    ends = [pair or (None, None) for pair in table.pop("ci95")]
    place = names.index("ci95")
    for offset, name in enumerate(("ci95_low", "ci95_high")):
        table.insert(place + offset, name, [pair[offset] for pair in ends])
    for name in table.columns:
        kind = "string" if name in _TEXTS else "Int64" if name in _INTEGERS else "float64"
        if name in _YES_OR_NO:
            kind = "boolean"
        table[name] = table[name].astype(kind)
    return table


def _base_rows(
    rows: Sequence[Mapping[str, Any]], base: str, names: Sequence[str]
) -> list[dict[str, Any]]:
    """What the rows were compared with, as rows of the base condition."""
    place = ("metric", "variant", "method", "layer", "seed", "name")
    said: dict[tuple[Any, ...], set[float]] = {}
    for row in rows:
        if row["condition"] not in (None, base) and row["base"] is not None:
            said.setdefault(tuple(row[name] for name in place), set()).add(row["base"])
    own = {tuple(row[name] for name in place) for row in rows if row["condition"] == base}
    return [
        dict.fromkeys(names)
        | dict(zip(place, key, strict=True))
        | {"condition": base, "value": next(iter(values))}
        for key, values in said.items()
        if key not in own and len(values) == 1
    ]


def columns() -> dict[str, str]:
    """What each column of `StudyResults.rows()` holds."""
    from pydantic import TypeAdapter

    described = TypeAdapter(Row).json_schema()["properties"]
    texts = {name: field.get("description", "") for name, field in described.items()}
    interval = texts.pop("ci95")
    found: dict[str, str] = {}
    for name in (field.name for field in fields(Row)):
        if name == "ci95":
            found |= {"ci95_low": f"Low end: {interval}", "ci95_high": f"High end: {interval}"}
        else:
            found[name] = texts[name]
    return found
