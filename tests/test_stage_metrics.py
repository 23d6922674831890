"""Numbers for Prometheus: what stages and the conductor serve, what the dashboard asks."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helm_charts import CHART
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from personaspace.cluster.conductor.process import Jobs
from personaspace.cluster.conductor.reconcile import Decision
from personaspace.pipeline import metrics
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import Board
from personaspace.pipeline.states import Measured, NodeState

NODE, OTHER = Node("train", "e4-villain", 42), Node("aggregate")
#: Labels that the operator's PodMonitor adds to everything.
TARGET = {"namespace", "pod"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> dict[str, Metric]:
    """What Prometheus' own reader makes of a page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        found = text_string_to_metric_families(page.read().decode())
        return {family.name: family for family in found}


def values(families: dict[str, Metric], name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.get(label, "") for label in metrics.LABELS): sample.value
        for sample in families[name].samples
    }


def conductor() -> Any:
    return SimpleNamespace(
        decision=Decision(),
        world=SimpleNamespace(started=lambda: {"a"}),
        plan=SimpleNamespace(jobs={"a": [], "b": []}),
        patches=3,
    )


def test_what_is_served_is_what_the_board_has(capsys: pytest.CaptureFixture[str]) -> None:
    board, port, said = Board([NODE, OTHER]), free_port(), list[str]()
    with metrics.served(said.append, metrics.Stages("tiny", board), port=port) as served:
        assert served == port
        assert not scrape(port)["personaspace_stage_running"].samples  # nothing has begun
        told = board.stage(NODE)
        told.start("optimiser steps", 8)
        assert not scrape(port)["personaspace_training_loss"].samples
        for loss in (2.0, 1.5):
            told.advance(1, loss=loss)
            told.measure(Measured(loss, 1e-4, 0.5, 1200.0, None))
        found, key = scrape(port), ("tiny", "e4-villain", "42", "train")
        assert values(found, "personaspace_stage_running") == {key: 1}
        assert values(found, "personaspace_stage_done") == {key: 2}
        assert values(found, "personaspace_stage_units") == {key: 8}
        assert values(found, "personaspace_training_loss") == {key: 1.5}
        assert values(found, "personaspace_training_tokens_per_second") == {key: 1200}
        assert not values(found, "personaspace_training_gpu_memory_bytes")
        told.measure(Measured(1.0, 1e-4, 0.5, 1200.0, 7 << 30))
        board.finish(NODE, NodeState.DONE)
        board.stage(OTHER)
        found = scrape(port)
        assert values(found, "personaspace_training_gpu_memory_bytes") == {key: 7 << 30}
        assert values(found, "personaspace_stage_running") == {
            key: 0,
            ("tiny", "", "", "aggregate"): 1,
        }
        # A second one on the port is told of, and goes on.
        with metrics.served(said.append, metrics.Stages("tiny", board), port=port) as second:
            assert second == 0
    assert len(said) == 1 and said[0].startswith(f"metrics: not served on port {port}: ")
    with pytest.raises(OSError, match="refused"):
        scrape(port)
    with metrics.served(said.append) as nowhere:
        assert nowhere == 0


@pytest.mark.slow
def test_a_training_serves_its_steps_while_it_runs(
    study_dict: dict[str, Any], write_spec: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    study_dict["training"] |= {"max_steps": 40, "epochs": 40}
    port = free_port()
    command = ["train", "--condition", "e4-villain", "--seed", "42", "--store", str(tmp_path / "s")]
    child = subprocess.Popen(
        [sys.executable, "-m", "jobs", *command, "--spec", str(write_spec(study_dict))],
        env=os.environ | {metrics.PORT: str(port)},
        stderr=subprocess.PIPE,
        text=True,
    )
    seen: dict[str, list[float]] = {}
    labels: set[tuple[str, ...]] = set()
    until = time.monotonic() + 200
    while child.poll() is None and time.monotonic() < until:
        try:
            found = scrape(port)
        except OSError:
            time.sleep(0.02)
            continue
        for name in (n for n in found if n.startswith("personaspace_training")):
            for key, value in values(found, name).items():
                labels.add(key)
                seen.setdefault(name, []).append(value)
        assert found["process_resident_memory_bytes"].samples[0].value > 1e7
        time.sleep(0.02)
    assert child.wait(timeout=10) == 0, child.stderr and child.stderr.read()
    assert labels == {("tiny", "e4-villain", "42", "train")}
    with (next((tmp_path / "s").rglob("training.json"))).open() as file:
        log = json.load(file)
    steps = log["steps"] if isinstance(log, dict) else log
    losses = {round(step["loss"], 6) for step in steps}
    assert {round(value, 6) for value in seen["personaspace_training_loss"]} <= losses
    assert all(value > 0 for value in seen["personaspace_training_tokens_per_second"])
    assert "personaspace_training_gpu_memory_bytes" not in seen  # a CPU has none


def exported() -> dict[str, set[str]]:
    """Every number that this code serves, by the name of its samples, with its labels."""
    board = Board([NODE])
    told = board.stage(NODE)
    told.start("optimiser steps", 8)
    told.measure(Measured(1.0, 1e-4, 0.5, 1200.0, 1))
    port = free_port()
    sources = (metrics.Stages("tiny", board), Jobs(conductor()))
    with metrics.served(pytest.fail, *sources, port=port):
        return {
            sample.name: set(sample.labels)
            for family in scrape(port).values()
            for sample in family.samples
        }


def test_the_conductor_serves_what_it_served_before() -> None:
    port = free_port()
    with metrics.served(pytest.fail, Jobs(conductor()), port=port):
        found = scrape(port)
    jobs = {sample.labels["state"]: sample.value for sample in found["personaspace_jobs"].samples}
    assert jobs == {"done": 0, "failed": 0, "waiting": 0, "started": 1}
    assert [s.name for s in found["personaspace_patches"].samples] == ["personaspace_patches_total"]
    assert found["personaspace_patches"].samples[0].value == 3


def test_every_query_of_the_dashboard_asks_for_what_there_is() -> None:
    there = exported()
    dashboard = json.loads((CHART / "dashboard.json").read_text())
    queries = [(p["title"], t) for p in dashboard["panels"] for t in p["targets"]]
    asked: set[str] = set()
    for title, target in queries:
        names = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", target["expr"])) - {"label_replace"}
        names -= set(re.findall(r"\b(?:condition|seed|stage|study)\b", target["expr"]))
        assert names and names <= set(there), title
        asked |= names
        known = set.union(*(there[name] for name in names)) | TARGET
        for inside in re.findall(r"(?:by|on) \(([^)]*)\)", target["expr"]):
            assert {label.strip() for label in inside.split(",")} <= known, title
        assert set(re.findall(r"(\w+)=~", target["expr"])) <= known, title
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known, title
        assert target["expr"].count("(") == target["expr"].count(")"), title
    # And every number of ours is to be seen.
    assert {name for name in there if name.startswith("personaspace_")} <= asked
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([t for _, t in queries])))
    assert used <= variables
    for each in dashboard["templating"]["list"][1:]:
        name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", each["definition"]).groups()  # type: ignore[union-attr]
        assert label in there[name]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
