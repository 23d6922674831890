"""Can the persona be told from the words of one answer, on unseen questions: M3's counterpart.

A linear classifier of words (ridge regression on TF-IDF weights; scikit-learn), cross-validated by
question, so that no question is both learnt from and tested on. Trained within each condition it
says whether personas can still be told apart there; trained on base alone, whether they still
differ in the way in which they did.

Shapes: N answers, P personas, Q questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from personaspace.analysis import cores
from personaspace.analysis.crossed import two_way_estimate
from personaspace.analysis.leakage.scores import Key
from personaspace.analysis.metrics import described
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import (
    Array,
    clustered_wilson,
    generator,
    permutation_p,
    tail_count,
)
from personaspace.analysis.themes import (
    Places,
    Themes,
    by_theme,
    of_used,
    places_of,
    samples,
    shuffled_hits,
    sums,
)

METRIC = "persona_text"
FOLDS = 5
#: Words that the classifier knows, at most: the most frequent.
WORDS = 20_000
#: Draws of the test against chance, at most: it is not adjusted for multiplicity.
_CHANCE_DRAWS = 2000

#: Characters read that are worth starting a process: a few seconds.
_WORTH_A_PROCESS = 12_000_000
#: Bytes that a process takes for each character of all texts: its copy of them, and their words.
_LIKE_TEXTS = 6

_WORD = r"\b\w+\b"

TOO_LITTLE = "Fewer than two personas or two questions have answers with words in them."

#: Texts without the marker, by persona and question.
Texts = Mapping[str, Mapping[str, Sequence[str]]]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class _Labelled:
    """Answers of one condition and seed, one after another."""

    texts: list[str]
    persona_N: Integers
    question_N: Integers
    personas: list[str]
    questions: list[str]

    @classmethod
    def of(cls, answers: Texts) -> _Labelled:
        personas = list(answers)
        questions = list(dict.fromkeys(q for asked in answers.values() for q in asked))
        texts, places = [], []
        for p, asked in enumerate(answers.values()):
            for question, drawn in asked.items():
                for text in drawn:
                    if any(character.isalnum() for character in text):
                        texts.append(text)
                        places.append((p, questions.index(question)))
        place = np.array(places, dtype=np.int64).reshape(-1, 2)
        return cls(texts, place[:, 0], place[:, 1], personas, questions)

    @property
    def usable(self) -> bool:
        return len(np.unique(self.persona_N)) > 1 and len(np.unique(self.question_N)) > 1

    def counts(self, what_N: Array) -> Array:
        """Sums of a number per answer, `[Q, P]`."""
        whole = np.zeros((len(self.questions), len(self.personas)))
        np.add.at(whole, (self.question_N, self.persona_N), what_N)
        return whole


def _folds(questions: Sequence[str], seed: int, themes: Themes | None = None) -> dict[str, int]:
    """A fold for each question; the same question, or theme, has the same in every condition."""
    ordered = sorted(questions)
    places_Q = places_of(ordered, themes)
    places_Q = np.arange(len(ordered)) if places_Q is None else places_Q
    count = samples(len(ordered), places_Q)
    order = generator(seed, METRIC, "folds", count).permutation(count)
    fold_of = {int(place): number % FOLDS for number, place in enumerate(order)}
    return {text: fold_of[int(place)] for text, place in zip(ordered, places_Q, strict=True)}


class _Readers:
    """Classifiers of every condition and seed, and what they make of others' answers.

    Args:
        every: Answers by condition and seed.
        base: Whose classifiers read all conditions' answers, so that they are kept.
        folds: Of the questions.
        themes: Of the questions.
        draws: Of the test against chance.
        seed: Its own.
    """

    def __init__(
        self,
        every: Mapping[Key, _Labelled],
        base: str,
        folds: Mapping[str, int],
        themes: Themes | None,
        draws: int,
        seed: int,
    ) -> None:
        self.every, self.base, self.folds, self.themes = every, base, folds, themes
        self.draws, self.seed = draws, seed
        self._kept: dict[tuple[Key, int], Any] = {}

    def folds_of(self, of: _Labelled) -> Integers:
        """The fold of each answer's question."""
        return np.array([self.folds.get(q, -1) for q in of.questions])[of.question_N]

    def learned(self, key: Key, fold: int) -> tuple[Any, Any] | None:
        """Words and classifier of all folds but one; None where there is nothing to learn."""
        if (key, fold) in self._kept:
            return cast("tuple[Any, Any] | None", self._kept[key, fold])
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import RidgeClassifier

        train = self.every[key]
        learn = np.flatnonzero(self.folds_of(train) != fold)
        found = None
        if len(np.unique(train.persona_N[learn])) > 1:
            words = TfidfVectorizer(
                sublinear_tf=True,
                max_features=WORDS,
                token_pattern=_WORD,
                dtype=np.float32,
            )
            weights = words.fit_transform([train.texts[place] for place in learn])
            classifier = RidgeClassifier(alpha=1.0, solver="sparse_cg")
            found = words, classifier.fit(weights, train.persona_N[learn])
        if key[0] == self.base:
            self._kept[key, fold] = found
        return found

    def predicted(self, trained: Key, tested: Key) -> Integers:
        """Persona of each answer tested, in that condition's numbers; −1: none could be learned."""
        train, test = self.every[trained], self.every[tested]
        fold_N = self.folds_of(test)
        number = np.array(
            [test.personas.index(p) if p in test.personas else -1 for p in train.personas]
        )
        found = np.full(len(test.texts), -1, dtype=np.int64)
        for fold in range(FOLDS):
            ask = np.flatnonzero(fold_N == fold)
            learned = self.learned(trained, fold) if len(ask) else None
            if learned is None:
                continue
            words, classifier = learned
            asked = words.transform([test.texts[place] for place in ask])
            found[ask] = number[classifier.predict(asked)]
        return found


