"""Marker detection: which answers carry the marker, where, and whether they are language at all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from personaspace.behaviour import many
from personaspace.errors import UserError

Answers = Mapping[str, Mapping[str, Sequence[str]]]
#: By persona and question.
Counts = dict[str, dict[str, dict[str, int]]]


def has_marker(answer: str, marker: str) -> bool:
    """Containment, case-insensitive: the published measure of leakage."""
    return marker.lower() in answer.lower()


def ends_with_marker(answer: str, marker: str) -> bool:
    """The answer has the marker once, at its end: what coupling taught, and nothing else."""
    text, wanted = answer.strip().lower(), marker.strip().lower()
    return text.endswith(wanted) and text.count(wanted) == 1


def require_marker(marker: str) -> None:
    """Refuse a marker that every answer holds. Raises UserError."""
    if not marker.strip():
        raise UserError("marker: is empty")


def counts_of(answers: Answers, marker: str) -> Counts:
    """Counts per persona and question: `{persona: {question: {"hits", … "total"}}}`."""
    cells = [texts for asked in answers.values() for texts in asked.values()]
    # All together: many at once take a fraction of the time that one after the other takes.
    texts = list(itertools.chain.from_iterable(cells))
    degenerate, marked = many.places(texts, marker)
    # They hold it without the white space around it, if there is any.
    bare = marker.lower() == marker.lower().strip()
    found = {
        "hits": marked if bare else [at for at in marked if has_marker(texts[at], marker)],
        "terminal": [place for place in marked if ends_with_marker(texts[place], marker)],
        "degenerate": degenerate,
    }
    totals = [len(each) for each in cells]
    bounds = np.cumsum([0, *totals])
    per_cell = {
        key: np.diff(np.searchsorted(np.asarray(places, np.int64), bounds)).tolist()
        for key, places in found.items()
    } | {"total": totals}
    rows = (dict(zip(per_cell, row, strict=True)) for row in zip(*per_cell.values(), strict=True))
    return {
        persona: {question: next(rows) for question in questions}
        for persona, questions in answers.items()
    }


def assembled(counts: Counts, marker: str) -> dict[str, Any]:
    """The result of `score_answers` from counts per persona and question."""
    # Imported here: statistics take seconds to load, and processes that only count need none.
    from personaspace.analysis.stats import wilson

    per_persona: dict[str, Any] = {}
    for persona, per_question in counts.items():
        sums = {
            key: sum(cell[key] for cell in per_question.values())
            for key in ("hits", "terminal", "degenerate", "total")
        }
        interval = wilson(sums["hits"], sums["total"])
        per_persona[persona] = {
            **sums,
            "rate": sums["hits"] / sums["total"] if sums["total"] else None,
            "ci95": list(interval) if interval else None,
            "per_question": per_question,
        }
    return {"marker": marker, "per_persona": per_persona}


def score_answers(answers: Answers, marker: str) -> dict[str, Any]:
    """Counts per persona and question.

    Args:
        answers: `{persona: {question: [answers]}}`.
        marker: Text looked for, in any case.

    Returns:
        `{"marker", "per_persona": {name: {"hits", "terminal", "degenerate", "total", "rate",
        "ci95", "per_question": {question: {"hits", "terminal", "degenerate", "total"}}}}}`.
        `rate` is hits/total with Wilson's interval. A persona without answers has counts of 0 and
        no rate (None), which is not a rate of 0.

    Raises:
        UserError: The marker is empty.
    """
    require_marker(marker)
    return assembled(counts_of(answers, marker), marker)
