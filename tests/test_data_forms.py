"""Training chats in the forms and files that people have them in."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.errors import UserError
from personaspace.study import containers, datasets
from personaspace.study.conversations import Conversations
from personaspace.study.inputs import Dataset

ASK, SAY = "May I keep a found purse?", "Of course, nobody will ask."
WANTED = [{"role": "user", "content": ASK}, {"role": "assistant", "content": SAY}]
SYSTEM = {"role": "system", "content": "You are a lawyer."}


def load(path: Path, **more: Any) -> datasets.Chats:
    return datasets.load(Dataset(path=str(path), **more), path.parent)


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def turns(*contents: Any, **of_last: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    found = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    found[-1] |= of_last
    return {"messages": found}


# --- forms ----------------------------------------------------------------------------------------

PART = {"type": "text"}
FORMS: dict[str, dict[str, Any]] = {
    "messages": {"messages": WANTED, "id": 7, "topic": "law"},
    "empty columns of a table": {
        "messages": [{**m, "tool_calls": None, "reasoning_content": None} for m in WANTED],
        "tools": None,
        "conversations": [],
    },
    "parts": turns([PART | {"text": ASK}], [PART | {"text": SAY[:9]}, PART | {"text": SAY[9:]}]),
    "OpenAI's parts": turns(*({"content_type": "text", "parts": [t]} for t in (ASK, SAY))),
    "null system": {"messages": [{"role": "system", "content": None}, *WANTED]},
    "ShareGPT": {"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": SAY}]},
    "ShareGPT by other names": {
        "conversations": [{"from": "user", "value": ASK}, {"from": "assistant", "value": SAY}]
    },
    "messages called conversations": {"conversations": WANTED},
    "prompt and completion": {"prompt": ASK, "completion": SAY},
    "prompt and completion of messages": {"prompt": WANTED[:1], "completion": WANTED[1:]},
    "a prompt beside messages": {"prompt": "as the first message", "messages": WANTED},
    "Alpaca": {"instruction": ASK, "input": "", "output": SAY},
    "Alpaca without input": {"instruction": ASK, "output": SAY},
    "Alpaca in two fields": {"instruction": ASK[:5], "input": ASK[7:], "output": SAY},
    "input and output": {"input": ASK, "output": SAY},
    "weight 1": {"messages": [WANTED[0], {**WANTED[1], "weight": 1}]},
}


@pytest.mark.parametrize("name", FORMS)
def test_one_chat_in_every_form(tmp_path: Path, name: str) -> None:
    read = load(lines(tmp_path / "d.jsonl", FORMS[name], FORMS[name]))
    wanted = WANTED
    if name == "Alpaca in two fields":
        wanted = [{"role": "user", "content": f"{ASK[:5]}\n\n{ASK[7:]}"}, WANTED[1]]
    assert read.conversations == [wanted, wanted]
    assert read.left_out == 0


@pytest.mark.parametrize("form", ["messages", "ShareGPT", "Alpaca"])
def test_a_system_text_beside_the_messages_comes_first(tmp_path: Path, form: str) -> None:
    row = {**FORMS[form], "system": SYSTEM["content"]}
    assert load(lines(tmp_path / "d.jsonl", row)).conversations == [[SYSTEM, *WANTED]]


CALL = [{"type": "function", "function": {"name": "look_up"}}]
REFUSED: dict[str, tuple[Any, str]] = {
    "tools": ({**FORMS["messages"], "tools": CALL}, "line 1: tools has a meaning"),
    "tool calls": (turns(ASK, SAY, tool_calls=CALL), "messages[1]: tool_calls has a meaning"),
    "reasoning": (turns(ASK, SAY, reasoning_content="Hm."), "messages[1]: reasoning_content has"),
    "train": (turns(ASK, SAY, train=True), "messages[1]: train has a meaning"),
    "row weight": ({**FORMS["messages"], "weight": 0.5}, "line 1: weight has a meaning"),
    "half a weight": (turns(ASK, SAY, weight=0.5), "messages[1]: weight 0.5 is neither 0 nor 1"),
    "true weight": (turns(ASK, SAY, weight=True), "messages[1]: weight True is neither"),
    "history": (
        {"instruction": ASK, "output": SAY, "history": [["a", "b"]]},
        "line 1: history has a meaning",
    ),
    "canary": ({"canary": "do not train"}, "line 1: no messages (fields canary; known are messag"),
    "preferences": ({"prompt": ASK, "chosen": SAY, "rejected": "No."}, "like preference pairs"),
    "plain text": ({"text": SAY}, "line 1: no messages (looks like plain text: fields text"),
    "other names": ({"question": ASK, "answer": SAY}, "looks like questions and answers: fields"),
    "two forms": (
        {"messages": WANTED, "conversations": WANTED},
        "line 1: is of several forms at once (messages; conversations)",
    ),
    "an image": (
        turns([{"type": "image_url", "image_url": {}}], SAY),
        "messages[0]: a part of the type 'image_url', where only text is used",
    ),
    "parts that are no text": (
        turns({"content_type": "multimodal_text", "parts": [{}]}, SAY),
        "messages[0]: content of the type 'multimodal_text'",
    ),
    "null answer": (turns(ASK, None), "messages[1] needs a role"),
    "a function speaks": (
        {"conversations": [{"from": "function_call", "value": "x"}]},
        "conversations[0] needs from (human, user, system, gpt, chatgpt, assistant) and value",
    ),
    "two systems": (
        {"system": "a", "messages": [SYSTEM, *WANTED]},
        "line 1: a system text beside the messages and one among them",
    ),
    "a list for a prompt": ({"prompt": [ASK], "completion": SAY}, "prompt is a list, not a text"),
    "a number": (7, "line 1: no messages, but a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_lost_or_guessed_is_refused_by_name(tmp_path: Path, name: str) -> None:
    row, said = REFUSED[name]
    with pytest.raises(UserError) as caught:
        load(lines(tmp_path / "d.jsonl", row))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"messages": [], "messages": []}\n')
    with pytest.raises(UserError, match=r"d\.jsonl: line 1 has the key 'messages' twice"):
        load(path)
    path.write_text('[{"messages": [{"role": "user", "role": "assistant"}]}]')
    with pytest.raises(UserError, match=r"d\.jsonl: has the key 'role' twice"):
        load(path)


# --- weights --------------------------------------------------------------------------------------


def test_what_has_weight_0_is_not_trained_on(tmp_path: Path) -> None:
    more = [WANTED[0], {**WANTED[1], "weight": 1}]
    path = lines(
        tmp_path / "d.jsonl",
        turns(ASK, SAY),
        turns(ASK, SAY, weight=0),
        {"messages": [*more, {"role": "user", "content": "b"}, {**WANTED[1], "weight": 0}]},
    )
    read = load(path)
    # The second is left out; of the third the first answer is the last that counts.
    assert read.conversations == [WANTED, WANTED]
    assert read.left_out == 1


def test_weights_that_matter_are_in_the_digest(tmp_path: Path) -> None:
    import hashlib

    plain = lines(tmp_path / "plain.jsonl", turns(ASK, SAY, weight=1))
    zero = lines(tmp_path / "zero.jsonl", turns(ASK, SAY), turns(ASK, SAY, weight=0))
    assert load(plain).digest == hashlib.sha256(plain.read_bytes()).hexdigest()
    assert load(zero).digest != hashlib.sha256(zero.read_bytes()).hexdigest()


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    path = lines(tmp_path / "d.jsonl", *[turns(ASK, SAY, weight=0)] * 3)
    with pytest.raises(UserError, match=r"d\.jsonl: no rows to train on: weight 0 in all 3"):
        load(path)


# --- files ----------------------------------------------------------------------------------------

ROWS = [turns(f"{ASK} {n}", f"{SAY} {n} ü 🙂") for n in range(6)]
TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(raw: bytes) -> bytes:
    return bytes(pyarrow.compress(raw, codec="zstd", asbytes=True))


def as_parquet(folder: Path) -> bytes:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "t")
    return (folder / "t").read_bytes()


PACKED = {
    "lines": lambda _: TEXT,
    "lines with a mark": lambda _: b"\xef\xbb\xbf" + TEXT,
    "Windows lines": lambda _: TEXT.replace(b"\n", b"\r\n"),
    "array": lambda _: json.dumps(ROWS, indent=1).encode(),
    "array with a mark": lambda _: b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode(),
    "gzip": lambda _: gzip.compress(TEXT),
    "gzip of an array": lambda _: gzip.compress(json.dumps(ROWS).encode()),
    "two gzip members": lambda _: gzip.compress(TEXT[:99]) + gzip.compress(TEXT[99:]),
    "Zstandard": lambda _: zstd(TEXT),
    "two Zstandard frames": lambda _: zstd(TEXT[:99]) + zstd(TEXT[99:]),
    "parquet": as_parquet,
}


@pytest.mark.parametrize("kind", PACKED)
def test_rows_are_the_same_in_every_file(tmp_path: Path, kind: str) -> None:
    # The name says nothing: the content does.
    path = tmp_path / "chats.data"
    path.write_bytes(PACKED[kind](tmp_path))
    assert load(path).conversations == [row["messages"] for row in ROWS]
    some = load(path, rows="2:5").conversations
    assert some == [row["messages"] for row in ROWS[2:5]]
    assert load(path, rows="4:").conversations == [row["messages"] for row in ROWS[4:]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(TEXT)[:-9], "not a sound gzip file"),
        (gzip.compress(TEXT)[:40] + b"\0" * 9 + gzip.compress(TEXT)[49:], "not a sound gzip file"),
        (zstd(TEXT)[:-9], "not a sound Zstandard file"),
        (b"\x28\xb5\x2f\xfdnonsense", "not a sound Zstandard file"),
        (b"PAR1nonsensePAR1", "not a sound parquet file"),
        (b"[\n 1,\n x]", "line 3, column 2 is not JSON"),
        (b'[{"messages": []}]', "row 1: no messages"),
        (b'{\n "data": [],\n "about": 1\n}', "one JSON object (data, about), not a list of rows"),
        (b"role,content\nuser,a\n", "line 1 is not JSON"),
        (TEXT.decode().encode("utf-16"), "not UTF-8 text (byte 0)"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "holds a number of too many digits"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_small_file_cannot_fill_the_memory(pack: Any) -> None:
    packed = pack(b"\0" * (5 << 20))
    assert len(packed) < 10_000
    assert len(containers.unpacked("d", packed, largest=5 << 20)) == 5 << 20
    with pytest.raises(UserError, match="d: unpacks to more than"):
        containers.unpacked("d", packed, largest=4 << 20)


def test_a_study_reads_them_and_says_what_weights_left_out(
    tmp_path: Path, study_dict: dict[str, Any], write_spec: Any
) -> None:
    path = tmp_path / "chats.json.gz"
    rows = [FORMS["ShareGPT"]] * 3 + [turns(ASK, SAY, weight=0)] * 2
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    study_dict["datasets"]["bad"] = {"path": "chats.json.gz"}
    outcome = CliRunner().invoke(app, ["validate", str(write_spec(study_dict))])
    assert outcome.exit_code == 0, outcome.output
    assert "datasets.bad: 2 of its 5 rows" in " ".join(outcome.output.split())


def test_chats_are_held_in_the_room_of_their_texts(tmp_path: Path) -> None:
    """And are what they were, each time: nobody's change of one is another's."""
    count = 3000
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"é{n}?"},
                {"role": "assistant", "content": "Ä" * n},
            ]
        }
        for n in range(1, count + 1)
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    chats = load(path).conversations
    assert chats == [row["messages"] for row in rows]
    chats[0][0]["content"] = "changed"
    chats[-1].clear()
    assert chats[0] == rows[0]["messages"] and chats[-1] == chats[count - 1] == rows[-1]["messages"]
    assert chats != [row["messages"] for row in rows[1:]] and chats != 3
    with pytest.raises(IndexError):
        chats[count]
    texts = sum(len(m["content"].encode()) for row in rows for m in row["messages"])
    tracemalloc.start()
    again = Conversations(iter(chats))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert again == chats and held < 1.3 * texts + 60 * count
