"""Why a pod has not started: its container's words, the scheduler's, or those of its events.

Here, and nowhere else, text that Kubernetes wrote is looked into: which resource a node lacks and
which quota is full stand in no field. Where the text is another than is looked for, it is passed on
as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace.cluster.api import Cluster
from personaspace.cluster.quota import amount_of
from personaspace.cluster.states import Cause, JobState, Reason
from personaspace.cluster.views import pod_view

#: Reasons of the kubelet's, of events and of containers that wait.
_VOLUME = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_IMAGE = (
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
#: Events without whose end a pod does not start, and warnings that keep nothing from starting.
_BLOCKS = (
    *_VOLUME,
    "FailedCreatePodSandBox",
    "FailedCreatePodContainer",
    "NetworkNotReady",
    "FailedPrepareDynamicResources",
    "NodeNotReady",
)
_HARMLESS = (
    "MissingClusterDNS",
    "DNSConfigForming",
    "CheckLimitsForResolvConf",
    "FailedToRetrieveImagePullSecret",
    "PossibleMemoryBackedVolumesOnDisk",
    "Unhealthy",
)
_ON_THE_WAY = ("ContainerCreating", "PodInitializing")
_EXCEEDED = re.compile(r"exceeded quota: ([\w.-]+), requested: .*, limited: (\S+)")
_LACKS = re.compile(r"Insufficient ([\w./-]*\w)")


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a pod is, and why it is not further."""

    state: JobState
    cause: Cause | None = None


def pod_situation(pod: dict[str, Any]) -> Situation:
    """Of a pod that has not ended."""
    spec, status = pod["spec"], pod["status"]
    if pod_view(pod).gated:
        return Situation(JobState.WAITING)
    for container in status.get("containerStatuses") or ():
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in _ON_THE_WAY:
            return Situation(JobState.QUEUED, _container_waits(waiting))
    if status.get("phase") == "Running":
        return Situation(JobState.RUNNING)
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return Situation(JobState.QUEUED, _unschedulable(condition.get("message", "")))
    if not spec.get("nodeName"):
        return Situation(JobState.QUEUED, _unschedulable(""))
    return Situation(JobState.STARTING, Cause(Reason.ON_NODE, f"on node {spec['nodeName']}"))


def _container_waits(waiting: dict[str, Any]) -> Cause:
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    text = short(f"{reason}: {message}".strip(": "))
    if reason in _IMAGE:
        return Cause(Reason.IMAGE, f"image: {text}")
    return Cause(Reason.CONTAINER, f"container: {text}")


def _unschedulable(message: str) -> Cause:
    said = short(message.partition(". ")[0])
    lack = dict.fromkeys(_LACKS.findall(message))
    if lack:
        what = ", ".join("GPUs" if "nvidia.com/" in name else name for name in lack)
        return Cause(Reason.NO_ROOM, f"no node has enough free {what}: {said}")
    return Cause(Reason.NOT_SCHEDULED, said or "not scheduled yet")


def start_problems(cluster: Cluster, pods: Sequence[dict[str, Any]]) -> dict[str, Cause]:
    """What keeps pods that have a node from starting, by name, as far as their events tell.

    The status of such a pod says no more than ContainerCreating: that a volume or its network
    cannot be had is only told as events. Empty for those of which nothing is known, and for all
    where one may not read events.
    """
    wanted = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in pods if not _is_past(pod)}
    newest: dict[str, dict[str, Any]] = {}
    if not wanted:
        return {}
    try:
        for raw in cluster.items("events", field_selector="type=Warning,involvedObject.kind=Pod"):
            uid = raw["involvedObject"].get("uid")
            # That no node was free is over, as it has one.
            if uid in wanted and raw.get("reason") not in ("FailedScheduling", *_HARMLESS):
                newest[uid] = max(newest.get(uid, raw), raw, key=_weight)
    except ApiException:
        return {}
    return {wanted[uid]: _event_says(raw) for uid, raw in newest.items()}


def _is_past(pod: dict[str, Any]) -> bool:
    """Whether volumes and network are there, so that what was said of them is over."""
    return any(
        (condition["type"], condition["status"]) == ("PodReadyToStartContainers", "True")
        for condition in pod["status"].get("conditions") or ()
    )


def _weight(event: dict[str, Any]) -> tuple[bool, str]:
    """What blocks before what is only told beside it, and the newest of each."""
    return event.get("reason") in _BLOCKS, _when(event)


def _when(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return max(str(time) for time in (*times, event["metadata"].get("creationTimestamp")) if time)


def _event_says(event: dict[str, Any]) -> Cause:
    reason = event.get("reason", "")
    text = short(f"{reason}: {event.get('message', '')}")
    if reason in _VOLUME:
        return Cause(Reason.VOLUME, f"volume: {text}")
    return Cause(Reason.CONTAINER, f"container: {text}")


def refusals(cluster: Cluster, need: Mapping[str, str]) -> dict[str, Cause]:
    """Why pods could not be created (quota, admission), by Job; empty where we may not look.

    Args:
        cluster: Where.
        need: What the release needs; see `quota.needed`.
    """
    found: dict[str, Cause] = {}
    try:
        for raw in cluster.items("events", field_selector="reason=FailedCreate"):
            if raw["involvedObject"].get("kind") == "Job":
                found[raw["involvedObject"]["name"]] = refusal(raw.get("message", ""), need)
    except ApiException:
        pass
    return found


def refusal(message: str, need: Mapping[str, str]) -> Cause:
    """What to raise, where the API server's refusal names a quota; else its own words.

    Args:
        message: Of the event FailedCreate.
        need: What the release needs; see `quota.needed`.
    """
    found = _EXCEEDED.search(message)
    if not found:
        return Cause(Reason.POD_REFUSED, f"its pod was refused: {short(message)}")
    allowed = dict(pair.partition("=")[::2] for pair in found[2].split(","))
    wants = [f"{name}={amount_of(name, need)} (limit {hard})" for name, hard in allowed.items()]
    return Cause(
        Reason.QUOTA,
        f"its pod was refused: quota {found[1]} is too small: waiting pods count too, and this "
        f"release needs {', '.join(wants)} at once",
    )


def short(text: str) -> str:
    """A message in one line of bearable length."""
    return " ".join(text.split())[:240]
