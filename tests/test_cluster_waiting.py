"""A conductor or stage that cannot start: `status` and `wait` say what keeps it, and of what."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from stand_in_api import Api, Object, job, pod, run, study

from personaspace.cluster import names
from personaspace.cluster.waiting import pod_state

SECRET = {
    "reason": "CreateContainerConfigError",
    "message": 'secret "comes-later" not found',
}
NO_SECRET = 'container: CreateContainerConfigError: secret "comes-later" not found'
CREATING = [{"state": {"waiting": {"reason": "ContainerCreating"}}}]
MOUNT = 'MountVolume.SetUp failed for volume "late" : configmap "comes-later" not found'
NO_VOLUME = f"volume: FailedMount: {MOUNT}"
FOR_CONDUCTOR = "for the conductor, which does not run yet: "


def conductor(api: Api, **status: Any) -> Object:
    """A study that has just been installed, whose conductor's pod is so; the pod."""
    stages = ("train", "extract", "couple", "evaluate")
    needs = {"train": "", "evaluate": "train:x:42,couple:x:42"}
    api.objects["jobs"] = [job(stage, needs=needs.get(stage, "train:x:42")) for stage in stages]
    api.objects["jobs"] += [job("aggregate", "", "*"), job("conductor", "")]
    api.objects["pods"] = [pod(stage, gated=True) for stage in stages]
    own = pod("conductor", "", **status)
    own["spec"]["nodeName"] = "n1"
    api.objects["pods"] += [pod("aggregate", "", gated=True), own]
    return own


def warning(stage: str, reason: str, message: str, second: int, **more: Any) -> Object:
    return {
        "metadata": {"name": f"{stage}.{second}", "creationTimestamp": "2026-11-24T10:00:00Z"},
        "involvedObject": {"kind": "Pod", "name": f"em205-{stage}-abcde", "uid": f"pod-{stage}"},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-11-24T10:00:{second:02}Z",
        **more,
    }


def rows() -> dict[str, tuple[str, str]]:
    found = json.loads(run("status", "em205", "--json").output)
    return {row["node"]: (row["state"], row["why"]) for row in found}


def waits_for_the_conductor(why: str) -> None:
    """All of the release must say so, as JSON and in the table."""
    found = rows()
    assert found.pop("conductor") == ("queued", why)
    assert found and set(found.values()) == {("waiting", FOR_CONDUCTOR + why)}
    shown = run("status", "em205")
    assert shown.exit_code == 0
    lines = [line for line in shown.output.splitlines() if why in line]
    assert lines == [
        f"conductor: queued, {why}",
        f"train:x:42, extract:x:42 and 3 others: waiting, {FOR_CONDUCTOR}{why}",
    ]


def test_a_missing_secret_is_named_by_all_that_waits_for_the_conductor(api: Api) -> None:
    conductor(api, containerStatuses=[{"state": {"waiting": SECRET}}])
    waits_for_the_conductor(NO_SECRET)
    # It is there: stages wait for what they wait for.
    api.objects["pods"][-1]["status"] = {
        "phase": "Running",
        "containerStatuses": [{"state": {"running": {}}}],
    }
    found = rows()
    assert found["conductor"][0] == "running"
    assert found["train:x:42"] == ("waiting", "the conductor reads the study first")
    assert found["evaluate:x:42"] == ("waiting", "for train:x:42, couple:x:42")


def test_a_missing_volume_is_known_from_events_alone(api: Api) -> None:
    own = conductor(api, containerStatuses=CREATING)
    starts = FOR_CONDUCTOR + "starting on node n1"
    assert rows()["conductor"] == ("starting", "on node n1")
    assert rows()["train:x:42"] == ("waiting", starts)
    api.objects["events"] = [
        warning("conductor", "FailedMount", "an older one", 3),
        warning("conductor", "FailedMount", MOUNT, 9),
        warning("conductor", "FailedMount", "one between", 5),
        # Of another pod, of a pod of its name before, and no warning.
        warning("couple", "FailedMount", "of another", 20),
        warning("conductor", "FailedMount", "former", 21)
        | {"involvedObject": {"kind": "Pod", "name": "em205-conductor-abcde", "uid": "former"}},
        warning("conductor", "Pulling", "pulling", 22, type="Normal"),
        # The scheduler's is over, though told later: the pod has a node.
        warning("conductor", "FailedScheduling", "0/1 nodes", 23),
    ]
    waits_for_the_conductor(NO_VOLUME)
    own["status"]["conditions"] = [{"type": "PodReadyToStartContainers", "status": "False"}]
    waits_for_the_conductor(NO_VOLUME)
    # The volume has come, and the image is pulled.
    own["status"]["conditions"][0]["status"] = "True"
    assert rows()["conductor"] == ("starting", "on node n1")