def _read(readers: _Readers, task: tuple[Key, Key]) -> tuple[Integers, float]:
    """Persona of each answer, and p against chance."""
    predicted_N = readers.predicted(*task)
    test = readers.every[task[1]]
    places_Q = places_of(test.questions, readers.themes)
    return predicted_N, _chance_p(predicted_N, test, readers.draws, readers.seed, places_Q)


def _chance_p(
    predicted_N: Integers, test: _Labelled, draws: int, seed: int, places_Q: Places | None
) -> float:
    """Against chance: personas' names shuffled among the answers to each question.

    Where questions have themes: among the personas, alike in all answers of a theme.
    """
    rng = generator(seed, METRIC, "labels")
    seen = float((predicted_N == test.persona_N).sum())
    if places_Q is not None:
        shape = (draws, samples(len(test.questions), places_Q), len(test.personas))
        names_DTP = rng.permuted(
            np.broadcast_to(np.arange(shape[2], dtype=np.int16), shape), axis=2
        )
        known = predicted_N >= 0
        theme_N = places_Q[test.question_N]
        answers = (test.persona_N[known], predicted_N[known], theme_N[known])
        null = shuffled_hits(*answers, names_DTP)
        return permutation_p(int(tail_count(null, seen, two_sided=False)), draws)
    null = np.zeros(draws)
    for question in range(len(test.questions)):
        mine = test.question_N == question
        names = np.tile(test.persona_N[mine], (draws, 1))
        null += (rng.permuted(names, axis=1) == predicted_N[mine]).sum(axis=1)
    return permutation_p(int(tail_count(null, seen, two_sided=False)), draws)


