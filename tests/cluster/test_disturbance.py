"""A conductor that is killed and an API server that goes away change nothing about the end."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from cluster.conftest import Place
from cluster.release import Recorder, Release
from personaspace.cluster import names

pytestmark = pytest.mark.timeout(1800)

KILLS, RESTARTS = 10, 2
RESTART = os.environ.get("PERSONASPACE_TEST_RESTART_API", "")


class Conductors:
    """Conductors that run here, one after the other, as soon as the last one was killed.

    In the cluster the Job controller waits longer before each new pod (10 s, 20 s, 40 s …), so that
    ten deaths in a study of two minutes would mostly be waiting.
    """

    def __init__(self, place: Place, release: Release, folder: Path) -> None:
        self.place, self.release = place, release
        name = f"{release.name}-jobs"
        table = place.cluster.core.read_namespaced_config_map(name, place.cluster.namespace)
        (folder / "jobs.json").write_text(table.data["jobs.json"], encoding="utf-8")
        spec = yaml.safe_dump(release.values["experiment"])
        (folder / "study.yaml").write_text(spec, encoding="utf-8")
        self.log = folder / "log"
        self.environment = {
            **os.environ,
            **place.bucket.environment,
            "PERSONASPACE_RELEASE": release.name,
            "PERSONASPACE_JOBS": str(folder / "jobs.json"),
            "PERSONASPACE_SPEC": str(folder / "study.yaml"),
            "PERSONASPACE_STORE": place.url(release.name),
            "PERSONASPACE_NAMESPACE": place.cluster.namespace,
        }

    def start(self) -> subprocess.Popen[bytes]:
        """One more."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "jobs.conductor"]
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def released(self) -> int:
        """How many pods they have let go."""
        return self.log.read_text().count("released pod")


def test_same_end_however_often_the_conductor_dies(
    place: Place,
    local_results: bytes,
    installed: Callable[[Release], Release],
    tmp_path: Path,
) -> None:
    release = installed(place.release("killed"))
    recorder = Recorder(place.cluster, release.name, release.node_of)
    recorder.start()
    assert release.install().returncode == 0
    label = names.selector(release.name, stage="conductor")
    place.cluster.batch.delete_collection_namespaced_job(
        place.cluster.namespace, label_selector=label, propagation_policy="Background"
    )
    release.wait(lambda: not release.pods(stage="conductor"), 60, "the first one's end")
    conductors = Conductors(place, release, tmp_path)
    chance = random.Random(7)
    kills = restarts = 0
    at: list[int] = []
    running = conductors.start()
    end = time.monotonic() + 1500
    while running.poll() is None and time.monotonic() < end:
        if kills < KILLS:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(chance.uniform(2, 25))
                break
            running.kill()
            running.wait()
            kills += 1
            at.append(conductors.released())
            running = conductors.start()
            if RESTART and kills in (3, 7):
                subprocess.run(RESTART, shell=True, check=True, timeout=120)
                restarts += 1
        time.sleep(0.5)
    seen = recorder.stop()
    print(f"killed {kills} conductors (after {at} releases), API server restarted {restarts} times")
    assert running.returncode == 0, conductors.log.read_text()
    assert kills == KILLS
    assert restarts == (RESTARTS if RESTART else 0)
    assert set(release.states().values()) == {"Complete"}
    assert not any(s.gated and s.host for s in seen)
    assert not any(raw["status"].get("failed") for raw in release.jobs().values())
    assert place.results(release) == local_results


def test_a_conductor_that_is_killed_comes_back(
    place: Place, local_results: bytes, installed: Callable[[Release], Release]
) -> None:
    release = installed(place.release("comesback"))
    assert release.install().returncode == 0
    killed: set[str] = set()
    while len(killed) < 3:
        name = release.wait(lambda: _running_conductor(release) or _ended(release), 400, "another")
        if name is True:
            break
        time.sleep(3)
        with contextlib.suppress(ApiException):  # it ended by itself just then
            place.cluster.core.delete_namespaced_pod(
                name, place.cluster.namespace, grace_period_seconds=0
            )
            killed.add(name)
    assert len(killed) == 3
    assert set(release.wait_ended().values()) == {"Complete"}
    assert release.conductor() == "Complete"
    assert place.results(release) == local_results


def _running_conductor(release: Release) -> str:
    for pod in release.pods(stage="conductor"):
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]:
            return str(pod["metadata"]["name"])
    return ""


def _ended(release: Release) -> bool:
    return release.conductor() != "active"


def test_two_conductors_at_once_do_no_harm(
    place: Place, local_results: bytes, installed: Callable[[Release], Release]
) -> None:
    release = installed(place.release("twice"))
    assert release.install().returncode == 0
    found = place.cluster.items("jobs", label_selector=f"app.kubernetes.io/instance={release.name}")
    (job,) = [j for j in found if j["metadata"]["labels"]["personaspace.dev/stage"] == "conductor"]
    template = job["spec"]["template"]
    for label in [
        name for name in template["metadata"]["labels"] if "job" in name or "uid" in name
    ]:
        del template["metadata"]["labels"][label]
    second = {
        "metadata": {"name": "second-conductor", "labels": job["metadata"]["labels"]},
        "spec": {"template": template, "backoffLimit": 0},
    }
    place.cluster.batch.create_namespaced_job(place.cluster.namespace, second)
    assert set(release.wait_ended().values()) == {"Complete"}
    assert place.results(release) == local_results
    release.wait(
        lambda: (
            place.cluster.batch.read_namespaced_job(
                "second-conductor", place.cluster.namespace
            ).status.succeeded
        ),
        120,
        "the second conductor's good end",
    )
    place.cluster.batch.delete_namespaced_job("second-conductor", place.cluster.namespace)