def test_the_newest_event_is_found_whichever_way_its_time_is_written(api: Api) -> None:
    conductor(api, containerStatuses=CREATING)
    new = {"lastTimestamp": None, "eventTime": "2026-11-24T10:00:01.000000Z"}
    again = {"series": {"count": 9, "lastObservedTime": "2026-11-24T10:00:40.000000Z"}}
    api.objects["events"] = [
        warning("conductor", "FailedMount", "once", 30),
        warning("conductor", "FailedCreatePodSandBox", "no network", 0, **new, **again),
        warning("conductor", "FailedMount", "then", 0, lastTimestamp=None),
    ]
    assert rows()["conductor"][1] == "container: FailedCreatePodSandBox: no network"


def test_who_may_not_list_events_gets_the_rest(api: Api) -> None:
    conductor(api, containerStatuses=CREATING)
    api.objects["events"] = [warning("conductor", "FailedMount", MOUNT, 9)]
    api.forbidden = {"events"}
    shown = run("status", "em205")
    assert shown.exit_code == 0, shown.stderr
    assert rows()["conductor"] == ("starting", "on node n1")
    # The same for what the Job controller tells.
    api.objects["pods"].pop()
    assert rows()["conductor"] == ("queued", "its pod has not been made yet")


def test_a_stage_that_cannot_start_is_named_beside_a_conductor_that_runs(api: Api) -> None:
    study(api)
    api.objects["pods"][0] = pod("extract", containerStatuses=CREATING)
    api.objects["pods"][0]["spec"]["nodeName"] = "n1"
    api.objects["events"] = [warning("extract", "FailedMount", MOUNT, 9)]
    found = rows()
    assert found["extract:x:42"] == ("queued", NO_VOLUME)
    assert found["evaluate:x:42"] == ("waiting", "for couple:x:42")
    assert f"extract:x:42: queued, {NO_VOLUME}" in run("status", "em205").output


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (
            {
                "containerStatuses": [
                    {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such: x:none"}}}
                ]
            },
            "image: ErrImagePull: no such: x:none",
        ),
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "message": "0/1 nodes are available: 1 Insufficient cpu. preemption: no.",
                    }
                ]
            },
            "no node has enough free cpu: 0/1 nodes are available: 1 Insufficient cpu",
        ),
    ],
)
def test_an_image_or_a_node_that_is_not_there(api: Api, status: Object, why: str) -> None:
    conductor(api, **status)
    waits_for_the_conductor(why)


def test_a_conductor_whose_pod_is_refused(api: Api) -> None:
    conductor(api)
    api.objects["pods"].pop()
    api.objects["events"] = [
        {
            "metadata": {"name": "e"},
            "involvedObject": {"kind": "Job", "name": "em205-conductor"},
            "reason": "FailedCreate",
            "message": 'pods "em205-conductor-abcde" is forbidden: no such service account',
        }
    ]
    waits_for_the_conductor(
        'its pod is refused: pods "em205-conductor-abcde" is forbidden: no such service account'
    )


def test_a_conductor_that_runs_counts_beside_an_older_one_that_cannot(api: Api) -> None:
    conductor(api, containerStatuses=[{"state": {"waiting": SECRET}}])
    old, new = api.objects["jobs"][-1], job("conductor", "")
    new["metadata"] |= {"name": "em205-conductor2", "creationTimestamp": "2026-11-24T09:00:00Z"}
    runs = pod("conductor", "", phase="Running")
    runs["metadata"] |= {"name": "em205-conductor2-x", "uid": "other"}
    runs["metadata"]["labels"] = {names.STAGE: "conductor", "job-name": "em205-conductor2"}
    for jobs in ([old, new], [new, old]):
        api.objects["jobs"][5:] = jobs
        api.objects["pods"].append(runs)
        assert rows()["train:x:42"] == ("waiting", "the conductor reads the study first")


