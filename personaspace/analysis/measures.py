"""What every measure is called, tests, shows and cannot show, for rows, report and documentation.

Their words are those of `catalogue`. A measure is a (metric, variant, name); its companion
`…_delta` is the same measure's change from base.

    python -m personaspace.analysis.measures > docs/measures.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from personaspace.analysis.metrics import MEASURES, Measure
from personaspace.analysis.rows import Row

__all__ = ["MEASURES", "Measure", "described", "markdown", "measure_of", "measures_of"]


def measure_of(metric: str, variant: str, name: str | None) -> Measure:
    """The measure of a row.

    Raises:
        KeyError: There is no such measure: every row must have its entry here.
    """
    found = MEASURES.get((metric, variant, name))
    if found is None and name is not None and name.endswith("_delta"):
        whole = MEASURES[metric, variant, name.removesuffix("_delta")]
        return replace(whole, name=name, title=f"{whole.title}, change from base")
    if found is None:
        raise KeyError(f"no measure {metric} {variant} {name}")
    return found


def described(row: Row) -> Row:
    """The row with its measure's sentence before its own note, and the name of its effect size.

    A row without a value keeps its note alone: it says why there is none.
    """
    measure = measure_of(row.metric, row.variant, row.name)
    if row.value is None and row.note:
        return row
    note = f"{measure.note} {row.note}" if row.note else measure.note
    return replace(row, note=note, effect_name=measure.effect if row.effect is not None else None)


def measures_of(rows: Iterable[Row] | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measures that occur in rows (or their dicts), in order of first appearance."""
    keys = {
        (row["metric"], row["variant"], row["name"])
        if isinstance(row, dict)
        else (row.metric, row.variant, row.name): None
        for row in rows
    }
    return [measure_of(*key).to_dict() for key in keys]


def markdown() -> str:
    """The documentation page."""
    lines = [
        "# Measures",
        "",
        "Every kind of result row: what it shows, cannot show, and what its p tests. Written by "
        "`python -m personaspace.analysis.measures > docs/measures.md`. `…_delta` rows carry the "
        "same measure's change from base. [statistics.md](statistics.md) says how they are "
        "computed.",
    ]
    for metric in dict.fromkeys(measure.metric for measure in MEASURES.values()):
        lines += ["", f"## {metric}", "", "| variant | `name` | shows | cannot | null | effect |"]
        lines.append("|---|---|---|---|---|---|")
        for measure in MEASURES.values():
            if measure.metric == metric:
                name = f"{measure.title} (`{measure.name}`)" if measure.name else measure.title
                cells = [measure.variant, name, measure.shows, measure.cannot]
                cells += [measure.null or "no test", measure.effect or ""]
                lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
