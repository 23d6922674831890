"""What is kept of a Job and of a pod: a few words each, so that thousands fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from personaspace.cluster import names
from personaspace.cluster.log_lines import entry_of
from personaspace.cluster.quota import Asks, asks_of
from personaspace.cluster.states import NOT_RUN, Cause, JobPhase, Reason
from personaspace.errors import EXIT_INTERRUPTED, EXIT_UNAVAILABLE, EXIT_USER_ERROR
from personaspace.pipeline import termination

#: What Kubernetes says of a pod or container that it ended.
_KUBERNETES = {
    "OOMKilled": Reason.OUT_OF_MEMORY,
    "DeadlineExceeded": Reason.DEADLINE,
    "Evicted": Reason.EVICTED,
}
#: What a container's exit code says, where it left nothing else.
_EXIT_CODES = {
    EXIT_USER_ERROR: Reason.USER_ERROR,
    EXIT_UNAVAILABLE: Reason.UNAVAILABLE,
    EXIT_INTERRUPTED: Reason.INTERRUPTED,
}


@dataclass(frozen=True, slots=True)
class JobView:
    """A Job.

    Attributes:
        name: Its name.
        uid: Its identity.
        phase: Whether it goes on.
        cause: Why it failed, or is about to: a conductor has marked it as one that fails.
        held: Whether Kueue's gate holds it (annotation), or it has no queue yet (label).
        begun: Whether it has a start time (a suspended one has not).
        kueue_gates: Value of Kueue's gate annotation.
        asks: What its pod counts for in a quota.
        expires: Whether it is removed some time after it has ended.
    """

    name: str
    uid: str
    phase: JobPhase
    cause: Cause | None = None
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
        cause: Why it failed; None: it did not.
    """

    name: str
    uid: str
    job: str
    gated: bool
    live: bool
    cause: Cause | None = None


def job_view(raw: dict[str, Any]) -> JobView:
    """From the API's JSON."""
    metadata = raw["metadata"]
    phase, cause = JobPhase.ACTIVE, None
    for condition in raw.get("status", {}).get("conditions") or ():
        if condition.get("status") != "True":
            continue
        if condition["type"] == "Complete":
            phase = JobPhase.SUCCEEDED
        elif condition["type"] == "Failed":
            phase, cause = JobPhase.FAILED, _cause_of(condition)
        elif condition["type"] == "FailureTarget" and condition.get("reason") in NOT_RUN:
            cause = cause or _cause_of(condition)
    gates = metadata.get("annotations", {}).get(names.KUEUE_GATE, "")
    held = names.GATE in gates.split(",") or (
        bool(raw["spec"].get("suspend")) and names.KUEUE_QUEUE not in metadata.get("labels", {})
    )
    begun = "startTime" in raw.get("status", {})
    return JobView(
        metadata["name"],
        metadata["uid"],
        phase,
        cause,
        held,
        begun,
        gates,
        asks_of(raw["spec"].get("template", {}).get("spec", {})),
        "ttlSecondsAfterFinished" in raw["spec"],
    )


def _cause_of(condition: dict[str, Any]) -> Cause:
    reason, message = condition.get("reason", ""), condition.get("message", "")
    if reason in NOT_RUN:
        return Cause(Reason(reason), message)
    return Cause(_KUBERNETES.get(reason, Reason.ERROR), f"{reason}: {message}".strip(": "))


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
        cause=failure_of(status) if phase == "Failed" else None,
    )


def failure_of(status: dict[str, Any]) -> Cause | None:
    """Why a failed pod failed: what its container left, and how it ended. None: nothing is told."""
    parts, reasons = [], []
    for container in status.get("containerStatuses") or ():
        ended = container.get("state", {}).get("terminated")
        if not ended or not ended.get("exitCode"):
            continue
        reason, code = ended.get("reason", ""), ended["exitCode"]
        people, ending = termination.read(ended.get("message") or "")
        said = ending.text if ending else last_line(people)
        how = f"exit code {code}"
        parts += [said[:300]] if said else []
        parts.append(how if reason in ("", "Error") else f"{reason}, {how}")
        by_container = Reason(ending.code) if ending else _EXIT_CODES.get(code, Reason.ERROR)
        reasons.append(_KUBERNETES.get(reason, by_container))
    if status.get("reason"):
        parts.insert(0, status["reason"])
        reasons.insert(0, _KUBERNETES.get(status["reason"], Reason.ERROR))
    text = " – ".join(parts) or status.get("message", "")
    if not text:
        return None
    return Cause(next((r for r in reasons if r is not Reason.ERROR), Reason.ERROR), text)


def last_line(text: str) -> str:
    """The last line of what a container left that could not leave an ending: of its log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    entry = entry_of(lines[-1])
    return entry.message if entry else lines[-1]
