"""Runs a study's graph on one machine: in this process, or in several beside each other."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from personaspace import interrupt, logs
from personaspace.errors import Interrupted, UserError, one_line
from personaspace.pipeline.progress import Board, StageProgress
from personaspace.pipeline.run import Work, prepare, run_node
from personaspace.pipeline.runtime import Runtime
from personaspace.pipeline.stage import Node
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.states import (
    Advanced,
    NodeState,
    PhaseStarted,
    Said,
    Started,
    WorkerEvent,
)
from personaspace.store import open_store
from personaspace.study.load import load_study


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
    def only_user_errors(self) -> bool:
        """Whether every failure is an error in the input."""
        return all(isinstance(error, UserError) for error in self.failed.values())


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


# --- several processes -------------------------------------------------------------------------

_worker: dict[str, Any] = {}


class _RemoteProgress(StageProgress):
    """Sends progress to the parent process."""

    def __init__(self, node: Node, events: Any) -> None:
        self._node = node
        self._events = events

    def start(self, what: str, total: int) -> None:
        self._events.put(PhaseStarted(self._node, what, total))

    def advance(self, count: int = 1, note: str = "") -> None:
        self._events.put(Advanced(self._node, count, note))

    def say(self, text: str) -> None:
        self._events.put(Said(self._node, text))


def _start_worker(
    spec: Path, store_url: str, numbers: Any, events: Any, stop: Any, jobs: int
) -> None:
    import torch

    logs.setup()
    interrupt.install()
    # Where a signal reaches the parent alone (a container's first process), it passes it on.
    interrupt.follow(stop)
    number = numbers.get()
    devices = max(torch.cuda.device_count(), 1)
    beside = -(-jobs // devices)
    if devices > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % devices)
    # On a CPU every process keeps all threads: fewer would round sums differently, and `--jobs`
    # must not change a result.
    study = load_study(spec)
    _worker["work"] = prepare(study, open_store(store_url))
    _worker["runtime"] = Runtime(study, processes=beside)
    _worker["events"] = events


def _run_in_worker(node: Node, answers_expected: bool) -> NodeState:
    events, runtime = _worker["events"], _worker["runtime"]

    def start() -> StageProgress:
        runtime.expect_answers(answers_expected)
        events.put(Started(node))
        return _RemoteProgress(node, events)

    return run_node(_worker["work"], node, runtime, start).state


def _drain(events: Any, board: Board) -> None:
    while True:
        try:
            event: WorkerEvent = events.get_nowait()
        except queue.Empty:
            return
        match event:
            case Started(node):
                board.stage(node)
            case PhaseStarted(node, what, total):
                board.phase(node, what, total)
            case Advanced(node, count, note):
                board.advance(node, count, note)
            case Said(node, text):
                board.tell(node, text)


def run_beside(work: Work, nodes: Sequence[Node], board: Board, spec: Path, jobs: int) -> Summary:
    """Run nodes in `jobs` processes, each with its own model; GPUs are dealt out in turn.

    Raises:
        Interrupted: Asked to stop; a rerun goes on where this one ended.
    """
    schedule = _Schedule(work, nodes)
    board.processes = jobs
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        events, numbers = manager.Queue(), manager.Queue()
        for number in range(jobs):
            numbers.put(number)
        stop = context.Event()
        running: dict[Future[NodeState], Node] = {}
        with ProcessPoolExecutor(
            jobs, context, _start_worker, (spec, work.store.url, numbers, events, stop, jobs)
        ) as pool:
            while schedule.waiting or running:
                if interrupt.asked():
                    stop.set()
                else:
                    for node in schedule.ready(running.values())[: jobs - len(running)]:
                        schedule.start(node)
                        expected = schedule.answers_expected(node)
                        running[pool.submit(_run_in_worker, node, expected)] = node
                ended, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(events, board)
                for future in ended:
                    _collect(schedule, board, running.pop(future), future)
                if interrupt.asked() and not running:
                    interrupt.check()
    return schedule.summary


def _collect(schedule: _Schedule, board: Board, node: Node, future: Future[NodeState]) -> None:
    try:
        state = future.result()
    except Interrupted:
        pass
    except Exception as error:  # one stage's failure stops only what depends on it
        _report_failure(schedule, board, node, error)
    else:
        schedule.end(node, state)
        board.finish(node, state)
