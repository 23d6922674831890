"""How long Jobs waited and ran, by their pods."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from personaspace.cluster.ages import Ages, ages

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(minutes: float) -> str:
    """As the API writes times."""
    return (NOON + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def job(**status: Any) -> dict[str, Any]:
    return {"metadata": {"creationTimestamp": at(0)}, "status": status}


def pod(**state: Any) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"name": "stage", "state": state}] if state else None}}


def ran(begun: float, ended: float) -> dict[str, Any]:
    return pod(terminated={"startedAt": at(begun), "finishedAt": at(ended)})


RUNNING = pod(running={"startedAt": at(20)})
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], Ages]] = {
    "no pod": (job(), [], Ages(1800, None)),
    "gated": (job(), [pod()], Ages(1800, None)),
    "being made": (job(), [pod(waiting={"reason": "ContainerCreating"})], Ages(1800, None)),
    "running": (job(), [RUNNING], Ages(1200, 600)),
    "second attempt": (job(), [ran(5, 9), RUNNING], Ages(300, 240 + 600)),
    "between attempts": (job(), [ran(5, 9)], Ages(300, 240)),
    "done": (job(completionTime=at(12)), [ran(5, 12)], Ages(300, 420)),
    "done, pods removed": (job(completionTime=at(12)), [], Ages(None, None)),
    "a clock that is behind": (job(), [pod(running={"startedAt": at(40)})], Ages(2400, 0)),
    "no start told": (job(), [pod(running={})], Ages(1800, None)),
    "not a time": (job(), [pod(running={"startedAt": "soon"})], Ages(1800, None)),
    "no creation": ({"metadata": {}}, [RUNNING], Ages(None, 600)),
}


@pytest.mark.parametrize("case", CASES)
def test_waiting_and_running_are_told_apart(case: str) -> None:
    raw, pods, wanted = CASES[case]
    assert ages(raw, pods, NOON + timedelta(minutes=30)) == wanted
