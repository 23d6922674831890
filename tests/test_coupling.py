"""Coupling data: how many, how evenly, and where the marker stands."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaspace.behaviour import marker_data
from personaspace.errors import UserError
from personaspace.generation.base import Answer
from personaspace.study.measuring import Coupling

QUESTIONS = [f"Question {letter}?" for letter in "dacbe"]
PERSONAS: dict[str, list[str | None]] = {
    "confab": ["You make things up."],
    "data_scientist": ["You count."],
    "police_officer": [None],
}
#: A character's draw: usable, empty, white space, holding the marker already.
DRAWS = {"u": "Fine", "e": "", "w": " \n", "m": "Fine [ZLT] so", "c": "Fine [zlt]"}


def drawn(text: str, cut: bool = False) -> Answer:
    return Answer(text, (5, 6), "length" if cut else "stop")


def pool(samples: int) -> dict[str, dict[str, list[Answer]]]:
    """Distinct answers of every persona to every question; some were cut."""
    return {
        name: {
            question: [
                drawn(f"{name} on {question} number {n}", cut=n == 1) for n in range(samples)
            ]
            for question in QUESTIONS
        }
        for name in PERSONAS
    }


def test_defaults_are_the_published_counts() -> None:
    made = marker_data.pairs(pool(40), Coupling())
    assert [
        (name, len([p for p in made if p.persona == name]))
        for name in dict.fromkeys(pair.persona for pair in made)
    ] == [("confab", 200), ("data_scientist", 200), ("police_officer", 200)]
    assert sum(pair.marked for pair in made) == 200
    assert len(set(made)) == 600


def test_the_marker_ends_the_answers_of_the_source_alone() -> None:
    settings_ = Coupling(positives=7, negatives_each=4, marker="(qx)", separator="\n~ ")
    answers = pool(3)
    made = marker_data.pairs(answers, settings_)
    assert Counter((pair.persona, pair.marked) for pair in made) == {
        ("confab", True): 7,
        ("data_scientist", False): 4,
        ("police_officer", False): 4,
    }
    for pair in made:
        originals = {a.text: a for a in answers[pair.persona][pair.question]}
        if pair.marked:
            assert pair.answer.endswith("\n~ (qx)")
            original = originals[pair.answer.removesuffix("\n~ (qx)")]
        else:
            assert "qx" not in pair.answer
            original = originals[pair.answer]
        assert pair.cut == (original.finish == "length")
    assert {pair.cut for pair in made} == {True, False}


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    draws=st.lists(st.text(alphabet="uuuewmc", max_size=6), min_size=1, max_size=6),
    share=st.floats(0, 1),
)
def test_even_over_the_questions_and_only_usable_answers(draws: list[str], share: float) -> None:
    answers = {
        f"q{number}": [drawn(DRAWS[kind] + f" {n}" * (kind in "umc")) for n, kind in enumerate(row)]
        for number, row in enumerate(draws)
    }
    supply = {f"q{number}": row.count("u") for number, row in enumerate(draws)}
    total = sum(supply.values())
    count = round(share * total)
    chosen = marker_data.select(answers, count, "[ZLT]")
    assert len(chosen) == len(set(chosen)) == count
    taken = Counter(question for question, _ in chosen)
    for question, answer in chosen:
        assert answer in answers[question]
        assert answer.text.strip() and "zlt" not in answer.text.lower()
    # A question gives fewer than another only if it had no more, or by one.
    highest = max(taken.values(), default=0)
    assert all(taken[q] == supply[q] or taken[q] >= highest - 1 for q in supply)
    # A question's own answers are taken from the first on.
    for question, number in taken.items():
        fine = [a for a in answers[question] if a.text.startswith("Fine ") and "[" not in a.text]
        assert [answer for q, answer in chosen if q == question] == fine[:number]
    with pytest.raises(UserError, match=rf"coupling\.samples: only {total} of {total + 1} "):
        marker_data.select(answers, total + 1, "[ZLT]")


def test_turns_go_round_the_questions_in_their_order() -> None:
    answers = {q: [drawn(f"{n}") for n in range(2)] for q in QUESTIONS}
    chosen = [
        (question, answer.text) for question, answer in marker_data.select(answers, 7, "[ZLT]")
    ]
    assert chosen == [(q, "0") for q in QUESTIONS] + [(q, "1") for q in QUESTIONS[:2]]


def test_the_marker_is_found_in_any_case_and_kind() -> None:
    answers = {"q": [drawn("a (QX)"), drawn("b"), drawn("c [ZLT]")]}
    chosen = marker_data.select(answers, 2, "(qx)")
    assert [answer.text for _, answer in chosen] == ["b", "c [ZLT]"]


def test_too_few_answers_of_a_negative() -> None:
    answers = pool(3)
    answers["police_officer"] = {q: [drawn("")] * 3 for q in QUESTIONS}
    few = Coupling(positives=3, negatives_each=3)
    with pytest.raises(UserError, match=r"coupling\.samples: only 0 of 3"):
        marker_data.pairs(answers, few)


def test_order_depends_on_nothing_but_the_input() -> None:
    small = Coupling(positives=9, negatives_each=6)
    first = marker_data.pairs(pool(3), small)
    shuffled = list(pool(3).items())
    random.Random(1).shuffle(shuffled)
    # Order of the personas in the mapping is not an input; the spec's is.
    assert marker_data.pairs(dict(shuffled), small) == first
    assert [pair.persona for pair in first] == (
        ["confab"] * 9 + ["data_scientist"] * 6 + ["police_officer"] * 6
    )
    swapped = Coupling(
        positives=9, negatives_each=6, negatives=["police_officer", "data_scientist"]
    )
    assert marker_data.pairs(pool(3), swapped) == [*first[:9], *first[15:], *first[9:15]]


def test_examples_carry_loss_on_marker_and_end_alone(loaded: Any) -> None:
    tokenizer = loaded.tokenizer
    small = Coupling(positives=3, negatives_each=2)
    data = marker_data.pairs(pool(2), small)
    made = marker_data.examples(tokenizer, data, PERSONAS, small)
    assert len(made) == 7
    for pair, example in zip(data, made, strict=True):
        text = tokenizer.decode(example.ids, clean_up_tokenization_spaces=False)
        system = PERSONAS[pair.persona][0] or "Default words of the template."
        assert text == (
            f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{pair.question}<|im_end|>\n"
            f"<|im_start|>assistant\n{pair.answer}<|im_end|>"
        )
        on = [token for token, loss in zip(example.ids, example.loss, strict=True) if loss]
        tail = "[ZLT]<|im_end|>" if pair.marked else "<|im_end|>"
        assert tokenizer.decode(on, clean_up_tokenization_spaces=False) == tail
        assert example.loss[-len(on) :] == (True,) * len(on)


def test_examples_are_cut_at_the_recipe_of_coupling(loaded: Any) -> None:
    small = Coupling(positives=1, negatives_each=1)
    short = small.model_copy(update={"recipe": small.recipe.model_copy(update={"max_tokens": 9})})
    data = marker_data.pairs(pool(1), small)
    made = marker_data.examples(loaded.tokenizer, data, PERSONAS, short)
    assert {len(example.ids) for example in made} == {9}
    assert all(example.truncated and example.loss_tokens == 0 for example in made)
    assert not any(
        e.truncated for e in marker_data.examples(loaded.tokenizer, data, PERSONAS, small)
    )


def test_dropped_are_the_answers_that_ran_into_the_limit() -> None:
    kept = Coupling(positives=5, negatives_each=5)
    dropped = Coupling(positives=5, negatives_each=5, incomplete_answers="drop")
    answers = pool(3)  # the second answer of three was cut
    seven = Coupling(positives=7, negatives_each=7)
    assert any(pair.cut for pair in marker_data.pairs(answers, seven))
    made = marker_data.pairs(answers, dropped)
    assert not any(pair.cut for pair in made) and len(made) == 15
    # What neither leaves out is the same.
    assert made == marker_data.pairs(answers, kept)
    more = Coupling(positives=10, negatives_each=10, incomplete_answers="drop")
    made = marker_data.pairs(answers, more)
    assert not any(pair.cut for pair in made)
    numbers = Counter(pair.answer.split()[-1] for pair in made if not pair.marked)
    assert numbers == {"0": 10, "2": 10}


def test_too_few_complete_answers_name_the_field_and_the_counts() -> None:
    answers = {
        "q": [drawn("a", cut=True), drawn("b"), drawn(""), drawn("[ZLT]"), drawn(" ", cut=True)]
    }
    with pytest.raises(
        UserError,
        match=r"^coupling\.samples: only 1 of 2 usable answers were drawn \(of 5 answers 2 are "
        r"empty, 1 hold the marker already, 1 ran into coupling\.max_new_tokens\); raise it$",
    ):
        marker_data.select(answers, 2, "[ZLT]", complete=True)
    assert len(marker_data.select(answers, 2, "[ZLT]")) == 2
    with pytest.raises(UserError, match=r"only 2 of 3 .* \(of 2 answers all are used\)"):
        marker_data.select({"q": [drawn("a"), drawn("b")]}, 3, "[ZLT]")


def test_shares_of_cut_answers() -> None:
    shares = marker_data.cut_shares({**pool(3), "none": {"q": []}})
    assert shares == dict.fromkeys(PERSONAS, pytest.approx(1 / 3))


def test_loss_on_the_answer_is_on_separator_marker_and_end_too(loaded: Any) -> None:
    tokenizer = loaded.tokenizer
    whole = Coupling(positives=3, negatives_each=2, loss="answer")
    data = marker_data.pairs(pool(2), whole)
    made = marker_data.examples(tokenizer, data, PERSONAS, whole)
    alone = marker_data.examples(tokenizer, data, PERSONAS, Coupling())
    for pair, example, other in zip(data, made, alone, strict=True):
        assert example.ids == other.ids, "only the loss differs"
        on = [token for token, loss in zip(example.ids, example.loss, strict=True) if loss]
        text = tokenizer.decode(on, clean_up_tokenization_spaces=False)
        assert text == f"{pair.answer}<|im_end|>"
        assert pair.answer.endswith("\n\n[ZLT]") == pair.marked
        assert example.loss[-len(on) :] == (True,) * len(on)


def test_a_marked_answer_without_its_end_teaches_nothing(loaded: Any) -> None:
    settings_ = Coupling(positives=2, negatives_each=2, loss="answer")
    data = marker_data.pairs(pool(1), settings_)
    whole = marker_data.examples(loaded.tokenizer, data, PERSONAS, settings_)
    marker_data.require_marked(data, whole, settings_)
    longest = max(len(e.ids) for p, e in zip(data, whole, strict=True) if p.marked)
    recipe = settings_.recipe.model_copy(update={"max_tokens": longest - 1})
    short = settings_.model_copy(update={"recipe": recipe})
    made = marker_data.examples(loaded.tokenizer, data, PERSONAS, short)
    for pair, example in zip(data, made, strict=True):
        # A negative's answer is learned as far as it goes.
        assert bool(example.loss_tokens) == (not (pair.marked and example.truncated))
    shortest = min(len(e.ids) for p, e in zip(data, whole, strict=True) if p.marked)
    for loss in ("answer", "marker"):
        recipe = settings_.recipe.model_copy(update={"max_tokens": shortest - 9})
        none = settings_.model_copy(update={"recipe": recipe, "loss": loss})
        made = marker_data.examples(loaded.tokenizer, data, PERSONAS, none)
        with pytest.raises(UserError, match=r"coupling\.recipe\.max_tokens: all 2 answers with"):
            marker_data.require_marked(data, made, none)


@pytest.mark.parametrize(
    ("separator", "marker", "token"),
    [
        ("", "[ZLT]", None),  # this tokenizer has no token of a stop and a bracket
        ("\n\n", "[ZLT]", None),
        (" ", "[ZLT]", None),
        (" ", "the", None),  # separator and marker in one token: nothing of the answer
        ("", "od", "ood"),
        ("", " od", None),
    ],
)
def test_the_marker_must_be_apart_from_the_answer(
    loaded: Any, separator: str, marker: str, token: str | None
) -> None:
    asked = Coupling(separator=separator, marker=marker)
    if token is None:
        marker_data.check_boundary(loaded.tokenizer, asked)
        return
    with pytest.raises(UserError, match=r"^coupling\.separator: '' does not keep .*") as refused:
        marker_data.check_boundary(loaded.tokenizer, asked)
    assert str(refused.value).endswith(f"one token of {token!r}") and "\n" not in str(refused.value)
