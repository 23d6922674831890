"""How a release is doing: every Job's state, and why it waits, from Jobs, pods, events and logs."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from personaspace.cluster import ages, names
from personaspace.cluster.api import Cluster
from personaspace.cluster.installed import gone, installed
from personaspace.cluster.kueue import held_back
from personaspace.cluster.pod_logs import Progress, complete_by_log, progress_of
from personaspace.cluster.quota import needed
from personaspace.cluster.states import NOT_RUN, Cause, JobPhase, JobState, Reason
from personaspace.cluster.views import failure_of, job_view
from personaspace.cluster.waiting import Situation, pod_situation, refusals, start_problems
from personaspace.errors import UserError
from personaspace.pipeline.graph import STAGES

#: Columns, in order.
ORDER = (*STAGES, "condition", "conductor")


@dataclass
class JobRow:
    """One Job.

    Attributes:
        job: Its name.
        stage: What it does.
        condition: For which condition; empty for the whole study.
        seed: For which seed; -1 for the whole study.
        state: Where it is.
        reason: Why it is not further, as a code; None: nothing is known.
        why: The same for people, or how far it is.
        attempts: Pods that failed so far.
        pod: Its newest pod.
        progress: How far it is, if it runs and has said so.
        waited: Seconds until its stage first ran, or so far; None: not known.
        ran: Seconds that its stage ran, all attempts together; None: not at all, or not known.
        notice: Of the conductor: what to know of the whole study, for people.
    """

    job: str
    stage: str
    condition: str
    seed: int
    state: JobState
    reason: Reason | None = None
    why: str = ""
    attempts: int = 0
    pod: str = ""
    progress: Progress | None = None
    waited: float | None = None
    ran: float | None = None
    notice: str = ""

    @property
    def title(self) -> str:
        """`train:e4-villain:42`, or `aggregate`."""
        return f"{self.stage}:{self.condition}:{self.seed}" if self.condition else self.stage

    @property
    def state_told(self) -> str:
        """Its state for people, with the attempt if it is not the first."""
        again = self.attempts and not self.state.ended
        return f"{self.state} (attempt {self.attempts + 1})" if again else str(self.state)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"node": self.title, **asdict(self)}

    def put(self, state: JobState, cause: Cause | None) -> None:
        """Set where it is, and why."""
        self.state = state
        self.reason, self.why = (cause.reason, cause.text) if cause else (None, "")


def find_jobs(cluster: Cluster, release: str, **labels: str) -> list[dict[str, Any]]:
    """The release's Jobs, newest first; none where there are none."""
    found = cluster.items("jobs", label_selector=names.selector(release, **labels))
    return sorted(found, key=lambda raw: str(raw["metadata"]["creationTimestamp"]), reverse=True)


def jobs_of(cluster: Cluster, release: str, **labels: str) -> list[dict[str, Any]]:
    """The release's Jobs, newest first.

    Raises:
        UserError: There is no such release.
    """
    found = find_jobs(cluster, release, **labels)
    if not found:
        if set(labels.values()) <= {"conductor", "aggregate"} and installed(cluster, release):
            raise gone(release)
        what = " ".join(labels.values())
        raise UserError(
            f"{release}: namespace {cluster.namespace} has no Jobs of this release"
            + (f" for {what}" if what else "")
        )
    return found


