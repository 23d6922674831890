"""Upgrades, rollbacks and reruns of a running study, with each Helm there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helm_charts import each_helm

from cluster.conftest import Place
from cluster.release import Release, was_skipped

pytestmark = pytest.mark.timeout(1500)


def _midway(release: Release) -> dict[str, Any]:
    """Waits until a stage's container runs while others are gated; its pods by UID."""

    def look() -> list[dict[str, Any]]:
        pods: list[dict[str, Any]] = [
            pod for pod in release.pods() if "conductor" not in pod["metadata"]["name"]
        ]
        gated = any(pod["spec"].get("schedulingGates") for pod in pods)
        return [pod for pod in pods if gated and pod["status"]["phase"] == "Running"]

    running = release.wait(look, 120, "a study in the middle")
    return {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in running}


def _untouched(release: Release, running: dict[str, str], jobs: dict[str, Any]) -> None:
    """The same Jobs, unchanged, and none of the pods that ran was ended from outside."""
    after = release.jobs()
    for name, job in jobs.items():
        assert after[name]["metadata"]["uid"] == job["metadata"]["uid"]
        assert after[name]["metadata"]["generation"] == job["metadata"]["generation"]
    there = {pod["metadata"]["uid"]: pod for pod in release.pods()}
    for uid, name in running.items():
        pod = there[uid]
        assert "deletionTimestamp" not in pod["metadata"], name
        assert pod["status"]["phase"] in ("Running", "Succeeded"), name


@each_helm
def test_upgrade_and_rollback_leave_a_running_study_alone(
    program: str, place: Place, installed: Callable[[Release], Release]
) -> None:
    release = place.release("up" + Path(program).name[-1])
    release.program = program
    installed(release)
    assert release.install().returncode == 0
    running, jobs = _midway(release), release.jobs()

    done = release.install()
    assert done.returncode == 0, done.stderr
    _untouched(release, running, jobs)

    running = {**running, **_midway(release)}
    release.values["networkPolicy"] = {"enabled": True, "egress": [{}]}
    done = release.install()
    assert done.returncode == 0, done.stderr
    _untouched(release, running, jobs)
    policies = release.helm("get", "manifest", release.name).stdout
    assert "NetworkPolicy" in policies

    done = release.helm("rollback", release.name, "1")
    assert done.returncode == 0, done.stderr
    _untouched(release, running, jobs)
    assert "NetworkPolicy" not in release.helm("get", "manifest", release.name).stdout

    del release.values["networkPolicy"]
    done = release.install("--wait", "--wait-for-jobs", "--timeout", "15m")
    assert done.returncode == 0, done.stderr
    assert release.conductor() == "Complete"
    assert set(release.states().values()) == {"Complete"}
    _untouched(release, running, jobs)
    tries = {job: raw["status"].get("failed", 0) for job, raw in release.jobs().items()}
    assert not any(tries.values()), tries


def _did(release: Release, since: set[str]) -> tuple[set[str], set[str]]:
    """Nodes whose Jobs are new, and of these the ones that found their artifact complete."""
    new = {name: raw for name, raw in release.jobs().items() if name not in since}
    nodes = {release.node_of(name) for name in new}
    idle = {
        release.node_of(name)
        for name in new
        for pod in release.pods()
        if pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == name
        and was_skipped(release.log(pod["metadata"]["name"]))
    }
    return nodes, idle


def test_only_what_a_change_means_runs_again(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    release = installed(place.release("change"))
    assert release.install("--wait", "--wait-for-jobs", "--timeout", "15m").returncode == 0
    first = {name: release.node_of(name) for name in release.jobs()}

    release.values["experiment"]["rerun"] = [{"condition": "benign", "stage": "evaluate"}]
    done = release.install("--wait", "--wait-for-jobs", "--timeout", "15m")
    assert done.returncode == 0, done.stderr
    nodes, idle = _did(release, set(first))
    assert nodes - idle == {"evaluate:benign:42", "aggregate,report"}
    kept = {name for name, node in first.items() if node not in nodes}
    assert set(release.jobs()) & set(first) == kept

    second = set(release.jobs())
    for condition in release.values["experiment"]["conditions"]:
        if condition["name"] == "e0-assistant":
            condition["persona"] = "villain"
    done = release.install("--wait", "--wait-for-jobs", "--timeout", "15m")
    assert done.returncode == 0, done.stderr
    nodes, idle = _did(release, second)
    stages = ("train", "extract", "couple", "evaluate")
    assert nodes - idle >= {f"{stage}:e0-assistant:42" for stage in stages}
    assert not any(node.startswith(("train:benign", "couple:ben", "couple:base")) for node in nodes)
    assert len(release.jobs()) == len(first)  # the old ones are gone
