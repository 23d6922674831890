"""Kueue itself: what it admits and when, what it takes away, and what upgrades do to it.

Run where the cluster has Kueue with its integration of Jobs (elsewhere test_queue.py plays Kueue).
The label gate is tried on whatever version is there. `PERSONASPACE_TEST_KUEUE_READY` says for how
many seconds its `waitForPodsReady` waits, where that is on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from helm_charts import each_helm
from kubernetes import dynamic
from kubernetes.client.exceptions import ApiException

from cluster.conftest import IMAGE, Place, has_kueue
from cluster.release import Release, entries_in, state_of
from personaspace.cluster import names
from personaspace.cluster.api import Cluster
from personaspace.cluster.states import JobState
from personaspace.cluster.status import rows
from personaspace.logs import RunEvent

pytestmark = pytest.mark.timeout(1500)
READY = float(os.environ.get("PERSONASPACE_TEST_KUEUE_READY", 0))
GROUP = "kueue.x-k8s.io"
QUEUE = "experiments"
#: CPU that a stage's pod asks for, and of how many the queue has room.
STAGE_CPU, ROOM = "50m", 2


class Queues:
    """Kueue's objects, in whatever version it serves.

    Attributes:
        version: Of its API.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = dynamic.DynamicClient(cluster.core.api_client)
        found = self.client.resources.search(group=GROUP, kind="ClusterQueue")
        self.version = max(resource.api_version for resource in found)
        self._made: list[tuple[str, str]] = []

    def _kind(self, kind: str) -> Any:
        return self.client.resources.get(api_version=f"{GROUP}/{self.version}", kind=kind)

    def make(self, kind: str, name: str, spec: dict[str, Any], namespace: str = "") -> None:
        """Make one; what has no namespace is removed at the end."""
        body: dict[str, Any] = {"apiVersion": f"{GROUP}/{self.version}", "kind": kind}
        body |= {"metadata": {"name": name}, "spec": spec}
        self._kind(kind).create(body=body, **({"namespace": namespace} if namespace else {}))
        if not namespace:
            self._made.append((kind, name))

    def cluster_queue(self, name: str, cpu: str, **more: Any) -> None:
        """A queue of so much CPU; `more` as in its spec."""
        quotas = {"cpu": cpu, "memory": "100Gi"}  # of all that pods ask for
        resources = [{"name": of, "nominalQuota": most} for of, most in quotas.items()]
        flavors = [{"name": self.flavor, "resources": resources}]
        group = {"coveredResources": list(quotas), "flavors": flavors}
        self.make(
            "ClusterQueue", name, {"namespaceSelector": {}, "resourceGroups": [group], **more}
        )

    @property
    def flavor(self) -> str:
        """Nodes of any kind."""
        return f"{self.cluster.namespace}-any"

    def workloads(self) -> dict[str, dict[str, Any]]:
        """What Kueue has of each Job, by the Job's name."""
        listed = self._kind("Workload").get(namespace=self.cluster.namespace).to_dict()["items"]
        return {raw["metadata"]["ownerReferences"][0]["name"]: raw for raw in listed}

    def remove(self) -> None:
        """Away with what belongs to no namespace."""
        for kind, name in reversed(self._made):
            with contextlib.suppress(ApiException):
                self._kind(kind).delete(name=name)


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _conditions(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in raw.get("status", {}).get("conditions") or ()}


@pytest.fixture(scope="module")
def queues(api: Cluster, place: Place) -> Iterator[Queues]:
    if not has_kueue(api):
        pytest.skip("this cluster has no Kueue; test_queue.py plays it")
    made = Queues(place.cluster)
    made.make("ResourceFlavor", made.flavor, {})
    yield made
    made.remove()


@pytest.fixture(scope="module")
def queue(queues: Queues) -> Queues:
    """With a LocalQueue that has room for two stages."""
    name = f"{queues.cluster.namespace}-main"
    queues.cluster_queue(name, f"{ROOM * int(STAGE_CPU[:-1])}m")
    queues.make("LocalQueue", QUEUE, {"clusterQueue": name}, queues.cluster.namespace)
    return queues


def _complete_after_inputs(release: Release, workloads: dict[str, dict[str, Any]]) -> None:
    """No quota was reserved for a Job before the Jobs it needs had completed."""
    jobs = release.jobs()
    ended = {
        node: _when(raw["status"]["completionTime"])
        for raw in jobs.values()
        for node in raw["metadata"]["annotations"][names.NODES].split(",")
    }
    looked = 0
    for name, raw in jobs.items():
        node, needs = (raw["metadata"]["annotations"][key] for key in (names.NODES, names.NEEDS))
        inputs = (
            set(ended) - set(node.split(","))
            if needs == "*"
            else set(filter(None, needs.split(",")))
        )
        made = _when(workloads[name]["metadata"]["creationTimestamp"])
        for need in inputs:
            assert ended[need] <= made, (need, node)
            looked += 1
    assert looked >= len(jobs)


