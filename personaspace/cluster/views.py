"""What is kept of a Job and of a pod: a few words each, so that thousands fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from personaspace.cluster import names
from personaspace.cluster.quota import Asks, asks_of

JobState = Literal["active", "succeeded", "failed"]


@dataclass(frozen=True, slots=True)
class JobView:
    """A Job.

    Attributes:
        name: Its name.
        uid: Its identity.
        state: Whether it goes on.
        why: What Kubernetes says of a failure.
        held: Whether Kueue's gate holds it (annotation), or it has no queue yet (label).
        begun: Whether it has a start time (a suspended one has not).
        kueue_gates: Value of Kueue's gate annotation.
        asks: What its pod counts for in a quota.
        expires: Whether it is removed some time after it has ended.
    """

    name: str
    uid: str
    state: JobState
    why: str = ""
    held: bool = False
    begun: bool = True
    kueue_gates: str = ""
    asks: Asks = ()
    expires: bool = False


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod.

    Attributes:
        name: Its name.
        uid: Its identity.
        job: The Job that made it.
        gated: Whether our gate keeps it from being scheduled.
        live: Whether it has not ended.
        why: What its container said when it failed.
    """

    name: str
    uid: str
    job: str
    gated: bool
    live: bool
    why: str = ""


def job_view(raw: dict[str, Any]) -> JobView:
    """From the API's JSON."""
    metadata = raw["metadata"]
    state: JobState = "active"
    why = ""
    for condition in raw.get("status", {}).get("conditions") or ():
        if condition.get("status") != "True":
            continue
        if condition["type"] == "Complete":
            state = "succeeded"
        elif condition["type"] == "Failed":
            state = "failed"
            why = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    gates = metadata.get("annotations", {}).get(names.KUEUE_GATE, "")
    held = names.GATE in gates.split(",") or (
        bool(raw["spec"].get("suspend")) and names.KUEUE_QUEUE not in metadata.get("labels", {})
    )
    begun = "startTime" in raw.get("status", {})
    return JobView(
        metadata["name"],
        metadata["uid"],
        state,
        why,
        held,
        begun,
        gates,
        asks_of(raw["spec"].get("template", {}).get("spec", {})),
        "ttlSecondsAfterFinished" in raw["spec"],
    )


def pod_view(raw: dict[str, Any]) -> PodView:
    """From the API's JSON."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status", {})
    labels = metadata.get("labels", {})
    phase = status.get("phase", "Pending")
    gates = [gate["name"] for gate in spec.get("schedulingGates") or ()]
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        job=labels.get(names.JOB_NAME) or labels.get("job-name", ""),
        gated=names.GATE in gates,
        live=phase not in ("Succeeded", "Failed") and "deletionTimestamp" not in metadata,
        why=failure_of(status) if phase == "Failed" else "",
    )


def failure_of(status: dict[str, Any]) -> str:
    """Why a failed pod failed, in one line: what its container left, and how it ended."""
    parts = []
    for container in status.get("containerStatuses") or ():
        ended = container.get("state", {}).get("terminated")
        if ended and ended.get("exitCode"):
            message = [line for line in (ended.get("message") or "").splitlines() if line.strip()]
            if message:
                parts.append(message[-1].strip()[:300])
            reason = ended.get("reason", "")
            how = f"exit code {ended['exitCode']}"
            parts.append(how if reason in ("", "Error") else f"{reason}, {how}")
    if status.get("reason"):
        parts.insert(0, status["reason"])
    return " – ".join(parts) or status.get("message", "")


def without_title(why: str, title: str) -> str:
    """A failure as it is told beside the name of what failed, with which a container begins."""
    return why.removeprefix(f"{title}: failed – ").removeprefix(f"{title}: ")
