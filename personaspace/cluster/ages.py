"""How long a Job waited before its stage ran, and for how long it has run, by its pods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Ages:
    """Whole seconds of a Job; None: not known.

    Attributes:
        waited: From its creation until its stage first ran, or until now: for inputs, for quota and
            nodes, for the image.
        ran: What its pods ran, all attempts together, as far as these pods are still there.
    """

    waited: float | None = None
    ran: float | None = None


def ages(job: dict[str, Any], pods: Sequence[dict[str, Any]], now: datetime) -> Ages:
    """By the API's JSON of a Job and of its pods.

    Args:
        job: It.
        pods: Those that are there; they may have been removed after their end.
        now: The present time; the server's clock and ours are taken for one.
    """
    spans = [span for pod in pods if (span := _span(pod, now))]
    created = _time(job["metadata"].get("creationTimestamp"))
    ended = _time(job.get("status", {}).get("completionTime"))
    waited = None
    if created and (spans or not ended):
        waited = _seconds(created, min((begun for begun, _ in spans), default=now))
    ran = sum(_seconds(begun, end) for begun, end in spans) if spans else None
    return Ages(waited, ran)


def now() -> datetime:
    """The present time, as Kubernetes tells times."""
    return datetime.now(UTC)


def _span(pod: dict[str, Any], now: datetime) -> tuple[datetime, datetime] | None:
    """When the stage of a pod began and ended, or now; None: it has not begun."""
    for status in pod["status"].get("containerStatuses") or ():
        state = status.get("state") or {}
        told = state.get("running") or state.get("terminated") or {}
        if begun := _time(told.get("startedAt")):
            return begun, _time(told.get("finishedAt")) or now
    return None


def _seconds(begun: datetime, end: datetime) -> float:
    return float(max(round((end - begun).total_seconds()), 0))


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except (TypeError, ValueError):
        return None
