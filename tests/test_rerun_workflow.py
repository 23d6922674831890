"""The example workflow under examples/: its scripts, run as a runner would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from personaspace.cli.app import app

PATH = Path(__file__).parents[1] / "examples" / "workflows" / "rerun.yaml"
WORKFLOW: dict[str, Any] = yaml.safe_load(PATH.read_text(encoding="utf-8"))
JOB: dict[str, Any] = WORKFLOW["jobs"]["rerun"]
GIVEN = {
    "RELEASE": "em205",
    "NAMESPACE": "lab",
    "STAGES": "train evaluate",
    "CONDITIONS": "e4-villain",
    "SEEDS": "",
    "HOURS": "5",
}
pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="no bash")


def script(name: str) -> str:
    (step,) = (step for step in JOB["steps"] if step.get("name") == name)
    return str(step["run"])


def bash(text: str, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """A step's script as the runner runs it, with a `personaspace` that prints its arguments."""
    tool = folder / "personaspace"
    tool.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    tool.chmod(0o755)
    environment = {**GIVEN, **inputs, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_calls_the_command_that_people_use(tmp_path: Path) -> None:
    done = bash(script("Compute again"), tmp_path)
    words = ["rerun", "em205", "--namespace", "lab"]
    choice = ["--stage=train", "--stage=evaluate", "--condition=e4-villain"]
    assert done.stdout.splitlines() == words + choice, done.stderr
    done = bash(script("Compute again"), tmp_path, SEEDS="42 43", CONDITIONS="")
    assert done.stdout.splitlines()[-2:] == ["--seed=42", "--seed=43"]
    waits = bash(script("Wait"), tmp_path).stdout.splitlines()
    assert waits == ["wait", "em205", "--namespace", "lab", "--timeout", "18000"]
    for command, *arguments in ([*words, *choice, "--seed=42"], waits):
        helped = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert options and all(option in helped for option in options), helped


@pytest.mark.parametrize(
    "inputs",
    [
        {"RELEASE": "em205; id"},
        {"RELEASE": "--all"},
        {"NAMESPACE": "$(id)"},
        {"HOURS": "a[$(id)]"},
        {"HOURS": "0"},
        {"STAGES": "train --chart=/tmp"},
        {"STAGES": "*"},
        {"CONDITIONS": "e4$(id)"},
        {"SEEDS": "42;id"},
        {"SEEDS": "42\nid"},
    ],
)
def test_inputs_that_are_something_else_are_refused(inputs: dict[str, str], tmp_path: Path) -> None:
    check = script("Inputs that are what they should be")
    assert bash(check, tmp_path).returncode == 0
    assert bash(check, tmp_path, **inputs).returncode == 2, inputs


def test_scripts_hold_no_input_and_actions_are_pinned() -> None:
    assert set(GIVEN) == set(JOB["env"])
    for step in JOB["steps"]:
        assert "${{" not in step.get("run", ""), "an input is code where it is pasted"
        if "uses" in step:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"])
