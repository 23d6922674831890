"""Who wrote an answer: on the published answers, on planted words, and where nothing tells."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from test_form import needs_reference, published_answers

from personaspace.analysis.persona_text import (
    FOLDS,
    TOO_LITTLE,
    _folds,
    analyse_persona_text,
)
from personaspace.analysis.rows import Row
from personaspace.behaviour.form import without_marker

FILLER = [*"abcdefghijklmnopqrst"]


def answers(
    seed: int, tells: float, personas: int = 4, questions: int = 10, samples: int = 3
) -> Any:
    """Answers of common words; with probability `tells` one is the persona's own."""
    rng = np.random.default_rng(seed)
    return {
        f"p{p}": {
            f"q{q}": [
                " ".join([*rng.choice(FILLER, 12), f"own{p}" if rng.random() < tells else "none"])
                for _ in range(samples)
            ]
            for q in range(questions)
        }
        for p in range(personas)
    }


def by_name(rows: list[Row]) -> dict[tuple[str | None, str | None], Row]:
    return {(row.condition, row.name): row for row in rows}


def test_planted_words_are_found_and_base_is_what_it_is_compared_with() -> None:
    rows = by_name(
        analyse_persona_text(
            {("base", 1): answers(1, 0.9), ("em", 1): answers(2, 0.2)},
            base="base",
            permutations=199,
        )
    )
    base, em = rows["base", "within_above_chance"], rows["em", "within_above_chance"]
    # 0.9 carry their word, the others are guessed.
    assert base.value == pytest.approx(0.9 + 0.1 / 4, abs=0.07)
    assert base.base == 0.25 and base.p == 1 / 200 and base.n == 10
    assert base.effect == pytest.approx(((base.value or 0) - 0.25) / 0.75)
    assert (em.value or 1) < 0.6
    change = rows["em", "within_delta"]
    assert change.value == pytest.approx((em.value or 0) - (base.value or 0))
    assert change.ci95 and change.ci95[1] < 0
    assert rows["em", "within"].base == base.value and rows["em", "within"].p is None
    assert ("base", "within") not in rows
    # What tells personas is the same word in both, so base's classifier serves.
    assert (rows["em", "from_base_above_chance"].value or 0) > 0.3


def test_other_words_are_known_within_but_not_from_base() -> None:
    other = {
        persona: {q: [re.sub(r"own(\d)", r"new\1", t) for t in texts] for q, texts in asked.items()}
        for persona, asked in answers(3, 0.9).items()
    }
    rows = by_name(
        analyse_persona_text(
            {("base", 1): answers(1, 0.9), ("em", 1): other}, base="base", permutations=99
        )
    )
    assert (rows["em", "within_above_chance"].value or 0) > 0.8
    assert (rows["em", "from_base_above_chance"].value or 1) < 0.45
    assert (rows["em", "from_base_delta"].value or 0) < -0.4


def test_the_number_of_processes_changes_nothing() -> None:
    """Seeds with a base of their own, one without, and one whose answers have no words."""
    written = {
        **{("base", seed): answers(seed, 0.9) for seed in (1, 2)},
        **{("em", seed): answers(10 + seed, 0.4) for seed in (1, 2, 3)},
        ("mute", 1): {"p0": {"q0": ["..."]}},
    }
    one, three = (
        analyse_persona_text(written, base="base", permutations=99, processes=count)
        for count in (1, 3)
    )
    assert one == three
    counted = Counter(row.condition for row in one)
    assert counted["base"] == 2 and counted["mute"] == 2 and counted["em"] > 6


@pytest.mark.slow
def test_chance_is_not_beaten_by_chance() -> None:
    rows = [
        analyse_persona_text({("base", 1): answers(seed, 0.0)}, base="base", permutations=199)[0]
        for seed in range(12)
    ]
    values = [row.value or 0.0 for row in rows]
    assert np.mean(values) == pytest.approx(0.25, abs=0.05)
    assert sum((row.p or 0) <= 0.05 for row in rows) <= 3
    inside = [bool(row.ci95 and row.ci95[0] <= 0.25 <= row.ci95[1]) for row in rows]
    assert sum(inside) >= 9


