"""Stopping politely: SIGTERM and SIGINT set a flag that long loops look at."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from personaspace.errors import Interrupted


class EventLike(Protocol):
    """An event of threading or multiprocessing."""

    def wait(self) -> bool:
        """Returns once it is set."""
        ...


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_asked = threading.Event()


def install() -> None:
    """Catch SIGTERM and SIGINT. A second signal ends the process at once."""

    def handle(number: int, _: FrameType | None) -> None:
        if _asked.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        _asked.set()

    for number in _SIGNALS:
        signal.signal(number, handle)


@contextmanager
def caught() -> Iterator[None]:
    """Catch SIGTERM and SIGINT for a while; then all is as before, and another run may begin.

    Only a process's main thread can catch signals: in others nothing changes.

    Raises:
        Interrupted: Asked to stop meanwhile, though nobody looked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    install()
    try:
        yield
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        reset()


def follow(other: EventLike) -> None:
    """Be asked to stop as soon as an event is set: another process's, say."""

    def wait() -> None:
        other.wait()
        _asked.set()

    threading.Thread(target=wait, daemon=True, name="stop").start()


def asked() -> bool:
    """Whether the process was asked to stop."""
    return _asked.is_set()


def check() -> None:
    """Raise Interrupted if the process was asked to stop."""
    if _asked.is_set():
        raise Interrupted("asked to stop")


def pause(seconds: float) -> None:
    """Sleep. Raises Interrupted as soon as the process is asked to stop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        check()
        # Not the event's own wait: a signal's handler that sets it could meet its lock held.
        time.sleep(0.2)


def reset() -> None:
    """Forget that the process was asked to stop (a new run in the same process)."""
    _asked.clear()
