"""A process of our own and what it says over a pipe: results, mistakes, failures, its death.

The child runs `telling`, so that whatever ends it is told; the parent holds a `Child`, where what
was told is raised again. Messages are tuples whose first entry says what they are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_pipes
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from personaspace.errors import UserError
from personaspace.interrupt import SIGNALS

#: How a child begins: as a process of its own, in which nothing of its parent's is half done.
START: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
#: Seconds between looks at whether a child has said something.
LOOK = 0.2
#: Seconds between looks at whether a parent that multiprocessing does not know is there.
_PARENT = 0.5
#: Seconds in which a child whose pipe has broken is gone.
_DYING = 10.0


class _Said(StrEnum):
    """What a child says that its parent raises."""

    MISTAKE = "mistake"
    FAILURE = "failure"


class ChildGoneError(RuntimeError):
    """A child has ended and has not said why.

    Attributes:
        exit_code: Its exit code; negative: the signal that killed it. None: its pipe broke, and it
            has not ended.
    """

    def __init__(self, name: str, exit_code: int | None) -> None:
        super().__init__(
            f"{name} ended with exit code {exit_code} (its log says why; negative: killed by that "
            "signal, 9 mostly for want of memory)"
        )
        self.exit_code = exit_code


class Child:
    """A process, started at once, and our end of its pipe. It ends with us.

    Args:
        target: Its whole life, at a module's top level; called with its end of the pipe and `args`.
        args: Copied into it.
        name: For messages, as in "process 2 of the training".
        may_start_others: Whether it has children of its own.
    """

    def __init__(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        name: str,
        *,
        may_start_others: bool = False,
    ) -> None:
        self.name = name
        self._pipe, childs_end = START.Pipe()
        self.process = START.Process(
            target=target, args=(childs_end, *args), name=name, daemon=not may_start_others
        )
        with starting():
            self.process.start()
        childs_end.close()

    @property
    def has_said(self) -> bool:
        """Whether `receive` has something to give or to raise at once."""
        try:
            return self._pipe.poll(0)
        except OSError:
            return True

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self.process.is_alive()

    def send(self, *message: Any) -> None:
        """Say something. One that is gone may have said why: `receive` raises that."""
        with suppress(OSError):
            self._pipe.send(message)

    def receive(self, seconds: float) -> tuple[Any, ...] | None:
        """What it says within so many seconds; None: nothing.

        Raises:
            UserError: It told of a mistake of the user's.
            ChildGoneError: It ended, and did not say why.
            RuntimeError: It failed.
        """
        try:
            if not self._pipe.poll(seconds):
                return None
            message: tuple[Any, ...] = self._pipe.recv()
        except (EOFError, OSError):
            self.process.join(_DYING)
            raise ChildGoneError(self.name, self.process.exitcode) from None
        if message[0] == _Said.MISTAKE:
            raise UserError(message[1])
        if message[0] == _Said.FAILURE:
            raise RuntimeError(f"{self.name}: {message[1]}")
        return message

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def end(self, patience: float) -> None:
        """It leaves by itself within so many seconds, or is made to. It is not used again."""
        self._pipe.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def those_that_said(children: Iterable[Child], seconds: float) -> list[Child]:
    """Those whose `receive` has something; waits for one, but no longer than so many seconds."""
    pipes = {child._pipe: child for child in children}
    return [pipes[pipe] for pipe in wait_for_pipes(list(pipes), seconds)]  # type: ignore[index]


@contextmanager
def starting() -> Iterator[None]:
    """Processes that are started here have signals wait until they say what these do.

    Ctrl-C, which reaches all processes of a terminal, would else end one in its first imports, with
    a traceback. Ours wait as long.
    """
    resource_tracker.ensure_running()  # as it is started, it lets signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent_id: int | None = None) -> None:
    """Whatever this process is doing, it does not go on when its parent was killed.

    Args:
        parent_id: The parent's, where multiprocessing did not start this process (but loky, say)
            and so cannot wait for it.
    """
    parent = multiprocessing.parent_process() if parent_id is None else None
    if parent is None and parent_id is None:
        return

    def watch() -> None:
        if parent is not None:
            parent.join()
        while parent is None and os.getppid() == parent_id:
            time.sleep(_PARENT)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def work_for_parent(parent_id: int | None = None) -> None:
    """A pool's process: it ends with its parent (`end_with_parent`), which says when to stop."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    end_with_parent(parent_id)


@contextmanager
def telling(pipe: Connection, terminate: signal.Handlers) -> Iterator[None]:
    """A child's whole life: what ends it is told to the parent, and the process ends.

    Nothing of what the interpreter would tidy up is waited for: some libraries' threads never end.
    It ends at once where its parent is killed.

    Args:
        pipe: The child's end.
        terminate: What SIGTERM does. Ctrl-C, which reaches all processes of a terminal, does
            nothing: the parent says what is to happen.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    end_with_parent()
    code = 0
    try:
        yield
    except BrokenPipeError:
        pass  # the parent is gone, or wants nothing more
    except UserError as error:
        tell_mistake(pipe, error)
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        _tell(pipe, _Said.FAILURE, f"{type(error).__name__}: {text}")
        traceback.print_exc()
        code = 1
    finally:
        with suppress(Exception):
            # Its own children and semaphores: nobody else frees them.
            util._exit_function()  # type: ignore[attr-defined]
        sys.stderr.flush()
        os._exit(code)


def tell_mistake(pipe: Connection, error: UserError) -> None:
    """Have the parent raise it; the child may go on."""
    _tell(pipe, _Said.MISTAKE, str(error))


def _tell(pipe: Connection, *message: Any) -> None:
    with suppress(OSError):
        pipe.send(message)
