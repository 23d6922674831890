"""What stages make of a persona's wordings: how many answers each gets, and which is of which.

Letters: N rows (persona and wording), Q questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from personaspace.generation.base import Answer
from personaspace.seeds import derive_seed

#: Which wording each answer is of, in the form of the answers; where a persona has several.
WORDINGS = "wordings.json"

Rows = Sequence[tuple[str, str | None]]


def shares(samples: int, wordings: int, question: str, seed: int) -> list[int]:
    """How many of a question's answers each wording gets, `[wording]`: as evenly as they go.

    Those left over begin at a wording that the seed draws for the question, the same in every
    condition.
    """
    whole, left = divmod(samples, wordings)
    first = derive_seed(seed, "wordings", question) % wordings
    return [whole + ((place - first) % wordings < left) for place in range(wordings)]


def shares_of(rows: Rows, questions: Sequence[str], samples: int, seed: int) -> list[list[int]]:
    """Answers of every row of `persona_rows` to every question, `[N][Q]`."""
    times, place = Counter(name for name, _ in rows), Counter[str]()
    found = []
    for name, _ in rows:
        found.append([shares(samples, times[name], q, seed)[place[name]] for q in questions])
        place[name] += 1
    return found


def numbers_of(
    answers: Mapping[str, Mapping[str, Sequence[Answer]]], several: Collection[str]
) -> dict[str, dict[str, list[int]]]:
    """The wording of every answer of these personas, in the form of the answers."""
    return {
        name: {question: [answer.wording for answer in drawn] for question, drawn in asked.items()}
        for name, asked in answers.items()
        if name in several
    }


def texts_of(
    answers: Mapping[str, Mapping[str, Sequence[Answer]]], several: Collection[str], wording: int
) -> dict[str, dict[str, list[str]]]:
    """The answers of one wording, of these personas."""
    return {
        name: {
            question: [answer.text for answer in drawn if answer.wording == wording]
            for question, drawn in asked.items()
        }
        for name, asked in answers.items()
        if name in several
    }


def turn(index: int, wordings: Sequence[str | None]) -> str | None:
    """The wording that a training example gets: one after the other."""
    return wordings[index % len(wordings)]
