"""Runs a study's graph on one machine: in this process, or in several beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from personaspace import interrupt
from personaspace.children import LOOK, those_that_said
from personaspace.errors import (
    ASKED,
    EXIT_FAILURE,
    EXIT_OK,
    EXIT_UNAVAILABLE,
    EXIT_USER_ERROR,
    CutOff,
    Interrupted,
    UnavailableError,
    UserError,
    one_line,
)
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import Board, StageProgress
from personaspace.pipeline.run import run_node
from personaspace.pipeline.runtime import Runtime
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.states import NodeState
from personaspace.pipeline.work import Work
from personaspace.pipeline.workers import Ended, Worker


@dataclass
class Summary:
    """How a run ended.

    Attributes:
        done: Nodes that ran.
        skipped: Nodes that were complete.
        failed: Nodes that failed, with their errors.
        blocked: Nodes that could not run for want of those.
    """

    done: list[Node] = field(default_factory=list)
    skipped: list[Node] = field(default_factory=list)
    failed: dict[Node, Exception] = field(default_factory=dict)
    blocked: list[Node] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """What a program that ran it ends with."""
        errors = self.failed.values()
        if all(isinstance(error, UnavailableError) for error in errors):
            return EXIT_UNAVAILABLE if errors else EXIT_OK
        return EXIT_USER_ERROR if all(isinstance(e, UserError) for e in errors) else EXIT_FAILURE

    @property
    def computed(self) -> bool:
        """Whether nothing failed that computes: what others are told of is not all."""
        return not self.blocked and all(STAGES[node.stage].outward for node in self.failed)


class _Schedule:
    """Which nodes may start, given what has ended."""

    def __init__(self, work: Work, nodes: Sequence[Node]) -> None:
        self.work = work
        seeds = {seed: place for place, seed in enumerate(work.study.spec.seeds)}
        # Seed by seed: one is whole before the next begins. What is of no seed comes last.
        self.waiting = sorted(
            (node for node in work.graph.nodes if node in set(nodes)),
            key=lambda node: seeds.get(node.seed, len(seeds)),
        )
        self.summary = Summary()

    def ready(self, running: Iterable[Node]) -> list[Node]:
        """Nodes whose inputs are not waiting or running."""
        pending = {*self.waiting, *running}
        return [
            node
            for node in self.waiting
            if not any(need in pending for need in self.work.graph.needs[node])
        ]

    def will_ask(self, node: Node) -> bool:
        """Whether the node is still to draw answers from the model."""
        draws = STAGES[node.stage].draws_answers(self.work.study)
        return draws and self.work.complete(node) is None

    def answers_expected(self, node: Node) -> bool:
        """Whether this node or a later one is still to draw answers."""
        return any(self.will_ask(other) for other in (node, *self.waiting))

    def start(self, node: Node) -> None:
        """The node is no longer waiting."""
        self.waiting.remove(node)

    def end(self, node: Node, state: NodeState) -> None:
        """The node is done or was skipped."""
        done = state is NodeState.DONE
        (self.summary.done if done else self.summary.skipped).append(node)

    def fail(self, node: Node, error: Exception) -> list[Node]:
        """The node failed; returns what cannot run now."""
        self.summary.failed[node] = error
        lost: list[Node] = []
        for other in self.waiting:
            gone = {node, *self.summary.failed, *self.summary.blocked, *lost}
            needs = self.work.graph.needs[other]
            tolerant = STAGES[other.stage].tolerates_loss(self.work.study)
            if any(need in gone for need in needs) and not (
                tolerant and not gone.issuperset(needs)
            ):
                lost.append(other)
        for other in lost:
            self.waiting.remove(other)
        self.summary.blocked.extend(lost)
        return lost


def run_here(work: Work, nodes: Sequence[Node], board: Board) -> Summary:
    """Run nodes one after another in this process, the model loaded once.

    Raises:
        Interrupted: Asked to stop; a rerun goes on where this one ended.
    """
    schedule = _Schedule(work, nodes)
    runtime = Runtime(work.study)
    try:
        while schedule.waiting:
            interrupt.check()
            node = schedule.ready([])[0]
            schedule.start(node)
            try:
                outcome = run_node(
                    work, node, runtime, partial(_begin, schedule, node, runtime, board)
                )
            except Interrupted:
                raise
            except Exception as error:  # one stage's failure stops only what depends on it
                _report_failure(schedule, board, node, error)
            else:
                schedule.end(node, outcome.state)
                board.finish(node, outcome.state)
    finally:
        runtime.close()
    return schedule.summary


def _begin(schedule: _Schedule, node: Node, runtime: Runtime, board: Board) -> StageProgress:
    """The node has something to do: let the engine start if this node or a later one needs it."""
    runtime.expect_answers(schedule.answers_expected(node))
    return board.stage(node)


def _report_failure(schedule: _Schedule, board: Board, node: Node, error: Exception) -> None:
    board.finish(node, NodeState.FAILED, one_line(error))
    for lost in schedule.fail(node, error):
        board.finish(lost, NodeState.BLOCKED, f"needs {node.id}")


def run_beside(work: Work, nodes: Sequence[Node], board: Board, spec: Path, jobs: int) -> Summary:
    """Run nodes in `jobs` processes, each with its own model; GPUs are dealt out in turn.

    A process that is killed fails the node it was at; another one takes its place.

    Raises:
        Interrupted: Asked to stop; a rerun goes on where this one ended.
    """
    schedule = _Schedule(work, nodes)
    cut_off: CutOff | None = None
    board.processes = jobs
    workers = [Worker(number, jobs, spec, work.store.url) for number in range(jobs)]
    try:
        while True:
            busy = [worker for worker in workers if worker.node is not None]
            if interrupt.asked():
                for worker in workers:
                    worker.stop()
                if not busy:
                    raise cut_off or Interrupted(ASKED)
            else:
                _deal(schedule, workers)
                busy = [worker for worker in workers if worker.node is not None]
                if not busy:
                    return schedule.summary
            talking = {worker.child: worker for worker in busy}
            for child in those_that_said(talking, LOOK):
                ended = talking[child].listen(board)
                if ended is not None:
                    cut_off = cut_off or ended.cut_off
                    _collect(schedule, board, ended)
    finally:
        for worker in workers:
            worker.close()


def _deal(schedule: _Schedule, workers: Sequence[Worker]) -> None:
    """Give nodes that may start to workers that have none."""
    free = [worker for worker in workers if worker.node is None]
    running = [worker.node for worker in workers if worker.node is not None]
    for node, worker in zip(schedule.ready(running), free, strict=False):
        schedule.start(node)
        worker.give(node, schedule.answers_expected(node))


def _collect(schedule: _Schedule, board: Board, ended: Ended) -> None:
    if ended.error is not None:
        # one stage's failure stops only what depends on it
        _report_failure(schedule, board, ended.node, ended.error)
    elif ended.state is not None:
        schedule.end(ended.node, ended.state)
        board.finish(ended.node, ended.state)
