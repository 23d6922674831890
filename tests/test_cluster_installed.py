"""A release whose Jobs or pods are gone: its ConfigMaps still say what it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helm_charts import by_node, needs_helm, of_kind, render
from made_results import least_results
from stand_in_api import Api, complete, job, pod, run
from store_places import use

from personaspace.cluster.states import JobState
from personaspace.logs import log_line
from personaspace.pipeline import graph as graphs
from personaspace.pipeline.job_log import keep
from personaspace.pipeline.node import Node
from personaspace.pipeline.work import prepare
from personaspace.store import open_store
from personaspace.study.load import load_study

pytestmark = needs_helm
STUDY = {
    "model": {"name": "builtin:smollm2-135m-instruct", "dtype": "float32"},
    "conditions": [{"name": "base"}, {"name": "x", "dataset": "instructions"}],
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    use({}, monkeypatch)
    monkeypatch.setattr(os, "environ", dict(os.environ))


def install(api: Api, **values: Any) -> list[dict[str, Any]]:
    """What Helm makes; the API has its ConfigMaps alone."""
    objects = render({"experiment": STUDY, **values})
    maps = of_kind(objects, "ConfigMap").values()
    found = [
        item for item in maps if item["metadata"]["labels"]["app.kubernetes.io/component"] != "part"
    ]
    for item in found:
        item["metadata"]["creationTimestamp"] = "2026-11-24T10:00:00Z"
    api.objects["configmaps"] = found
    return objects


def test_what_was_cancelled_is_gone_and_no_error(api: Api) -> None:
    objects = install(api)
    nodes = by_node(objects)

    def states() -> dict[str, str]:
        found = json.loads(run("status", "em205", "--json").output)
        return {row["node"]: row["state"] for row in found}

    assert states() == dict.fromkeys(set(nodes) - {"report"}, JobState.GONE)
    shown = run("status", "em205")
    assert shown.exit_code == 0 and "gone, cancelled, or removed after its" in shown.output
    waited = run("wait", "em205")
    assert waited.exit_code == 2 and "em205: its Jobs are gone: it was cancelled" in waited.stderr
    # What was complete when it was cancelled stays.
    done = job("train", state="Complete")
    done["metadata"]["name"] = nodes["train:x:42"]
    api.objects["jobs"] = [done]
    assert states()["train:x:42"] == JobState.DONE and states()["aggregate"] == JobState.GONE
    # While a conductor runs, a Job that is not there is its affair.
    api.objects["jobs"].append(job("conductor", ""))
    assert set(states()) == {"train:x:42", "conductor"}
    api.objects.update(configmaps=[], jobs=[])
    assert "has no Jobs of this release" in run("status", "em205").stderr


def test_logs_of_pods_that_are_gone_come_from_the_store(api: Api, tmp_path: Path) -> None:
    store = tmp_path / "store"
    objects = install(api, store={"url": str(store), "existingSecret": ""})
    (tmp_path / "study.yaml").write_text(json.dumps({"experiment": STUDY}), encoding="utf-8")
    with open_store(str(store)) as place:
        work = prepare(load_study(tmp_path / "study.yaml"), place)
        keep(work, [Node("train", "x", 42)], log_line("train 1/2", json_line=True) + "\none\n")
        keep(work, [Node("train", "x", 42), Node("couple", "x", 42)], "two\n")
    jobs = of_kind(objects, "Job")
    lines = ["[train s42 kept] one", "[train s42 kept] two", "[couple s42 kept] two"]

    def shown(*options: str) -> list[str]:
        found = run("logs", "em205", "x", *options)
        assert found.exit_code == 0, found.stderr
        return [line for line in found.output.splitlines() if "train 1/2" not in line]

    # Its Jobs have been removed.
    assert shown() == lines and shown("--stage", "couple") == lines[2:]
    assert "[train s42 kept] {" in run("logs", "em205", "x", "--raw").output
    assert "{" not in run("logs", "em205", "x", "--raw", "--tail", "1").output
    assert run("logs", "em205", "y").exit_code == 2
    # They have ended; the pod of one is still there.
    for stage in ("train", "couple"):
        ended = job(stage, state="Complete")
        ended["metadata"]["name"] = by_node(objects)[f"{stage}:x:42"]
        ended["spec"] = jobs[ended["metadata"]["name"]]["spec"]
        api.objects.setdefault("jobs", []).append(ended)
    there = pod("couple", phase="Succeeded", containerStatuses=complete())
    there["metadata"]["labels"]["job-name"] = by_node(objects)["couple:x:42"]
    api.objects["pods"] = [there]
    api.logs[there["metadata"]["name"]] = "here\n"
    found = shown()
    assert found[0].endswith("] here") and found[1:] == lines[:2]


def test_results_are_found_when_the_pod_of_aggregate_is_gone(api: Api, tmp_path: Path) -> None:
    store = tmp_path / "store"
    objects = install(api, store={"url": str(store), "existingSecret": ""})
    (tmp_path / "study.yaml").write_text(json.dumps({"experiment": STUDY}), encoding="utf-8")
    loaded = load_study(tmp_path / "study.yaml")
    graph = graphs.build(loaded)
    prints = graphs.fingerprints(loaded, graph)
    (node,) = (node for node in graph.nodes if node.id == "aggregate")
    with open_store(str(store)) as place, place.writer(graphs.key(node, prints[node])) as writer:
        (writer.folder / "results.json").write_text(least_results("of-the-release"))
        writer.commit({"fingerprint": prints[node]})
    aggregate = job("aggregate", "", "*", state="Complete")
    aggregate["spec"] = of_kind(objects, "Job")[by_node(objects)["aggregate"]]["spec"]
    for jobs in ([aggregate], []):  # its pod, then its Job
        api.objects["jobs"] = jobs
        shown = run("results", "em205", "--json")
        assert shown.exit_code == 0, shown.stderr
        assert json.loads(shown.output)["study"] == "of-the-release"
    # A study whose files only pods see.
    install(api, experiment={**STUDY, "datasets": {"instructions": {"path": "/data/x.jsonl"}}})
    said = run("results", "em205").stderr
    assert "its study cannot be read here (" in said and "/data/x.jsonl" in said
    assert "personaspace results SPEC --store" in said and said.count("\n") == 1
