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
    RUNNING = "running"  # and somebody is at it, as far as the store knows its writers
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
class Measured:
    """Numbers of a training's step.

    Attributes:
        loss: Mean over the step's tokens, nats.
        learning_rate: Of the optimiser.
        gradient_norm: Before it is clipped.
        tokens_per_second: Since the step before.
        gpu_memory: The most that was reserved so far, bytes; None: there is no GPU.
    """

    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    gpu_memory: int | None


@dataclass(frozen=True)
class Step:
    """A training made a step."""

    node: Node
    measured: Measured


@dataclass(frozen=True)
class Said:
    """Something worth a line of its own."""

    node: Node
    text: str


WorkerEvent = Started | PhaseStarted | Advanced | Step | Said