def rows(cluster: Cluster, release: str, progress: bool = True) -> list[JobRow]:
    """Every Job of a release, stage by stage.

    Args:
        cluster: Where.
        release: Its name.
        progress: Whether to read how far running pods are (one short log each).
    """
    raw_jobs = find_jobs(cluster, release)
    deleted = _deleted(cluster, release, raw_jobs)
    if not (raw_jobs or deleted):
        jobs_of(cluster, release)  # says so
    pods: dict[str, list[dict[str, Any]]] = {}
    for raw in cluster.items("pods", label_selector=names.selector(release)):
        pods.setdefault(raw["metadata"]["labels"].get("job-name", ""), []).append(raw)
    found: dict[str, JobRow] = {}
    starting = []
    refused: dict[str, Cause] | None = None
    held: dict[str, Cause] | None = None
    for raw in raw_jobs:
        mine = sorted(
            pods.get(raw["metadata"]["name"], []),
            key=lambda pod: str(pod["metadata"]["creationTimestamp"]),
        )
        row = found[raw["metadata"]["name"]] = _row(raw, mine)
        if row.reason is Reason.NO_POD:
            if refused is None:
                refused = refusals(cluster, _need(raw_jobs))
            row.put(JobState.QUEUED, refused.get(row.job) or _no_pod(row, mine))
        elif row.reason is Reason.NOT_ADMITTED:
            held = held_back(cluster) if held is None else held
            row.put(JobState.QUEUED, held.get(row.job) or Cause(Reason.NOT_ADMITTED, row.why))
        elif row.state is JobState.STARTING:
            starting.append(mine[-1])
    problems = start_problems(cluster, starting)
    for row in found.values():
        if row.state is JobState.STARTING and row.pod in problems:
            row.put(JobState.QUEUED, problems[row.pod])
    inputs = _Inputs(cluster, raw_jobs, [r for r in found.values() if r.stage == "conductor"])
    for raw in raw_jobs:
        row = found[raw["metadata"]["name"]]
        if row.state is JobState.WAITING:
            row.put(JobState.WAITING, inputs.missing(raw))
    if progress:
        _add_progress(cluster, [row for row in found.values() if row.state is JobState.RUNNING])
    return sorted(
        [*found.values(), *deleted],
        key=lambda r: (ORDER.index(r.stage), r.condition, r.seed, r.job),
    )


def _deleted(cluster: Cluster, release: str, raw_jobs: list[dict[str, Any]]) -> list[JobRow]:
    """Rows of the release's Jobs that are gone, where no conductor waits for them."""
    there = {raw["metadata"]["name"] for raw in raw_jobs}
    if any(
        raw["metadata"]["labels"][names.STAGE] == "conductor"
        and job_view(raw).phase is JobPhase.ACTIVE
        for raw in raw_jobs
    ):
        return []
    known = installed(cluster, release)
    found = []
    for job, nodes in known.jobs.items() if known else ():
        if job in there:
            continue
        stage, _, of = nodes[0].partition(":")
        condition, _, seed = of.partition(":")
        if condition and len(nodes) > 1:
            stage = "condition"
        row = JobRow(job, stage, condition, int(seed or -1), JobState.GONE)
        text = "cancelled, or removed after its end; `helm upgrade` makes it again"
        row.put(JobState.GONE, Cause(Reason.JOB_GONE, text))
        found.append(row)
    return found


def alike(those: Iterable[JobRow]) -> dict[tuple[JobState, str], list[str]]:
    """Titles of rows by state and reason, which many Jobs may share."""
    found: dict[tuple[JobState, str], list[str]] = {}
    for row in those:
        found.setdefault((row.state, row.why), []).append(row.title)
    return found


class _Inputs:
    """What of a release is complete: by its Jobs, and by its conductor where these are gone."""

    def __init__(
        self, cluster: Cluster, raw_jobs: list[dict[str, Any]], conductors: list[JobRow]
    ) -> None:
        self.cluster = cluster
        self.phases: dict[str, JobPhase] = {}
        for raw in raw_jobs:
            for node in _nodes(raw):
                self.phases[node] = job_view(raw).phase
        self.failed = any(row.state is JobState.FAILED for row in conductors)
        active = [row for row in conductors if not row.state.ended]
        # Jobs are given newest first; of several conductors one that runs is enough.
        self.conductor = min(
            active, key=lambda row: row.state is not JobState.RUNNING, default=None
        )
        self._complete_by_log: set[str] | None = None

    def missing(self, raw: dict[str, Any]) -> Cause:
        """What a gated Job waits for."""
        if not self.conductor:
            how = "`personaspace rerun RELEASE --failed`" if self.failed else "`helm upgrade`"
            return Cause(Reason.NO_CONDUCTOR, f"no conductor is running; {how} starts one")
        if self.conductor.state is not JobState.RUNNING:
            how = "starting " if self.conductor.state is JobState.STARTING else ""
            return Cause(
                Reason.CONDUCTOR,
                f"for the conductor, which is not running yet: {how}{self.conductor.why}",
            )
        needs, mine = raw["metadata"].get("annotations", {}).get(names.NEEDS, ""), _nodes(raw)
        wanted = [n for n in (self.phases if needs == "*" else needs.split(",")) if n]
        left = [n for n in wanted if n not in mine and not self._complete(n)]
        if not wanted:
            return Cause(Reason.STUDY_READ, "the conductor is reading the study")
        if not left:
            return Cause(
                Reason.INPUTS_CHECK, "its inputs are complete; the conductor is checking them"
            )
        if len(left) > 2:
            return Cause(Reason.INPUTS, f"for {len(left)} artifacts")
        notes = ("" if node in self.phases else " (its Job does not exist)" for node in left)
        listed = ", ".join(node + note for node, note in zip(left, notes, strict=True))
        return Cause(Reason.INPUTS, f"for {listed}", left[0])

    def _complete(self, node: str) -> bool:
        """A Job that is gone (by its time to live) counts if the conductor found its artifact."""
        if node in self.phases:
            return self.phases[node] is JobPhase.SUCCEEDED
        if self._complete_by_log is None:
            pod = self.conductor.pod if self.conductor else ""
            self._complete_by_log = complete_by_log(self.cluster, pod) if pod else set()
        return node in self._complete_by_log


