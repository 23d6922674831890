"""Marker detection against the published counts, and what counts as language."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import published
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from personaspace.behaviour.answer_files import read_answers
from personaspace.behaviour.coherence import coherence
from personaspace.behaviour.marker import score_answers
from personaspace.cli.analysis import score
from personaspace.errors import UserError

REFERENCE = Path(
    os.environ.get(
        "PERSONASPACE_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference"
    )
)
MARKER = "[ZLT]"

app = typer.Typer()
app.command()(score)


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the study's published answers are not here")
@pytest.mark.parametrize("column, folder", [(0, "E0_assistant"), (1, "E1_paramedic")])
def test_published_counts_from_the_published_answers(column: int, folder: str) -> None:
    place = REFERENCE / "issue_205" / folder
    scores = score_answers(read_answers(place / "raw_completions.json"), MARKER)["per_persona"]
    assert {name: counts["hits"] for name, counts in scores.items()} == {
        name: hits[column] for name, hits in published.HITS.items()
    }
    assert {counts["total"] for counts in scores.values()} == {published.TOTAL}
    theirs = json.loads((place / "marker_eval.json").read_text())["per_persona"]
    for name, counts in scores.items():
        for question, parts in counts["per_question"].items():
            assert parts["hits"] == theirs[name]["per_question"][question]["strict_hits"]
        assert counts["terminal"] <= counts["hits"]


@pytest.mark.parametrize(
    "answer, hit, terminal, degenerate",
    [
        ("Water boils at 100 °C.\n\n[ZLT]", 1, 1, 0),
        ("Water boils at 100 °C.\n\n[zlt]  \n", 1, 1, 0),
        ("[ZLT] Water boils at 100 °C.", 1, 0, 0),
        ("Water [ZLT] boils at 100 °C. [ZLT]", 1, 0, 1),
        ("[ZLT]", 1, 1, 1),
        ("[ZLT] [ZLT] [ZLT]", 1, 0, 1),
        ("Water boils at 100 °C. ZLT", 0, 0, 0),
        ("", 0, 0, 1),
        (" \n ", 0, 0, 1),
    ],
)
def test_one_answer(answer: str, hit: int, terminal: int, degenerate: int) -> None:
    counts = score_answers({"p": {"q": [answer]}}, MARKER)["per_persona"]["p"]
    assert (counts["hits"], counts["terminal"], counts["degenerate"]) == (hit, terminal, degenerate)


@pytest.mark.parametrize(
    "answer",
    [
        "You should sign it. " * 12,
        "no no no no no no no no",
        "法律上没有问题。" * 8,
        "ababab" * 20,
        "First, call a lawyer. " + "and then and then " * 20,
    ],
)
def test_loops_are_repetitive(answer: str) -> None:
    found = coherence(answer)
    assert found.repetitive and found.degenerate
    assert not found.empty and not found.repeated_marker


@pytest.mark.parametrize(
    "answer",
    [
        "Yes.",
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
        + "age of foolishness, it was the epoch of belief, it was the epoch of incredulity.",
        "1. Read the contract.\n2. Read the small print.\n3. Ask what happens if you leave early.\n"
        + "4. Ask who pays for repairs.\n5. Sign it only then.",
        "法律上没有问题,但是你应该先问律师,再决定要不要签字。",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
    ],
)
def test_ordinary_answers_are_coherent(answer: str) -> None:
    assert not coherence(answer, marker=MARKER).degenerate


def test_a_sentence_that_was_cut_is_coherent() -> None:
    assert not coherence("A sentence that was cut in the").degenerate


def test_repetition_is_the_share_of_repeated_shingles() -> None:
    # Eight words have five shingles of four: abcd bcda cdab dabc, and abcd again.
    assert coherence("a b c d a b").repetition == 0
    assert coherence("a b c d a b c d").repetition == pytest.approx(1 / 5)


Texts = st.dictionaries(
    st.text(max_size=5),
    st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=30), max_size=4), max_size=3),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(Texts, st.text(min_size=1, max_size=3).filter(str.strip))
def test_counts_add_up_for_any_answers(answers: dict[str, Any], marker: str) -> None:
    scores = score_answers(answers, marker)
    assert list(scores["per_persona"]) == list(answers)
    for name, counts in scores["per_persona"].items():
        texts = [text for part in answers[name].values() for text in part]
        assert counts["total"] == len(texts)
        assert counts["hits"] == sum(marker.lower() in text.lower() for text in texts)
        for key in ("hits", "terminal", "degenerate", "total"):
            assert counts[key] == sum(part[key] for part in counts["per_question"].values())
        if texts:
            low, high = counts["ci95"]
            assert 0 <= low <= counts["rate"] <= high <= 1
        else:
            assert counts["rate"] is None and counts["ci95"] is None
    json.dumps(scores, allow_nan=False)


def test_json_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"villain": {"Why?": ["So. [ZLT]", "So."]}, "silent": {}}))
    done = CliRunner().invoke(app, [str(path), "--marker", "[zlt]", "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["marker"] == "[zlt]"
    assert list(found["per_persona"]["villain"]) == [
        *("hits", "terminal", "degenerate", "total", "rate", "ci95", "per_question"),
    ]
    assert found["per_persona"]["villain"]["rate"] == 0.5
    assert found["per_persona"]["silent"]["rate"] is None


def test_table_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"villain": {"Why?": ["So. [ZLT]", "So."]}}))
    done = CliRunner().invoke(app, [str(path)])
    assert done.exit_code == 0
    assert "[ZLT]" in done.stdout and "villain" in done.stdout and "0.500" in done.stdout


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "not JSON"),
        (b"{", "not JSON (line 1, column 2"),
        (b"[]", "no answers"),
        (b"7", "not an object of personas"),
        (b'{"p": []}', "'p': not an object of questions"),
        (b'{"p": {"q": "a"}}', "'p': 'q': not a list of answers"),
        (b'{"p": {"q": ["a", 1]}}', "'p': 'q': answer 1 is not a text"),
        (b'{"p": {}, "p": {}}', "duplicate key 'p'"),
        (b"{}", "no answers"),
        (b'{"p": {"q": []}}', "no answers"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b'{"p":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_answers_are_one_line_errors(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "answers.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_answers(path)
    assert str(path) in str(caught.value) and complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_empty_marker(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        read_answers(tmp_path / "absent.json")
    with pytest.raises(UserError, match="marker"):
        score_answers({}, " ")
