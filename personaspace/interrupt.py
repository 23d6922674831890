"""Stopping politely: SIGTERM and SIGINT set a flag that long loops look at."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from personaspace.errors import Interrupted

_asked = threading.Event()


def install() -> None:
    """Catch SIGTERM and SIGINT. A second signal ends the process at once."""

    def handle(number: int, _: FrameType | None) -> None:
        if _asked.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        _asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def asked() -> bool:
    """Whether the process was asked to stop."""
    return _asked.is_set()


def check() -> None:
    """Raise Interrupted if the process was asked to stop."""
    if _asked.is_set():
        raise Interrupted("asked to stop")


def reset() -> None:
    """Forget that the process was asked to stop (a new run in the same process)."""
    _asked.clear()
