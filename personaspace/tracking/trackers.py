"""Telling several trackers of one stage, so that none of them can stop it."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from personaspace import interrupt
from personaspace.errors import one_line
from personaspace.extras import missing

#: Seconds that a stage waits at its end for trackers that have not written everything: less for
#: one that was waited for in vain before, and where the stage was asked to stop.
PATIENCE = 60.0
PATIENCE_AT_STOP = 5.0
#: Where trackers without a server write.
FOLDER, DEFAULT_FOLDER = "PERSONASPACE_TRACKING", "personaspace-tracking"


@dataclass(frozen=True)
class Run:
    """One stage of one condition and seed, as trackers know it.

    Attributes:
        study: The group that its runs form.
        name: `train:e4-villain:42`.
        stage: Its stage.
        config: What it is made from, plain values.
    """

    study: str
    name: str
    stage: str
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of PERSONASPACE_TRACKING, or `personaspace-tracking` here."""
        return Path(os.environ.get(FOLDER) or DEFAULT_FOLDER).absolute()


class NotKept(Exception):
    """What a tracker tells itself of what it was told and has not, in words to be shown."""


class Tracker(Protocol):
    """What one tracker does with a run. Anything may raise."""

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Numbers; those of training have a step."""

    def keep(self, path: Path) -> None:
        """A file of the run's result."""

    def end(self, failed: bool) -> None:
        """The run is over."""


_Say = Callable[[str], None]
_Telling = Callable[[Tracker], None]

#: Trackers that did not answer in this process, whose next answer is not waited for as long.
_silent: set[str] = set()


class _Thread:
    """One tracker in a thread of its own; what is told waits in a queue."""

    def __init__(self, name: str, begin: Callable[[Run], Tracker], run: Run, say: _Say) -> None:
        self.name, self._begin, self._run, self._say = name, begin, run, say
        self._todo: queue.SimpleQueue[tuple[str, _Telling] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._broken = False
        self._missing = "nothing of this stage is there"
        self._thread.start()

    def tell(self, what: str, telling: _Telling) -> None:
        """Put something into the queue; `what` it is, for the line that says it is not there."""
        if not self._broken:
            self._todo.put((what, telling))

    def end(self, failed: bool) -> None:
        self.tell("the run's end is not there", lambda tracker: tracker.end(failed))
        self._todo.put(None)

    def join(self, until: float, silent_until: float) -> None:
        """Wait for what is not written yet, until one of two times (`time.monotonic`)."""
        last = min(until, silent_until) if self.name in _silent else until
        self._thread.join(max(0.0, last - time.monotonic()))
        if not self._thread.is_alive():
            _silent.discard(self.name)
        elif not self._broken:
            self._broken = True
            _silent.add(self.name)
            self._say(f"{self.name}: does not answer; unless it does later, {self._missing}")

    def _work(self) -> None:
        try:
            tracker = self._begin(self._run)
            while (next_one := self._todo.get()) is not None:
                self._missing, telling = next_one
                telling(tracker)
                _silent.discard(self.name)  # it answers
        except BaseException as error:  # what trackers raise is of every kind; none ends a stage
            if not self._broken:
                self._broken = True
                self._say(f"{self.name}: {self._told_of(error)}")

    def _told_of(self, error: BaseException) -> str:
        if isinstance(error, NotKept):
            return str(error)
        why = missing(error) if isinstance(error, ModuleNotFoundError) else error
        return f"is left out, {self._missing}: {one_line(why)}"


class Tracking:
    """The trackers of one run; without any it does nothing."""

    def __init__(self, threads: Sequence[_Thread] = ()) -> None:
        self._threads = threads

    def log(self, values: Mapping[str, float | None], step: int | None = None) -> None:
        """Numbers of the stage; what is none is left out.

        Args:
            values: By name.
            step: Of training, from 1; None: of the whole stage.
        """
        known = {
            name: float(value)
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        what = "the stage's numbers" if step is None else f"step {step}"
        for thread in self._threads:
            thread.tell(_and_later(what), lambda tracker: tracker.log(known, step))

    def keep(self, path: Path) -> None:
        """A file of the result, which must stay until the run is over."""
        for thread in self._threads:
            thread.tell(_and_later(path.name), lambda tracker: tracker.keep(path))


def _and_later(what: str) -> str:
    return f"{what} and what follows is not there"


@contextmanager
def tracked(
    backends: Mapping[str, Callable[[Run], Tracker]], run: Run, say: _Say
) -> Iterator[Tracking]:
    """Tell these trackers of a run.

    Args:
        backends: What begins a run there, by the tracker's name.
        run: The run.
        say: Told of a tracker that fails, once.
    """
    threads = [_Thread(name, begin, run, say) for name, begin in backends.items()]
    failed = True
    try:
        yield Tracking(threads)
        failed = False
    finally:
        # Who is asked to stop has little time; some may be over, waiting for the store.
        now = time.monotonic()
        silent_until = min(now + PATIENCE_AT_STOP, max(now + 1, interrupt.until()))
        until = silent_until if failed else now + PATIENCE
        for thread in threads:
            thread.end(failed)
        for thread in threads:
            thread.join(until, silent_until)
