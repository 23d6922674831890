"""Which assumptions fail among the numbers shown first, and what to make of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from personaspace.analysis.metrics import MEASURES
from personaspace.analysis.results import Results
from personaspace.analysis.rows import Row
from personaspace.report.text import NONE, count
from personaspace.report.verdict import behind

#: Failed checks that are told in words.
_REASONS = 3


def sentences(results: Results) -> list[str]:
    """Which checks failed among the results that are shown first, of what, and how often in all."""
    warned = [row for row in (*results.geometry, *results.leakage) if row.warning]
    if not warned:
        return []
    place = (results.headline_method, results.headline_layer)
    shown = [row for row in warned if row.method is None or (row.method, row.layer) == place]
    reasons = list(dict.fromkeys(row.warning for row in shown if row.warning))
    where = f"at layer {results.headline_layer}, method {(results.headline_method or NONE).upper()}"
    others = (
        f" At other layers and by other methods: {len(warned) - len(shown):,}, each named in the "
        "table of all rows, in its column warning."
    ) * (len(warned) > len(shown))
    if not reasons:
        return [f"No number {where}, or of leakage rests on an assumption that fails.{others}"]
    told = [f"{reason.rstrip('.')} ({_which(shown, reason)})." for reason in reasons[:_REASONS]]
    top = "No answer at the top rests on one of them."
    if any(row.warning for row in behind(results)):
        top = "Those that the answers at the top rest on are named there."
    do, one = ("rests", "it") if len(shown) == 1 else ("rest", "any one of them")
    return [
        f"{count(len(shown), 'number')} {where}, or of leakage {do} on an assumption that fails. "
        f"{top} Do not draw a conclusion from {one} alone, without looking at single personas and "
        f"questions, and at other measures. {' '.join(told)}{others}"
    ]


def _which(rows: Iterable[Row], reason: str) -> str:
    """Of what a check failed: the measures, most frequent first."""
    found = Counter(_title(row) for row in rows if row.warning == reason)
    names = [f"{name}{f', {n} times' if n > 1 else ''}" for name, n in found.most_common(3)]
    more = f"; and {count(len(found) - 3, 'other measure')}" if len(found) > 3 else ""
    return "; ".join(names) + more


def _title(row: Row) -> str:
    names = (row.name, (row.name or "").removesuffix("_delta"))
    known = [MEASURES.get((row.metric, row.variant, name)) for name in names]
    title = next((measure.title for measure in known if measure), row.name)
    return f"{row.metric}, {title}" if title else row.metric
