"""How a release is doing: every Job's state, and why it waits, from Jobs, pods, events and logs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace.cluster import names
from personaspace.cluster.api import CONNECTION_ERRORS, TIMEOUT, Cluster
from personaspace.cluster.quota import explain, needed
from personaspace.cluster.views import failure_of, job_view, without_title
from personaspace.cluster.waiting import hindrances, pod_state, short
from personaspace.errors import UserError
from personaspace.pipeline.graph import STAGES

#: Columns, in order.
ORDER = (*STAGES, "condition", "conductor")
#: In either format of logs.
_COMPLETE = re.compile(r"([a-z]+(?::[a-z0-9-]+:\d+)?): complete\b")
#: What waits for a conductor that cannot start says so, and then why it cannot.
IDLE = "for the conductor, which does not run yet"
_TIME = re.compile(r"^\d\d:\d\d:\d\d ")


@dataclass
class Row:
    """One Job.

    Attributes:
        job: Its name.
        stage: What it does.
        condition: For which condition; empty for the whole study.
        seed: For which seed; -1 for the whole study.
        state: done, failed, not run, running, starting, waiting (for inputs), queued (for room).
        why: Why it is not further, or how far it is.
        attempts: Pods that failed so far.
        pod: Its newest pod.
    """

    job: str
    stage: str
    condition: str
    seed: int
    state: str
    why: str = ""
    attempts: int = 0
    pod: str = ""

    @property
    def title(self) -> str:
        """`train:e4-villain:42`, or `aggregate`."""
        return f"{self.stage}:{self.condition}:{self.seed}" if self.condition else self.stage

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"node": self.title, **asdict(self)}


def jobs_of(cluster: Cluster, release: str, **labels: str) -> list[dict[str, Any]]:
    """The release's Jobs, newest first.

    Raises:
        UserError: There is no such release.
    """
    found = list(cluster.items("jobs", label_selector=names.selector(release, **labels)))
    if not found:
        what = " ".join(labels.values())
        raise UserError(
            f"{release}: no Jobs of a release of this name in namespace {cluster.namespace}"
            + (f" for {what}" if what else "")
        )
    return sorted(found, key=lambda raw: str(raw["metadata"]["creationTimestamp"]), reverse=True)


def rows(cluster: Cluster, release: str, progress: bool = True) -> list[Row]:
    """Every Job of a release, stage by stage.

    Args:
        cluster: Where.
        release: Its name.
        progress: Whether to read how far running pods are (one short log each).
    """
    raw_jobs = jobs_of(cluster, release)
    pods: dict[str, list[dict[str, Any]]] = {}
    for raw in cluster.items("pods", label_selector=names.selector(release)):
        pods.setdefault(raw["metadata"]["labels"].get("job-name", ""), []).append(raw)
    found: dict[str, Row] = {}
    starting = []
    refusals: dict[str, str] | None = None
    for raw in raw_jobs:
        mine = sorted(
            pods.get(raw["metadata"]["name"], []),
            key=lambda pod: str(pod["metadata"]["creationTimestamp"]),
        )
        row = found[raw["metadata"]["name"]] = _row(raw, mine)
        if row.state == "no pod":
            if refusals is None:
                refusals = _refusals(cluster, _need(raw_jobs))
            row.state, row.why = "queued", _no_pod(row, mine, refusals)
        elif row.state == "starting":
            starting.append(mine[-1])
    hindered = hindrances(cluster, starting)
    for row in found.values():
        if row.state == "starting" and row.pod in hindered:
            row.state, row.why = "queued", hindered[row.pod]
    inputs = _Inputs(cluster, raw_jobs, [r for r in found.values() if r.stage == "conductor"])
    for raw in raw_jobs:
        row = found[raw["metadata"]["name"]]
        if row.state == "waiting":
            row.why = inputs.missing(raw)
    running = [row for row in found.values() if row.state == "running"]
    if progress and running:
        with ThreadPoolExecutor(8) as pool:
            for row, text in zip(
                running, pool.map(lambda r: last_progress(cluster, r.pod), running), strict=True
            ):
                row.why = text
    return sorted(found.values(), key=lambda r: (ORDER.index(r.stage), r.condition, r.seed, r.job))


def alike(told: Iterable[Row]) -> dict[tuple[str, str], list[str]]:
    """Titles of rows by state and reason, which many Jobs may share."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in told:
        found.setdefault((row.state, row.why), []).append(row.title)
    return found


class _Inputs:
    """What of a release is complete: by its Jobs, and by its conductor where these are gone."""

    def __init__(
        self, cluster: Cluster, raw_jobs: list[dict[str, Any]], conductors: list[Row]
    ) -> None:
        self.cluster = cluster
        self.states: dict[str, str] = {}
        for raw in raw_jobs:
            for node in raw["metadata"].get("annotations", {}).get(names.NODES, "").split(","):
                self.states[node] = job_view(raw).state
        self.failed = any(row.state == "failed" for row in conductors)
        active = [row for row in conductors if row.state not in ("done", "failed", "not run")]
        # Jobs are given newest first; of several conductors one that runs is enough.
        self.conductor = min(active, key=lambda row: row.state != "running", default=None)
        self._told: set[str] | None = None

    def missing(self, raw: dict[str, Any]) -> str:
        """What a gated Job waits for."""
        annotations, own = raw["metadata"].get("annotations", {}), raw["metadata"]["name"]
        if not self.conductor:
            how = "`personaspace rerun RELEASE --failed`" if self.failed else "`helm upgrade`"
            return f"no conductor runs: {how} starts one ({own})"
        if self.conductor.state != "running":
            how = "starting " if self.conductor.state == "starting" else ""
            return f"{IDLE}: {how}{self.conductor.why}"
        needs, mine = annotations.get(names.NEEDS, ""), annotations.get(names.NODES, "").split(",")
        wanted = [n for n in (self.states if needs == "*" else needs.split(",")) if n]
        left = [n for n in wanted if n not in mine and not self._complete(n)]
        if not wanted:
            return "the conductor reads the study first"
        if not left:
            return "inputs complete, the conductor checks them"
        if len(left) > 2:
            return f"for {len(left)} artifacts"
        gone = {n: "" if n in self.states else " (its Job is not there)" for n in left}
        return f"for {', '.join(node + note for node, note in gone.items())}"

    def _complete(self, node: str) -> bool:
        """A Job that is gone (by its time to live) counts if the conductor found its artifact."""
        if node in self.states:
            return self.states[node] == "succeeded"
        if self._told is None:
            pod = self.conductor.pod if self.conductor else ""
            self._told = _told_complete(self.cluster, pod) if pod else set()
        return node in self._told or f"condition:{node.partition(':')[2]}" in self._told


