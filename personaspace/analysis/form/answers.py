"""What of an answer's form the analysis reads, and answers as arrays.

Shapes: N answers, C conditions, P personas, Q questions, S strata of length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis.leakage.scores import Key
from personaspace.analysis.stats import Array
from personaspace.analysis.themes import Places, Themes, places_of, samples

Integers = NDArray[np.int64]

#: Strata of answer length, with as many answers in each. Few enough that every condition has
#: answers in each. On the published answers the result hardly depends on it: with four to forty
#: strata the difference of two conditions lies within 10.4 and 11.1 points (3.8 without strata).
STRATA = 10


@dataclass(frozen=True)
class AnswerForm:
    """One answer.

    Attributes:
        marked: It holds the marker.
        words: Words without the marker.
        places: Places where a marker was taught to stand: after each occurrence of the separator.
        taken: How many of these places a marker follows.
        first_taken: A marker follows the first of them.
    """

    marked: bool
    words: int
    places: int
    taken: int
    first_taken: bool


#: Forms of answers by condition and training seed, persona and question.
Forms = Mapping[Key, Mapping[str, Mapping[str, Sequence[AnswerForm]]]]


@dataclass(frozen=True)
class Sheet:
    """Answers of several conditions, seeds put together.

    Attributes:
        conditions: Names along C.
        personas: Names along P: those asked for.
        questions: Texts along Q: those that every condition answered under all of the personas.
        place_N: Index of condition, persona and question of each answer, `[3, N]`.
        values_N: `marked`, `words`, `places`, `taken`, `first_taken` of each answer, `[5, N]`.
    """

    conditions: tuple[str, ...]
    personas: tuple[str, ...]
    questions: tuple[str, ...]
    place_N: Integers
    values_N: Integers
    themes: Themes | None = None

    @cached_property
    def places(self) -> Places | None:
        """The theme of each question; None where questions are the samples."""
        return places_of(self.questions, self.themes)

    @property
    def samples(self) -> int:
        """How many themes or questions there are."""
        return samples(len(self.questions), self.places)

    @property
    def _samples(self) -> Integers:
        questions_N: Integers = self.place_N[2]
        return questions_N if self.places is None else np.asarray(self.places[questions_N])

    def by_question(self, what_N: Array) -> Array:
        """Sums of a number per answer, `[C, Q]`, whether or not questions have themes."""
        whole = np.zeros((len(self.conditions), len(self.questions)))
        np.add.at(whole, (self.place_N[0], self.place_N[2]), what_N)
        return whole

    def sums(self, what_N: Array) -> Array:
        """Sums of a number per answer, `[C, sample]`."""
        whole = np.zeros((len(self.conditions), self.samples))
        np.add.at(whole, (self.place_N[0], self._samples), what_N)
        return whole

    def by_stratum(self, stratum_N: Integers, strata: int) -> tuple[Array, Array]:
        """Answers with the marker, and all, `[C, sample, S]`."""
        shape = (len(self.conditions), self.samples, strata)
        hits, totals = np.zeros(shape), np.zeros(shape)
        where = (self.place_N[0], self._samples, stratum_N)
        np.add.at(hits, where, self.values_N[0])
        np.add.at(totals, where, 1.0)
        return hits, totals


def sheet_of(
    forms: Forms,
    conditions: Sequence[str],
    personas: Sequence[str],
    themes: Themes | None = None,
) -> Sheet | None:
    """The answers of these conditions under these personas; None if nothing is shared."""
    runs = [(name, forms[name, seed]) for name, seed in sorted(forms) if name in conditions]
    names = [name for name in conditions if any(name == own for own, _ in runs)]
    asked = [set(run[persona]) for _, run in runs for persona in personas if persona in run]
    if not asked or len(asked) < len(runs) * len(personas):
        return None
    first = runs[0][1][personas[0]]
    questions = [text for text in first if all(text in other for other in asked)]
    places, values = [], []
    for name, run in runs:
        for p, persona in enumerate(personas):
            for q, question in enumerate(questions):
                for one in run[persona][question]:
                    places.append((names.index(name), p, q))
                    values.append((one.marked, one.words, one.places, one.taken, one.first_taken))
    if not places:
        return None
    return Sheet(
        tuple(names),
        tuple(personas),
        tuple(questions),
        np.array(places, dtype=np.int64).T,
        np.array(values, dtype=np.int64).T,
        themes,
    )


def strata_of(words_N: Integers, strata: int = STRATA) -> Integers:
    """Stratum of each length: cut at quantiles of all of them, equal lengths never apart."""
    ordered = np.sort(words_N)
    cuts = ordered[[len(ordered) * part // strata for part in range(1, strata)]]
    return np.searchsorted(cuts, words_N, side="right").astype(np.int64)
