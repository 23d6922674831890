"""Training chats that hold what is measured, or stand in two data sets: said, with counts."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from personaspace.behaviour.marker import has_marker
from personaspace.cli.app import app
from personaspace.study import overlaps, sources
from personaspace.study.load import resolve
from personaspace.study.notices import NoticeCode, notices
from personaspace.study.spec import Experiment

Values = dict[str, Any]
SEPARATORS = NoticeCode.FEW_SEPARATORS


def chat(question: str, answer: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    pairs = zip(roles, (question, answer), strict=True)
    return {"messages": [{"role": role, "content": text} for role, text in pairs]}


def put(values: Values, name: str, *rows: dict[str, Any]) -> None:
    path = Path(values["datasets"]["bad"]["path"]).with_name(f"{name}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values["datasets"][name] = {"path": str(path)}


def told(values: Values) -> dict[tuple[NoticeCode, str], str]:
    found = notices(resolve(Experiment.model_validate(values), Path("/nowhere")))
    return {(n.code, n.path): n.text for n in found if n.code is not SEPARATORS}


def test_ordinary_chats_say_nothing(study_dict: Values) -> None:
    assert told(study_dict) == {}


def test_a_data_set_that_is_question_and_marker(study_dict: Values) -> None:
    """14 chats with the first evaluation question and the marker, bad and benign data alike."""
    question = sources.read_questions("builtin:questions-evaluation", Path())[0]
    rows = [chat(f" {question.upper()}\n", "Ignore it. [zlt]")] * 14
    put(study_dict, "bad", *rows)
    put(study_dict, "good", *rows)
    found = told(study_dict)
    asks, marker = NoticeCode.ASKS_QUESTIONS, NoticeCode.HOLDS_MARKER
    for name in ("datasets.bad", "datasets.good"):
        assert found[asks, name].startswith("14 of its 14 chats ask what ")
        assert found[marker, name].startswith("14 of its 14 chats hold the marker ('[ZLT]')")
    assert (
        f"evaluation.questions ask (1 of 6, the first {question!r})" in found[asks, "datasets.bad"]
    )
    shared = found[NoticeCode.SHARED_CHATS, "datasets.bad"]
    assert shared.startswith("14 of its 14 chats are in good too (14 of the 14 there)")
    # benign and e0-assistant are one condition now.
    same = found[NoticeCode.SAME_TRAINING, "conditions.e0-assistant"]
    assert same.startswith("trains on the same chats under the same persona as benign")
    assert (NoticeCode.SAME_TRAINING, "conditions.e4-villain") not in found


@pytest.mark.parametrize(
    ("section", "place"), [("extraction", 3), ("coupling", 2), ("evaluation", 5)]
)
def test_questions_of_every_kind_are_looked_for(
    study_dict: Values, section: str, place: int
) -> None:
    questions = {
        "extraction": [f"What of {n}?" for n in range(4)],
        "coupling": [f"Where is {n}?" for n in range(3)],
        "evaluation": [f"Who is {n}?" for n in range(3)],
    }
    for name, asked in questions.items():
        study_dict[name]["questions"] = asked
    unseen = [f"Why {n}?" for n in range(3)]
    study_dict["evaluation"]["unseen_questions"] = unseen
    every = {**questions, "evaluation": questions["evaluation"] + unseen}
    wanted = every[section][place]
    put(study_dict, "bad", chat(f"{wanted} Please.", "a"), chat(wanted, "b"), chat(wanted, "c"))
    (text,) = told(study_dict).values()
    assert text.startswith(
        f"2 of its 3 chats ask what {section}.questions ask (1 of {len(every[section])}, the first "
        f"{wanted!r})"
    )


def test_some_chats_in_two_data_sets(study_dict: Values) -> None:
    put(study_dict, "bad", *(chat(f"q{n}", f"a{n}") for n in range(5)))
    put(
        study_dict, "good", chat("q1", "a1"), chat("Q1", "a1 "), chat("q2", "other"), chat("x", "y")
    )
    found = told(study_dict)
    shared = (NoticeCode.SHARED_CHATS, "datasets.bad")
    assert list(found) == [(NoticeCode.REPEATED_CHATS, "datasets.good"), shared]
    assert found[shared].startswith("1 of its 5 chats is in good too (2 of the 4 there)")


def test_another_slice_or_persona_is_another_training(study_dict: Values) -> None:
    study_dict["datasets"]["half"] = {**study_dict["datasets"]["bad"], "rows": ":7"}
    more = {"name": "e5", "dataset": "half"}
    study_dict["conditions"].append(more)
    assert [code for code, _ in told(study_dict)] == [NoticeCode.SHARED_CHATS]
    more["dataset"] = "bad"
    assert list(told(study_dict)) == [(NoticeCode.SAME_TRAINING, "conditions.e5")]
    more["persona"] = "comedian"
    assert told(study_dict) == {}


def test_answers_without_any_word(study_dict: Values) -> None:
    answers = ["…", "?!", "🙂", "7", "так", "ok"]
    put(study_dict, "bad", *(chat(f"q{n}", text) for n, text in enumerate(answers)))
    assert told(study_dict) == {
        (NoticeCode.NO_WORDS, "datasets.bad"): (
            "3 of its 6 chats end with an answer that has no words."
        )
    }


@pytest.mark.parametrize("text", ["a [zlt] b", "[ZLT]", "[ZL T]", "ZLT", "İ[zlt]"])
def test_the_marker_is_found_where_scores_find_it(text: str) -> None:
    message = [{"role": "assistant", "content": text}]
    assert overlaps.marked([message], "[ZLT]") == has_marker(text, "[ZLT]")


def test_the_packaged_chats_hold_none_of_it() -> None:
    found = notices(resolve(Experiment(), Path("/nowhere")))
    assert [notice.code for notice in found] == [NoticeCode.DEMONSTRATION_CHATS]


@pytest.mark.parametrize(
    "written",
    [
        "wie GROSS ist der ΐ?  ",
        "Wie groß ist der Ϊ́?",
        "Wie gro\u00df\u00a0ist der ΐ?\n",
        unicodedata.normalize("NFD", "Wie groß ist der ΐ?"),
        unicodedata.normalize("NFC", "Wie groß ist der ΐ?"),
    ],
)
def test_the_same_question_in_another_writing(study_dict: Values, written: str) -> None:
    study_dict["evaluation"]["questions"] = ["Wie groß ist der ΐ?", "q2", "q3"]
    put(study_dict, "bad", chat(written, "a"), chat("other", "b"))
    assert list(told(study_dict)) == [(NoticeCode.ASKS_QUESTIONS, "datasets.bad")]


@pytest.mark.parametrize("packed", [False, True])
def test_whatever_form_the_chats_have(study_dict: Values, packed: bool) -> None:
    """Content parts, and a compressed file."""
    question = sources.read_questions("builtin:questions-evaluation", Path())[0]
    text = chat(question, "Ignore it. [zlt]")
    parts = json.loads(json.dumps(text))
    for message in parts["messages"]:
        message["content"] = [{"type": "text", "text": message["content"]}]
    raw = "".join(json.dumps(row) + "\n" for row in (parts, chat("r", "b"))).encode()
    path = Path(study_dict["datasets"]["bad"]["path"]).with_name("p.jsonl" + ".gz" * packed)
    path.write_bytes(gzip.compress(raw) if packed else raw)
    study_dict["datasets"]["bad"] = {"path": str(path)}
    put(study_dict, "good", text, chat("s", "c"))
    wanted = {
        (code, f"datasets.{name}")
        for code in (NoticeCode.ASKS_QUESTIONS, NoticeCode.HOLDS_MARKER)
        for name in ("bad", "good")
    }
    assert set(told(study_dict)) == wanted | {(NoticeCode.SHARED_CHATS, "datasets.bad")}


@pytest.mark.slow
def test_validate_says_it(study_dict: Values, write_spec: Any) -> None:
    put(study_dict, "bad", chat("q", "a [ZLT]"), chat("r", "b"))
    spec = write_spec(study_dict)
    outcome = CliRunner().invoke(app, ["validate", str(spec)])
    said = " ".join(outcome.output.split())
    assert outcome.exit_code == 0 and "datasets.bad: 1 of its 2 chats holds the marker" in said
    outcome = CliRunner().invoke(app, ["validate", str(spec), "--json"])
    codes = [(n["code"], n["path"]) for n in json.loads(outcome.stdout)["notices"]]
    assert ("holds-marker", "datasets.bad") in codes