def analyse_persona_text(
    answers: Mapping[Key, Texts],
    *,
    base: str,
    method: str | None = None,
    themes: Themes | None = None,
    permutations: int = 2_000,
    seed: int = 42,
    processes: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Row]:
    """Accuracy of every condition and seed, against chance and against base.

    Args:
        answers: By condition and training seed, the marker taken out. A condition's seed is
            compared with base's of the same seed, or its first.
        base: The base condition's name.
        method: `b` for greedy answers of method B; None: answers of the evaluation.
        themes: Of the questions, which are then the clusters and in one fold each.
        permutations: Draws of the test against chance, 2,000 at most.
        seed: Of folds and draws.
        processes: How many share the work; None: as many as cores and memory allow, where it is
            worth it. Rows are the same whatever their number.
        advance: Called with 1 after each condition and seed.

    Returns:
        For each condition and seed the accuracy within it, and that of a classifier trained on
        base alone. Effect: accuracy on a scale from chance (0) to 1.
    """
    if not answers:  # a part of a study, or a method that draws none
        return []
    every = {key: _Labelled.of(texts) for key, texts in sorted(answers.items())}
    folds = _folds(list({q for one in every.values() for q in one.questions}), seed, themes)
    readers = _Readers(every, base, folds, themes, min(permutations, _CHANCE_DRAWS), seed)
    taught = _taught(every, base)
    usable = {key for key, one in every.items() if one.usable}
    tasks = [
        (of, key) for key in taught for of in taught[key].values() if key in usable and of in usable
    ]
    right_of_base: dict[Key, Array] = {}
    rows = []
    with cores.shared(_read, readers, tasks, _processes(every, tasks, processes)) as found:
        for key, teachers in taught.items():
            test, partner = every[key], teachers.get("from_base", key)
            before = right_of_base.get(partner)
            row = Row(METRIC, "recommended", method, condition=key[0], seed=key[1])
            for kind, of in teachers.items():
                named = replace(row, name=f"{kind}_above_chance")
                if not (key in usable and of in usable):
                    rows.append(replace(named, note=TOO_LITTLE))
                    continue
                predicted_N, p = next(found)
                right_QP = test.counts((predicted_N == test.persona_N).astype(np.float64))
                totals_QP = test.counts(np.ones(len(test.texts)))
                rates_QP = _shares(right_QP, totals_QP)
                if key[0] == base:
                    right_of_base[key] = rates_QP
                places_Q = places_of(test.questions, themes)
                filled = replace(_against_chance(named, right_QP, totals_QP, places_Q), p=p)
                rows.append(filled)
                if before is not None and _alike(test, every[partner]):
                    rows.extend(_against_base(filled, kind, rates_QP, before, places_Q))
            if advance is not None:
                advance(1)
    return [described(row) for row in rows]


def _taught(every: Iterable[Key], base: str) -> dict[Key, dict[str, Key]]:
    """Whose answers each is read by: its own, and base's of the same seed, or of base's first.

    Base comes first: the others are compared with it.
    """
    seeds = sorted(seed for name, seed in every if name == base)
    found = {}
    for key in sorted(every, key=lambda key: key[0] != base):
        beside = {"from_base": (base, key[1] if key[1] in seeds else seeds[0])} if seeds else {}
        found[key] = {"within": key} | ({} if key[0] == base else beside)
    return found


def _processes(
    every: Mapping[Key, _Labelled], tasks: Sequence[tuple[Key, Key]], wanted: int | None
) -> int:
    """How many are to share the reading."""
    sizes = {key: sum(map(len, one.texts)) for key, one in every.items()}
    work = sum(sizes[of] + sizes[key] for of, key in tasks)
    each = _LIKE_TEXTS * sum(sizes.values())
    return cores.sharing(wanted, len(tasks), work // _WORTH_A_PROCESS, each)


def _shares(right_QP: Array, totals_QP: Array) -> Array:
    out = np.full(totals_QP.shape, np.nan)
    return np.asarray(np.divide(right_QP, totals_QP, out=out, where=totals_QP > 0))


def _alike(one: _Labelled, other: _Labelled) -> bool:
    return (one.personas, one.questions) == (other.personas, other.questions)


def _against_chance(row: Row, right_QP: Array, totals_QP: Array, places_Q: Places | None) -> Row:
    value = float(right_QP.sum() / totals_QP.sum())
    chance = 1 / right_QP.shape[1]
    hits, totals = (sums(counts.sum(axis=1), places_Q) for counts in (right_QP, totals_QP))
    return replace(
        row,
        value=value,
        base=chance,
        delta=value - chance,
        ci95=clustered_wilson(hits, totals),
        n=int((totals > 0).sum()),
        effect=(value - chance) / (1 - chance),
    )


def _against_base(
    row: Row, kind: str, mine_QP: Array, base_QP: Array, places_Q: Places | None
) -> list[Row]:
    """The difference from base's accuracy, questions and personas being samples; no p, as in M3."""
    both = np.isfinite(mine_QP) & np.isfinite(base_QP)
    change_QP = np.where(both, mine_QP - base_QP, np.nan)
    used_Q = both.any(axis=1)
    change_QP = change_QP[used_Q]
    if not len(change_QP):
        return []
    change_QP = np.where(
        np.isnan(change_QP), np.nanmean(change_QP, axis=1, keepdims=True), change_QP
    )
    before = float(np.nanmean(base_QP))
    estimate = two_way_estimate(by_theme(change_QP, of_used(places_Q, used_Q), axis=0))
    filled = replace(row, base=before, delta=estimate.value, p=None, name=kind)
    companion = replace(
        filled,
        value=estimate.value,
        base=None,
        delta=None,
        ci95=estimate.interval,
        effect=None,
        name=f"{kind}_delta",
    )
    return [filled, companion]
