"""Stopping politely: SIGTERM and SIGINT set a flag that long loops look at.

A process has three ways to take a signal, one after the other:

- `begin`: it ends at once, with the code of a stop. From its first instruction on, while it imports
  libraries and has nothing to lose.
- `release`: it is broken off as by Ctrl-C, and tidies up, for `TIDY_SECONDS` at most: a server may
  keep requests waiting for minutes, and threads that wait for it. Commands that keep no state.
- `install`: the flag is set. Whatever keeps state looks at it with `check`; what keeps none, and
  looks at nothing for longer than a pod's last seconds, runs inside `breakable`.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from personaspace.errors import ASKED, EXIT_INTERRUPTED, GO_ON, Interrupted

#: Some senders (`timeout`, a terminal and a manager) ask a process and its group: the same request.
SAME_REQUEST_SECONDS = 2.0
#: How long a command that was broken off may tidy up.
TIDY_SECONDS = 1.5
_LOOK_SECONDS = 0.25
#: How a process is asked to stop.
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_asked = threading.Event()
_first: float | None = None
_said = False
_breakable = False
_begun = False


def begin() -> None:
    """End at once on SIGTERM or SIGINT, with the code of a stop: for a process that has begun."""
    global _begun
    _begun = True
    _take(_leave)


def release() -> None:
    """Be broken off by a signal (KeyboardInterrupt). Does nothing in a process without `begin`."""
    if _begun:
        _take(_break_off)
        # Threads are waited for before; what comes after takes no signals any more.
        atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)


def said() -> None:
    """What there is to say of the request has been said: nothing more is, however it ends."""
    global _said
    _said = True


def install() -> None:
    """Catch SIGTERM and SIGINT. A second signal, seconds later, ends the process at once."""
    _take(_ask)


@contextmanager
def caught() -> Iterator[None]:
    """Catch SIGTERM and SIGINT for a while; then all is as before, and another run may begin.

    Only a process's main thread can catch signals: in others, and where they are caught already,
    nothing changes.

    Raises:
        Interrupted: Asked to stop meanwhile, though nobody looked.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    main = threading.current_thread() is threading.main_thread()
    if not main or all(handler is _ask for handler in before.values()):
        yield
        check()
        return
    install()
    try:
        yield
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        reset()


def ask() -> None:
    """Be asked to stop, as by a signal; of any thread."""
    _asked.set()
    if _breakable:
        os.kill(os.getpid(), signal.SIGTERM)


def asked() -> bool:
    """Whether the process was asked to stop."""
    return _asked.is_set()


def check() -> None:
    """Raise Interrupted if the process was asked to stop."""
    if _asked.is_set():
        raise Interrupted(ASKED)


@contextmanager
def breakable() -> Iterator[None]:
    """A long stretch that keeps nothing if it is stopped: a signal breaks it off where it is.

    In a process that did not `install`, and in other threads than the first, nothing changes.

    Raises:
        Interrupted: Asked to stop, now or before.
    """
    global _breakable
    check()
    mine = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is _ask
    )
    former = _breakable
    try:
        _breakable = mine
        yield
    except KeyboardInterrupt:
        if not _asked.is_set():
            raise
        raise Interrupted(ASKED) from None
    finally:
        _breakable = former
    check()


def pause(seconds: float) -> None:
    """Sleep. Raises Interrupted as soon as the process is asked to stop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        check()
        # Not the event's own wait: a signal's handler that sets it could meet its lock held.
        time.sleep(0.2)


def reset() -> None:
    """Forget that the process was asked to stop (a new run in the same process)."""
    global _first, _said
    _asked.clear()
    _first, _said = None, False


def _take(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def _leave(_: int, __: FrameType | None) -> None:
    # The interpreter may be in the middle of an import: nothing of it is used any more.
    if not _said:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{ASKED}; {GO_ON}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def _break_off(_: int, __: FrameType | None) -> None:
    global _first
    _asked.set()
    if _first is None:
        _first = time.monotonic()
        signal.signal(signal.SIGALRM, _hurry)
        signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
    raise KeyboardInterrupt


def _hurry(number: int, frame: FrameType | None) -> None:
    """Break off what waits for threads, which do not end while a server keeps them waiting."""
    if _first is not None and time.monotonic() - _first > TIDY_SECONDS:
        _leave(number, frame)
    if not _said and frame is not None and frame.f_code.co_filename == threading.__file__:
        raise KeyboardInterrupt


def _ask(number: int, _: FrameType | None) -> None:
    global _first
    now = time.monotonic()
    if _first is None:
        _first = now
    elif now - _first > SAME_REQUEST_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    _asked.set()
    if _breakable:
        raise KeyboardInterrupt
