"""Logs of jobs, kept beside their artifacts: pods go, and their logs with them."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from personaspace.errors import Interrupted, UserError, one_line, without_passwords
from personaspace.logs import RunEvent, tell
from personaspace.pipeline.node import Node
from personaspace.store import Store

if TYPE_CHECKING:
    from personaspace.pipeline.work import Work  # the models' libraries come with it

#: Below an artifact's key; below it one artifact for each job that worked on it.
LOGS = "logs"
#: The file in it: lines as the job wrote them.
FILE = "log.txt"
#: Characters kept of a log's beginning and of its end.
HEAD, TAIL = 2**18, 2**20


class Recorded:
    """A stream that also remembers what is written to it; the middle of very much is left out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._room, self._held, self._lost = HEAD, 0, 0

    def write(self, text: str) -> int:
        """Write it, and remember it."""
        with self._lock:
            if len(text) <= self._room:
                self._head.append(text)
                self._room -= len(text)
            else:
                self._room = 0
                self._tail.append(text[-TAIL:])
                self._lost += max(0, len(text) - TAIL)
                self._held += len(self._tail[-1])
                while self._held > TAIL:
                    gone = len(self._tail.popleft())
                    self._held -= gone
                    self._lost += gone
        return self._stream.write(text)

    def text(self) -> str:
        """What was written."""
        with self._lock:
            middle = f"\n… {self._lost} characters left out …\n" if self._lost else ""
            return "".join(self._head) + middle + "".join(self._tail)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def recorded() -> Iterator[Recorded]:
    """Remember what this process writes to stderr; what libraries write past Python is not seen."""
    before = sys.stderr
    tee = Recorded(before)
    sys.stderr = tee
    try:
        yield tee
    finally:
        sys.stderr = before


def traces(errors: Iterable[Exception]) -> str:
    """Tracebacks of errors that are not the user's, which are printed when the process ends."""
    found = [error for error in errors if not isinstance(error, UserError)]
    return without_passwords("".join("".join(traceback.format_exception(e)) for e in found))


def keep(work: Work, nodes: Sequence[Node], text: str) -> None:
    """Keep a log with each node's artifact, complete or not. That it fails stops nothing."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"
    host = socket.gethostname()
    for node in nodes:
        try:
            with work.store.writer(f"{work.key(node)}/{LOGS}/{name}") as writer:
                content = text.encode("utf-8", "backslashreplace")
                (writer.folder / FILE).write_bytes(content)
                writer.commit({"log_of": node.id, "host": host, "process": os.getpid()})
        except (UserError, Interrupted, OSError) as error:
            tell(f"{node.id}: its log was not kept: {one_line(error)}", RunEvent.TROUBLE)
            return


def kept(store: Store, key: str) -> Iterator[str]:
    """Logs of the jobs that worked on an artifact, the first one first."""
    for found in store.list(f"{key}/{LOGS}"):
        yield (store.fetch(found, [FILE]) / FILE).read_text(encoding="utf-8")
