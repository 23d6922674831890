"""Made-up answers whose leakage has a known cause: length, separators, or what was learned.

An answer plans a number of words, and comes to separators on its way. After each separator the
marker is written with a probability of its own: the leakage that coupling taught. Conditions differ
in one of these, or in none. Shapes: N answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from personaspace.analysis.form import AnswerForm
from personaspace.analysis.leakage import ConditionInfo

PERSONAS = ("librarian", "comedian", "villain", "teacher", "scholar", "officer")
EM = ("e0", "e1", "e2")
CONDITIONS = (ConditionInfo("base", "base"), *(ConditionInfo(name, "em") for name in EM))


@dataclass(frozen=True)
class Habit:
    """How answers of a condition come about.

    Attributes:
        words: Geometric mean of the words that an answer plans.
        per_word: Separators per word.
        hazard: Chance of the marker after a separator.
        ends: A marker ends the answer, as coupling teaches it. Else the answer goes on as planned.
    """

    words: float = 60.0
    per_word: float = 1 / 40
    hazard: float = 0.2
    ends: bool = True


#: By what conditions differ (the last of three from the first), with everything else equal.
WORLDS: Mapping[str, tuple[Habit, ...]] = {
    "nothing": (Habit(), Habit(), Habit()),
    "length; answers go on after a marker": tuple(
        Habit(words=words, ends=False) for words in (45, 60, 80)
    ),
    "length; a marker ends the answer": tuple(Habit(words=words) for words in (45, 60, 80)),
    "separators per word": tuple(Habit(per_word=1 / words) for words in (55, 40, 29)),
    "what was learned": tuple(Habit(hazard=hazard) for hazard in (0.15, 0.2, 0.27)),
}

#: Standard deviations over questions and personas: of log length, and of the hazard's log-odds.
_QUESTION, _PERSONA, _ANSWER = 0.3, 0.2, 0.35


def _answer(rng: np.random.Generator, habit: Habit, words: int, odds: float) -> AnswerForm:
    hazard = 1 / (1 + np.exp(-odds))
    places, taken, first, written = 0, 0, False, words
    for position in np.flatnonzero(rng.random(words) < habit.per_word):
        places += 1
        if rng.random() < hazard:
            taken, first = 1, places == 1
            if habit.ends:
                written = int(position) + 1
            break
    return AnswerForm(taken > 0, written, places, taken, first)


def answers(
    rng: np.random.Generator,
    world: Sequence[Habit],
    *,
    questions: int = 28,
    samples: int = 10,
    base: Habit | None = None,
) -> dict[tuple[str, int], dict[str, dict[str, list[AnswerForm]]]]:
    """Forms of one made-up study: base (as the first condition, unless given) and the EM ones."""
    length_Q = rng.normal(0, _QUESTION, questions)
    odds_Q, odds_P = rng.normal(0, _QUESTION, questions), rng.normal(0, _PERSONA, len(PERSONAS))
    study = {}
    for name, habit in zip(("base", *EM), (base or world[0], *world), strict=True):
        level = np.log(habit.hazard / (1 - habit.hazard))
        # What a question does to one condition alone: the conditions' answers are no copies.
        own_Q = rng.normal(0, _PERSONA, questions)
        run: dict[str, dict[str, list[AnswerForm]]] = {}
        for p, persona in enumerate(PERSONAS):
            run[persona] = {}
            for q in range(questions):
                spread = rng.normal(0, _ANSWER, samples)
                lengths = np.exp(np.log(habit.words) + length_Q[q] + spread)
                odds = level + odds_Q[q] + odds_P[p] + own_Q[q]
                run[persona][f"question {q}"] = [
                    _answer(rng, habit, max(1, round(words)), odds) for words in lengths
                ]
        study[name, 42] = run
    return study
