"""A conductor that is killed and an API server that goes away change nothing about the end."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import RbacAuthorizationV1Api
from kubernetes.client.exceptions import ApiException

from cluster.conftest import Place, run_here
from cluster.release import Recorder, Release, entries_in, released_in, state_of
from personaspace.cluster import names
from personaspace.cluster.api import CONNECTION_ERRORS
from personaspace.cluster.log_lines import Trouble
from personaspace.cluster.states import JobState
from personaspace.cluster.views import pod_view
from personaspace.logs import RunEvent

pytestmark = pytest.mark.timeout(1500)

KILLS, RESTARTS = 10, 2
RESTART = os.environ.get("PERSONASPACE_TEST_RESTART_API", "")
KILL = os.environ.get("PERSONASPACE_TEST_KILL", "")
STAGES = ("train", "extract", "couple", "evaluate", "aggregate")


@dataclass(frozen=True)
class Death:
    """A conductor's end.

    Attributes:
        of_its_own: Pods that this one had released.
        before: Pods that those before it had released.
    """

    of_its_own: int
    before: int


class Conductors:
    """The release's conductor in the cluster, one after the other.

    Each is the chart's own Job with its own rights. After a death the Job is made anew, as the Job
    controller waits longer before each replacement (10 s, 20 s, 40 s …): ten deaths in a study of
    minutes would mostly be waiting. `test_a_conductor_that_is_killed_comes_back` leaves it to it.
    """

    def __init__(self, release: Release) -> None:
        self.release = release
        self.cluster = release.cluster
        self.deaths: list[Death] = []
        self.logs: list[str] = []

    def job(self) -> dict[str, Any]:
        """Its Job."""
        label = names.selector(self.release.name, stage="conductor")
        (job,) = self.cluster.items("jobs", label_selector=label)
        return job

    def pod(self) -> dict[str, Any] | None:
        """Its running pod."""
        uid = self.job()["metadata"]["uid"]
        for pod in self.release.pods(stage="conductor"):
            mine = pod["metadata"]["ownerReferences"][0]["uid"] == uid
            if mine and pod["status"]["phase"] == "Running":
                return pod
        return None

    def at_work(self) -> dict[str, Any]:
        """Its pod, once it has read the study and watches."""

        def look() -> dict[str, Any] | None:
            pod = self.pod()
            if pod and entries_in(self.release.log(pod["metadata"]["name"])):
                return pod
            return None

        pod: dict[str, Any] = self.release.wait(look, 120, "a conductor at work")
        return pod

    def kill(self, pod: dict[str, Any]) -> None:
        """End it and note what it had done; the next one starts at once."""
        kill(self.release, pod)
        log = self.release.log(pod["metadata"]["name"])
        before = sum(death.of_its_own for death in self.deaths)
        self.deaths.append(Death(len(released_in(log)), before))
        self.logs.append(log)
        job = self.job()
        metadata = job["metadata"]
        batch, space = self.cluster.batch, self.cluster.namespace
        batch.delete_namespaced_job(metadata["name"], space, propagation_policy="Background")
        again = {
            "metadata": {key: metadata[key] for key in ("name", "labels", "annotations")},
            "spec": {key: value for key, value in job["spec"].items() if key != "selector"},
        }
        own = again["spec"]["template"]["metadata"]["labels"]
        for label in [label for label in own if "job-name" in label or "controller-uid" in label]:
            del own[label]
        batch.create_namespaced_job(space, again)


def kill(release: Release, pod: dict[str, Any]) -> None:
    """SIGKILL where the tester gave a command for it, else deletion without grace; waits for it."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    if not KILL:
        release.cluster.core.delete_namespaced_pod(
            name, release.cluster.namespace, grace_period_seconds=1
        )
    else:
        environment = {**os.environ, "POD_UID": uid}
        subprocess.run(KILL, shell=True, check=True, timeout=60, env=environment)

    def gone() -> bool:
        now = [p for p in release.pods(stage="conductor") if p["metadata"]["uid"] == uid]
        return not now or now[0]["status"]["phase"] == "Failed"

    release.wait(gone, 60, "the killed pod's end")


def test_same_end_however_often_the_conductor_dies(
    place: Place, installed: Callable[[Release], Release], tmp_path: Path
) -> None:
    study = {**place.study(), "seeds": [42, 43, 44, 45]}  # long enough for so many
    expected = run_here(place.bucket, study, tmp_path)
    release = installed(place.release("killed", study))
    # One or two at a time, so that pods are let go all along, also where a core is quick. They take
    # all of two cores, of which a conductor with a small request has too little to start in time.
    release.values["pods"]["resources"]["requests"]["cpu"] = "800m"
    release.values["stages"]["conductor"]["resources"]["requests"]["cpu"] = "300m"
    recorder = Recorder(place.cluster, release.name, release.node_of)
    recorder.start()
    assert release.install().returncode == 0
    conductors, chance, restarts = Conductors(release), random.Random(7), 0
    for number in range(KILLS):
        pod = conductors.at_work()
        name = pod["metadata"]["name"]
        # Every other one dies as soon as it has let a pod go (two go at once after a training, so
        # often between these), the others at any moment of their watch. Where all that can go has
        # gone, none waits for long: the study would end before the last death.
        until = time.monotonic() + (15 if number % 2 else chance.uniform(0, 4))
        while time.monotonic() < until:
            with contextlib.suppress(ApiException, *CONNECTION_ERRORS):
                if number % 2 and released_in(release.log(name)):
                    break
            time.sleep(0.1)
        assert release.conductor() == "active", (
            f"the study ended before death {number + 1} of {KILLS}"
        )
        conductors.kill(pod)
        print(f"{number}: {conductors.deaths[-1]}", flush=True)
        if RESTART and number in (2, 6):
            subprocess.run(RESTART, shell=True, check=True, timeout=120)
            restarts += 1
    states = release.wait_ended()
    seen = recorder.stop()
    deaths = [(death.before, death.of_its_own) for death in conductors.deaths]
    print(f"conductors killed (releases before it, of its own): {deaths}; {restarts} API restarts")
    assert set(states.values()) == {"Complete"}
    assert release.conductor() == "Complete"
    assert sum(death.of_its_own > 0 for death in conductors.deaths) >= 3
    assert len({death.before for death in conductors.deaths}) >= 4  # spread over the run
    assert restarts == (RESTARTS if RESTART else 0)
    assert not any(s.gated and s.host for s in seen)
    assert not any(raw["status"].get("failed") for raw in release.jobs().values())
    assert place.results(release) == expected


