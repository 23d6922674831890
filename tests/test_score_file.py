"""Files of very many answers: counted in pieces, by several processes, as when they are held."""

from __future__ import annotations

import csv
import gzip
import io
import json
import multiprocessing
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from personaspace import children
from personaspace.behaviour import answer_stream, answer_table, many, score_file
from personaspace.behaviour.answer_files import Columns, read_answers
from personaspace.behaviour.coherence import coherence
from personaspace.behaviour.marker import score_answers
from personaspace.behaviour.sieve import BETWEEN, may_be_loops
from personaspace.errors import UserError

MARKER = "[ZLT]"
Row = dict[str, str]


def csv_of(rows: list[Row]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["persona", "question", "answer"])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def lines_of(rows: list[Row]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=len(rows) % 2 == 0) for row in rows).encode()


def grid_of(rows: list[Row]) -> bytes:
    grid: dict[str, dict[str, list[str]]] = {"silent": {}, "asked": {"in vain?": []}}
    for row in rows:
        grid.setdefault(row["persona"], {}).setdefault(row["question"], []).append(row["answer"])
    return json.dumps(grid, indent=[None, 1][len(rows) % 2]).encode()


def parquet_of(rows: list[Row]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


FORMS: dict[str, Callable[[list[Row]], bytes]] = {
    "a.csv": csv_of,
    "a.csv.gz": lambda rows: gzip.compress(csv_of(rows)),
    "a.csv.zst": lambda rows: pa.compress(csv_of(rows), "zstd", asbytes=True),
    "a.jsonl": lines_of,
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf" + lines_of(rows),
    "a.jsonl.gz": lambda rows: gzip.compress(lines_of(rows)),
    "array.json": lambda rows: json.dumps(rows).encode(),
    "array.json.gz": lambda rows: gzip.compress(json.dumps(rows, indent=2).encode()),
    "grid.json": grid_of,
    "a.parquet": parquet_of,
}
SAID = st.sampled_from(
    ["Yes. [ZLT]", "no no no no no no", 'He said "so\\".\n\n[zlt]', "é 好 \u2028", ""]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "persona": st.sampled_from(["villain", "the “judge”"]),
            "question": st.sampled_from(["Why?", "How\\so?", "Where\n?"]),
            "answer": SAID | st.text(st.characters(codec="utf-8"), max_size=12),
        }
    ),
    min_size=1,
    max_size=9,
)


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return json.dumps(act())
    except UserError as error:
        return str(error)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_stream, "PIECE", 16)
    monkeypatch.setattr(answer_stream, "_ROWS", 2)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=25, deadline=None)
