"""Stopping politely: SIGTERM and SIGINT set a flag that long loops look at.

A process has three ways to take a signal, one after the other:

- `begin`: it ends at once, with the code of a stop. From its first instruction on, while it imports
  libraries and has nothing to lose.
- `release`: it is broken off as by Ctrl-C, and tidies up, for `TIDY_SECONDS` at most: a server may
  keep requests waiting for minutes, and threads that wait for it. Commands that keep no state.
- `install`: the flag is set. Whatever keeps state looks at it with `check`; what keeps none, and
  looks at nothing for longer than a pod's last seconds, runs inside `breakable`; what waits for a
  server does so by `answered`, which gives it up in time.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from personaspace.errors import ASKED, EXIT_INTERRUPTED, GO_ON, CutOff, Interrupted

#: Some senders (`timeout`, a terminal and a manager) ask a process and its group: the same request.
SAME_REQUEST_SECONDS = 2.0
#: How long a command that was broken off may tidy up.
TIDY_SECONDS = 1.5
#: Seconds from a request to stop to the kill: what Kubernetes gives a pod unless told otherwise.
GRACE_SECONDS = 30.0
#: Of these a third, but no more than so many, is left for what goes before and after the waiting
#: for servers: the step or the batch that is under way, trackers, and the way out.
_REST_SECONDS = 10.0
_LOOK_SECONDS = 0.25
#: How a process is asked to stop.
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_asked = threading.Event()
#: When a signal came first; when the first request of any kind.
_first: float | None = None
_since: float | None = None
_grace = GRACE_SECONDS
_said = False
_breakable = False
_begun = False
_T = TypeVar("_T")
#: What waits for threads.
_WAITING = {
    getattr(owner, name).__code__
    for owner, name in (
        (threading.Condition, "wait"),
        (threading.Thread, "join"),
        (threading.Thread, "_wait_for_tstate_lock"),
    )
    if hasattr(owner, name)  # the last one is not in each version of Python
}


def begin() -> None:
    """End at once on SIGTERM or SIGINT, with the code of a stop: for a process that has begun."""
    global _begun
    _begun = True
    _take(_leave)


def release() -> None:
    """Be broken off by a signal (KeyboardInterrupt). Does nothing in a process without `begin`."""
    if _begun:
        _take(_break_off)
        _no_alarm_at_exit()


def said() -> None:
    """What there is to say of the request has been said: nothing more is, however it ends."""
    global _said
    _said = True


def install(grace: float = GRACE_SECONDS) -> None:
    """Catch SIGTERM and SIGINT. A second signal, seconds later, ends the process at once.

    Args:
        grace: Seconds until the process is killed after the first.
    """
    global _grace
    _grace = grace
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
    if not _in_main_thread() or all(handler is _ask for handler in before.values()):
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
    global _since
    if _since is None:
        _since = time.monotonic()
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
    mine = _in_main_thread() and _flagged()
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
        if mine and _asked.is_set():
            signal.setitimer(signal.ITIMER_REAL, 0)
    check()


def until() -> float:
    """When to give up what is still waited for (`time.monotonic`); infinite: nobody asked."""
    if _since is None:
        return math.inf
    return _since + _grace - min(_REST_SECONDS, _grace / 3)


def answered(call: Callable[[], _T], who: str, *, keeps: bool = True) -> _T:
    """What `call` returns, which waits for a server: no longer than a stop allows.

    In a process whose flag is set by signals it runs in a thread of its own, which is left alone
    when it is given up, and ends with the process. It must not do harm if it succeeds later.

    Args:
        call: May be given up at any moment.
        who: Who is waited for: "bucket study at http://…".
        keeps: Whether something may be lost without the answer. If not, a request to stop is
            obeyed at once.

    Raises:
        CutOff: Asked to stop, and the time for that is over.
        Interrupted: Asked to stop, and nothing is lost.
    """
    if not _flagged():
        return call()
    _check_wait(who, keeps)
    results: list[_T] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=work, name=f"waiting for {who}", daemon=True).start()
    while not ended.wait(_LOOK_SECONDS):
        _check_wait(who, keeps)
    if errors:
        raise errors[0]
    return results[0]


def gave_up(who: str) -> CutOff:
    """What is raised where a server was waited for until the time was over."""
    return CutOff(f"{ASKED}, but {who} does not answer, so nothing more was saved")


def _check_wait(who: str, keeps: bool) -> None:
    if not keeps:
        check()
    if time.monotonic() > until():
        raise gave_up(who)


def leave_soon(code: int) -> None:
    """End the process within `TIDY_SECONDS`, though threads of libraries wait for a server.

    All is said and tidied up. Does nothing in a process without `begin`.
    """
    if not _begun:
        return

    def leave(_: int, __: FrameType | None) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    _no_alarm_at_exit()
    signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, TIDY_SECONDS)


def pause(seconds: float) -> None:
    """Sleep. Raises Interrupted as soon as the process is asked to stop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        check()
        # Not the event's own wait: a signal's handler that sets it could meet its lock held.
        time.sleep(0.2)


def reset() -> None:
    """Forget that the process was asked to stop (a new run in the same process)."""
    global _first, _since, _said
    _asked.clear()
    _first, _since, _said = None, None, False


def _flagged() -> bool:
    """Whether signals set the flag in this process."""
    return signal.getsignal(signal.SIGTERM) is _ask


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _no_alarm_at_exit() -> None:
    # Threads are waited for before; what comes after takes no signals any more.
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)


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
    global _first, _since
    now = time.monotonic()
    if _first is None:
        _first = now
        _since = _since or now
    elif now - _first > SAME_REQUEST_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    _asked.set()
    if _breakable:
        # Again and again: on its way out it may come to threads that a server keeps waiting.
        signal.signal(signal.SIGALRM, _break_waiting)
        signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
        raise KeyboardInterrupt


def _break_waiting(_: int, frame: FrameType | None) -> None:
    if _breakable and frame is not None and frame.f_code in _WAITING:
        raise KeyboardInterrupt
