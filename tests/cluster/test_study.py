"""A whole study in pods: order, gates, GPUs, and the same results as on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from cluster.conftest import Place
from cluster.release import Recorder, Release, Sighting, busiest, was_skipped
from personaspace.pipeline import graph
from personaspace.pipeline.graph import Graph
from personaspace.study.load import load_study

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def finished(
    place: Place, gpus: int, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Release, list[Sighting], Path]:
    """A study that ran with GPU pods, all that was seen of its pods, and its spec."""
    assert gpus
    release = place.release("order", gpu={"count": 1})
    recorder = Recorder(place.cluster, release.name, release.node_of)
    recorder.start()
    done = release.install("--wait", "--wait-for-jobs", "--timeout", "15m")
    assert done.returncode == 0, done.stderr + str(release.states())
    spec = tmp_path_factory.mktemp("spec") / "study.yaml"
    spec.write_text(yaml.safe_dump(release.values["experiment"]), encoding="utf-8")
    return release, recorder.stop(), spec


def _graph(spec: Path) -> Graph:
    return graph.build(load_study(spec))


def test_every_job_completes(finished: tuple[Release, list[Sighting], Path]) -> None:
    release, _, _ = finished
    assert set(release.states().values()) == {"Complete"}
    assert release.conductor() == "Complete"
    assert all(not pod["spec"].get("schedulingGates") for pod in release.pods())


def test_no_gated_pod_ever_has_a_node(finished: tuple[Release, list[Sighting], Path]) -> None:
    _, seen, _ = finished
    gated = [sighting for sighting in seen if sighting.gated]
    assert {s.node_id for s in gated} >= {"evaluate:base:42", "extract:benign:42"}
    assert not any(sighting.host for sighting in gated)


def test_a_pod_starts_after_its_inputs_have_ended(
    finished: tuple[Release, list[Sighting], Path],
) -> None:
    _, seen, spec = finished
    plan = _graph(spec)
    placed: dict[str, float] = {}
    ended: dict[str, float] = {}
    for sighting in seen:
        for node in sighting.node_id.split(","):
            if sighting.host:
                placed.setdefault(node, sighting.at)
            if sighting.phase == "Succeeded":
                ended.setdefault(node, sighting.at)
    for later in plan.nodes:
        for need in plan.needs[later]:
            if {later.id, need.id} != {"aggregate", "report"}:  # one Job
                assert ended[need.id] < placed[later.id], (need.id, later.id)


def test_gpu_pods_queue_for_the_nodes_gpus(
    finished: tuple[Release, list[Sighting], Path], gpus: int
) -> None:
    _, seen, _ = finished
    assert 1 <= busiest(seen) <= gpus
    waited = {s.pod for s in seen if s.gpus and not s.gated and not s.host}
    assert waited  # more were ready than the node has GPUs
    assert not any(s.gpus for s in seen if s.node_id in ("conductor", "aggregate,report"))


def test_results_equal_a_local_run(
    finished: tuple[Release, list[Sighting], Path], place: Place, local_results: bytes
) -> None:
    release, _, _ = finished
    assert json.loads(place.results(release)) == json.loads(local_results)
    assert place.results(release) == local_results


def test_a_second_release_on_the_same_bucket_repeats_nothing(
    finished: tuple[Release, list[Sighting], Path],
    place: Place,
    installed: Callable[[Release], Release],
) -> None:
    first, _, _ = finished
    release = installed(place.release("again", store={"url": place.url(first.name)}))
    began = time.monotonic()
    assert release.install().returncode == 0
    states = release.wait_ended()
    assert set(states.values()) == {"Complete"}
    logs = [release.log(pod["metadata"]["name"]) for pod in release.pods(stage="couple")]
    assert logs and all(map(was_skipped, logs)), logs
    assert time.monotonic() - began < 300


def test_uninstall_leaves_only_the_bucket(
    finished: tuple[Release, list[Sighting], Path], place: Place
) -> None:
    release, _, _ = finished
    assert place.bucket.client.list_objects_v2(Bucket=place.bucket.bucket, Prefix=release.name)[
        "KeyCount"
    ]
    assert release.helm("uninstall", release.name, "--wait").returncode == 0
    release.wait(lambda: not release.jobs() and not release.pods(), 60, "nothing left")
    label = f"app.kubernetes.io/instance={release.name}"
    core, space = place.cluster.core, place.cluster.namespace
    for listed in (
        core.list_namespaced_config_map(space, label_selector=label),
        core.list_namespaced_service_account(space, label_selector=label),
        core.list_namespaced_secret(space, label_selector=label),
    ):
        assert not listed.items
    with pytest.raises(ApiException, match="404"):
        core.read_namespaced_service_account(f"{release.name}-conductor", space)
    assert place.bucket.client.list_objects_v2(Bucket=place.bucket.bucket, Prefix=release.name)[
        "KeyCount"
    ]