def _nodes(raw: dict[str, Any]) -> list[str]:
    return str(raw["metadata"].get("annotations", {}).get(names.NODES, "")).split(",")


def _need(raw_jobs: list[dict[str, Any]]) -> dict[str, str]:
    """What a quota must allow for what has not ended."""
    views = [job_view(raw) for raw in raw_jobs]
    return needed(view.asks for view in views if view.phase is JobPhase.ACTIVE)


def _row(raw: dict[str, Any], pods: list[dict[str, Any]]) -> JobRow:
    labels = raw["metadata"]["labels"]
    situation = _situation(raw, pods)
    took = ages.ages(raw, pods, ages.now())
    row = JobRow(
        job=raw["metadata"]["name"],
        stage=labels[names.STAGE],
        condition=labels.get(names.CONDITION, ""),
        seed=int(labels.get(names.SEED, -1)),
        state=situation.state,
        attempts=raw.get("status", {}).get("failed", 0),
        pod=pods[-1]["metadata"]["name"] if pods else "",
        waited=took.waited,
        ran=took.ran,
        notice=raw["metadata"].get("annotations", {}).get(names.NOTICE, ""),
    )
    row.put(situation.state, situation.cause)
    return row


def _situation(raw: dict[str, Any], pods: list[dict[str, Any]]) -> Situation:
    """Where a Job is, by itself and its pods."""
    view = job_view(raw)
    if view.phase is JobPhase.SUCCEEDED:
        return Situation(JobState.DONE)
    # Ended by the conductor, whether or not the Job controller has come to it yet.
    if view.cause and view.cause.reason in NOT_RUN:
        return Situation(JobState.NOT_RUN, view.cause)
    if view.phase is JobPhase.FAILED:
        return Situation(JobState.FAILED, _last_failure(pods) or view.cause)
    if raw["spec"].get("suspend"):
        if view.held and raw["metadata"].get("annotations", {}).get(names.NEEDS):
            return Situation(JobState.WAITING)
        return Situation(
            JobState.QUEUED, Cause(Reason.NOT_ADMITTED, "Kueue has not admitted it yet")
        )
    live = [pod for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]
    if live:
        return pod_situation(live[-1])
    if any(pod["status"].get("phase") == "Succeeded" for pod in pods):
        return Situation(JobState.RUNNING)  # the Job controller has yet to count it
    return Situation(JobState.QUEUED, Cause(Reason.NO_POD))


def _last_failure(pods: list[dict[str, Any]]) -> Cause | None:
    """Why the newest failed pod that tells anything failed."""
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    found = (failure_of(pod["status"]) for pod in reversed(failed))
    return next((cause for cause in found if cause), None)


def _no_pod(row: JobRow, pods: list[dict[str, Any]]) -> Cause:
    last = _last_failure(pods)
    if last:
        text = f"will be tried again; attempt {row.attempts} failed: {last.text}"
        return Cause(Reason.RETRY, text)
    return Cause(Reason.NO_POD, "its pod has not been created yet")


def _add_progress(cluster: Cluster, running: list[JobRow]) -> None:
    if not running:
        return
    with ThreadPoolExecutor(8) as pool:
        told = pool.map(lambda row: progress_of(cluster, row.pod), running)
        for row, progress in zip(running, told, strict=True):
            row.progress = progress
            row.why = str(row.progress or "")
