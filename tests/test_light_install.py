"""What people ask a release works where only the extra `cluster` is installed: no torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished
from made_results import least_results
from stand_in_api import Api, complete, job, pod, study

from personaspace.store import open_store

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: Runs the CLI where every module of other distributions is missing.
PROGRAM = """
import importlib.abc, json, sys
missing = set(json.loads(sys.argv.pop(1)))
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from personaspace.cli.app import app
app()
"""
#: The same with one command after another; prints code and words of each.
EACH = (
    PROGRAM.rsplit("app()", 1)[0]
    + """
from typer.testing import CliRunner
ended = {}
for name, arguments in json.loads(sys.argv.pop(1)):
    result = CliRunner().invoke(app, [name, *arguments])
    ended[name] = (result.exit_code, result.output + str(result.exception or ""))
print(json.dumps(ended))
"""
)


def listed() -> set[str]:
    needs = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cluster"]]
    return {re.split(r"[<>=]", need)[0] for need in needs}


def closure(names: set[str]) -> set[str]:
    """Distributions that come with these."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            wants = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        todo += [re.split(r"[^\w.-]", want)[0] for want in wants if "extra ==" not in want]
    return found


@pytest.fixture(scope="module")
def missing() -> str:
    """Top-level modules that a light installation lacks, as JSON."""
    there = closure(listed()) | {"personaspace"}
    every = metadata.packages_distributions()
    names = {
        module
        for module, owners in every.items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & there
    }
    assert {"torch", "transformers", "numpy", "datasets"} <= names
    return json.dumps(sorted(names))


@pytest.mark.slow
def test_commands_of_a_release_need_no_more(api: Api, missing: str, tmp_path: Path) -> None:
    study(api)
    key = "aggregate/0123456789abcdef"
    with open_store(str(tmp_path / "store")) as store, store.writer(key) as writer:
        (writer.folder / "results.json").write_text(least_results("light"))
        writer.commit({"fingerprint": "f"})
    found = job("aggregate", "", "*", state="Complete")
    env = [{"name": "PERSONASPACE_STORE", "value": str(tmp_path / "store")}]
    found["spec"]["template"]["spec"]["containers"] = [{"env": env}]
    ended = complete(aggregate=key)
    api.objects["jobs"][-2:] = [found, job("conductor", "", state="Complete")]
    api.objects["pods"][-2] = pod("aggregate", "", phase="Succeeded", containerStatuses=ended)
    (tmp_path / "chart").mkdir()
    (tmp_path / "chart" / "Chart.yaml").write_text("")
    helm = tmp_path / "helm"
    helm.write_text("#!/bin/sh\necho null\n")
    helm.chmod(0o755)

    commands: dict[str, list[Any]] = {
        "status": ["em205"],
        "logs": ["em205", "x"],
        "results": ["em205", "--json"],
        "wait": ["em205"],
        "rerun": ["em205", "--stage", "evaluate", "--chart", str(tmp_path / "chart")],
        "cancel": ["em205"],
        "geometry": [str(tmp_path)],
    }
    done = subprocess.run(
        [sys.executable, "-c", EACH, missing, json.dumps(list(commands.items()))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    for command, (code, said) in json.loads(done.stdout).items():
        if command == "geometry":
            assert code == 2 and "needs the package numpy, which is not installed" in said
        else:
            assert code == 0, f"{command}: {said}"


@pytest.mark.slow
def test_the_s3_store_needs_no_more(missing: str) -> None:
    program = PROGRAM.replace(
        "from personaspace.cli.app import app\napp()",
        "from personaspace.store import open_store\n"
        "open_store('s3://bucket/x?endpoint=http://127.0.0.1:9&region=r').__class__",
    )
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    done = subprocess.run(
        [sys.executable, "-c", program, missing],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **keys},
    )
    assert "ModuleNotFoundError" not in done.stderr, done.stderr


@pytest.mark.slow
def test_commands_that_look_do_not_load_torch(finished_study: Finished, tmp_path: Path) -> None:
    """It takes seconds, in which nothing is printed."""
    spec, store = str(finished_study.spec), ["--store", str(finished_study.store)]
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({"villain": {"Why?": ["So. [ZLT]", "So."]}}))
    commands: list[tuple[str, list[str]]] = [
        ("status", [spec, *store]),
        ("results", [spec, *store]),
        ("verify", store),
        ("gc", [*store, "--dry-run"]),
        ("score", [str(answers)]),
        ("init", [str(tmp_path / "study.yaml")]),
        ("power", [spec]),
        ("schema", []),
    ]
    absent = json.dumps(["torch", "transformers", "peft", "vllm", "datasets"])
    done = subprocess.run(
        [sys.executable, "-c", EACH, absent, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert {command: code for command, (code, _) in ended.items() if code} == {}, ended
