"""A copy of the finished study's store for studies that are almost that one, and what they compute.

Fixtures for the tests of rows that are taken from former artifacts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Finished
from safetensors import safe_open
from typer.testing import CliRunner, Result

from personaspace.activations import extract as hidden
from personaspace.cli.app import app
from personaspace.generation.transformers_engine import TransformersEngine
from personaspace.store import Manifest
from personaspace.store.manifest import parse_manifest

Values = dict[str, Any]
NEW = {"name": "aviator", "prompt": "You are an aviator who has seen every cloud."}
OTHER = {"name": "sailor", "prompt": "You are a sailor."}
CONDITIONS = ("base", "benign", "e0-assistant", "e4-villain")


def cli(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@dataclass
class Asked:
    """What models computed: passages of hidden states, and answers by where they were drawn."""

    passages: list[int] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)

    def clear(self) -> None:
        self.passages.clear()
        self.answers.clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    plain, generate = hidden.hidden_states, TransformersEngine.generate

    def counted(model: Any, sequences: Any, *rest: Any, **named: Any) -> Any:
        found.passages.append(len(sequences))
        return plain(model, sequences, *rest, **named)

    def drawn(self: Any, prompts: Any, sampling: Any, **named: Any) -> Any:
        scope = sampling.scope.partition(":")[0] or "greedy"
        found.answers[scope] = found.answers.get(scope, 0) + len(prompts) * sampling.samples
        return generate(self, prompts, sampling, **named)

    monkeypatch.setattr(hidden, "hidden_states", counted)
    monkeypatch.setattr(TransformersEngine, "generate", drawn)
    return found


@dataclass
class Place:
    """A copy of the finished study's store, for studies that are almost that one."""

    values: Values
    folder: Path
    store: str

    def study(self, edit: Callable[[Values], object], name: str = "changed") -> Path:
        values = deepcopy(self.values)
        edit(values)
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return path

    def run(self, edit: Callable[[Values], object], *more: object) -> Result:
        return cli("run", self.study(edit), "--store", self.store, *more)


@pytest.fixture
def place(finished_study: Finished, tmp_path: Path) -> Place:
    store = tmp_path / "store"
    shutil.copytree(finished_study.store, store)
    return Place(finished_study.values, tmp_path, str(store))


ONLY = ("--only", "extract:base", "--only", "evaluate:benign")


def add(values: Values) -> None:
    """A persona that nothing else uses, before the others."""
    values["personas"].insert(0, NEW)


def manifests(store: Path, condition: str, stage: str) -> list[tuple[Manifest, Path]]:
    """Of a condition's stage, the oldest first, with their files' folders."""
    found = []
    for path in (store / condition).glob(f"seed-*/{stage}/*/manifest.json"):
        key = path.parent.relative_to(store).as_posix()
        manifest = parse_manifest(path.read_bytes(), key, str(path))
        found.append((manifest, path.parent / manifest.data, path.stat().st_mtime_ns))
    return [each[:2] for each in sorted(found, key=lambda each: each[2])]


def states(folder: Path, method: str) -> dict[tuple[str, str], np.ndarray]:
    """Hidden states `[layer, hidden]` and whether they are valid, by persona and question."""
    (path,) = folder.glob(f"*.seed-*.{method}.safetensors")
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
        values, valid = file.get_tensor("activations"), file.get_tensor("valid")
    return {
        (persona, question): np.append(values[p, q].ravel(), valid[p, q])
        for p, persona in enumerate(json.loads(about["personas"]))
        for q, question in enumerate(json.loads(about["questions"]))
    }


def said(folder: Path, name: str = "answers.json") -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def provenance(store: Path) -> tuple[dict[str, Values], str]:
    """Of the newest aggregate: its artifacts by node; and the newest report's page."""
    newest = max(store.glob("aggregate/*/data-*/provenance.json"), key=lambda p: p.stat().st_mtime)
    page = max(store.glob("report/*/data-*/report.html"), key=lambda path: path.stat().st_mtime)
    told = json.loads(newest.read_text(encoding="utf-8"))["artifacts"]
    return {each["node"]: each for each in told}, page.read_text(encoding="utf-8")
