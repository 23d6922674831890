"""Queue mode against the API alone: `suspend` is Kueue's, and a Job is let go only when it may run.

Kueue is played by a thread that does what Kueue does to Jobs: suspended at creation (its webhook),
admitted when they carry a queue's name and no gate. The real one is tried by test_kueue.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from helm_charts import CHART
from kubernetes import utils
from kubernetes.client.exceptions import ApiException

from cluster.conftest import Place, has_kueue
from cluster.release import Release, state_of
from personaspace.cluster import names
from personaspace.cluster.api import CONNECTION_ERRORS

pytestmark = pytest.mark.timeout(900)
QUEUE = "experiments"


class Kueue(threading.Thread):
    """Admits Jobs, and notes for each what was complete at that moment."""

    def __init__(self, release: Release) -> None:
        super().__init__(daemon=True)
        self.release = release
        self.admitted: dict[str, set[str]] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        """Look at all Jobs again and again."""
        while not self._ended.is_set():
            try:
                self._look()
            except (ApiException, *CONNECTION_ERRORS):
                pass
            time.sleep(0.3)

    def _look(self) -> None:
        jobs = self.release.jobs()
        complete = {
            node
            for raw in jobs.values()
            if state_of(raw) == "Complete"
            for node in raw["metadata"]["annotations"][names.NODES].split(",")
        }
        for name, raw in jobs.items():
            metadata = raw["metadata"]
            queued = metadata["labels"].get(names.KUEUE_QUEUE) == QUEUE
            gated = names.KUEUE_GATE in metadata.get("annotations", {})
            if queued and not gated and raw["spec"].get("suspend") and state_of(raw) == "active":
                self.release.cluster.batch.patch_namespaced_job(
                    name,
                    self.release.cluster.namespace,
                    {"spec": {"suspend": False}},
                    field_manager="kueue",
                )
                self.admitted[metadata["annotations"][names.NODES]] = complete

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self.join(timeout=20)


def _create(release: Release) -> None:
    """What `helm install` makes, with Jobs suspended as Kueue's webhook does."""
    done = release.helm("template", release.name, str(CHART), "-f", "-")
    assert done.returncode == 0, done.stderr
    for item in yaml.safe_load_all(done.stdout):
        if item is None:
            continue
        labels = item["metadata"].get("labels", {})
        if item["kind"] == "Job" and labels.get(names.STAGE) != "conductor":
            item["spec"]["suspend"] = True
        utils.create_from_dict(
            release.cluster.core.api_client, item, namespace=release.cluster.namespace
        )


def _writers_of_suspend(raw: dict[str, Any]) -> set[str]:
    return {
        entry["manager"]
        for entry in raw["metadata"]["managedFields"]
        if "f:suspend" in entry["fieldsV1"].get("f:spec", {})
    }


@pytest.mark.parametrize("gate", ["annotation", "label"])
def test_jobs_are_handed_to_kueue_when_their_inputs_are_complete(
    gate: str, place: Place, local_results: bytes, installed: Callable[[Release], Release]
) -> None:
    if has_kueue(place.cluster):
        pytest.skip("Kueue itself is here: test_kueue.py")
    release = installed(place.release(f"queue-{gate}", queue={"name": QUEUE, "gate": gate}))
    _create(release)
    kueue = Kueue(release)
    kueue.start()
    first = release.jobs()
    waiting = {
        name: raw for name, raw in first.items() if raw["metadata"]["annotations"][names.NEEDS]
    }
    for raw in waiting.values():
        metadata = raw["metadata"]
        held = names.GATE in metadata["annotations"].get(names.KUEUE_GATE, "")
        assert held if gate == "annotation" else names.KUEUE_QUEUE not in metadata["labels"]
    states = release.wait_ended()
    kueue.stop()
    assert set(states.values()) == {"Complete"}
    assert set(kueue.admitted) == set(states)
    for raw in waiting.values():
        node, needs = (raw["metadata"]["annotations"][key] for key in (names.NODES, names.NEEDS))
        inputs = set(states) - {node} if needs == "*" else set(needs.split(","))
        assert inputs <= kueue.admitted[node], node
    for raw in release.jobs().values():
        # Whoever changed a field last is its writer here: nobody did after the queue.
        assert _writers_of_suspend(raw) == {"kueue"}
        assert names.KUEUE_GATE not in raw["metadata"]["annotations"]
        assert raw["metadata"]["labels"][names.KUEUE_QUEUE] == QUEUE
    assert not any(pod["spec"].get("schedulingGates") for pod in release.pods())
    assert place.results(release) == local_results
    _delete(release)


def _delete(release: Release) -> None:
    """Not Helm's: away by label."""
    label = f"app.kubernetes.io/instance={release.name}"
    release.cluster.batch.delete_collection_namespaced_job(
        release.cluster.namespace, label_selector=label, propagation_policy="Background"
    )