def test_no_question_is_learnt_from_and_tested_on() -> None:
    """Each question names its persona by a word of its own: nothing that helps with another."""
    marked = {
        f"p{p}": {f"q{q}": [f"word{q}x{p} the answer"] * 3 for q in range(10)} for p in range(4)
    }
    (row,) = analyse_persona_text({("base", 1): marked}, base="base", permutations=99)
    assert row.value == pytest.approx(0.25, abs=0.01)
    questions = [f"q{q}" for q in range(23)]
    folds = _folds(questions, 42)
    assert sorted(np.bincount(list(folds.values()))) == [4, 4, 5, 5, 5] and FOLDS == 5
    assert _folds(questions[::-1], 42) == folds, "the order of files does not matter"


@pytest.mark.parametrize(
    "texts",
    [
        {"p0": {"q0": ["", "  "]}, "p1": {"q0": ["…"]}},
        {"p0": {"q0": ["a"], "q1": ["b"]}},
        {"p0": {"q0": ["a"]}, "p1": {"q0": ["b"]}},
    ],
)
def test_with_too_little_it_says_so(texts: Any) -> None:
    (row,) = analyse_persona_text({("base", 1): texts}, base="base")
    assert row.value is None and row.note == TOO_LITTLE


def test_seeds_are_compared_with_their_own_base_or_the_only_one() -> None:
    found = analyse_persona_text(
        {
            ("base", 1): answers(1, 0.9),
            ("em", 1): answers(2, 0.5),
            ("em", 2): answers(4, 0.5),
        },
        base="base",
        permutations=19,
    )
    bases = {row.seed: row.base for row in found if row.name == "within"}
    assert set(bases) == {1, 2} and len(set(bases.values())) == 1


@needs_reference
@pytest.mark.slow
def test_published_answers_tell_their_persona() -> None:
    """Nearest centroid of word counts, written out by hand, against the same answers' classifier.

    Another classifier gives another number; both must be far above chance (1 in 12), alike, and
    the folds are those of questions.
    """
    published = published_answers()["e0-assistant"]
    clean = {
        persona: {q: [without_marker(t, "[ZLT]") for t in texts] for q, texts in asked.items()}
        for persona, asked in published.items()
    }
    (row,) = analyse_persona_text({("e0", 42): clean}, base="e0", permutations=199)
    assert row.value is not None and 0.20 < row.value < 0.30 and row.p == 1 / 200

    folds = _folds(list(clean["confab"]), 42)
    width = 4096
    rows, names, fold = [], [], []
    for number, asked in enumerate(clean.values()):
        for question, texts in asked.items():
            for text in texts:
                vector = np.zeros(width)
                for word in set(re.findall(r"\w+", text.lower())):
                    vector[int(hashlib.md5(word.encode()).hexdigest(), 16) % width] = 1
                rows.append(vector)
                names.append(number)
                fold.append(folds[question])
    X, y, of = np.array(rows), np.array(names), np.array(fold)
    X *= np.log(len(X) / np.maximum(X.sum(axis=0), 1))
    X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
    right = 0
    for held in range(5):
        means = np.stack([X[(of != held) & (y == p)].mean(axis=0) for p in range(12)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        right += int(((X[of == held] @ means.T).argmax(axis=1) == y[of == held]).sum())
    assert right / len(y) == pytest.approx(row.value, abs=0.06)


def test_the_marker_itself_is_no_clue() -> None:
    assert without_marker("Yes.\n\n[zlt]", "[ZLT]").split() == ["Yes."]


def test_without_answers_there_is_nothing_to_say() -> None:
    assert analyse_persona_text({}, base="base", permutations=9, themes={"a": "x"}) == []
