"""Where a run is, in codes: states of nodes, and what a worker tells its parent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from personaspace.pipeline.node import Node


class NodeState(StrEnum):
    """Where a node is in one run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"  # it was complete before
    FAILED = "failed"
    BLOCKED = "blocked"  # something that it needs failed

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in (NodeState.WAITING, NodeState.RUNNING)

    @property
    def complete(self) -> bool:
        """Whether its artifact is there."""
        return self in (NodeState.DONE, NodeState.SKIPPED)


class Standing(StrEnum):
    """Where a node is between runs, as the store tells it."""

    COMPLETE = "complete"
    READY = "ready"  # its inputs are complete
    WAITING = "waiting"


# --- what a worker process tells the one that shows it -------------------------------------------


@dataclass(frozen=True)
class Started:
    """The node has something to do."""

    node: Node


@dataclass(frozen=True)
class PhaseStarted:
    """A phase of `total` units begins."""

    node: Node
    what: str
    total: int


@dataclass(frozen=True)
class Advanced:
    """`count` more units are finished; of a training's step, its loss."""

    node: Node
    count: int
    note: str
    loss: float | None = None


@dataclass(frozen=True)
class Said:
    """Something worth a line of its own."""

    node: Node
    text: str


WorkerEvent = Started | PhaseStarted | Advanced | Said
