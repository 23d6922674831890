"""Processes that run nodes beside each other: what they are told, and what they tell."""

from __future__ import annotations

import os
import queue
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from personaspace import interrupt, logs
from personaspace.children import Child, ChildGoneError, telling
from personaspace.errors import CutOff, Interrupted, UnavailableError, UserError, one_line
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import Board, StageProgress
from personaspace.pipeline.run import run_node
from personaspace.pipeline.runtime import Runtime
from personaspace.pipeline.states import (
    Advanced,
    Measured,
    NodeState,
    PhaseStarted,
    Said,
    Started,
    Step,
)
from personaspace.pipeline.termination import take_signals
from personaspace.pipeline.work import Work, prepare
from personaspace.store import open_store
from personaspace.study.load import load_study

#: Seconds in which a worker without a node, or told to stop, leaves by itself.
_PATIENCE = 20.0


@dataclass(frozen=True)
class Ended:
    """A worker is done with a node.

    Attributes:
        node: The node.
        state: How it ended; None: it failed, or was asked to stop.
        error: Why it failed.
        cut_off: Asked to stop, it could not keep all.
    """

    node: Node
    state: NodeState | None = None
    error: Exception | None = None
    cut_off: CutOff | None = None


class Worker:
    """A process that runs one node after another; it starts with its first.

    Args:
        number: Among its like, from 0: which GPU it takes.
        jobs: How many there are.
        spec: The study's file.
        store_url: Where artifacts are.

    Attributes:
        node: What it runs now.
    """

    def __init__(self, number: int, jobs: int, spec: Path, store_url: str) -> None:
        self.node: Node | None = None
        self._number = number
        self._args = (spec, store_url, number, jobs)
        self._child: Child | None = None
        self._stopped = False

    @property
    def child(self) -> Child:
        """Its process.

        Raises:
            RuntimeError: It has none yet.
        """
        if self._child is None:
            raise RuntimeError("a worker without a node has no process")
        return self._child

    def give(self, node: Node, answers_expected: bool) -> None:
        """Have it run a node."""
        if self._child is None:
            name = f"process {self._number + 1}"
            self._child = Child(_work, self._args, name, may_start_others=True)
        self.node = node
        self._child.send(node, answers_expected)

    def listen(self, board: Board) -> Ended | None:
        """Show what it said of its node; how that ended, if it has."""
        node = self.node
        assert node is not None
        try:
            message = self.child.receive(0)
        except ChildGoneError as error:
            self._child = self.node = None
            if interrupt.asked():  # a signal may reach all processes of a group
                return Ended(node)
            return Ended(node, error=error)
        except Exception as error:
            self._end(0)
            return Ended(node, error=error)
        match message:
            case (Started(),):
                board.stage(node)
            case (PhaseStarted(_, what, total),):
                board.phase(node, what, total)
            case (Advanced(_, count, note, loss),):
                board.advance(node, count, note, loss)
            case (Step(_, measured),):
                board.measure(node, measured)
            case (Said(_, text),):
                board.tell(node, text)
            case (Ended() as ended,):
                self.node = None
                return ended
        return None

    def stop(self) -> None:
        """Ask it to stop, once."""
        if self._child is not None and not self._stopped:
            self._stopped = True
            self._child.send(None, False)

    def close(self) -> None:
        """It leaves by itself, or is made to."""
        self._end(_PATIENCE)

    def _end(self, patience: float) -> None:
        child, self._child, self.node = self._child, None, None
        if child is not None:
            child.end(patience)


# --- in the process ------------------------------------------------------------------------------


class _RemoteProgress(StageProgress):
    """Sends progress to the parent process."""

    def __init__(self, node: Node, pipe: Connection) -> None:
        self._node = node
        self._pipe = pipe

    def start(self, what: str, total: int) -> None:
        self._pipe.send((PhaseStarted(self._node, what, total),))

    def advance(self, count: int = 1, note: str = "", loss: float | None = None) -> None:
        self._pipe.send((Advanced(self._node, count, note, loss),))

    def measure(self, measured: Measured) -> None:
        self._pipe.send((Step(self._node, measured),))

    def say(self, text: str) -> None:
        self._pipe.send((Said(self._node, text),))


def _work(pipe: Connection, spec: Path, store_url: str, number: int, jobs: int) -> None:
    """A worker's whole life: the study's nodes that it is given."""
    with telling(pipe, signal.SIG_DFL):
        take_signals()
        logs.setup()
        given = _listen(pipe)
        beside = _choose_gpu(number, jobs)
        # On a CPU every process keeps all threads: fewer would round sums differently, and `--jobs`
        # must not change a result.
        study = load_study(spec)
        with open_store(store_url) as store:
            work, runtime = prepare(study, store), Runtime(study, processes=beside)
            try:
                while (task := given.get()) is not None:
                    pipe.send((_ended(pipe, work, runtime, *task),))
            finally:
                runtime.close()


def _choose_gpu(number: int, jobs: int) -> int:
    """See one GPU alone, where there are several; how many processes share it."""
    import torch

    devices = max(torch.cuda.device_count(), 1)
    if devices > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % devices)
    return -(-jobs // devices)


def _ended(
    pipe: Connection, work: Work, runtime: Runtime, node: Node, answers_expected: bool
) -> Ended:
    def start() -> StageProgress:
        runtime.expect_answers(answers_expected)
        pipe.send((Started(node),))
        return _RemoteProgress(node, pipe)

    try:
        interrupt.check()
        return Ended(node, run_node(work, node, runtime, start).state)
    except CutOff as error:
        return Ended(node, cut_off=CutOff(str(error)))  # without what it came of
    except Interrupted:
        return Ended(node)
    except BrokenPipeError:
        raise
    except Exception as error:
        return Ended(node, error=_portable(error))


def _listen(pipe: Connection) -> queue.SimpleQueue[Any]:
    """What the worker is given to do, None at the end; a request to stop is heard at any time."""
    given: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                node, answers_expected = pipe.recv()
                if node is None:
                    interrupt.ask()
                    return given.put(None)
                given.put((node, answers_expected))
        except (EOFError, OSError):  # the parent wants nothing more
            interrupt.ask()
            given.put(None)

    threading.Thread(target=listen, daemon=True, name="orders").start()
    return given


def _portable(error: Exception) -> Exception:
    """An error that another process can read, of the kinds that matter there."""
    for kind in (UnavailableError, UserError):
        if isinstance(error, kind):
            return kind(str(error))
    plain = type(error) in (ValueError, TypeError, RuntimeError, MemoryError)
    return type(error)(str(error)) if plain else RuntimeError(one_line(error))
