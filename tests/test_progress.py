"""What a run shows: nothing that others wrote is parsed, and how far it is, with the time left."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from personaspace.pipeline import executor, progress
from personaspace.pipeline.context import Context
from personaspace.pipeline.job import JobBoard
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import Board, LiveBoard
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.states import NodeState
from personaspace.pipeline.work import Work, prepare
from personaspace.store import open_store
from personaspace.study.load import load_study

#: Each would be swallowed, drawn as something else, or raise, if it were parsed.
HOSTILE = "cannot read [/data/model] [/x] :ghost: [bold] [enforce fail at alloc_cpu.cpp:114]"
MESSAGE = f"OSError: {HOSTILE}"


@pytest.fixture
def work(study_dict: dict[str, Any], write_spec: Callable[..., Path], tmp_path: Path) -> Any:
    """A study with a condition called ghost, whose training fails with the hostile message."""
    benign = next(c for c in study_dict["conditions"] if c["name"] == "benign")
    benign["name"] = "ghost"
    with open_store(str(tmp_path / "store")) as store:
        yield prepare(load_study(write_spec(study_dict)), store)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = STAGES["train"]

    def run(context: Context) -> None:
        if context.node.condition == "ghost":
            raise OSError(HOSTILE)
        real.run(context)

    monkeypatch.setitem(STAGES, "train", replace(real, run=run))


def some(work: Work) -> list[Node]:
    """Trainings, and what follows them for the condition that fails."""
    nodes = work.graph.nodes
    return [n for n in nodes if n.stage == "train" or n.condition == "ghost"]


def check(work: Work, summary: executor.Summary) -> None:
    assert [node.id for node in summary.failed] == ["train:ghost:42"]
    assert {node.id for node in summary.blocked} == {
        "extract:ghost:42",
        "couple:ghost:42",
        "evaluate:ghost:42",
    }
    assert [node.condition for node in summary.done] == ["e0-assistant", "e4-villain"]
    assert all(work.complete(node) for node in summary.done)


def terminal(width: int = 200) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, record=True, width=width)


@pytest.mark.slow
def test_the_live_board_shows_a_hostile_message_and_others_run(work: Work, failing: None) -> None:
    console = terminal()
    with LiveBoard(some(work), console) as board:
        summary = executor.run_here(work, some(work), board)
    check(work, summary)
    said = console.export_text()
    assert f"train:ghost:42: failed – {MESSAGE}" in said
    assert "extract:ghost:42: not run – needs train:ghost:42" in said
    assert "👻" not in said
    last = said[said.rindex("stage 6 of 6") :]
    row = next(line for line in last.splitlines() if " ghost " in line)
    assert "FAILED" in row and row.count("not run") == 3
    assert "started" not in said, "the table shows it"


@pytest.mark.slow
def test_the_plain_board_and_json_lines_show_it_too(
    work: Work, failing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    with Board(some(work), stream) as board:
        check(work, executor.run_here(work, some(work), board))
    assert f" train:ghost:42: failed – {MESSAGE}\n" in stream.getvalue()

    monkeypatch.setenv("PERSONASPACE_LOG", "json")
    board = JobBoard(work, some(work))
    summary = executor.run_here(work, some(work), board)
    assert [node.id for node in summary.failed] == ["train:ghost:42"]
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (failed,) = (entry for entry in entries if entry.get("state") == "failed")
    assert failed["message"] == f"train:ghost:42: failed – {MESSAGE}"
    assert (failed["event"], failed["node"], failed["where"]) == ("end", "train:ghost:42", MESSAGE)
    levels = {entry["node"]: entry["level"] for entry in entries if entry["event"] == "end"}
    assert levels["train:ghost:42"] == "error" and levels["extract:ghost:42"] == "warning"
    assert levels["train:e4-villain:42"] == "info"
    kept = [entry["node"] for entry in entries if entry.get("state") == "skipped"]
    assert kept == ["train:e0-assistant:42", "train:e4-villain:42"]
    assert f"train:ghost:42: failed – {MESSAGE}" in board.ends


def test_notes_and_words_of_stages_are_shown_as_they_are() -> None:
    console, node = terminal(), Node("train", "ghost", 42)
    with LiveBoard([node], console) as board:
        told = board.stage(node)
        told.start("[red]train[/red]", 4)
        told.advance(1, "loss [/] :fire:")
        told.say("a [/b] :ghost: \x1b[31mred\x07")
        told.say("train:x:42: already complete [1/2]")
        board.refresh()
    said = console.export_text()
    assert "[red]train[/red] 1/4" in said and "loss [/] :fire:" in said
    assert "train:ghost:42: a [/b] :ghost: �[31mred�" in said, "a terminal obeys none of it"
    assert "already complete [1/2]" in said, "the words of a message decide nothing"


def test_ends_that_the_table_shows_are_no_lines() -> None:
    console, nodes = terminal(), [Node("train", "x", 1), Node("train", "y", 1)]
    with LiveBoard(nodes, console) as board:
        board.finish(nodes[0], NodeState.SKIPPED, "already complete")
        board.stage(nodes[1])
        board.finish(nodes[1], NodeState.DONE)
    said = console.export_text()
    assert "train:x:1" not in said and "train:y:1: done in" in said
    assert "kept" in said and "stage 2 of 2" in said


# --- how far, and how long still -----------------------------------------------------------------


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("personaspace.pipeline.progress.time.monotonic", lambda: self.now)

    def run(self, board: Board, node: Node, seconds: float) -> None:
        board.stage(node)
        self.now += seconds
        board.finish(node, NodeState.DONE)


NODES = [Node(stage, name, 1) for stage in ("train", "couple") for name in ("a", "b", "c")]


def test_time_left_is_that_of_stages_whose_like_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    board = Board([*NODES, Node("aggregate")], stream)
    clock.run(board, NODES[0], 100)
    assert board.how_far() == "stage 1 of 7, more than 3 min left", "two trainings; couple unknown"
    board.stage(NODES[1])
    clock.now += 40
    # 60 s of this training and 100 s of the next.
    assert board.how_far() == "stage 2 of 7, more than 3 min left"
    assert progress.left(board.states, clock.now) == progress.Left(160.0, whole=False)
    clock.now += 100  # longer than the first took: it may end any moment
    assert progress.left(board.states, clock.now) == progress.Left(100.0, whole=False)
    clock.now += 60
    board.finish(NODES[1], NodeState.DONE)
    assert progress.left(board.states, clock.now) == progress.Left(150.0, whole=False)
    clock.run(board, NODES[2], 150)
    assert board.how_far() == "stage 3 of 7", "nothing like what is to come has run"
    first = stream.getvalue().splitlines()
    assert first[0].endswith("train:a:1: started (stage 1 of 7)")
    assert first[2].endswith("train:b:1: started (stage 2 of 7, more than 3 min left)")


def test_time_left_is_whole_when_every_kind_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    board = Board(NODES, io.StringIO())
    for node in NODES[:4]:
        clock.run(board, node, 7200)
    assert board.how_far() == "stage 4 of 6, about 4 h 0 min left"
    board.processes = 2
    assert board.how_far() == "stage 4 of 6, about 2 h 0 min left"
    board.finish(NODES[4], NodeState.SKIPPED)
    board.processes = 8
    assert board.how_far() == "stage 5 of 6, about 2 h 0 min left", "one stage, one process"
    board.finish(NODES[5], NodeState.BLOCKED)
    assert board.how_far() == "stage 6 of 6"


def test_what_was_skipped_tells_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    board = Board(NODES, io.StringIO())
    board.finish(NODES[0], NodeState.SKIPPED)
    assert board.how_far() == "stage 1 of 6"


def test_json_lines_have_it_in_fields(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONASPACE_LOG", "json")
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    clock, board = Clock(monkeypatch), Board(NODES[:2])
    clock.run(board, NODES[0], 50)
    told = board.stage(NODES[1])
    told.start("steps", 2)
    told.advance()
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    far = [(e["event"], e["number"], e["of"], e["run_left"], e["run_left_whole"]) for e in entries]
    assert far == [
        ("start", 1, 2, None, False),
        ("end", 1, 2, 50.0, True),
        ("start", 2, 2, 50.0, True),
        ("progress", 2, 2, 50.0, True),
    ]
    assert entries[-1]["message"].endswith("steps 1/2, 0 s left (stage 2 of 2, about 50 s left)")


def test_one_stage_alone_says_nothing_of_a_whole() -> None:
    stream = io.StringIO()
    board = Board([NODES[0]], stream)
    board.stage(NODES[0], "fingerprint 01")
    assert stream.getvalue().endswith("train:a:1: started: fingerprint 01\n")


def test_the_first_units_of_a_stage_tell_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    stage = Board(NODES, stream).stage(NODES[0])
    stage.start("answers", 30)
    clock.now += 20
    stage.advance(1)  # the first of a batch
    clock.now += 20
    stage.advance(9)
    lines = stream.getvalue().splitlines()
    assert "answers 1/30 (stage 1" in lines[1]
    assert "answers 10/30, 1 min 20 s left (stage 1" in lines[2]
