"""What a person sees when something is wrong, and what still runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helm_charts import each_helm

from cluster.conftest import Place
from cluster.release import Release, entries_in
from personaspace.cluster import names
from personaspace.cluster.states import JobState, Reason
from personaspace.cluster.status import JobRow, rows
from personaspace.logs import RunEvent
from personaspace.pipeline import termination
from personaspace.pipeline.termination import Code, Ending

pytestmark = pytest.mark.timeout(1200)

AWAY = "no S3 server answers"
NO_SECRET = 'container: CreateContainerConfigError: secret "comes-later" not found'
NO_VOLUME = (
    'volume: FailedMount: MountVolume.SetUp failed for volume "late" : '
    'configmap "comes-later" not found'
)


def _row(release: Release, title: str) -> JobRow:
    return next(r for r in rows(release.cluster, release.name) if r.title == title)


def _only(release: Release, stage: str, condition: str, **settings: object) -> None:
    """Keeps one trained condition and gives one of its stages' pods other settings."""
    study = release.values["experiment"]
    study["conditions"] = [c for c in study["conditions"] if c["name"] in ("base", condition)]
    release.values["stages"][stage] = settings


@each_helm
def test_a_users_mistake_fails_at_once_and_stops_only_what_needs_it(
    program: str, place: Place, installed: Callable[[Release], Release]
) -> None:
    release = place.release("mistake" + Path(program).name[-1])
    release.program = program
    installed(release)
    # Only its training pods lack one of the model's files.
    whole = place.mounts["volume"]
    kept = [path.name for path in place.model.iterdir() if path.name != "config.json"]
    items = [{"key": name, "path": name} for name in kept]
    part = {**whole, "configMap": {**whole["configMap"], "items": items}}
    _only(release, "train", "benign", extraVolumes=[part])
    done = release.install("--wait", "--wait-for-jobs", "--timeout", "10m")
    assert done.returncode != 0
    states = release.wait_ended()
    assert states["train:benign:42"] == "Failed"
    assert {node for node, state in states.items() if state == "Complete"} == {
        "extract:base:42",
        "couple:base:42",
        "evaluate:base:42",
    }
    (failed,) = [p for p in release.pods(stage="train") if p["status"]["phase"] == "Failed"]
    ended = failed["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 2  # and no second pod, though backoffLimit allows one
    mistake = f"model.name: {place.model}: no config.json there"
    log = release.log(failed["metadata"]["name"])
    people, ending = termination.read(ended["message"])
    assert people == f"train:benign:42: {mistake}"
    assert ending == Ending(node="train:benign:42", code=Code.USER_ERROR, text=mistake)
    last = entries_in(log)[-1]
    assert (last.event, last.message) == (RunEvent.ERROR, mistake) and "Traceback" not in log
    row = _row(release, "train:benign:42")
    assert (row.state, row.reason) == (JobState.FAILED, Reason.USER_ERROR)
    assert row.why == f"{mistake} – exit code 2"
    for title in ("extract:benign:42", "couple:benign:42", "evaluate:benign:42", "aggregate"):
        row = _row(release, title)
        assert (row.state, row.reason) == (JobState.NOT_RUN, Reason.INPUTS_FAILED)
        assert "train:benign:42" in row.why
    shown = release.cli("status", release.name)
    assert shown.returncode == 0
    assert f"{mistake} – exit code 2" in shown.stdout
    waited = release.cli("wait", release.name)
    assert waited.returncode == 1
    assert waited.stdout.splitlines()[-1].startswith("5 of 8 Jobs ")
    assert f"{mistake} – exit code 2" in waited.stdout
    print(done.stderr, log, shown.stdout, waited.stdout)
    assert release.conductor() == "Failed"
    ends = {e.fields.get("node"): e.fields for e in entries_in(release.conductor_log())}
    assert ends["train:benign:42"]["reason"] == Reason.USER_ERROR
    assert ends["aggregate"]["state"] == JobState.NOT_RUN


def test_memory_that_is_too_small_is_called_so(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    release = installed(place.release("oom"))
    small = {"requests": {"cpu": "50m", "memory": "90Mi"}, "limits": {"memory": "90Mi"}}
    _only(release, "couple", "benign", resources=small)
    assert release.install().returncode == 0
    states = release.wait_ended()
    assert states["couple:benign:42"] == states["couple:base:42"] == "Failed"
    assert states["extract:benign:42"] == states["train:benign:42"] == "Complete"
    pods = release.pods(stage="couple", condition="benign")
    assert len(pods) == 2  # the retry was gated and let go like the first
    row = _row(release, "couple:benign:42")
    assert row.reason is Reason.OUT_OF_MEMORY and "137" in row.why
    assert "OOMKilled" in release.conductor_log()


def test_an_image_that_is_not_there_is_named_and_mended_by_an_upgrade(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    release = installed(place.release("noimage"))
    _only(release, "extract", "benign", image={"tag": "none"})
    assert release.install().returncode == 0
    release.wait(
        lambda: _row(release, "extract:base:42").reason is Reason.IMAGE,
        120,
        "status that names the image",
    )
    row = _row(release, "extract:base:42")
    assert row.state is JobState.QUEUED and ":none" in row.why
    shown = release.cli("status", release.name)
    assert shown.returncode == 0
    assert any(":none" in line for line in shown.stdout.splitlines()), shown.stdout
    print(shown.stdout)
    release.wait(
        lambda: release.states()["evaluate:benign:42"] == "Complete", 300, "what does not need it"
    )
    release.values["stages"]["extract"] = {}
    done = release.install("--wait", "--wait-for-jobs", "--timeout", "10m")
    assert done.returncode == 0, done.stderr
    assert set(release.states().values()) == {"Complete"}


def _waits_for_the_conductor(release: Release, why: str) -> None:
    """All that waits says why the conductor does, and so does `wait` at its limit."""
    release.wait(lambda: _row(release, "conductor").why == why, 120, f"status that says {why}")
    for row in rows(release.cluster, release.name):
        if row.stage != "conductor":
            assert (row.state, row.reason) == (JobState.WAITING, Reason.CONDUCTOR), row
            assert row.why.endswith(f": {why}")
    shown = release.cli("status", release.name)
    assert shown.returncode == 0
    assert f"conductor: queued, {why}" in shown.stdout.splitlines()
    assert shown.stdout.count(why) == 2
    began = time.monotonic()
    waited = release.cli("wait", release.name, "--timeout", "15")
    assert waited.returncode == 1 and 15 <= time.monotonic() - began < 60
    assert waited.stdout.startswith(f"{release.name}: has not ended after 15 s; 0 of 8 Jobs done")
    assert waited.stdout.endswith(f"; conductor: queued, {why}\n")
    print(shown.stdout, waited.stdout)


def test_a_secret_that_is_missing_is_named_and_the_study_goes_on_once_it_is_there(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    release = installed(place.release("nosecret"))
    _only(release, "train", "benign")
    release.values["store"]["existingSecret"] = "comes-later"
    assert release.install().returncode == 0
    _waits_for_the_conductor(release, NO_SECRET)
    body = {"metadata": {"name": "comes-later"}, "stringData": place.bucket.environment}
    place.cluster.core.create_namespaced_secret(place.cluster.namespace, body)
    assert set(release.wait_ended().values()) == {"Complete"}


def test_a_volume_that_is_missing_is_named_and_the_study_goes_on_once_it_is_there(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    release = installed(place.release("novolume"))
    _only(release, "train", "benign")
    pods = release.values["pods"]
    late = {"name": "late", "configMap": {"name": "comes-later"}}
    pods["extraVolumes"] = [*pods["extraVolumes"], late]
    pods["extraVolumeMounts"] = [
        *pods["extraVolumeMounts"],
        {"name": "late", "mountPath": "/etc/late"},
    ]
    assert release.install().returncode == 0
    _waits_for_the_conductor(release, NO_VOLUME)
    body = {"metadata": {"name": "comes-later"}, "data": {"now": "it is there"}}
    place.cluster.core.create_namespaced_config_map(place.cluster.namespace, body)
    assert set(release.wait_ended().values()) == {"Complete"}


def test_a_bucket_that_vanishes_is_waited_for(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    release = installed(place.release("nobucket"))
    _only(release, "train", "benign")
    assert release.install().returncode == 0
    release.wait(lambda: "Complete" in release.states().values(), 300, "a first stage")
    place.bucket.kill()
    try:
        release.wait(
            lambda: any(AWAY in release.log(name) for name in _running(release)),
            300,
            "a pod that waits for the bucket",
        )
        assert release.conductor() == "active"
    finally:
        place.bucket.start()
    assert set(release.wait_ended().values()) == {"Complete"}
    assert not any(raw["status"].get("failed") for raw in release.jobs().values())
    assert "Traceback" not in release.conductor_log()


def test_a_bucket_that_is_deleted_is_named_and_ends_the_study(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    place.bucket.client.create_bucket(Bucket="doomed")
    url = place.url("deleted").replace(f"s3://{place.bucket.bucket}/", "s3://doomed/")
    release = installed(place.release("deleted", store={"url": url}))
    _only(release, "train", "benign")
    release.values["conductor"] = {"patienceSeconds": 20}
    assert release.install().returncode == 0
    # Pods that had inputs are at work: others are complete, others still wait.
    release.wait(lambda: _at_work(release, "couple", "benign"), 300, "a stage in the middle")
    complete = {node for node, state in release.states().items() if state == "Complete"}
    place.bucket.client.delete_bucket(Bucket="doomed")
    told = f"bucket doomed does not exist at {place.bucket.endpoint}"
    states = release.wait_ended(300)
    # What ran ended once, as a user's mistake; what waited never ran; what was complete stays so.
    assert {node for node, state in states.items() if state == "Complete"} == complete
    assert states["couple:benign:42"] == states["aggregate,report"] == "Failed"
    ran = [pod for pod in release.pods() if pod["status"]["phase"] == "Failed"]
    for pod in ran:
        name = pod["metadata"]["name"]
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert ended["exitCode"] == (1 if "conductor" in name else 2)
        assert told in ended["message"]
        log = release.log(name)
        assert told in log and "Traceback" not in log
    nodes = [release.node_of(pod["metadata"]["labels"][names.JOB_NAME]) for pod in ran]
    assert len(nodes) == len(set(nodes)) and {"couple:benign:42", "conductor"} <= set(nodes)
    for title in ("evaluate:benign:42", "aggregate"):
        row = _row(release, title)
        assert (row.state is JobState.NOT_RUN and told in row.why) or "failed" in row.why, row
    row = _row(release, "couple:benign:42")
    assert (row.state, row.reason) == (JobState.FAILED, Reason.USER_ERROR)
    assert row.why == f"{told} – exit code 2"
    assert release.conductor() == "Failed"
    shown = release.cli("wait", release.name)
    assert shown.returncode == 1 and told in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith(f"{8 - len(complete)} of 8 Jobs ")
    print(release.cli("status", release.name).stdout, shown.stdout)


def _at_work(release: Release, stage: str, condition: str) -> bool:
    """Whether its container has begun."""
    pods = release.pods(stage=stage, condition=condition)
    logs = (release.log(pod["metadata"]["name"]) for pod in pods)
    return any(entry.event == RunEvent.START for log in logs for entry in entries_in(log))


def _running(release: Release) -> list[str]:
    return [
        pod["metadata"]["name"] for pod in release.pods() if pod["status"]["phase"] == "Running"
    ]
