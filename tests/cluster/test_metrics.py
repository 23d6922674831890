"""Numbers for Prometheus from pods that run, and what finds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client import ApiextensionsV1Api, CustomObjectsApi
from kubernetes.client.exceptions import ApiException
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from cluster.conftest import Place
from cluster.release import Release
from personaspace.cluster.api import Cluster
from personaspace.pipeline import metrics

pytestmark = pytest.mark.timeout(1200)

GROUP, VERSION, PLURAL = "monitoring.coreos.com", "v1", "podmonitors"
#: The operator's definition by name alone, without what it says of fields.
NAME = f"{PLURAL}.{GROUP}"
DEFINITION: dict[str, Any] = {
    "metadata": {"name": NAME},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": PLURAL, "singular": "podmonitor", "kind": "PodMonitor"},
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}


def _defined(api: Cluster) -> bool:
    definitions = ApiextensionsV1Api(api.core.api_client)
    try:
        definitions.read_custom_resource_definition(NAME)
    except ApiException as error:
        assert error.status == 404
        return False
    return True


@pytest.fixture
def without_monitors(api: Cluster) -> None:
    """The cluster does not know PodMonitors."""
    if _defined(api):
        pytest.skip("the cluster has PodMonitors")


@pytest.fixture
def monitors(api: Cluster) -> Iterator[CustomObjectsApi]:
    """The cluster knows PodMonitors: as it does anyway, or by a definition for this test."""
    definitions = ApiextensionsV1Api(api.core.api_client)
    made = not _defined(api)
    if made:
        definitions.create_custom_resource_definition(DEFINITION)
    yield CustomObjectsApi(api.core.api_client)
    if made:
        definitions.delete_custom_resource_definition(NAME)


def _measured(place: Place, name: str) -> Release:
    """Base and one training that takes some seconds, with all that is for Prometheus."""
    study = place.study()
    study["conditions"] = study["conditions"][:2]
    study["training"]["max_steps"] = 2000
    study["training"]["checkpoint_every"] = 2000
    return place.release(name, study, metrics={"enabled": True}, podMonitor={"enabled": True})


def _scrape(release: Release, pod: str, port: int) -> dict[str, Metric]:
    """What Prometheus' own reader makes of a pod's page; empty: it does not answer."""
    space = release.cluster.namespace
    try:
        answer, _, _ = release.cluster.core.api_client.call_api(
            f"/api/v1/namespaces/{space}/pods/{pod}:{port}/proxy/metrics",
            "GET",
            auth_settings=["BearerToken"],
            _preload_content=False,
        )
    except ApiException:
        return {}
    return {family.name: family for family in text_string_to_metric_families(answer.data.decode())}


def _selected(release: Release, monitor: dict[str, Any]) -> dict[str, int]:
    """Running pods that the monitor finds, as the operator reads it, and their ports."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    selector = ",".join(f"{name}={value}" for name, value in wanted.items())
    return {
        pod["metadata"]["name"]: port["containerPort"]
        for pod in release.cluster.items("pods", label_selector=selector)
        if pod["status"]["phase"] == "Running"
        for port in pod["spec"]["containers"][0].get("ports") or ()
        if port["name"] == endpoint["port"]
    }


def test_where_nothing_knows_a_pod_monitor_nothing_is_installed(
    without_monitors: None, place: Place
) -> None:
    release = _measured(place, "unknown")
    done = release.install()
    assert done.returncode != 0
    assert 'no matches for kind "PodMonitor" in version "monitoring.coreos.com/v1"' in done.stderr
    assert not release.jobs() and not release.pods()


def test_a_running_stage_and_the_conductor_are_found_and_read(
    place: Place, monitors: CustomObjectsApi, installed: Callable[[Release], Release]
) -> None:
    release = installed(_measured(place, "watched"))
    done = release.install()
    assert done.returncode == 0, done.stderr
    monitor = monitors.get_namespaced_custom_object(
        GROUP, VERSION, place.cluster.namespace, PLURAL, release.name
    )
    losses: dict[tuple[str, ...], set[float]] = {}
    stages: set[str] = set()
    jobs: dict[str, float] = {}
    while release.conductor() == "active":
        for pod, port in _selected(release, monitor).items():
            found = _scrape(release, pod, port)
            if "personaspace_jobs" in found:
                jobs = {s.labels["state"]: s.value for s in found["personaspace_jobs"].samples}
            for sample in getattr(found.get("personaspace_stage_running"), "samples", ()):
                stages |= {sample.labels["stage"]} if sample.value else set()
                assert found["process_resident_memory_bytes"].samples[0].value > 50e6
            for sample in getattr(found.get("personaspace_training_loss"), "samples", ()):
                of = tuple(sample.labels[label] for label in metrics.LABELS)
                losses.setdefault(of, set()).add(sample.value)
        time.sleep(0.2)
    assert set(release.wait_ended().values()) == {"Complete"}
    assert "train" in stages and {"extract", "evaluate"} & stages, stages
    # Coupling trains as well.
    assert {of[3] for of in losses} <= {"train", "couple"}, losses
    assert ("tiny", "base", "42", "train") not in losses
    assert len(losses["tiny", "benign", "42", "train"]) > 1  # it moved while it ran
    assert jobs["failed"] == 0 and jobs["done"] > 0
