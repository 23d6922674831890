"""Patches on their way: the urgent first, none again while its effect is still to be seen."""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace.cluster.api import message_of
from personaspace.cluster.conductor.news import Inbox, Patched

#: So many are under way at once.
CONNECTIONS = 32
#: Of them at most so many for what needs nothing (`Urgency.BEGINS`). A study begins with thousands
#: of those: over all connections they would take the API server's time, and this process's, from
#: the watches and from what follows on work that is done.
CONNECTIONS_TO_BEGIN = 4
#: A patch that was taken is sent again if the object still is as before after so many seconds.
AGAIN_SECONDS = 5.0
#: And one that was not, after so many.
RETRY_SECONDS = 1.0


class Urgency(IntEnum):
    """Which patches go first.

    What follows on work that is done goes before what needs nothing: of the latter there are
    thousands when a study begins, and they would keep the rest waiting.
    """

    ENDS = 0
    FOLLOWS = 1
    BEGINS = 2
    STOP = 3


@dataclass(order=True, slots=True)
class _Patch:
    rank: tuple[int, int, int]
    key: str = field(compare=False)
    action: Callable[..., object] | None = field(compare=False)
    arguments: tuple[Any, ...] = field(compare=False, default=())


_Line = queue.PriorityQueue[_Patch]


class Patches:
    """Sends patches from threads of its own, and tells of each as `Patched`.

    All but the sending is for one thread, the loop's.

    Args:
        inbox: Where answers go.
        connections: Patches under way at once.
        to_begin: Of them at most for what needs nothing.

    Attributes:
        count: How many were sent.
    """

    def __init__(
        self,
        inbox: Inbox,
        connections: int = CONNECTIONS,
        to_begin: int = CONNECTIONS_TO_BEGIN,
    ) -> None:
        self.inbox, self.count = inbox, 0
        #: What needs nothing stands in a line of its own, with threads of its own.
        self._urgent: _Line = queue.PriorityQueue()
        self._begins: _Line = queue.PriorityQueue()
        self._number = itertools.count()
        #: When each may be sent (again), and when it was taken.
        self._free: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        self._lines = [self._begins] * to_begin + [self._urgent] * (connections - to_begin)
        for number, line in enumerate(self._lines):
            name = f"patch-{number}"
            threading.Thread(target=self._work, args=(line,), name=name, daemon=True).start()

    def send(
        self, key: str, urgency: Urgency, depth: int, action: Callable[..., object], *arguments: Any
    ) -> None:
        """Send a patch, unless it is under way or its effect is still to be seen.

        Args:
            key: The object's name.
            urgency: What it is.
            depth: How far along the study it is: of one urgency the deepest goes first.
            action: Sends it.
            arguments: What `action` takes.
        """
        if time.monotonic() < self._free.get(key, 0.0):
            return
        self._free[key] = math.inf
        self.count += 1
        line = self._begins if urgency is Urgency.BEGINS else self._urgent
        line.put(_Patch((urgency, -depth, next(self._number)), key, action, arguments))

    def answered(self, key: str, failed: bool) -> None:
        """A patch was answered."""
        if failed:
            self._free[key] = time.monotonic() + RETRY_SECONDS
        else:
            self._taken[key] = time.monotonic()

    def seen(self, key: str) -> None:
        """The object is as the API tells now; a patch that has come to nothing may be sent again.

        Where a watch lags, news are older than the patch: those of its first seconds say nothing.
        """
        if time.monotonic() - self._taken.get(key, math.inf) >= AGAIN_SECONDS:
            self.forget(key)

    def forget(self, key: str) -> None:
        """The object is gone."""
        if self._taken.pop(key, None) is not None:
            self._free.pop(key, None)

    def close(self) -> None:
        """Send nothing any more; what is under way may end."""
        for line in (self._urgent, self._begins):
            with suppress(queue.Empty):
                while True:
                    line.get_nowait()
        for line in self._lines:
            line.put(_Patch((Urgency.STOP, 0, next(self._number)), "", None))

    def _work(self, line: _Line) -> None:
        while True:
            patch = line.get()
            if patch.action is None:
                return
            fault = ""
            try:
                patch.action(*patch.arguments)
            except Exception as error:  # whatever it is, it is tried again and told
                text = message_of(error) if isinstance(error, ApiException) else str(error)
                fault = text.splitlines()[0] if text else type(error).__name__
            self.inbox.put(Patched(patch.key, fault))