def _most_at_once(workloads: dict[str, dict[str, Any]]) -> int:
    """Most workloads that held quota at one moment."""
    changes = []
    for raw in workloads.values():
        found = _conditions(raw)
        changes += [(_when(found["Admitted"]["lastTransitionTime"]), 1)]
        changes += [(_when(found["Finished"]["lastTransitionTime"]), -1)]
    held = most = 0
    for _, change in sorted(changes):  # to the second: what ends then has ended
        held += change
        most = max(most, held)
    return most


def _writers(raw: dict[str, Any], *path: str) -> set[str]:
    found = set()
    for entry in raw["metadata"]["managedFields"]:
        fields: dict[str, Any] = entry["fieldsV1"]
        for part in path:
            fields = fields.get(f"f:{part}", {}) if part != path[-1] else fields
        if f"f:{path[-1]}" in fields:
            found.add(entry["manager"])
    return found


@each_helm
def test_what_has_its_inputs_is_admitted_within_the_quota_through_upgrades(
    program: str,
    queue: Queues,
    place: Place,
    local_results: bytes,
    installed: Callable[[Release], Release],
) -> None:
    name = "kq" + Path(program).name[-1]
    release = installed(place.release(name, queue={"name": QUEUE, "gate": "label"}))
    release.program = program
    done = release.install()
    assert done.returncode == 0, done.stderr

    def midway() -> bool:
        states = list(release.states().values())
        running = any(pod["status"]["phase"] == "Running" for pod in release.pods(stage="extract"))
        return states.count("Complete") >= 1 and running

    release.wait(midway, 600, "a study in the middle")
    before = release.jobs()
    held = {
        name for name, raw in before.items() if names.KUEUE_QUEUE not in raw["metadata"]["labels"]
    }
    assert held, "some Jobs still wait for inputs, and Kueue knows nothing of them"
    assert not held & set(queue.workloads())
    assert all(before[name]["spec"]["suspend"] for name in held)
    pods = {pod["metadata"]["uid"] for pod in release.pods() if pod["status"]["phase"] == "Running"}
    for values in ({}, {"networkPolicy": {"enabled": True, "egress": [{}]}}):
        release.values |= values
        done = release.install()
        assert done.returncode == 0, done.stderr
        after = release.jobs()
        assert {n: raw["metadata"]["uid"] for n, raw in after.items()} == {
            n: raw["metadata"]["uid"] for n, raw in before.items()
        }
        for job, raw in before.items():
            if not raw["spec"].get("suspend"):
                assert not after[job]["spec"].get("suspend"), f"{job} was taken off its node"
        there = {pod["metadata"]["uid"]: pod for pod in release.pods()}
        for uid in pods:
            assert "deletionTimestamp" not in there[uid]["metadata"]
            assert there[uid]["status"]["phase"] in ("Running", "Succeeded")

    states = release.wait_ended()
    assert set(states.values()) == {"Complete"}
    workloads = {n: raw for n, raw in queue.workloads().items() if n in after}
    assert set(workloads) == set(after)
    _complete_after_inputs(release, workloads)
    assert 1 <= _most_at_once(workloads) <= ROOM
    for job, raw in release.jobs().items():
        # Whoever let it go (the conductor adds the label) never wrote `suspend`.
        if job in held:
            conductor = _writers(raw, "metadata", "labels", names.KUEUE_QUEUE)
            assert conductor and not conductor & _writers(raw, "spec", "suspend")
        (pod_set,) = workloads[job]["spec"]["podSets"]
        assert pod_set["count"] == 1 and not pod_set.get("minCount"), "no partial admission"
        assert raw["status"].get("failed", 0) == 0
    assert not any(pod["spec"].get("schedulingGates") for pod in release.pods())
    assert place.results(release) == local_results


