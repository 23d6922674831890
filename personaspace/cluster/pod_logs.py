"""What the logs of a release's pods tell: how far a stage is, its losses, what is complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace.cluster.api import CONNECTION_ERRORS, TIMEOUT, Cluster
from personaspace.cluster.log_lines import entry_of, for_people
from personaspace.cluster.states import JobState
from personaspace.console import duration
from personaspace.logs import RunEvent

#: So many lines of a running pod's log are searched for its last progress.
LAST_LINES = 20


@dataclass(frozen=True)
class Progress:
    """How far a running stage is; a line of its log.

    Attributes:
        what: Units of its present phase: steps, answers, prompts.
        done: How many of these.
        total: Of how many.
        left: Seconds; None: not known yet.
        note: What else it says.
        tokens_per_second: Of a training's step; None: it does not train.
        gpu_memory: The most that was reserved so far, bytes; None: there is no GPU.
    """

    what: str
    done: int
    total: int
    left: float | None = None
    note: str = ""
    tokens_per_second: float | None = None
    gpu_memory: int | None = None

    def __str__(self) -> str:
        left = "" if self.left is None else f", {duration(self.left)} left"
        return f"{self.what} {self.done}/{self.total}{left}" + (self.note and f", {self.note}")


def told_losses(cluster: Cluster, pod: str) -> list[tuple[int, float]]:
    """Steps and losses of the training that a pod's log told of last, a few of all."""
    found: list[tuple[int, float]] = []
    node = None
    for entry in filter(None, map(entry_of, _log(cluster, pod))):
        step, loss = entry.fields.get("done"), entry.fields.get("loss")
        if entry.event != RunEvent.PROGRESS or loss is None or step is None:
            continue
        if entry.fields.get("node") != node:
            node, found = entry.fields.get("node"), []
        found.append((step, loss))
    return found


def log_end(cluster: Cluster, pod: str, lines: int) -> str:
    """The last lines of a pod's log, for people; empty where it cannot be read."""
    return "".join(f"{for_people(line)}\n" for line in _log(cluster, pod, tail_lines=lines))


def progress_of(cluster: Cluster, pod: str) -> Progress | None:
    """How far the stage of a running pod is; None: it has not said."""
    return last_progress(_log(cluster, pod, tail_lines=LAST_LINES))


def last_progress(lines: list[str]) -> Progress | None:
    """How far a stage is, by its log; None: it says nothing, or logs lines for people alone."""
    for line in reversed(lines):
        entry = entry_of(line)
        event, fields = (entry.event, entry.fields) if entry else ("", {})
        if event == RunEvent.START:
            return None
        if event == RunEvent.PROGRESS and {"what", "done", "total"} <= fields.keys():
            left, note = fields.get("left"), fields.get("note") or ""
            speed = (fields.get("tokens_per_second"), fields.get("gpu_memory"))
            return Progress(fields["what"], fields["done"], fields["total"], left, note, *speed)
    return None


def complete_by_log(cluster: Cluster, pod: str) -> set[str]:
    """Nodes that a conductor's log calls complete: each begins by saying all that it found."""
    entries = map(entry_of, _log(cluster, pod))
    return {
        node
        for entry in entries
        if entry and (entry.event, entry.fields.get("state")) == (RunEvent.END, JobState.DONE)
        for node in entry.fields.get("nodes") or ()
    }


def _log(cluster: Cluster, pod: str, **options: Any) -> list[str]:
    """A pod's log by lines; empty where it cannot be read."""
    try:
        text: str = cluster.core.read_namespaced_pod_log(
            pod, cluster.namespace, container="stage", _request_timeout=TIMEOUT, **options
        )
    except (ApiException, *CONNECTION_ERRORS):
        return []
    return text.splitlines()