def test_a_conductor_that_is_killed_comes_back(
    place: Place, local_results: bytes, installed: Callable[[Release], Release]
) -> None:
    release = installed(place.release("comesback"))
    assert release.install().returncode == 0
    conductors = Conductors(release)
    killed: set[str] = set()
    while len(killed) < 3:
        pod = conductors.at_work()
        kill(release, pod)
        killed.add(pod["metadata"]["uid"])
    assert set(release.wait_ended().values()) == {"Complete"}
    assert release.conductor() == "Complete"
    assert place.results(release) == local_results


def test_two_conductors_at_once_do_no_harm(
    place: Place, local_results: bytes, installed: Callable[[Release], Release]
) -> None:
    """Both are at work before the first pod is let go: until then neither may do it."""
    release = installed(place.release("twice"))
    # Their containers wait for it, so that none is ahead of the change of its rights.
    release.values["store"]["existingSecret"] = "for-two"
    assert release.install().returncode == 0
    job = Conductors(release).job()
    template = job["spec"]["template"]
    labels = template["metadata"]["labels"]
    for label in [label for label in labels if "job-name" in label or "controller-uid" in label]:
        del labels[label]
    # Not of the release's Jobs, so that `release.conductor()` means the chart's.
    labels[names.STAGE] = "second"
    second = {
        # Without labels of its own it would get those of its pods.
        "metadata": {"name": "second-conductor", "labels": {"test": "twice"}},
        "spec": {"template": template, "backoffLimit": 0},
    }
    batch, space = place.cluster.batch, place.cluster.namespace

    def logs() -> tuple[str, str]:
        pods = [*release.pods(stage="conductor"), *release.pods(stage="second")]
        one, other = (release.log(pod["metadata"]["name"]) for pod in pods)
        return one, other

    try:
        with without_patches(release):
            batch.create_namespaced_job(space, second)
            body = {"metadata": {"name": "for-two"}, "stringData": place.bucket.environment}
            place.cluster.core.create_namespaced_secret(space, body)
            # Each has read the study, tries to let pods go, and is not allowed to.
            refused = release.wait(
                lambda: all(map(_may_not_patch, logs())) and logs(),
                180,
                "two conductors that may not patch",
            )
            assert not any(map(released_in, refused)), refused
            assert all(pod_view(pod).gated for stage in STAGES for pod in release.pods(stage=stage))
        states = release.wait_ended()

        def end() -> str:
            raw = batch.read_namespaced_job("second-conductor", space)
            state = state_of(batch.api_client.sanitize_for_serialization(raw))
            return "" if state == "active" else state

        assert release.wait(end, 120, "the second conductor's end") == "Complete"
        assert set(states.values()) == {"Complete"}
        assert release.conductor() == "Complete"
        ended = logs()
        print("pods let go by each:", [len(released_in(log)) for log in ended])
        for log in ended:
            last = entries_in(log)[-1]
            assert (last.event, last.fields["state"]) == (RunEvent.END, JobState.DONE)
        # Together they let go each pod, some perhaps twice.
        pods = {pod["metadata"]["name"] for stage in STAGES for pod in release.pods(stage=stage)}
        assert {pod for log in ended for pod in released_in(log)} == pods
        assert place.results(release) == local_results
    finally:
        batch.delete_namespaced_job("second-conductor", space, propagation_policy="Background")


def _may_not_patch(log: str) -> bool:
    return any(entry.fields.get("trouble") == Trouble.PATCH for entry in entries_in(log))


@contextlib.contextmanager
def without_patches(release: Release) -> Iterator[None]:
    """Takes from the release's conductors the right to let pods go, and gives it back."""
    rbac = RbacAuthorizationV1Api(release.cluster.core.api_client)
    name, space = f"{release.name}-conductor", release.cluster.namespace
    role = rbac.api_client.sanitize_for_serialization(rbac.read_namespaced_role(name, space))
    less = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "patch"]}
        if "pods" in rule["resources"]
        else rule
        for rule in role["rules"]
    ]
    assert less != role["rules"]
    rbac.patch_namespaced_role(name, space, {"rules": less})
    try:
        yield
    finally:
        rbac.patch_namespaced_role(name, space, {"rules": role["rules"]})
