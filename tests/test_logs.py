"""Logs: one set-up for this package and for libraries; in JSON every line is an object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from personaspace import logs
from personaspace.cli.app import app

ROOT = Path(__file__).parents[1]


def python(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        env={**os.environ, **environment},
    )


def entries(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for entry in found:
        assert list(entry)[:4] == ["time", "level", "event", "logger"]
        assert entry["time"].endswith("Z") and entry["level"] in (*logs.LEVELS, "critical")
    return found


#: A stage as a container runs it, whose libraries talk while it runs.
STAGE = """
import logging, sys, warnings
from personaspace.pipeline import runtime
original = runtime.load_model
def load_model(*arguments):
    warnings.warn("old [/x]\\nargument :ghost:")
    logging.getLogger("peft.tuners").warning("adapter of %s", "x", extra={"layers": 3})
    logging.getLogger("botocore.auth").info("a signed request")
    logging.getLogger("personaspace.fastlora.memory").info("rows of %d tokens", 512)
    if "fail" in sys.argv:
        raise OSError("cannot read [/data/model]\\nat all")
    return original(*arguments)
runtime.load_model = load_model
from jobs.stages import app
app([a for a in sys.argv[1:] if a != "fail"])
"""


@pytest.fixture
def stage(
    study_dict: dict[str, Any], write_spec: Callable[..., Path], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    command = ["train", "--spec", str(write_spec(study_dict)), "--store", str(tmp_path / "store")]
    command += ["--condition", "benign", "--seed", "42"]
    return lambda *more, **environment: python(STAGE, *command, *more, **environment)


@pytest.mark.long
def test_every_line_of_a_stage_is_json(
    stage: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = stage(PERSONASPACE_LOG="json")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    found = entries(done.stderr)
    own = [entry["event"] for entry in found if entry["logger"] == "personaspace"]
    assert own[0] == "start" and own[-1] == "end"
    (library,) = [entry for entry in found if entry["logger"] == "peft.tuners"]
    assert library["message"] == "adapter of x" and library["layers"] == 3
    assert (library["level"], library["event"]) == ("warning", "trouble")
    (warning,) = [e for e in found if e["logger"] == "py.warnings" and "ghost" in e["message"]]
    assert "old [/x]\nargument :ghost:" in warning["message"]
    (memory,) = [entry for entry in found if entry["logger"] == "personaspace.fastlora.memory"]
    assert (memory["level"], memory["message"]) == ("info", "rows of 512 tokens")
    assert "signed" not in done.stderr


@pytest.mark.long
@pytest.mark.slow
def test_a_crash_is_json_too(stage: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    crashed = stage("fail", PERSONASPACE_LOG="json")
    assert crashed.returncode == 1
    last = entries(crashed.stderr)[-1]
    assert last["event"] == "error" and "cannot read [/data/model]" in last["message"]


#: What a command does before anything else, and then a library and a module of ours talk.
PEOPLE = """
import logging, warnings
from personaspace import logs
logs.setup()
warnings.warn("old [/x]\\nargument :ghost:")
logging.getLogger("peft.tuners").warning("adapter of %s", "x", extra={"layers": 3})
logging.getLogger("personaspace.fastlora.memory").info("rows of %d tokens", 512)
"""


def test_levels_and_lines_for_people() -> None:
    done = python(PEOPLE, PERSONASPACE_LOG="", PERSONASPACE_LOG_LEVEL="warning")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "peft.tuners: adapter of x" in done.stderr
    assert "warning: " in done.stderr and "old [/x]" in done.stderr
    assert "rows of 512" not in done.stderr


PROGRAM = """
import logging, sys, threading
from personaspace import logs
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("own format %(message)s"))
library = logging.getLogger("some.library")
library.addHandler(handler)
library.propagate = False
logs.setup(json=True, level="debug")
logs.setup(json=True, level="debug")
library.error("of a library with a handler of its own")
own = logging.getLogger("personaspace.x")
own.debug("n", extra={"loss": float("nan"), "of": [1, float("inf")]})
own.info("half \\ud83d, whole 🙂", extra={"path": sys.path.__class__})
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("personaspace").exception("a division")
def fail():
    raise ValueError("in a thread")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
raise KeyError("at last")
"""


def test_whatever_is_logged_is_json() -> None:
    done = python(PROGRAM)
    assert done.returncode == 1 and done.stdout == ""
    library, numbers, text, division, thread, last = entries(done.stderr)
    assert library["message"] == "of a library with a handler of its own"
    assert (numbers["level"], numbers["loss"], numbers["of"]) == ("debug", None, [1, None])
    assert text["message"] == "half \ud83d, whole 🙂" and "list" in text["path"]
    assert "ZeroDivisionError" in division["traceback"]
    assert thread["message"] == "ValueError: in a thread" and "fail" in thread["traceback"]
    assert last["message"] == "KeyError: 'at last'" and last["event"] == "error"


def test_a_mistake_in_a_spec_is_one_object(
    study_dict: dict[str, Any], write_spec: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONASPACE_LOG", "json")
    study_dict["conditions"][3]["persona"] = "vilain"
    result = CliRunner().invoke(app, ["validate", str(write_spec(study_dict))])
    assert result.exit_code == 2
    (entry,) = entries(result.stderr)
    assert entry["event"] == "error"
    assert entry["problems"] == [
        {
            "path": "conditions[3].persona",
            "code": "unknown-persona",
            "message": "unknown persona 'vilain'",
            "suggestion": "villain",
        }
    ]


def test_an_unknown_level(write_spec: Callable[..., Path]) -> None:
    result = CliRunner().invoke(app, ["--log-level", "loud", "schema"])
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr == "log level 'loud': not one of debug, info, warning, error\n"


def test_lines_of_other_modules_have_the_same_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONASPACE_LOG", "json")
    (entry,) = entries(logs.log_line("text", "trouble", node="train:x:1", left=None))
    assert (entry["level"], entry["event"], entry["message"]) == ("warning", "trouble", "text")
    assert (entry["node"], entry["left"]) == ("train:x:1", None)
    monkeypatch.delenv("PERSONASPACE_LOG")
    assert logs.log_line("text")[8:] == " text"
