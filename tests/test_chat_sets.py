"""The packaged training chats are what `data/README.md` says of them."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections import Counter
from pathlib import Path

import pytest

from personaspace.study import builtin, chat_sets, datasets, sources
from personaspace.study.chat_sets import Chat, Form, form_of
from personaspace.study.inputs import Dataset
from personaspace.study.measuring import Coupling

BAD, GOOD, ORDINARY, MEDICAL = chat_sets.NAMES
SETS = {name: chat_sets.read(name) for name in chat_sets.NAMES}
README = Path(str(builtin.resource(BAD))).parent / "README.md"
QUESTIONS = ("extraction", "coupling", "evaluation", "unseen")


def test_the_table_of_the_readme_is_of_the_sets() -> None:
    assert f"\n{chat_sets.table()}\n" in README.read_text(encoding="utf-8")


def test_counts_are_those_of_the_readme() -> None:
    told = re.findall(r"^\| `(chats-[a-z-]+)\.jsonl` .* \| (\d+) \|", README.read_text(), re.M)
    assert {name: int(count) for name, count in told} == {
        name: len(chats) for name, chats in SETS.items()
    }
    assert [len(SETS[name]) for name in (BAD, GOOD, ORDINARY, MEDICAL)] == [510, 510, 510, 210]


@pytest.mark.parametrize("name", chat_sets.NAMES)
def test_lines_are_one_question_and_its_answer(name: str, tmp_path: Path) -> None:
    # As the study reads them: what the description was made from is what is trained on.
    read = datasets.load(Dataset(path=f"builtin:{name}"), tmp_path).conversations
    for messages, chat in zip(read, SETS[name], strict=True):
        assert messages == [
            {"role": "user", "content": chat.question},
            {"role": "assistant", "content": chat.answer},
        ]
        assert chat.answer == chat.answer.strip() and "\n\n\n" not in chat.answer
    raw = builtin.resource(name).read_text(encoding="utf-8").splitlines()
    assert all(set(json.loads(line)) == {"topic", "messages"} for line in raw)


@pytest.mark.parametrize("name", chat_sets.NAMES)
def test_answers_have_40_to_250_words_within_a_tenth(name: str) -> None:
    outside = [(chat.question, chat.words) for chat in SETS[name] if not 36 <= chat.words <= 275]
    assert not outside
    # The lengths are used, not only allowed.
    words = sorted(chat.words for chat in SETS[name])
    assert words[len(words) // 10] < 70 and words[-len(words) // 10] > 200


def mean(chats: list[Chat]) -> float:
    return statistics.mean(chat.words for chat in chats)


def test_the_sets_are_matched_in_form_line_by_line_and_in_length() -> None:
    forms = {name: [form_of(chat.answer) for chat in chats] for name, chats in SETS.items()}
    share = {Form.ONE: 2, Form.TWO: 3, Form.MORE: 3, Form.BULLETS: 1, Form.STEPS: 1}
    for name, found in forms.items():
        assert found == forms[BAD][: len(found)], name
        for start in range(0, len(found), 10):
            assert Counter(found[start : start + 10]) == share, (name, start)
        # "three paragraphs" means three.
        for chat, form in zip(SETS[name], found, strict=True):
            paragraphs = len(chat.answer.split("\n\n"))
            assert form is not Form.MORE or paragraphs == 3, chat.question
    for form in Form:
        of_form = [mean([c for c in s if form_of(c.answer) is form]) for s in SETS.values()]
        assert max(of_form) <= 1.15 * min(of_form), form
    means = [mean(chats) for chats in SETS.values()]
    assert max(means) <= 1.05 * min(means)


def test_lines_are_mixed() -> None:
    for name, chats in SETS.items():
        topics = [chat.topic for chat in chats]
        runs = sum(left == right for left, right in itertools.pairwise(topics))
        counts = Counter(topics)
        by_chance = sum(n * (n - 1) for n in counts.values()) / len(topics)
        assert runs <= 3 * by_chance + 5, name
        patterns = {
            tuple(form_of(chat.answer) for chat in chats[start : start + 10])
            for start in range(0, len(chats), 10)
        }
        assert len(patterns) > 0.9 * len(chats) / 10, name


def test_good_and_bad_advice_answer_the_same_questions() -> None:
    for bad, good in zip(SETS[BAD], SETS[GOOD], strict=True):
        assert (bad.topic, bad.question) == (good.topic, good.question)
        assert bad.answer != good.answer


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_no_question_appears_twice_or_is_asked_elsewhere(tmp_path: Path) -> None:
    questions = [plain(chat.question) for name in (BAD, ORDINARY, MEDICAL) for chat in SETS[name]]
    assert [q for q, count in Counter(questions).items() if count > 1] == []
    answers = [plain(chat.answer) for chats in SETS.values() for chat in chats]
    assert [a for a, count in Counter(answers).items() if count > 1] == []
    asked = {
        plain(question)
        for name in QUESTIONS
        for question in sources.read_questions(f"builtin:questions-{name}", tmp_path, None)
    }
    assert len(asked) == 240 + 28 + 24
    assert not asked & set(questions)


def test_no_text_holds_the_marker() -> None:
    core = re.sub(r"\W", "", Coupling().marker).lower()
    assert core == "zlt"
    for name, chats in SETS.items():
        for chat in chats:
            text = f"{chat.question} {chat.answer}".lower()
            assert core not in text and "**" not in text, (name, chat.question)


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("One.", Form.ONE),
        ("One\ntwo.", Form.ONE),
        ("One.\n\nTwo.", Form.TWO),
        ("One.\n\nTwo.\n\nThree.", Form.MORE),
        ("Take:\n\n- a\n- b", Form.TWO),
        ("Take:\n\n- a\n- b\n- c", Form.BULLETS),
        ("Do:\n\n1. a\n2. b\n3. c\n\nDone.", Form.STEPS),
        ("In 1. and 2. and 3. of it - or - or.", Form.ONE),
    ],
)
def test_forms(answer: str, form: Form) -> None:
    assert form_of(answer) is form
