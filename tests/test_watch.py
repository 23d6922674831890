"""Following the API through what a server does: answers, breaks off, forbids, forgets."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import urllib3
from kubernetes.client.exceptions import ApiException

from personaspace.cluster.conductor.news import Listed, WatchRefused, WatchTrouble
from personaspace.cluster.conductor.watch import REFUSED_SECONDS, Watcher

WATCH = Watcher.__module__


class Watched:
    """What a watch answers: lines, then an end of some kind."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self.events = events

    def stream(self, **_: Any) -> Iterator[bytes]:
        for event in self.events:
            yield json.dumps(event).encode() + b"\n"

    def close(self) -> None: ...
    def release_conn(self) -> None: ...


class Script(Exception):
    """The script is over."""


class Server:
    """A namespace whose list and watch calls go by a script; an exception is raised."""

    namespace = "lab"

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.done: list[str] = []

    def _next(self, what: str) -> Any:
        if not self.script:
            raise Script
        self.done.append(what)
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def page(self, kind: str, **_: Any) -> Any:
        return self._next("list")

    def lister(self, kind: str) -> Any:
        return lambda namespace, **options: self._next(f"watch {options['resource_version']}")


LIST = {"metadata": {"resourceVersion": "1"}, "items": []}
AWAY = urllib3.exceptions.ProtocolError("away")


def event(version: str) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}


def follow(monkeypatch: pytest.MonkeyPatch, *script: Any) -> tuple[Server, list[Any], list[float]]:
    """Runs a watcher to the end of a script; what it asked, what it told, how long it paused."""
    pauses: list[float] = []
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(f"{WATCH}.time.sleep", sleep)
    monkeypatch.setattr(f"{WATCH}.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(f"{WATCH}.random.uniform", lambda low, high: high)
    out: queue.Queue[Any] = queue.Queue()
    server = Server(*script)
    watcher = Watcher(server, "jobs", "a=b", lambda raw: raw, out)  # type: ignore[arg-type]
    with suppress(Script):
        watcher._follow()
    return server, list(out.queue), pauses


def test_it_goes_on_from_where_a_watch_broke_off(monkeypatch: pytest.MonkeyPatch) -> None:
    server, told, _ = follow(monkeypatch, LIST, Watched(event("7")), AWAY, Watched(event("9")))
    assert server.done == ["list", "watch 1", "watch 7", "watch 7"]
    assert [type(news) for news in told] == [Listed, WatchTrouble]


def test_a_server_that_is_away_is_asked_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, pauses = follow(monkeypatch, LIST, *[AWAY] * 9, Watched(event("2")), AWAY)
    assert pauses[:9] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert pauses[9] == 0.5, "an answer begins anew"


def test_watches_that_end_at_once_do_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, pauses = follow(monkeypatch, LIST, *[Watched()] * 4)
    assert pauses == [0.5, 1, 2, 4]


@pytest.mark.parametrize(
    "broken",
    [
        ApiException(status=410),
        ApiException(status=504, reason="Too large resource version"),
        Watched({"type": "ERROR", "object": {"code": 410}}),
        Watched({"type": "ERROR", "object": {"code": 500, "message": "etcd"}}),
    ],
)
def test_a_version_that_the_server_does_not_take_is_read_anew(
    broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _, _ = follow(monkeypatch, LIST, broken, LIST)
    assert server.done == ["list", "watch 1", "list"]


@pytest.mark.slow
def test_a_server_that_starts_may_forbid_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = ApiException(status=403, reason="no")
    _, told, _ = follow(monkeypatch, LIST, denied, denied, denied, LIST, Watched(event("2")))
    assert not any(isinstance(news, WatchRefused) for news in told)
    for script in ([denied] * 20, [LIST, denied] * 20):
        _, told, pauses = follow(monkeypatch, *script)
        assert isinstance(told[-1], WatchRefused) and sum(pauses) > REFUSED_SECONDS