def _rival(queues: Queues, name: str, queue: str, seconds: int) -> None:
    """Another team's Job, which wants all the CPU that both have."""
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sleep", str(seconds)],
        "resources": {"requests": {"cpu": f"{ROOM * int(STAGE_CPU[:-1])}m"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
    body = {
        "metadata": {"name": name, "labels": {names.KUEUE_QUEUE: queue}},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }
    queues.cluster.batch.create_namespaced_job(queues.cluster.namespace, body)


def _at_work(release: Release) -> bool:
    """Whether a stage's pod runs and has said that it has begun."""
    return any(
        entry.event == RunEvent.START
        for pod in release.pods()
        if pod["status"]["phase"] == "Running"
        and pod["metadata"]["labels"][names.STAGE] != "conductor"
        for entry in entries_in(release.log(pod["metadata"]["name"]))
    )


def _wait_for(release: Release, name: str, wanted: str) -> None:
    """Until a Job of another's is `started` (its pod runs) or `Complete`."""

    def reached() -> bool:
        (raw,) = release.cluster.page("jobs", field_selector=f"metadata.name={name}")["items"]
        started = wanted == "started" and raw["status"].get("ready", 0) > 0
        return started or state_of(raw) == wanted

    release.wait(reached, 120, f"{name} {wanted}")


def test_what_was_pre_empted_goes_on_from_where_it_was(
    queues: Queues,
    place: Place,
    local_results: bytes,
    installed: Callable[[Release], Release],
) -> None:
    """The study borrows from a team that takes its share back, again and again."""
    space = queues.cluster.namespace
    room = f"{ROOM * int(STAGE_CPU[:-1])}m"
    cohort = {"cohortName" if queues.version > "v1beta1" else "cohort": f"{space}-both"}
    queues.cluster_queue(
        f"{space}-owner", room, preemption={"reclaimWithinCohort": "Any"}, **cohort
    )
    queues.cluster_queue(f"{space}-guest", "0", **cohort)
    queues.make("LocalQueue", "owner", {"clusterQueue": f"{space}-owner"}, space)
    queues.make("LocalQueue", "guest", {"clusterQueue": f"{space}-guest"}, space)
    release = installed(place.release("guest", queue={"name": "guest", "gate": "label"}))
    assert release.install().returncode == 0

    evicted: set[str] = set()
    told: set[str] = set()
    for turn in range(3):
        release.wait(lambda: _at_work(release), 600, "a stage that runs")
        _rival(queues, f"rival-{turn}", "owner", 8)
        _wait_for(release, f"rival-{turn}", "started")
        for job, raw in queues.workloads().items():
            found = _conditions(raw).get("Evicted")
            if found and found["reason"] == "Preempted" and job in release.jobs():
                evicted.add(job)
        told |= {
            row.why for row in rows(release.cluster, release.name) if row.state is JobState.QUEUED
        }
        _wait_for(release, f"rival-{turn}", "Complete")
    assert evicted, "nothing of the study was taken off its node"
    assert any("Kueue" in why for why in told), told
    assert set(release.wait_ended().values()) == {"Complete"}
    for job in evicted:
        status = release.jobs()[job]["status"]
        assert status.get("succeeded") == 1, job
        # Neither kill nor stop counted against the Job's retries.
        assert status.get("failed", 0) == 0, job
    assert place.results(release) == local_results


@pytest.mark.skipif(not READY, reason="PERSONASPACE_TEST_KUEUE_READY: waitForPodsReady is off")
def test_pods_that_do_not_become_ready_are_sent_back_and_start_later(
    queue: Queues, place: Place, installed: Callable[[Release], Release]
) -> None:
    """A volume is missing: Kueue takes the quota back after a while, and tries again."""
    study = {**place.study(), "conditions": place.study()["conditions"][:1]}
    release = place.release("unready", study, queue={"name": QUEUE, "gate": "label"})
    late = {"name": "comes-late", "configMap": {"name": "comes-late"}}
    pods = release.values["pods"]
    mine = {name: pods[name] for name in ("extraVolumes", "extraVolumeMounts")}
    release.values["stages"]["conductor"] |= mine  # which has its own way of saying what it lacks
    pods["extraVolumes"] = [*mine["extraVolumes"], late]
    mount = {"name": "comes-late", "mountPath": "/late"}
    pods["extraVolumeMounts"] = [*mine["extraVolumeMounts"], mount]
    installed(release)
    assert release.install().returncode == 0

    def sent_back() -> bool:
        found = (
            _conditions(raw).get("Evicted") for job, raw in queue.workloads().items() if job in jobs
        )
        return any(each and each["reason"] == "PodsReadyTimeout" for each in found)

    jobs = release.jobs()
    release.wait(sent_back, 180 + 2 * READY, "Kueue takes the quota back")
    place.cluster.core.create_namespaced_config_map(
        place.cluster.namespace, {"metadata": {"name": "comes-late"}}
    )
    states = release.wait_ended()
    assert set(states.values()) == {"Complete"}
    assert not any(raw["status"].get("failed", 0) for raw in release.jobs().values())
