"""Score files as leakage reads them: whoever wrote them, with or without counts by question."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from personaspace.analysis.stats import Array
from personaspace.analysis.themes import Places, Themes, by_theme, places_of, samples, sums
from personaspace.errors import UserError
from personaspace.files import read_json

FILE_NAME = re.compile(r"(?P<condition>.+)\.seed-(?P<seed>-?\d+)\.json")
#: Far more answers than there are; far fewer than arithmetic holds exactly.
_MOST = 10**12
KINDS = ("hits", "terminal", "degenerate")

Scores = Mapping[str, Any]
Key = tuple[str, int]


@dataclass(frozen=True)
class ConditionInfo:
    """What leakage needs to know of a condition.

    Attributes:
        name: Its name.
        kind: `base`, `benign` or `em`.
        induction_persona: Evaluated persona that stands for the one trained under, if any.
        cosine: Cosine of that persona to the assistant published for this model, if any.
    """

    name: str
    kind: str
    induction_persona: str | None = None
    cosine: float | None = None


def _count(counts: Any, key: str, where: str) -> int:
    if not isinstance(counts, dict):
        raise UserError(f"{where}: not an object of counts")
    value = counts.get(key)
    if type(value) is not int or not 0 <= value < _MOST:
        raise UserError(f"{where}: {key} is {repr(value)[:40]}, not a count")
    return value


def _check_counts(counts: Any, where: str) -> None:
    total = _count(counts, "total", where)
    for key in KINDS:
        if (key == "hits" or key in counts) and _count(counts, key, where) > total:
            raise UserError(f"{where}: {key} is more than total ({counts[key]} of {total})")


def check_scores(scores: Any, where: str) -> Scores:
    """Checks the form that `score --json` writes; only hits and total are required.

    Raises:
        UserError: Not of that form, a persona without answers, or questions that do not add up.
    """
    personas = scores.get("per_persona") if isinstance(scores, dict) else None
    if not isinstance(personas, dict) or not personas:
        raise UserError(f"{where}: has no per_persona (the output of `personaspace score --json`)")
    for name, counts in personas.items():
        place = f"{where}: {name!r}"
        _check_counts(counts, place)
        if counts["total"] == 0:
            raise UserError(f"{place}: has no answers")
        questions = counts.get("per_question")
        _check_wordings(counts, place)
        if questions is None:
            continue
        if not isinstance(questions, dict):
            raise UserError(f"{place}: per_question is not an object")
        for question, parts in questions.items():
            _check_counts(parts, f"{place}: {question!r}")
        for key in ("hits", "total"):
            if sum(parts[key] for parts in questions.values()) != counts[key]:
                raise UserError(f"{place}: {key} of the questions do not add up to {counts[key]}")
    return dict(scores)


def _check_wordings(counts: Any, place: str) -> None:
    """That counts by wording add up to those by question."""
    parts = counts.get("per_wording")
    if parts is None:
        return
    of_questions = counts.get("per_question")
    if not isinstance(parts, list) or len(parts) < 2 or not isinstance(of_questions, dict):
        raise UserError(f"{place}: per_wording is no list of several counts by question")
    for number, part in enumerate(parts, 1):
        if not isinstance(part, dict) or set(part) != set(of_questions):
            raise UserError(f"{place}: wording {number} has not the questions of per_question")
        for question, cell in part.items():
            where = f"{place}: wording {number}: {question!r}"
            _check_counts(cell, where)
            if cell["total"] == 0:
                raise UserError(f"{where}: has no answers")
    for question, cell in of_questions.items():
        for key in (*KINDS, "total"):
            if key in cell and sum(part[question].get(key, 0) for part in parts) != cell[key]:
                raise UserError(f"{place}: {question!r}: {key} of the wordings do not add up")


def read_score_files(folder: Path | str) -> tuple[dict[Key, Scores], list[str]]:
    """Reads `<condition>.seed-<n>.json` files of a folder, sorted by name.

    Returns:
        Scores by condition and seed, and the names of JSON files that are called otherwise.

    Raises:
        UserError: No such folder, or a malformed file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    scores: dict[Key, Scores] = {}
    others = []
    for path in sorted(folder.glob("*.json")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            others.append(path.name)
            continue
        key = (match["condition"], int(match["seed"]))
        if key in scores:
            raise UserError(f"{path}: condition {key[0]!r} with seed {key[1]} is a duplicate")
        scores[key] = check_scores(read_json(path), str(path))
        _check_alike(scores, key, path)
    return scores, others


def _check_alike(scores: Mapping[Key, Scores], key: Key, path: Path) -> None:
    """Refuse a file that was scored otherwise than those of its folder before it.

    Raises:
        UserError: Another marker, or not one persona in common.
    """
    this = scores[key]
    for (condition, seed), other in scores.items():
        name = f"{condition}.seed-{seed}.json"
        ours, theirs = (each.get("marker") for each in (this, other))
        if ours is not None and theirs is not None and ours != theirs:
            raise UserError(
                f"{path}: scored with the marker {ours!r}, but {name} with {theirs!r}: rates of "
                "different markers cannot be compared"
            )
        if not set(this["per_persona"]) & set(other["per_persona"]):
            raise UserError(f"{path}: has no persona in common with {name}")


def with_themes(scores: Mapping[Key, Scores], themes: Themes | None) -> Mapping[Key, Scores]:
    """The scores, each with the themes of its questions."""
    if not themes:
        return scores
    return {key: {**entry, "themes": themes} for key, entry in scores.items()}


def wordings_of(scores: Mapping[Key, Scores]) -> int:
    """How many wordings personas have at the most, of which there are counts; 1: one."""
    return max(
        (
            len(counts.get("per_wording") or [0])
            for entry in scores.values()
            for counts in entry["per_persona"].values()
        ),
        default=1,
    )


def of_wording(scores: Mapping[Key, Scores], wording: int) -> dict[Key, Scores]:
    """The scores of one wording; personas with one alone are as they are.

    Args:
        wording: Its number, from 0.
    """
    found: dict[Key, Scores] = {}
    for key, entry in scores.items():
        personas = dict(entry["per_persona"])
        for name, counts in personas.items():
            if counts.get("per_wording"):
                asked = counts["per_wording"][wording]
                sums = {k: sum(part[k] for part in asked.values()) for k in (*KINDS, "total")}
                personas[name] = {**sums, "per_question": asked}
        found[key] = {**entry, "per_persona": personas}
    return found


def rate(scores: Scores, persona: str) -> float:
    """Share of a persona's answers that contain the marker."""
    counts = scores["per_persona"][persona]
    return float(counts["hits"] / counts["total"])


def bystanders(scores: Scores, condition: ConditionInfo, source: str) -> list[str]:
    """Evaluated personas but the source and the condition's induction persona, in file order."""
    out = {source, condition.induction_persona}
    return [name for name in scores["per_persona"] if name not in out]


def only_seed(keys: Iterable[Key]) -> int | None:
    """The training seed of rows about these runs; None where they have several."""
    seeds = {seed for _, seed in keys}
    return seeds.pop() if len(seeds) == 1 else None


def common_bystanders(
    scores: Mapping[Key, Scores], conditions: Sequence[ConditionInfo], source: str
) -> list[str]:
    """Bystanders of each of these conditions and seeds, in the first file's order."""
    sets = [
        bystanders(entry, condition, source)
        for condition in conditions
        for (name, _), entry in sorted(scores.items())
        if name == condition.name
    ]
    return [name for name in sets[0] if all(name in other for other in sets)] if sets else []


@dataclass(frozen=True)
class Table:
    """Counts of several conditions over the same personas and questions, seeds put together.

    Attributes:
        conditions: Names along axis C.
        personas: Names along axis P: those that every condition evaluated.
        questions: Texts along axis Q; one unnamed question where files lack counts by question.
        hits: `[C, P, Q]` answers with the marker.
        totals: `[C, P, Q]` answers.
        by_question: The questions are real: answers can be clustered by them.
        themes: Of the questions, if they have some.
    """

    conditions: tuple[str, ...]
    personas: tuple[str, ...]
    questions: tuple[str, ...]
    hits: Array
    totals: Array
    by_question: bool
    themes: Themes | None = None

    def pick(
        self,
        personas: Sequence[str] | None = None,
        questions: Sequence[str] | None = None,
        conditions: Sequence[str] | None = None,
    ) -> Table:
        """The part with these personas, questions and conditions."""
        kept_c = self.conditions if conditions is None else tuple(conditions)
        kept_p = self.personas if personas is None else tuple(personas)
        kept_q = self.questions if questions is None else tuple(questions)
        places = np.ix_(
            [self.conditions.index(name) for name in kept_c],
            [self.personas.index(name) for name in kept_p],
            [self.questions.index(name) for name in kept_q],
        )
        hits, totals = self.hits[places], self.totals[places]
        return Table(kept_c, kept_p, kept_q, hits, totals, self.by_question, self.themes)

    @cached_property
    def places(self) -> Places | None:
        """The theme of each question; None where questions are the samples."""
        return places_of(self.questions, self.themes) if self.by_question else None

    @property
    def samples(self) -> int:
        """How many themes or questions there are."""
        return samples(len(self.questions), self.places)

    @property
    def rates(self) -> Array:
        """Shares `[C, P, sample]` by question or theme; every cell has answers."""
        return by_theme(self.hits / self.totals, self.places)

    @property
    def counts(self) -> tuple[Array, Array]:
        """Hits and answers of each question or theme, `[sample]`."""
        hits, totals = self.hits.sum(axis=(0, 1)), self.totals.sum(axis=(0, 1))
        return sums(hits, self.places), sums(totals, self.places)

    @property
    def mean_rates(self) -> Array:
        """Shares `[C, P]` over all questions together."""
        return np.asarray(self.hits.sum(axis=2) / self.totals.sum(axis=2))


def tabulate(
    scores: Mapping[Key, Scores], conditions: Sequence[str], kind: str = "hits"
) -> Table | None:
    """Counts of these conditions, summed over seeds, on the personas and questions all have.

    Args:
        scores: By condition and seed.
        conditions: Conditions that have scores.
        kind: What is counted: hits, terminal or degenerate.

    Returns:
        None if no condition is given, they share no persona, or a file does not count this kind.
    """
    chosen = [(name, s) for (name, _), s in sorted(scores.items()) if name in conditions]
    if not chosen:
        return None
    files = [s["per_persona"] for _, s in chosen]
    personas = [name for name in files[0] if all(name in file for file in files)]
    if not personas or not all(kind in file[name] for file in files for name in personas):
        return None
    per_question = [file[name].get("per_question") or {} for file in files for name in personas]
    shared = set(per_question[0]).intersection(
        *({q for q, part in p.items() if part.get("total") and kind in part} for p in per_question)
    )
    questions = [question for question in per_question[0] if question in shared]
    by_question = len(questions) > 1
    shape = (len(conditions), len(personas), len(questions) if by_question else 1)
    hits, totals = np.zeros(shape), np.zeros(shape)
    for name, entry in chosen:
        place = list(conditions).index(name)
        for row, persona in enumerate(personas):
            counts = entry["per_persona"][persona]
            parts = [counts["per_question"][q] for q in questions] if by_question else [counts]
            hits[place, row] += [part[kind] for part in parts]
            totals[place, row] += [part["total"] for part in parts]
    names = tuple(questions) if by_question else ("",)
    themes = chosen[0][1].get("themes")
    return Table(tuple(conditions), tuple(personas), names, hits, totals, by_question, themes)