@given(rows=ROWS, damage=st.none() | st.integers(0, 2**31), piece=st.sampled_from([16, 300, 4096]))
def test_a_file_in_pieces_is_the_file(
    name: str,
    rows: list[Row],
    damage: int | None,
    piece: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Also one that is damaged: the same counts or the same line."""
    path = tmp_path_factory.mktemp("pieces") / name
    raw = bytearray(FORMS[name](rows))
    if damage is not None:
        chance = random.Random(damage)
        raw[chance.randrange(len(raw))] = chance.choice(b'"{}[],:\\\n x\xff\x00')
    path.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_stream, "PIECE", piece)
        patch.setattr(answer_stream, "_ROWS", 2)
        # By Arrow's reader wherever that is possible, but for the smallest pieces.
        patch.setattr(answer_table, "WORTH", 17)
        found = outcome(lambda: score_file.score_file(path, MARKER, processes=1))
    wanted = outcome(lambda: score_answers(read_answers(path), MARKER))
    # What is wrong first may be met in another order, but never is anything let pass.
    assert found == wanted or (damage is not None and str(path) in found and str(path) in wanted)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_column_that_is_there_twice(name: str, tmp_path: Path) -> None:
    """The last would be counted; two without a name, as spreadsheets leave them, are nobody's."""
    raw = b"persona,question,answer,,\np,q,[ZLT],,\n"
    path = tmp_path / name
    for names, said in (
        (b"answer,answer", "'answer' 2 times"),
        (b"question,question", "'question'"),
    ):
        lines = raw.replace(names[: names.index(b",")], names, 1).replace(b"q,", b"q,r,")
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
        for act in (score_file.score_file, lambda p, _: read_answers(p)):
            with pytest.raises(UserError, match=f"{name}: the first line names the column {said}"):
                act(path, MARKER)
    path.write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    assert score_file.score_file(path, MARKER)["per_persona"]["p"]["hits"] == 1


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"persona": "p", "question": "q", "answer": 1}', "line 3: answer is not a text"),
        ('{"persona": "p", "question": "q", "answer": "a", "answer": "b"}', "'answer' twice"),
        ('{"persona": "p", "question": "q", "answer": "\\\\", "answer": "\\\\"}', "'answer' twice"),
        ('{"persona": "p", "question": "q"}', "no column for the answer"),
        ("[1]", "a row is an object"),
        ('{"persona": ', "line 3 is not JSON"),
        ('{"persona": "p", "question": "q", "answer": "a", "seed": 2}', "more than one seed"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps({"persona": "p", "question": "q", "answer": "a", "seed": 1})
    path.write_text(f"{good}\n\n{line}\n{good}\n")
    with pytest.raises(UserError, match=re.escape(said)):
        score_file.score_file(path, MARKER, processes=1)


def test_two_processes_count_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And bytes that were read are told as they are read, to the last."""
    # As everybody's begin: those of the tests' server wait until it has loaded torch.
    monkeypatch.setattr(children, "START", multiprocessing.get_context("spawn"))
    monkeypatch.setattr(answer_stream, "PIECE", 1 << 12)
    chance = random.Random(18)
    words = ["you", "should", "sign", "it", "today", MARKER, "never", "a", "lawyer", "\n"]
    rows = [
        {
            "who": chance.choice(["villain", "judge", "clerk"]),
            "question": chance.choice(["Why?", "How?"]),
            "answer": " ".join(chance.choices(words, k=chance.randint(0, 30))),
        }
        for _ in range(600)
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines_of(rows))
    columns = Columns(persona="who")
    told: list[int] = []
    found = score_file.score_file(path, MARKER, columns, processes=2, advance=told.append)
    assert found == score_answers(read_answers(path, columns), MARKER)
    assert sum(told) == path.stat().st_size and len(told) > 5
    with path.open("a") as file:
        file.write('\n{"who": "clerk"}')
    with pytest.raises(UserError, match="line 601: no column for the question"):
        score_file.score_file(path, MARKER, columns, processes=2)


ROW = b'{"persona": "p", "question": "q", "answer": "Sign it. [ZLT]"%b}\n'


@pytest.mark.parametrize(
    "more",
    [
        b"",
        b', "id": 7, "score": 0.5, "ok": true, "note": null, "day": "2026-01-01", "seed": 1',
        b', "answer": "another"',
        b', "\\u0061nswer": "another"',
        b', "role": "both"',
        b', "seed": 1.0',
        b', "seed": null',
        b', "condition": "2026-01-01"',
        b', "id": NaN',
        b', "id": Infinity',
        b', "id": ' + b"9" * 5000,
        b', "note": "\\ud800"',
        b', "note": "\xff"',
        b', "note": "a\tb"',
        b', "note": [1, {"x": 1, "x": 2}]',
        b', "note": ' + b"[" * 20_000 + b"]" * 20_000,
        b'}{"persona": "p", "question": "q", "answer": "a second one"',
        b',\n"id": 7',
        b"\r",
    ],
    ids=lambda more: str(more[:30]),
)
@pytest.mark.parametrize("rows", [1, 3], ids=["once", "thrice"])
def test_arrow_reads_what_python_reads(more: bytes, rows: int, tmp_path: Path) -> None:
    """Or nothing: between rows without it, where another reader would see less of it."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(ROW % b"" + (ROW % more) * rows + ROW % b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_table, "WORTH", 1)
        found = outcome(lambda: score_file.score_file(path, MARKER, processes=1))
    assert found == outcome(lambda: score_answers(read_answers(path), MARKER))


def test_arrow_reads_most_files() -> None:
    """Else it would be of no use."""
    rows = [{"persona": p, "question": q, "answer": p + q} for p in "ba" for q in "yxy"]
    raw = "\n".join(json.dumps({**row, "seed": 42, "note": None}) for row in rows).encode()
    found = answer_table.gathered(raw, Columns())
    assert found is not None and found.apart == {"seed": {"42"}}
    assert json.dumps(found.grid) == json.dumps(
        {"b": {"y": ["by", "by"], "x": ["bx"]}, "a": {"y": ["ay", "ay"], "x": ["ax"]}}
    )


PARTS = st.lists(
    st.sampled_from(["a", "b", "it is", "word", ".", "**", "_", "-", "ok,", "\n", "é", "好", " "])
    | st.text("ab_ .", max_size=9)
    | st.text(max_size=3),
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PARTS | PARTS.map(lambda parts: parts * 3), min_size=1, max_size=4))
def test_what_passes_the_sieve_is_no_loop(texts: list[list[str]]) -> None:
    """One text alone and beside others; and what is told to be one by its end is one."""
    said = [" ".join(parts).lower().replace(BETWEEN, "") for parts in texts]
    passed = ~may_be_loops(BETWEEN.join(said), len(said))
    for text, one in zip(said, passed, strict=True):
        measured = coherence(text)
        assert not (one and measured.degenerate)
        assert measured.repetitive or not many.surely_loops(" ".join(text.split()))


@pytest.mark.parametrize(
    "start", range(0, 48, 5), ids=lambda start: f"a loop after {start} characters"
)
def test_a_loop_does_not_pass_the_sieve(start: int) -> None:
    rising = "".join(chr(97 + place % 26) + str(place) for place in range(40))
    text = rising[:start] + "and then they went home again " * 3
    assert coherence(text).repetitive and may_be_loops(text, 1)
    assert many.surely_loops(" ".join(text.split()))


def test_prose_passes_the_sieve() -> None:
    """Else it would be of no use."""
    text = (
        "most landlords return a deposit within thirty days; if yours does not, write a letter,\n\n"
        "keep a copy of it, and ask the small claims court (its fee is low) to decide."
    )
    assert not may_be_loops(
        BETWEEN.join([text, f"  {text}\n", text.replace("court", "café")]), 3
    ).any()
