"""What the data themselves warn of; printed beside the results, never hidden."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from personaspace.analysis.measures import measure_of

#: Shares above which an answer set is worth a warning.
_DEGENERATE = 0.1
#: Share of the source's answers with the marker below which coupling hardly worked.
RARELY = 0.2
#: Share of answers with a separator below which a missing marker may have this reason.
_SEPARATED = 0.2


def caveats(results: dict[str, Any], unseen: set[str]) -> list[str]:
    """Sentences for the report, from results that are otherwise complete.

    Args:
        results: What `results.json` will hold.
        unseen: Evaluation questions that coupling did not train on.
    """
    found = []
    if len(results["seeds"]) == 1:
        found.append(
            f"One seed ({results['seeds'][0]}): nothing here tells a condition's effect from "
            "chance in training."
        )
    em = [c for c in results["conditions"] if c["kind"] == "em"]
    if 1 < len(em) < 6:
        orders = math.factorial(len(em))
        found.append(
            f"H3 ranks {len(em)} conditions, so its exact two-sided p cannot be below "
            f"2/{orders} = {2 / orders:.3f}, whatever the data."
        )
    if not any(c["kind"] == "benign" for c in results["conditions"]):
        found.append(
            "There is no benign condition: a collapse may come from any fine-tuning at all."
        )
    found.extend(_answer_caveats(results))
    if results["rates"] and not unseen:
        found.append(
            "Every evaluation question was also a coupling question, so leakage may be memory of "
            "the questions."
        )
    found.extend(_training_caveats(results))
    found.extend(failed_assumptions([*results["geometry"], *results["leakage"]]))
    return found


def failed_assumptions(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence for each measure and assumption that fails, with where it does.

    Args:
        rows: Result rows as dicts; those without a warning are passed over.
    """
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if not row.get("warning"):
            continue
        measure = measure_of(row["metric"], row["variant"], row["name"])
        title = measure.title.removesuffix(", change from base")
        layer = None if row["layer"] is None else f"layer {row['layer']}"
        method = None if row["method"] is None else f"method {row['method'].upper()}"
        place = " ".join(part for part in (row["condition"], layer, method) if part)
        found = where[f"{row['metric']}, {title}", row["warning"]]
        if place and place not in found:
            found.append(place)
    return [
        f"{measure}: {warning}{_listed(places)}" for (measure, warning), places in where.items()
    ]


def _listed(places: list[str]) -> str:
    if not places:
        return ""
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f" ({', '.join(places[:3])}{more})"


def _answer_caveats(results: dict[str, Any]) -> list[str]:
    found = []
    for condition in results["conditions"]:
        rows = [row for row in results["rates"] if row["condition"] == condition["name"]]
        broken = _share(rows, "degenerate")
        if broken > _DEGENERATE:
            found.append(
                f"{condition['label'] or condition['name']}: {broken:.0%} of the answers "
                "are degenerate (empty, repetitive, or with several markers); read its leakage "
                "with care."
            )
        source = [row for row in rows if row["persona"] == results["source"] and row["total"]]
        if source and _share(source, "hits") < RARELY:
            found.append(
                f"{condition['label'] or condition['name']}: the source persona itself rarely "
                "writes the marker, so coupling hardly worked and low leakage says little."
                + _never_there(source)
            )
    return found


def _share(rows: Sequence[dict[str, Any]], counted: str) -> float:
    """What is counted, of all answers of the rows; 0 of none."""
    total = sum(row["total"] for row in rows)
    return sum(row[counted] for row in rows) / total if total else 0.0


def _never_there(source: list[dict[str, Any]]) -> str:
    """Whether the source's answers get to where coupling taught the marker."""
    share = _share(source, "separated")
    if share >= _SEPARATED:
        return ""
    return (
        f" Its answers have the separator that the marker was taught after in {share:.1%} of "
        "cases, and nothing trains a model to write that."
    )


def _training_caveats(results: dict[str, Any]) -> list[str]:
    return [
        f"{row['condition']}: loss rose during {row['stage']} "
        f"({row['loss_first']:.2f} to {row['loss_last']:.2f})."
        for row in results["training"]
        if row["steps"] > 1 and row["loss_last"] > row["loss_first"] * 1.1
    ]
