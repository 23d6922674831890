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

from personaspace.errors import one_line
from personaspace.extras import missing

#: Seconds that a stage waits at its end for trackers that have not written everything.
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


class Tracker(Protocol):
    """What one tracker does with a run. Anything may raise."""

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Numbers; those of training have a step."""

    def keep(self, path: Path) -> None:
        """A file of the run's result."""

    def end(self, failed: bool) -> None:
        """The run is over."""


_Say = Callable[[str], None]


class _Thread:
    """One tracker in a thread of its own; what is told waits in a queue."""

    def __init__(self, name: str, begin: Callable[[Run], Tracker], run: Run, say: _Say) -> None:
        self.name, self._begin, self._run, self._say = name, begin, run, say
        self._todo: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._broken = False
        self._thread.start()

    def tell(self, what: Callable[[Tracker], None]) -> None:
        if not self._broken:
            self._todo.put(what)

    def end(self, failed: bool) -> None:
        self.tell(lambda tracker: tracker.end(failed))
        self._todo.put(None)

    def join(self, until: float) -> None:
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive() and not self._broken:
            self._broken = True
            self._say(f"{self.name}: does not answer; what it was told last may be missing there")

    def _work(self) -> None:
        try:
            tracker = self._begin(self._run)
            while (what := self._todo.get()) is not None:
                what(tracker)
        except BaseException as error:  # what trackers raise is of every kind; none ends a stage
            if not self._broken:
                self._broken = True
                why = missing(error) if isinstance(error, ModuleNotFoundError) else error
                self._say(f"{self.name}: is left out: {one_line(why)}")


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
        for thread in self._threads:
            thread.tell(lambda tracker: tracker.log(known, step))

    def keep(self, path: Path) -> None:
        """A file of the result, which must stay until the run is over."""
        for thread in self._threads:
            thread.tell(lambda tracker: tracker.keep(path))


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
        # Who is asked to stop has little time.
        until = time.monotonic() + (PATIENCE_AT_STOP if failed else PATIENCE)
        for thread in threads:
            thread.end(failed)
        for thread in threads:
            thread.join(until)
