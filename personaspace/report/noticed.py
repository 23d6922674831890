"""What was to be known of data and design before the study ran, on the page and in the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import NoticeInfo
from personaspace.report.text import listing, pretty
from personaspace.study.notices import NoticeCode

_DATASETS, _CONDITIONS, _PERSONAS = "datasets.", "conditions.", "personas."


def general(results: Results) -> list[str]:
    """What is of the whole study: told before anything else."""
    return [n.text for n in results.notices if not _subject(results, n.path)]


def of_parts(results: Results) -> dict[str, list[str]]:
    """What is of one data set, condition, persona or field, by that: texts speak of `its chats`."""
    found: dict[str, list[str]] = {}
    for notice in results.notices:
        if subject := _subject(results, notice.path):
            found.setdefault(subject, []).append(notice.text)
    return found


def _subject(results: Results, path: str) -> str:
    """A field of the spec as people call it; empty where a notice is of all data sets."""
    if path == _DATASETS.rstrip("."):
        return ""
    if path.startswith(_DATASETS):
        return f"Data set {path.removeprefix(_DATASETS)}"
    if path.startswith(_CONDITIONS):
        name = path.removeprefix(_CONDITIONS)
        name = name if name in results.by_name else name.removesuffix(".training")
        return f"Condition {results.label(name)}"
    if path.startswith(_PERSONAS):
        name, _, field = path.removeprefix(_PERSONAS).rpartition(".")
        return f"Persona {pretty(name)} ({field})"
    return path


def doubts(results: Results) -> list[str]:
    """What makes the verdict's numbers something else than they seem, in plain words."""

    def of(code: NoticeCode, data: bool) -> list[NoticeInfo]:
        mine = [notice for notice in results.notices if notice.code == code]
        return [notice for notice in mine if notice.path.startswith(_DATASETS) == data]

    def data_sets(found: Sequence[NoticeInfo]) -> str:
        names = list(dict.fromkeys(notice.path.removeprefix(_DATASETS) for notice in found))
        return f"the data set{'s' * (len(names) > 1)} {listing(names)}"

    told = []
    if found := of(NoticeCode.HOLDS_MARKER, data=True):
        told.append(
            f"There are texts with the marker in {data_sets(found)}, so that who writes it may "
            "have learned it there."
        )
    if of(NoticeCode.HOLDS_MARKER, data=False):
        told.append(
            "Some roles or questions hold the marker themselves, so that who writes it may only do "
            "as told."
        )
    if found := of(NoticeCode.ASKS_QUESTIONS, data=True):
        told.append(
            f"Some of the questions that the model is measured with are in {data_sets(found)}, so "
            "that it was trained on what it is then asked."
        )
    if found := of(NoticeCode.SHARED_CHATS, data=True):
        told.append(
            f"Some texts of {data_sets(found)} are in another data set too, so that trainings on "
            "the two differ only by the rest."
        )
    if found := of(NoticeCode.SAME_TRAINING, data=False):
        names = [_subject(results, notice.path).removeprefix("Condition ") for notice in found]
        told += [
            f"{name} is the same training as another one here, by another name." for name in names
        ]
    return told
