"""Jobs that are not there, Jobs that get no pod: what is waited for, and what is said of it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conductor_plan import a_plan, jobs
from test_conductor import Api, Stage

from personaspace.cluster import names
from personaspace.cluster.conductor import process
from personaspace.cluster.conductor.missing_jobs import MissingJobs, without_pod
from personaspace.cluster.conductor.news import Changed, Listed
from personaspace.cluster.log_lines import Trouble
from personaspace.cluster.quota import asks_of, needed
from personaspace.cluster.states import JobPhase, Reason
from personaspace.cluster.views import JobView, PodView, job_view
from personaspace.cluster.waiting import refusal

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
    missing = MissingJobs(a_plan(), patience=600)
    half = jobs(couple="missing", evaluate="missing", aggregate="missing")
    assert not missing.for_good(half, 0)
    assert not missing.for_good(half, 1e6), "an upgrade broke off"
    assert not missing.waited_for(half, set(), 1e6), "their artifacts may be there"
    found = missing.waited_for(half, {"couple", "evaluate"}, 1e6)
    assert found == ["job-couple", "job-evaluate"]
    assert not missing.for_good(jobs(), 1e6) and not missing.waited_for(jobs(), {"couple"}, 2e6)


def test_a_job_that_was_seen_to_go_is_lost_after_patience() -> None:
    missing = MissingJobs(a_plan(), patience=600)
    missing.left.add("job-couple")
    gone = jobs(couple="missing")
    assert not missing.for_good(gone, 0) and not missing.for_good(gone, 599)
    assert missing.for_good(gone, 601) == {"job-couple"}
    missing.for_good(jobs(), 602)
    assert not missing.for_good(gone, 5000), "it came back: what goes now is judged anew"


def test_a_failed_job_that_was_removed_by_its_time_to_live_is_lost() -> None:
    """A conductor that starts after that never saw it; nothing that needs it waits any more."""
    missing = MissingJobs(a_plan(), patience=600)
    found = jobs(train="missing", extract="failed", couple="failed", evaluate="failed")
    found["job-extract"] = JobView("job-extract", "u", JobPhase.FAILED, expires=True)
    assert not missing.for_good(found, 0)
    waits = {**found, "job-aggregate": JobView("job-aggregate", "u", JobPhase.ACTIVE)}
    assert not missing.for_good(waits, 601), "something waits for it: it has not been made yet"
    ended = {**found, "job-aggregate": JobView("job-aggregate", "u", JobPhase.FAILED)}
    assert missing.for_good(ended, 601) == {"job-train"}


@pytest.mark.slow
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
    assert stage.trouble(Trouble.MISSING_JOBS)[0]["jobs"] == ["couple"]
    stage.settle("job-couple", "active")  # the next upgrade
    stage.conductor.inbox.put(Changed("pods", stage.pod("job-couple")))
    thread.join(20)
    assert not thread.is_alive() and set(stage.states.values()) == {"succeeded"}


def test_jobs_without_a_pod_are_told_with_what_they_need() -> None:
    raw = {"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": GPU_POD}}}
    asks = job_view(raw).asks
    found = {n: JobView(n, n, v.phase, asks=asks) for n, v in jobs(train="succeeded").items()}
    gated = [PodView(n, n, n, True, True) for n in ("job-evaluate", "job-aggregate")]
    lacking = without_pod(a_plan(), found, gated)
    assert lacking and lacking.jobs == ["job-extract", "job-couple"] and not lacking.running
    need = {"pods": "4", "requests.nvidia.com/gpu": "8", "requests.cpu": "6"}
    assert need.items() <= lacking.need.items() and lacking.need["requests.memory"] == "6Gi"
    runs = [*gated, PodView("p", "p", "job-extract", False, True)]
    lacking = without_pod(a_plan(), found, runs)
    assert lacking and lacking.running
    suspended = {n: JobView(n, n, JobPhase.ACTIVE, begun=False) for n in found}
    assert without_pod(a_plan(), suspended, []) is None, "Kueue has not let them begin"
    assert without_pod(a_plan(), {}, []) is None


def test_a_conductor_tells_of_pods_that_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, monkeypatch, partial=False)
    stage.start()
    stage.conductor._apply(Listed("jobs", jobs()))
    stage.conductor._apply(Listed("pods", {}))
    clock = [1000.0]
    monkeypatch.setattr("personaspace.cluster.conductor.loop.time.monotonic", lambda: clock[0])
    for seconds, told in ((0, False), (29, False), (2, True)):
        clock[0] += seconds
        stage.conductor._look_for_what_is_missing()
        assert bool(stage.trouble(Trouble.MISSING_PODS)) is told
    assert len(stage.trouble(Trouble.MISSING_PODS)[0]["jobs"]) == 5


def test_a_refusal_says_what_to_raise() -> None:
    need = needed([asks_of(GPU_POD)] * 12)
    assert need["limits.memory"] == "24Gi" and "limits.nvidia.com/gpu" not in need
    text = (
        'Error creating: pods "x-1" is forbidden: exceeded quota: gpus, requested: '
        "cpu=1500m,pods=1,requests.nvidia.com/gpu=2, used: cpu=3,pods=4,requests.nvidia.com/gpu=8, "
        "limited: cpu=4,pods=4,requests.nvidia.com/gpu=8"
    )
    found = refusal(text, need)
    assert found.reason is Reason.QUOTA and "quota gpus " in found.text
    for amount in ("cpu=18 (limit 4)", "pods=12 (limit 4)", "requests.nvidia.com/gpu=24 (limit 8)"):
        assert amount in found.text
    other = 'pods "x" is forbidden: failed quota: q: must specify limits.cpu for: stage'
    found = refusal(other, need)
    assert found.reason is Reason.POD_REFUSED and found.text.endswith(other)


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
    lists: dict[str, Any] = {"jobs": found, "pods": [pod]}
    monkeypatch.setattr(Api, "items", lambda _, what, **__: iter(lists[what]), raising=False)
    monkeypatch.setenv("PERSONASPACE_LOG", "json")
    process._end_all(api, "em205", "experiment.seeds: wrong")  # type: ignore[arg-type]
    assert [target for _, target, _ in api.calls] == ["a", "b"]
    body: Any = api.calls[0][2]
    (condition,) = body["status"]["conditions"]
    assert (condition["reason"], condition["message"]) == (
        Reason.STUDY_INVALID,
        "experiment.seeds: wrong",
    )
    assert json.loads(capsys.readouterr().out)["ended"] == 2