def _told_complete(cluster: Cluster, pod: str) -> set[str]:
    """What a conductor's log calls complete: each begins by saying all that it found."""
    try:
        text: str = cluster.core.read_namespaced_pod_log(
            pod, cluster.namespace, container="stage", _request_timeout=TIMEOUT
        )
    except (ApiException, *CONNECTION_ERRORS):
        return set()
    found = (_COMPLETE.search(line) for line in text.splitlines())
    return {match[1] for match in found if match}


def _need(raw_jobs: list[dict[str, Any]]) -> dict[str, str]:
    """What a quota must allow for what has not ended."""
    views = [job_view(raw) for raw in raw_jobs]
    return needed(view.asks for view in views if view.state == "active")


def _row(raw: dict[str, Any], pods: list[dict[str, Any]]) -> Row:
    metadata, labels, view = raw["metadata"], raw["metadata"]["labels"], job_view(raw)
    row = Row(
        job=view.name,
        stage=labels[names.STAGE],
        condition=labels.get(names.CONDITION, ""),
        seed=int(labels.get(names.SEED, -1)),
        state="",
        attempts=raw.get("status", {}).get("failed", 0),
        pod=pods[-1]["metadata"]["name"] if pods else "",
    )
    if view.state == "succeeded":
        row.state = "done"
    elif view.state == "failed":
        row.state, row.why = "failed", view.why
        if view.why.startswith(names.NOT_RUN):
            row.state, row.why = "not run", view.why.partition("not run: ")[2]
        else:
            said = [failure_of(p["status"]) for p in pods if p["status"].get("phase") == "Failed"]
            row.why = next((text for text in reversed(said) if text), view.why)
            row.why = without_title(row.why, row.title)
    elif ending := _ending(raw):
        row.state, row.why = "not run", ending
    elif raw["spec"].get("suspend"):
        needs = metadata.get("annotations", {}).get(names.NEEDS)
        row.state = "waiting" if view.held and needs else "queued"
        row.why = "" if row.state == "waiting" else "Kueue has not admitted it yet"
    else:
        live = [p for p in pods if p["status"].get("phase") not in ("Succeeded", "Failed")]
        row.state, row.why = pod_state(live[-1]) if live else ("no pod", "")
    return row


def _ending(raw: dict[str, Any]) -> str:
    """Why the conductor has ended a Job that the Job controller is about to call failed."""
    for condition in raw.get("status", {}).get("conditions") or ():
        if (condition["type"], condition.get("reason")) == ("FailureTarget", names.NOT_RUN):
            return str(condition.get("message", "")).partition("not run: ")[2]
    return ""


def _refusals(cluster: Cluster, need: dict[str, str]) -> dict[str, str]:
    """Why pods could not be made (quota, admission), by Job; empty where we may not look."""
    found: dict[str, str] = {}
    try:
        for raw in cluster.items("events", field_selector="reason=FailedCreate"):
            if raw["involvedObject"].get("kind") == "Job":
                said = explain(raw.get("message", ""), need)
                found[raw["involvedObject"]["name"]] = short(said)
    except ApiException:
        pass
    return found


def _no_pod(row: Row, pods: list[dict[str, Any]], refusals: dict[str, str]) -> str:
    if row.job in refusals:
        return f"its pod is refused: {refusals[row.job]}"
    said = [failure_of(pod["status"]) for pod in pods]
    last = next((text for text in reversed(said) if text), "")
    if last:
        told = without_title(last, row.title)
        return f"tries again soon, after attempt {row.attempts}: {told}"
    return "its pod has not been made yet"


def last_progress(cluster: Cluster, pod: str) -> str:
    """What a running pod last said about how far it is; empty if it said nothing yet."""
    try:
        text: str = cluster.core.read_namespaced_pod_log(
            pod, cluster.namespace, container="stage", tail_lines=20, _request_timeout=TIMEOUT
        )
    except (ApiException, *CONNECTION_ERRORS):
        return ""
    for line in reversed(text.splitlines()):
        found = progress_in(line)
        if found:
            return found
    return ""


def progress_in(line: str) -> str:
    """The progress that a log line tells, in either format; empty if it tells none."""
    if line.startswith("{"):
        try:
            entry = json.loads(line)
        except ValueError:
            return ""
        if entry.get("event") not in ("progress", "start"):
            return ""
        line = f"00:00:00 {entry.get('message', '')}"
    if not _TIME.match(line):
        return ""
    _, _, rest = line[9:].partition(": ")
    if re.match(r"\S.* \d+/\d+", rest):
        return rest
    return "started" if rest.startswith("started") else ""
