"""A conductor or stage that cannot start: `status` and `wait` say what keeps it, and of what."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from stand_in_api import Api, Object, job, left, pod, run, study

from personaspace.cluster import names
from personaspace.cluster.states import JobState, Reason
from personaspace.cluster.waiting import pod_situation
from personaspace.pipeline.termination import Code, Ending

pytestmark = pytest.mark.slow

SECRET = {
    "reason": "CreateContainerConfigError",
    "message": 'secret "comes-later" not found',
}
NO_SECRET = 'container: CreateContainerConfigError: secret "comes-later" not found'
CREATING = [{"state": {"waiting": {"reason": "ContainerCreating"}}}]
MOUNT = 'MountVolume.SetUp failed for volume "late" : configmap "comes-later" not found'
NO_VOLUME = f"volume: FailedMount: {MOUNT}"


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


def rows() -> dict[str, tuple[str, str | None]]:
    """State and reason of each."""
    found = json.loads(run("status", "em205", "--json").output)
    return {row["node"]: (row["state"], row["reason"]) for row in found}


def why(node: str) -> str:
    (row,) = (r for r in json.loads(run("status", "em205", "--json").output) if r["node"] == node)
    return str(row["why"])


def waits_for_the_conductor(reason: Reason, text: str) -> None:
    """All of the release must say so, as JSON and in the table."""
    found = rows()
    assert found.pop("conductor") == (JobState.QUEUED, reason)
    assert found and set(found.values()) == {(JobState.WAITING, Reason.CONDUCTOR)}
    assert why("conductor") == text and why("aggregate").endswith(f": {text}")
    shown = run("status", "em205")
    assert shown.exit_code == 0
    lines = [line.partition(": ")[0] for line in shown.output.splitlines() if text in line]
    assert lines == ["conductor", "train:x:42, extract:x:42 and 3 others"]


@pytest.mark.slow
def test_a_missing_secret_is_named_by_all_that_waits_for_the_conductor(api: Api) -> None:
    conductor(api, containerStatuses=[{"state": {"waiting": SECRET}}])
    waits_for_the_conductor(Reason.CONTAINER, NO_SECRET)
    # It is there: stages wait for what they wait for.
    api.objects["pods"][-1]["status"] = {
        "phase": "Running",
        "containerStatuses": [{"state": {"running": {}}}],
    }
    found = rows()
    assert found["conductor"] == (JobState.RUNNING, None)
    assert found["train:x:42"] == (JobState.WAITING, Reason.STUDY_READ)
    assert found["evaluate:x:42"] == (JobState.WAITING, Reason.INPUTS)
    assert "train:x:42, couple:x:42" in why("evaluate:x:42")


@pytest.mark.slow
def test_a_missing_volume_is_known_from_events_alone(api: Api) -> None:
    own = conductor(api, containerStatuses=CREATING)
    assert rows()["conductor"] == (JobState.STARTING, Reason.ON_NODE)
    assert rows()["train:x:42"] == (JobState.WAITING, Reason.CONDUCTOR)
    assert why("train:x:42").endswith(": starting on node n1")
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
    waits_for_the_conductor(Reason.VOLUME, NO_VOLUME)
    own["status"]["conditions"] = [{"type": "PodReadyToStartContainers", "status": "False"}]
    waits_for_the_conductor(Reason.VOLUME, NO_VOLUME)
    # The volume has come, and the image is pulled.
    own["status"]["conditions"][0]["status"] = "True"
    assert rows()["conductor"] == (JobState.STARTING, Reason.ON_NODE)


def test_the_newest_event_is_found_whichever_way_its_time_is_written(api: Api) -> None:
    conductor(api, containerStatuses=CREATING)
    new = {"lastTimestamp": None, "eventTime": "2026-11-24T10:00:01.000000Z"}
    again = {"series": {"count": 9, "lastObservedTime": "2026-11-24T10:00:40.000000Z"}}
    api.objects["events"] = [
        warning("conductor", "FailedMount", "once", 30),
        warning("conductor", "FailedCreatePodSandBox", "no network", 0, **new, **again),
        warning("conductor", "FailedMount", "then", 0, lastTimestamp=None),
    ]
    assert rows()["conductor"][1] == Reason.CONTAINER and "no network" in why("conductor")


def test_what_blocks_is_told_before_what_is_only_warned_of(api: Api) -> None:
    conductor(api, containerStatuses=CREATING)
    api.objects["events"] = [warning("conductor", "MissingClusterDNS", "no DNS", 50)]
    assert rows()["conductor"] == (JobState.STARTING, Reason.ON_NODE), "it keeps nothing"
    api.objects["events"].append(warning("conductor", "OddWarning", "odd", 9))
    assert why("conductor") == "container: OddWarning: odd"
    api.objects["events"].append(warning("conductor", "FailedCreatePodSandBox", "no network", 3))
    assert why("conductor") == "container: FailedCreatePodSandBox: no network"
    api.objects["events"].append(warning("conductor", "FailedMount", MOUNT, 4))
    assert why("conductor") == NO_VOLUME, "of those that block the newest"


def test_who_may_not_list_events_gets_the_rest(api: Api) -> None:
    conductor(api, containerStatuses=CREATING)
    api.objects["events"] = [warning("conductor", "FailedMount", MOUNT, 9)]
    api.forbidden = {"events"}
    shown = run("status", "em205")
    assert shown.exit_code == 0, shown.stderr
    assert rows()["conductor"] == (JobState.STARTING, Reason.ON_NODE)
    # The same for what the Job controller tells.
    api.objects["pods"].pop()
    assert rows()["conductor"] == (JobState.QUEUED, Reason.NO_POD)


def test_a_stage_that_cannot_start_is_named_beside_a_conductor_that_runs(api: Api) -> None:
    study(api)
    api.objects["pods"][0] = pod("extract", containerStatuses=CREATING)
    api.objects["pods"][0]["spec"]["nodeName"] = "n1"
    api.objects["events"] = [warning("extract", "FailedMount", MOUNT, 9)]
    found = rows()
    assert found["extract:x:42"] == (JobState.QUEUED, Reason.VOLUME)
    assert found["evaluate:x:42"] == (JobState.WAITING, Reason.INPUTS)
    assert why("extract:x:42") == NO_VOLUME and NO_VOLUME in run("status", "em205").output


@pytest.mark.parametrize(
    ("status", "reason", "text"),
    [
        (
            {
                "containerStatuses": [
                    {"state": {"waiting": {"reason": "ErrImagePull", "message": "no such: x:none"}}}
                ]
            },
            Reason.IMAGE,
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
            Reason.NO_ROOM,
            "no node has enough free cpu: 0/1 nodes are available: 1 Insufficient cpu",
        ),
    ],
)
def test_an_image_or_a_node_that_is_not_there(
    api: Api, status: Object, reason: Reason, text: str
) -> None:
    conductor(api, **status)
    waits_for_the_conductor(reason, text)


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
        Reason.POD_REFUSED,
        'its pod was refused: pods "em205-conductor-abcde" is forbidden: no such service account',
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
        assert rows()["train:x:42"] == (JobState.WAITING, Reason.STUDY_READ)


@pytest.mark.slow
def test_wait_says_why_the_conductor_waits_and_ends_at_its_limit(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personaspace.cluster.release.POLL_SECONDS", 0.1)
    conductor(api, containerStatuses=[{"state": {"waiting": SECRET}}])
    shown = run("wait", "em205", "--timeout", "0.01")
    line = f"0 of 5 Jobs done, 0 failed or not run; conductor: queued, {NO_SECRET}\n"
    assert (shown.exit_code, shown.stdout) == (1, f"em205: has not ended after 0.01 s; {line}")
    # Once a minute as well, for who waits without a limit; and it goes on when the secret is there.
    monkeypatch.setattr("personaspace.cluster.release.SAY_SECONDS", 0.2)
    jobs = [*api.objects["jobs"][:-1], job("conductor", "", state="Complete")]
    threading.Timer(3, api.objects.update, ({"jobs": jobs},)).start()
    shown = run("wait", "em205")
    assert shown.exit_code == 0
    assert shown.stdout.startswith(line)


def test_wait_says_what_is_queued_and_no_more_than_three_reasons(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personaspace.cluster.release.POLL_SECONDS", 0.1)
    conductor(api, phase="Running", containerStatuses=[{"state": {"running": {}}}])
    counted = "em205: has not ended after 0.01 s; 0 of 5 Jobs done, 0 failed or not run"
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
    ("waiting", "reason", "text"),
    [
        ({"reason": "ImagePullBackOff", "message": "Back-off"}, Reason.IMAGE, "Back-off"),
        # A word in a reason that the kubelet may have one day.
        ({"reason": "ImageryGone", "message": "x"}, Reason.CONTAINER, "container: ImageryGone: x"),
        (SECRET, Reason.CONTAINER, NO_SECRET),
    ],
)
def test_why_a_pod_does_not_start(waiting: Object, reason: Reason, text: str) -> None:
    found = pod_situation(pod("train", containerStatuses=[{"state": {"waiting": waiting}}]))
    assert found.state is JobState.QUEUED and found.cause
    assert found.cause.reason is reason and text in found.cause.text


def test_a_failure_is_told_without_the_name_of_its_job(api: Api) -> None:
    study(api)
    ending = Ending(node="train:x:42", code=Code.USER_ERROR, text="bucket doomed does not exist")
    ended = left(ending, "train:x:42: failed – bucket doomed does not exist", 2, "Error")
    failed = pod("train", phase="Failed", containerStatuses=ended)
    api.objects["jobs"][0] = job("train", state="Failed", reason="PodFailurePolicy", message="m")
    api.objects["pods"].append(failed)
    assert rows()["train:x:42"] == (JobState.FAILED, Reason.USER_ERROR)
    assert why("train:x:42") == "bucket doomed does not exist – exit code 2"
    api.objects["jobs"][0] = job("train")
    api.objects["jobs"][0]["status"]["failed"] = 1
    assert rows()["train:x:42"] == (JobState.QUEUED, Reason.RETRY)
    assert why("train:x:42").endswith(
        "attempt 1 failed: bucket doomed does not exist – exit code 2"
    )


def test_a_job_whose_pod_has_just_succeeded_is_not_queued(api: Api) -> None:
    """Seen on a busy cluster: the Job controller counts it seconds later."""
    api.objects["jobs"] = [job("train")]
    api.objects["pods"] = [pod("train", phase="Succeeded")]
    assert rows() == {"train:x:42": ("running", None)}
    api.objects["pods"] = [pod("train", phase="Failed")]
    assert rows()["train:x:42"][0] == "queued"
