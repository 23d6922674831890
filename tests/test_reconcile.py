"""What the conductor decides from what it sees: what is released, what is ended."""

from __future__ import annotations

import random

import pytest
from conductor_plan import NEEDS, a_plan, jobs

from personaspace.cluster.conductor.reconcile import Decision, reconcile
from personaspace.cluster.states import Cause, JobPhase, Reason
from personaspace.cluster.views import JobView

MISSING = Cause(Reason.ARTIFACT_MISSING, "x", "train")


def released(found: Decision) -> set[str]:
    return {name.removeprefix("job-") for name in found.release}


def ended(found: Decision) -> dict[str, str]:
    """What is ended, and the node with which it began."""
    assert all(cause.reason is Reason.INPUTS_FAILED for cause in found.end.values())
    return {name.removeprefix("job-"): cause.node for name, cause in found.end.items()}


def test_only_what_needs_nothing_is_released_at_first() -> None:
    found = reconcile(a_plan(), jobs(), set(), {})
    assert released(found) == {"train"} and not found.end and not found.finished
    assert found.waiting["job-evaluate"] == 2


def test_a_job_that_ended_well_is_not_enough_its_manifest_must_be_there() -> None:
    before = reconcile(a_plan(), jobs(train="succeeded"), set(), {})
    assert before.check == ["train"] and not before.release
    after = reconcile(a_plan(), jobs(train="succeeded"), {"train"}, {})
    assert released(after) == {"extract", "couple"} and not after.check


def test_a_manifest_is_not_enough_while_the_job_still_runs() -> None:
    assert released(reconcile(a_plan(), jobs(), {"train"}, {})) == {"train"}


def test_a_wrong_manifest_ends_what_needs_it() -> None:
    fault = Cause(Reason.OTHER_FINGERPRINT, "x", "train")
    found = reconcile(a_plan(), jobs(train="succeeded"), set(), {"train": fault})
    assert found.failed == {"job-train": fault}
    assert ended(found) == dict.fromkeys(("extract", "couple", "evaluate", "aggregate"), "train")


def test_a_failure_ends_what_depends_on_it_and_nothing_else() -> None:
    states = jobs(train="succeeded", couple="failed")
    found = reconcile(a_plan(), states, {"train"}, {})
    assert ended(found) == dict.fromkeys(("evaluate", "aggregate"), "couple")
    assert released(found) == {"extract"} and not found.finished


def test_partial_aggregate_runs_once_all_is_settled() -> None:
    states = jobs(train="succeeded", couple="failed")
    early = reconcile(a_plan(partial=True), states, {"train"}, {})
    assert set(ended(early)) == {"evaluate"} and "aggregate" not in released(early)
    states = jobs(train="succeeded", couple="failed", evaluate="failed", extract="succeeded")
    late = reconcile(a_plan(partial=True), states, {"train", "extract"}, {})
    assert released(late) == {"aggregate"} and not late.end


def test_partial_aggregate_of_nothing_is_ended() -> None:
    states = jobs(train="failed", extract="failed", couple="failed", evaluate="failed")
    assert set(ended(reconcile(a_plan(partial=True), states, set(), {}))) == {"aggregate"}


def test_what_has_started_is_left_alone() -> None:
    states = jobs(train="succeeded", couple="failed")
    found = reconcile(a_plan(), states, {"train"}, {}, started={"job-evaluate"})
    assert set(ended(found)) == {"aggregate"} and "evaluate" not in released(found)


def test_a_job_removed_after_it_finished_counts_by_its_artifact() -> None:
    found = reconcile(a_plan(), jobs(train="missing"), {"train"}, {})
    assert released(found) == {"extract", "couple"}
    waiting = reconcile(a_plan(), jobs(train="missing"), set(), {"train": MISSING})
    assert not waiting.release and not waiting.end and not waiting.finished
    gone = reconcile(
        a_plan(), jobs(train="missing"), set(), {"train": MISSING}, absent={"job-train"}
    )
    assert gone.failed["job-train"].reason is Reason.JOB_GONE and len(gone.end) == 4


def test_it_is_finished_when_nothing_is_to_come() -> None:
    done = jobs(**dict.fromkeys(NEEDS, "succeeded"))
    assert not reconcile(a_plan(), done, set(NEEDS) - {"aggregate"}, {}).finished
    found = reconcile(a_plan(), done, set(NEEDS), {})
    assert found.finished and len(found.done) == 5 and not found.failed
    failed = reconcile(a_plan(), jobs(**dict.fromkeys(NEEDS, "failed")), set(), {})
    assert failed.finished and len(failed.failed) == 5


@pytest.mark.parametrize("number", range(0, 1000, 100))
def test_every_run_ends_and_starts_nothing_too_early(number: int) -> None:
    """Any order of endings, any failures: each Job is released, or ended, or failed."""
    for seed in range(number, number + 100):
        _one_run(random.Random(seed))


def _one_run(chance: random.Random) -> None:
    partial = chance.random() < 0.5
    study = a_plan(partial)
    states, verified, seen = jobs(), set[str](), set[str]()
    refused: dict[str, Cause] = {}
    for _ in range(200):
        found = reconcile(study, states, verified, refused)
        if found.finished:
            break
        for name in found.release:
            lost = [n for n in study.needs[name] if n not in verified]
            assert not lost or (partial and name == "job-aggregate")
        seen |= set(found.release) | set(found.end)
        for name in found.end:
            states[name] = JobView(name, "", JobPhase.FAILED)
        for node in found.check:
            if chance.random() < 0.6:
                verified.add(node)
            elif chance.random() < 0.3:
                refused[node] = MISSING
        open_jobs = [n for n in found.release if states[n].phase is JobPhase.ACTIVE]
        if open_jobs:
            name = chance.choice(open_jobs)
            end = chance.choice(["succeeded", "succeeded", "failed"])
            states[name] = JobView(name, "", JobPhase(end))
    else:
        pytest.fail(f"does not end: {found}")
    assert seen == set(study.jobs)
    assert set(found.done) | set(found.failed) == set(study.jobs)
