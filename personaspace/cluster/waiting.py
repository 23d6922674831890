"""Why a pod has not started: its container's words, the scheduler's, or those of its events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace.cluster.api import Cluster
from personaspace.cluster.views import pod_view

_VOLUME = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")


def pod_state(pod: dict[str, Any]) -> tuple[str, str]:
    """State of a pod that has not ended, and why it is not further."""
    spec, status = pod["spec"], pod["status"]
    if pod_view(pod).gated:
        return "waiting", ""
    for container in status.get("containerStatuses") or ():
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            text = f"{waiting.get('reason', '')}: {waiting.get('message', '')}".strip(": ")
            about = "image" if "Image" in text.partition(":")[0] else "container"
            return "queued", f"{about}: {short(text)}"
    if status.get("phase") == "Running":
        return "running", ""
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return "queued", _unschedulable(condition.get("message", ""))
    if not spec.get("nodeName"):
        return "queued", "not scheduled yet"
    return "starting", f"on node {spec['nodeName']}"


def _unschedulable(message: str) -> str:
    lack = re.findall(r"Insufficient ([\w./-]*\w)", message)
    if lack:
        what = ", ".join("GPUs" if "nvidia.com/" in name else name for name in dict.fromkeys(lack))
        return f"no node has enough free {what}: {short(message.partition('. ')[0])}"
    return short(message.partition(". ")[0]) or "not scheduled yet"


def hindrances(cluster: Cluster, pods: Sequence[dict[str, Any]]) -> dict[str, str]:
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
            if uid in wanted and raw.get("reason") != "FailedScheduling":
                newest[uid] = max(newest.get(uid, raw), raw, key=_when)
    except ApiException:
        return {}
    return {wanted[uid]: _told(raw) for uid, raw in newest.items()}


def _is_past(pod: dict[str, Any]) -> bool:
    """Whether volumes and network are there, so that what was said of them is over."""
    return any(
        (condition["type"], condition["status"]) == ("PodReadyToStartContainers", "True")
        for condition in pod["status"].get("conditions") or ()
    )


def _when(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return max(str(time) for time in (*times, event["metadata"].get("creationTimestamp")) if time)


def _told(event: dict[str, Any]) -> str:
    reason = event.get("reason", "")
    about = "volume" if reason in _VOLUME else "container"
    return f"{about}: {short(f'{reason}: ' + event.get('message', ''))}"


def short(text: str) -> str:
    """A message in one line of bearable length."""
    return " ".join(text.split())[:240]
