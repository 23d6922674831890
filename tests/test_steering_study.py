"""Stage steer in a study: its vectors, a run that is killed, and what the report says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Finished
from refusals import cli, failed

from personaspace import load_results
from personaspace.activations.files import open_activations
from personaspace.analysis.results import Results
from personaspace.errors import Interrupted
from personaspace.pipeline import steering
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import Board
from personaspace.pipeline.run import run_node
from personaspace.pipeline.runtime import Runtime
from personaspace.pipeline.stages.steer import STEERING
from personaspace.pipeline.work import prepare
from personaspace.store import open_store
from personaspace.study.load import load_study

STEERING_OF = {
    "vectors": ["shift", "villain"],
    "doses": [-1, 2],
    "controls": 2,
    "activation_controls": 3,
    "answered_controls": 1,
    "conditions": ["base", "e0-assistant"],
    "pairs": 3,
    "answer_tokens": 6,
    "limit": 2,
    "max_new_tokens": 4,
}
E0, BASE = Node("steer", "e0-assistant", 42), Node("steer", "base", 42)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def place(finished_study: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished study with steering switched on: all but that is complete."""
    folder = tmp_path_factory.mktemp("steered")
    shutil.copytree(finished_study.store, folder / "store")
    values = {**finished_study.values, "steering": STEERING_OF}
    (folder / "study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


def steer(place: Path, node: Node, store: str = "store") -> dict[str, Any]:
    study = load_study(place / "study.yaml")
    with open_store(str(place / store)) as opened:
        work, runtime = prepare(study, opened), Runtime(study)
        before = None
        try:
            outcome = run_node(work, node, runtime, lambda: Board([node]).stage(node))
            path = opened.fetch(outcome.manifest) / STEERING
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        finally:
            modules = list(runtime.model.modules())
            before = sum(len(module._forward_hooks) for module in modules)
            runtime.close()
    assert before == 0, "no hook is left"
    return found


def test_a_killed_run_goes_on_and_nothing_changes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "store", place / "other")
    whole = steer(place, E0)
    calls: list[str] = []
    measure = steering._Bench.measure

    def counted(bench: Any, arm: Any) -> dict[str, Any]:
        if len(calls) == 5:
            raise Interrupted
        calls.append(arm.id)
        return measure(bench, arm)

    monkeypatch.setattr(steering._Bench, "measure", counted)
    with pytest.raises(Interrupted):
        steer(place, E0, "other")
    calls.extend([""] * 10)  # no second stop
    again = len(calls)
    assert steer(place, E0, "other") == whole
    assert len(calls) - again == len(whole["arms"]) - 5, "what was kept is not measured again"
    with open_store(str(place / "other")) as opened:
        assert not [key for key in opened.list() if "checkpoints" in key]


def test_the_vectors_are_those_of_the_extracted_activations(place: Path) -> None:
    found = {node: steer(place, node) for node in (E0, BASE)}
    layer = 3  # the last of those extracted, for want of layer 20
    states = {}
    for name in ("base", "e0-assistant"):
        (path,) = (place / "store").rglob(f"{name}.seed-42.a.safetensors")
        file = open_activations(path)
        whole = file.read_layer(layer).astype(np.float64)
        states[name] = {p: whole[n] for n, p in enumerate(file.personas)}
    shift = (states["e0-assistant"]["assistant"] - states["base"]["assistant"]).mean(axis=0)
    villain = {n: (of["villain"] - of["assistant"]).mean(axis=0) for n, of in states.items()}
    assert {run["layer"] for run in found.values()} == {layer}
    lengths = found[E0]["lengths"]
    assert lengths["shift"] == pytest.approx(np.linalg.norm(shift), rel=1e-6)
    assert lengths["villain"] == pytest.approx(np.linalg.norm(villain["e0-assistant"]), rel=1e-6)
    assert found[BASE]["lengths"].keys() == {"villain"}
    typical = np.median(np.linalg.norm(states["base"]["assistant"], axis=1))
    assert found[E0]["typical_length"] == pytest.approx(typical, rel=1e-6)
    # The untouched base model is the same model in either node.
    plain = [run["arms"][0] for run in found.values()]
    assert plain[0] == plain[1]


def test_results_and_report_say_what_was_steered(place: Path) -> None:
    out = place / "out"
    ran = cli("run", place / "study.yaml", "--store", place / "store", "--out", out)
    assert ran.exit_code == 0, ran.output
    results = Results.read(out)
    table = load_results(out).steering()
    assert len(table) == len(results.steering) and "delta_ci95" in table
    kinds = {(r.condition, r.mode, r.vector, r.model) for r in results.steering}
    assert kinds == {
        ("base", "add", "villain", "base"),
        ("base", "ablate", "villain", "base"),
        ("e0-assistant", "add", "shift", "base"),
        ("e0-assistant", "ablate", "shift", "own"),
        ("e0-assistant", "ablate", "villain", "own"),
    }
    assert {r.p_floor for r in results.steering if r.p is not None} == {1 / 3}
    assert {r.p_matched_floor for r in results.steering if r.p is not None} == {1 / 4}
    assert {m.name for m in results.measures if m.metric == "steering"} >= {"advice", "good"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'id="steering"' in page and 'id="steering-table"' in page
    summary = (out / "report.md").read_text(encoding="utf-8")
    assert "Adding the shift of e0-assistant to the base model" in summary
    assert "with so few it cannot be below 0.333" in summary
    assert (out / "figures" / "steering.png").is_file()


def test_a_vector_that_is_nothing_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flat:
        def __init__(self, path: Path) -> None:
            self.file = open_activations(path)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def read_layer(self, layer: int) -> Any:
            states = self.file.read_layer(layer)
            return np.broadcast_to(states[:1], states.shape)

    monkeypatch.setattr(steering, "open_activations", Flat)
    shutil.copytree(place / "store", place / "flat", dirs_exist_ok=True)
    for folder in (place / "flat").rglob("steer"):
        shutil.rmtree(folder)
    told = cli("run", place / "study.yaml", "--store", place / "flat", "--only", "steer:base")
    failed(told, ("steer:base:42", "steering.vectors: villain of steer:base:42 at layer 3: "))
    assert "the vector is 0" in told.stderr
