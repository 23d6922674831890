"""What Kueue says of a Job that it has not let begin, as `status` tells it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stand_in_api import Api, Object, job, run

from personaspace.cluster import names

NO_QUOTA = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu"
RECLAIMED = "Preempted to accommodate a workload (UID: 1) due to reclamation within the cohort"


def _queued(stage: str) -> Object:
    raw = job(stage)
    raw["spec"]["suspend"] = True
    raw["metadata"]["labels"][names.KUEUE_QUEUE] = "gpus"
    return raw


def _workload(stage: str, *conditions: tuple[str, str, str, str], **spec: Any) -> Object:
    told = ("type", "status", "reason", "message")
    return {
        "metadata": {
            "name": f"job-em205-{stage}-1a2b3",
            "ownerReferences": [{"kind": "Job", "name": f"em205-{stage}"}],
        },
        "spec": spec,
        "status": {"conditions": [dict(zip(told, each, strict=True)) for each in conditions]},
    }


def _why() -> dict[str, tuple[str, str, str]]:
    done = run("status", "em205", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)
    return {row["stage"]: (row["state"], row["reason"], row["why"]) for row in rows}


@pytest.fixture
def queue(api: Api) -> Api:
    api.objects["jobs"] = [_queued(stage) for stage in ("train", "couple", "extract", "evaluate")]
    pending = ("QuotaReserved", "False", "Pending", NO_QUOTA)
    evicted = ("Evicted", "True", "Preempted", RECLAIMED)
    api.objects["workloads"] = [
        _workload("train", pending),
        _workload("couple", evicted, ("QuotaReserved", "False", "Pending", RECLAIMED)),
        _workload("extract", evicted, active=False),
    ]
    return api


def test_it_is_told_why_a_job_is_not_admitted(queue: Api) -> None:
    found = _why()
    assert {(state, reason) for state, reason, _ in found.values()} == {("queued", "NotAdmitted")}
    assert found["train"][2] == f"Kueue: {NO_QUOTA}"
    assert found["couple"][2] == f"Kueue took it back: {RECLAIMED}"
    assert found["extract"][2] == f"Kueue has set it aside (`active: false`): {RECLAIMED}"
    assert found["evaluate"][2] == "Kueue has not admitted it yet"  # Kueue says nothing of it


def test_whoever_may_not_look_is_told_that_it_is_not_admitted(queue: Api) -> None:
    queue.forbidden.add("workloads")
    assert {why for _, _, why in _why().values()} == {"Kueue has not admitted it yet"}
    del queue.objects["workloads"]  # no Kueue at all
    assert {why for _, _, why in _why().values()} == {"Kueue has not admitted it yet"}