def test_wait_says_why_the_conductor_waits_and_ends_at_its_limit(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personaspace.cluster.release.POLL_SECONDS", 0.1)
    conductor(api, containerStatuses=[{"state": {"waiting": SECRET}}])
    shown = run("wait", "em205", "--timeout", "0.01")
    line = f"0 of 5 Jobs done, 0 failed or not run; conductor: queued, {NO_SECRET}\n"
    assert (shown.exit_code, shown.stdout) == (1, f"em205: not ended after 0.01 s; {line}")
    # Once a minute as well, for who waits without a limit; and it goes on when the secret is there.
    monkeypatch.setattr("personaspace.cluster.release.SAY_SECONDS", 0.2)
    jobs = [*api.objects["jobs"][:-1], job("conductor", "", state="Complete")]
    threading.Timer(0.7, api.objects.update, ({"jobs": jobs},)).start()
    shown = run("wait", "em205")
    assert shown.exit_code == 0
    assert shown.stdout.startswith(line)


def test_wait_says_what_is_queued_and_no_more_than_three_reasons(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personaspace.cluster.release.POLL_SECONDS", 0.1)
    conductor(api, phase="Running", containerStatuses=[{"state": {"running": {}}}])
    counted = "em205: not ended after 0.01 s; 0 of 5 Jobs done, 0 failed or not run"
    assert run("wait", "em205", "--timeout", "0.01").stdout == f"{counted}\n"
    image = {"reason": "ErrImagePull", "message": "no such tag"}
    for raw in api.objects["pods"][:3]:
        raw["spec"] = {"schedulingGates": [], "nodeName": "n1"}
        raw["status"]["containerStatuses"] = [{"state": {"waiting": image}}]
    assert run("wait", "em205", "--timeout", "0.01").stdout == (
        f"{counted}; couple:x:42 and 2 more: queued, image: ErrImagePull: no such tag\n"
    )
    for number, raw in enumerate(api.objects["pods"][:5]):
        raw["spec"] = {"schedulingGates": [], "nodeName": "n1"}
        waiting = {"reason": "ErrImagePull", "message": f"tag {number}"}
        raw["status"]["containerStatuses"] = [{"state": {"waiting": waiting}}]
    told = run("wait", "em205", "--timeout", "0.01").stdout
    assert "tag 1" not in told and all(f"tag {number}" in told for number in (2, 3, 4))


@pytest.mark.parametrize(
    ("waiting", "why"),
    [
        ({"reason": "ImagePullBackOff", "message": "Back-off"}, "image: ImagePullBackOff"),
        (SECRET, NO_SECRET),
    ],
)
def test_why_a_pod_does_not_start(waiting: Object, why: str) -> None:
    found = pod_state(pod("train", containerStatuses=[{"state": {"waiting": waiting}}]))
    assert found[0] == "queued" and found[1].startswith(why)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("train:x:42: failed – bucket doomed does not exist", "bucket doomed does not exist"),
        ("train:x:42: spec: no", "spec: no"),
        # One that runs several nodes says which.
        ("couple:x:42: failed – no", "couple:x:42: failed – no"),
    ],
)
def test_a_failure_does_not_name_its_job_twice(api: Api, said: str, why: str) -> None:
    study(api)
    ended = [{"state": {"terminated": {"exitCode": 2, "reason": "Error", "message": said}}}]
    failed = pod("train", phase="Failed", containerStatuses=ended)
    api.objects["jobs"][0] = job("train", state="Failed", reason="PodFailurePolicy", message="m")
    api.objects["pods"].append(failed)
    assert rows()["train:x:42"] == ("failed", f"{why} – exit code 2")
    api.objects["jobs"][0] = job("train")
    api.objects["jobs"][0]["status"]["failed"] = 1
    assert rows()["train:x:42"] == (
        "queued",
        f"tries again soon, after attempt 1: {why} – exit code 2",
    )
