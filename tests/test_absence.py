"""Jobs that are not there, Jobs that get no pod: what is waited for, and what is said of it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_conductor import Api, Stage, a_plan, jobs

from personaspace.cluster import names
from personaspace.cluster.conductor import actions, process
from personaspace.cluster.conductor.missing_jobs import Absence, without_pod
from personaspace.cluster.quota import asks_of, explain, needed
from personaspace.cluster.views import JobView, PodView, job_view

GPU_POD = {
    "containers": [
        {
            "resources": {
                "requests": {"cpu": "1500m", "memory": "1536Mi"},
                "limits": {"memory": "2Gi", "nvidia.com/gpu": 2},
            }
        }
    ]
}


def test_a_job_that_was_never_there_is_waited_for() -> None:
    absence = Absence(a_plan(), patience=600)
    half = jobs(couple="missing", evaluate="missing", aggregate="missing")
    assert not absence.for_good(half, 0)
    assert not absence.for_good(half, 1e6), "an upgrade broke off"
    assert not absence.missing(half, set(), 1e6), "their artifacts may be there"
    said = absence.missing(half, {"couple", "evaluate"}, 1e6)
    assert said.startswith("waiting for 2 Jobs that are not in the cluster, such as couple")
    assert not absence.for_good(jobs(), 1e6) and not absence.missing(jobs(), {"couple"}, 2e6)


def test_a_job_that_was_seen_to_go_is_lost_after_patience() -> None:
    absence = Absence(a_plan(), patience=600)
    absence.left.add("job-couple")
    gone = jobs(couple="missing")
    assert not absence.for_good(gone, 0) and not absence.for_good(gone, 599)
    assert absence.for_good(gone, 601) == {"job-couple"}
    absence.for_good(jobs(), 602)
    assert not absence.for_good(gone, 5000), "it came back: what goes now is judged anew"


def test_a_failed_job_that_was_removed_by_its_time_to_live_is_lost() -> None:
    """A conductor that starts after that never saw it; nothing that needs it waits any more."""
    absence = Absence(a_plan(), patience=600)
    found = jobs(train="missing", extract="failed", couple="failed", evaluate="failed")
    found["job-extract"] = JobView("job-extract", "u", "failed", expires=True)
    assert not absence.for_good(found, 0)
    waits = {**found, "job-aggregate": JobView("job-aggregate", "u", "active")}
    assert not absence.for_good(waits, 601), "something waits for it: it has not been made yet"
    ended = {**found, "job-aggregate": JobView("job-aggregate", "u", "failed")}
    assert absence.for_good(ended, 601) == {"job-train"}


def test_a_conductor_outlasts_an_upgrade_that_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personaspace.cluster.conductor.artifact_checks.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("personaspace.cluster.conductor.missing_jobs.QUIET_SECONDS", 0.1)
    stage = Stage(tmp_path, monkeypatch, partial=False)
    del stage.states["job-couple"]
    stage.start(patience=0.2)
    thread = threading.Thread(target=stage.conductor.run, daemon=True)
    thread.start()
    stage.finish("job-train")
    time.sleep(2.5)
    assert thread.is_alive() and stage.states["job-evaluate"] == "active", "nothing was ended"
    assert any("not in the cluster, such as couple" in line for line in stage.lines)
    stage.settle("job-couple", "active")  # the next upgrade
    stage.conductor.inbox.put(("pods", "set", stage.pod("job-couple")))
    thread.join(20)
    assert not thread.is_alive() and set(stage.states.values()) == {"succeeded"}


def test_jobs_without_a_pod_are_told_with_what_they_need() -> None:
    raw = {"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": GPU_POD}}}
    asks = job_view(raw).asks
    found = {n: JobView(n, n, v.state, asks=asks) for n, v in jobs(train="succeeded").items()}
    gated = [PodView(n, n, n, True, True) for n in ("job-evaluate", "job-aggregate")]
    count, said = without_pod(a_plan(), found, gated)
    assert count == 2 and "for 2 Jobs, such as extract" in said
    assert "pods=4" in said and "requests.nvidia.com/gpu=8" in said and "requests.cpu=6" in said
    assert "requests.memory=6Gi" in said and "nothing runs that would make room" in said
    runs = [*gated, PodView("p", "p", "job-extract", False, True)]
    assert "make room" not in without_pod(a_plan(), found, runs)[1]
    suspended = {n: JobView(n, n, "active", begun=False) for n in found}
    assert without_pod(a_plan(), suspended, []) == (0, ""), "Kueue has not let them begin"
    assert without_pod(a_plan(), {}, []) == (0, "")


def test_a_conductor_tells_of_pods_that_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, partial=False)
    stage.start()
    stage.conductor._apply(("jobs", "reset", jobs()))
    stage.conductor._apply(("pods", "reset", {}))
    clock = [1000.0]
    monkeypatch.setattr("personaspace.cluster.conductor.loop.time.monotonic", lambda: clock[0])
    for seconds, told in ((0, False), (29, False), (2, True)):
        clock[0] += seconds
        stage.conductor._look_for_what_lacks()
        assert any("no pod could be made for 5 Jobs" in line for line in stage.lines) is told


def test_a_refusal_says_what_to_raise() -> None:
    need = needed([asks_of(GPU_POD)] * 12)
    assert need["limits.memory"] == "24Gi" and "limits.nvidia.com/gpu" not in need
    text = (
        'Error creating: pods "x-1" is forbidden: exceeded quota: gpus, requested: '
        "cpu=1500m,pods=1,requests.nvidia.com/gpu=2, used: cpu=3,pods=4,requests.nvidia.com/gpu=8, "
        "limited: cpu=4,pods=4,requests.nvidia.com/gpu=8"
    )
    assert explain(text, need) == (
        "quota gpus is too small: waiting pods count, and this release needs cpu=18 (now 4), "
        "pods=12 (now 4), requests.nvidia.com/gpu=24 (now 8) at once"
    )
    other = 'pods "x" is forbidden: failed quota: q: must specify limits.cpu for: stage'
    assert explain(other, need) == other


def test_a_study_that_cannot_be_read_ends_all_that_has_not_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has no inputs too: it is as wrong as the rest, and a GPU is not needed to learn that."""
    found = [
        {
            "metadata": {"name": name, "uid": name, "labels": {names.STAGE: stage}},
            "spec": {},
            "status": {"startTime": "x"},
        }
        for name, stage in (("a", "train"), ("b", "couple"), ("c", "extract"), ("d", "conductor"))
    ]
    pod = {"metadata": {"name": "p", "uid": "p", "labels": {"job-name": "c"}}, "spec": {}}
    api = Api()
    lists = {"jobs": found, "pods": [pod]}
    monkeypatch.setattr(Api, "items", lambda _, what, **__: iter(lists[what]), raising=False)
    process._end_all(api, "em205", "experiment.seeds: wrong")  # type: ignore[arg-type]
    assert [target for _, target, _ in api.calls] == ["a", "b"]
    body: Any = api.calls[0][2]
    assert "not run: experiment.seeds: wrong" in json.dumps(body)
    assert actions.names.NOT_RUN in json.dumps(body)
    said = capsys.readouterr().out
    assert "ended 2 Jobs that had not started" in said
    assert "`personaspace rerun em205 --failed`" in said
