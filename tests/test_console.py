"""What is printed for people: as users and libraries wrote it, never parsed."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.text import Text

from personaspace import console
from personaspace.cli.run import print_failures
from personaspace.errors import UserError
from personaspace.pipeline.executor import Summary
from personaspace.pipeline.node import Node

ODD = "cannot read [/data/model] :ghost: [bold][enforce fail at alloc_cpu.cpp:114]"


def test_failures_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(
        failed={Node("train", "e4", 1): OSError(ODD), Node("couple", "e4", 1): UserError(ODD)},
        blocked=[Node("evaluate", "e4", 1)],
    )
    print_failures(summary)
    said = capsys.readouterr().err
    assert f"OSError: {ODD}" in said
    assert said.count(ODD) == 2
    assert "evaluate:e4:1" in said


def test_a_table_of_stages(capsys: pytest.CaptureFixture[str]) -> None:
    cells: list[tuple[str, str, int, Any]] = [
        ("train", ":ghost:", 1, "[red]done"),
        ("train", "e4", 2, Text("done", style="green")),
        ("couple", "e4", 2, "waiting"),
        ("aggregate", "", -1, "waiting"),
    ]
    console.console().print(console.stage_table(cells, "[/x] :smile:"))
    lines = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in capsys.readouterr().out.splitlines()
    ]
    assert lines[0] == ["[/x] :smile:"]
    assert ["condition", "seed", "train", "couple"] in lines
    assert [":ghost:", "1", "[red]done", "–"] in lines
    assert ["e4", "2", "done", "waiting"] in lines
    assert ["aggregate", "", "waiting", ""] in lines


def test_a_table_of_stages_of_the_whole_study_alone(capsys: pytest.CaptureFixture[str]) -> None:
    console.console().print(console.stage_table([("report", "", -1, "done")]))
    assert "report" in (said := capsys.readouterr().out) and "done" in said


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_survives_any_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": "\ud83d Größe 🙂 [/x]", "b": [1, None]}
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    console.print_json(value)
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert json.loads(text) == value
    assert ("Größe 🙂" in text) == (encoding == "utf-8")
    with pytest.raises(ValueError, match="JSON"):
        console.print_json(float("nan"))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(4.4, "4 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert console.duration(seconds) == said


def test_sizes_and_shares() -> None:
    assert [console.size(n) for n in (None, 999, 4_200_000, 5e13)] == [
        "unknown", "999 B", "4.2 MB", "50 TB",
    ]  # fmt: skip
    assert (console.percent(0.8), console.percent(0.1234, 1)) == ("80 %", "12.3 %")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (405_853_388_800, "406 billion"),
        (7_615_616_512, "7.6 billion"),
        (134_515_008, "135 million"),
        (1_000_000, "1.0 million"),
        (297_000, "297,000"),
    ],
)
def test_a_large_count_is_none_that_is_rounded_away(number: int, said: str) -> None:
    assert console.many(number) == said


def test_one_thing_is_and_several_are() -> None:
    told = [f"{console.counted(n, 'stage')} {console.verb(n, 'is', 'are')}" for n in (0, 1, 2000)]
    assert told == ["0 stages are", "1 stage is", "2,000 stages are"]
