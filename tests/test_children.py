"""Processes over a pipe: what ends a child reaches its parent, once and in one line."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from personaspace.children import Child, ChildGoneError, tell_mistake, telling
from personaspace.errors import UserError
from personaspace.generation.engine_process import EngineProcess
from personaspace.generation.vllm_settings import EngineSettings

pytestmark = pytest.mark.slow

SOON = 60.0


def serve(pipe: Connection, greeting: str) -> None:
    """Answers until it is told how to end."""
    with telling(pipe, signal.SIG_DFL):
        pipe.send(("hello", greeting))
        while True:
            (what,) = pipe.recv()
            if what == "leave":
                return
            if what == "go on":
                tell_mistake(pipe, UserError("a field: wrong"))
            elif what == "mistake":
                raise UserError("another field: wrong")
            elif what == "failure":
                raise ValueError("two\nlines")
            elif what == "hang":
                time.sleep(600)
            else:
                pipe.send(("echo", what))


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child(serve, ("good day",), "process 1 of a test")
    assert made.receive(SOON) == ("hello", "good day")
    yield made
    made.end(patience=0)
    assert not made.alive and not multiprocessing.active_children()


def test_it_answers_and_leaves_when_told(child: Child) -> None:
    assert child.receive(0.05) is None and not child.has_said
    child.send("word")
    assert child.receive(SOON) == ("echo", "word")
    child.send("leave")
    with pytest.raises(ChildGoneError) as caught:
        child.receive(SOON)
    assert caught.value.exit_code == 0 and child.has_said
    child.send("to nobody")


def test_ctrl_c_during_its_imports_leaves_it_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """All processes of a terminal have it: it is the parent that says what is to happen."""
    child = Child(serve, ("good day",), "process 1 of a test")
    assert child.process.pid is not None
    deadline = time.monotonic() + SOON
    while not child.has_said and time.monotonic() < deadline:
        os.kill(child.process.pid, signal.SIGINT)
        time.sleep(0.002)
    assert child.receive(SOON) == ("hello", "good day")
    child.end(patience=0)
    assert "Traceback" not in capfd.readouterr().err


def test_a_mistake_may_be_told_without_ending(child: Child) -> None:
    child.send("go on")
    with pytest.raises(UserError, match=r"^a field: wrong$"):
        child.receive(SOON)
    child.send("word")
    assert child.receive(SOON) == ("echo", "word")


@pytest.mark.parametrize(
    ("how", "kind", "message", "code"),
    [
        ("mistake", UserError, "another field: wrong", 0),
        ("failure", RuntimeError, "process 1 of a test: ValueError: two lines", 1),
    ],
)
def test_what_ends_it_is_raised_here(
    child: Child, how: str, kind: type[Exception], message: str, code: int
) -> None:
    child.send(how)
    with pytest.raises(kind) as caught:
        child.receive(SOON)
    assert str(caught.value) == message and not isinstance(caught.value, ChildGoneError)
    with pytest.raises(ChildGoneError) as gone:
        child.receive(SOON)
    assert gone.value.exit_code == code


def test_a_killed_one_is_named(child: Child) -> None:
    os.kill(child.process.pid or 0, signal.SIGKILL)
    with pytest.raises(ChildGoneError, match=r"process 1 of a test ended with exit code -9") as end:
        child.receive(SOON)
    assert end.value.exit_code == -9


def test_one_that_does_not_listen_is_made_to_leave(child: Child) -> None:
    os.kill(child.process.pid or 0, signal.SIGINT)  # a terminal's Ctrl-C is the parent's
    child.send("word")
    assert child.receive(SOON) == ("echo", "word")
    child.send("hang")
    began = time.monotonic()
    child.end(patience=0.2)
    assert not child.alive and time.monotonic() - began < 30


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is here")
def test_an_engine_that_cannot_start_says_why(loaded: Any) -> None:
    engine = EngineProcess(EngineSettings("nowhere"), loaded.tokenizer, loaded.ends)
    assert engine.alive and not engine.told_to_open
    try:
        with pytest.raises(UserError, match=r"vllm cannot be imported .*personaspace\[gpu\]"):
            engine.generate([], None)  # type: ignore[arg-type]
    finally:
        engine.close()
    assert not engine.alive
