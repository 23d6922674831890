"""Following objects of the API: list once, then watch; list again when the server has forgotten."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from kubernetes.client.exceptions import ApiException
from kubernetes.watch.watch import iter_resp_lines

from personaspace.cluster.api import CONNECTION_ERRORS, Cluster, message_of
from personaspace.cluster.conductor.news import (
    Changed,
    Deleted,
    Inbox,
    Listed,
    WatchRefused,
    WatchTrouble,
)

#: A watch ends after so long and goes on from where it was; bounds how long a dead one is believed.
WATCH_SECONDS = 240
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
#: Objects of one answer of a list: a hundred pods are a megabyte of JSON, and ten of Python's.
PAGE = 100
#: An API server that has just started forbids what it will allow once it has read its roles.
REFUSED_SECONDS = 60.0
GONE = 410


class ExpiredError(Exception):
    """The server does not remember the resource version any more."""


class Watcher(threading.Thread):
    """Follows the objects of a kind: puts `Listed`, `Changed` and `Deleted`.

    Also `WatchTrouble` at each try that the API did not answer well, and `WatchRefused` when it
    continues to forbid it.

    Args:
        cluster: Where.
        kind: `jobs` or `pods`.
        selector: Label selector.
        view: Makes the small form that is passed on.
        out: Where to put.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: str,
        selector: str,
        view: Callable[[dict[str, Any]], Any],
        out: Inbox,
    ) -> None:
        super().__init__(name=f"watch-{kind}", daemon=True)
        self.cluster, self.kind, self.selector = cluster, kind, selector
        self.view, self.out = view, out
        self.version: str | None = None
        self.events = 0

    def run(self) -> None:
        """Follow for ever; see the class."""
        try:
            self._follow()
        except Exception as error:  # a thread must not end unseen
            self.out.put(WatchRefused(self.kind, f"{type(error).__name__}: {error}"))
            raise

    def _follow(self) -> None:
        pause, refused = FIRST_PAUSE, 0.0
        while True:
            began, seen, text, status = time.monotonic(), self.events, "", 0
            try:
                if self.version is None:
                    self._list()
                self._watch()
            except ExpiredError:
                self.version = None
            except ApiException as error:
                # Whatever the server has against this version, a fresh list gives another.
                self.version, text, status = None, message_of(error), error.status
            except (*CONNECTION_ERRORS, ValueError) as error:
                text = f"{type(error).__name__}: {str(error)[:200]}"
            refused = (refused or began) if status in (401, 403) else 0.0
            if refused and time.monotonic() - refused > REFUSED_SECONDS:
                self.out.put(WatchRefused(self.kind, text))
                return
            if text:
                self.out.put(WatchTrouble(self.kind, text))
            if self.events > seen or (not text and time.monotonic() - began > LONGEST_PAUSE):
                pause = FIRST_PAUSE
                if not text:
                    continue
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE, pause * 2)

    def _list(self) -> None:
        found: dict[str, Any] = {}
        token, version = None, None
        while True:
            page = self.cluster.page(
                self.kind, label_selector=self.selector, limit=PAGE, _continue=token
            )
            for raw in page["items"]:
                view = self.view(raw)
                found[view.name] = view
            version = page["metadata"]["resourceVersion"]
            token = page["metadata"].get("continue")
            if not token:
                break
        self.out.put(Listed(self.kind, found))
        self.version = version

    def _watch(self) -> None:
        # The client's own Watch either makes models of every object or trips over error events.
        answer = self.cluster.lister(self.kind)(
            self.cluster.namespace,
            label_selector=self.selector,
            resource_version=self.version,
            watch=True,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_SECONDS,
            _preload_content=False,
            _request_timeout=(10, WATCH_SECONDS + 20),
        )
        try:
            for line in iter_resp_lines(answer):
                if line:
                    self._event(json.loads(line))
        finally:
            answer.close()
            answer.release_conn()

    def _event(self, event: dict[str, Any]) -> None:
        raw = event["object"]
        if event["type"] == "ERROR":
            if raw.get("code") == GONE:
                raise ExpiredError
            raise ApiException(status=raw.get("code", 0), reason=raw.get("message", ""))
        self.events += 1
        self.version = raw["metadata"]["resourceVersion"]
        if event["type"] == "DELETED":
            self.out.put(Deleted(self.kind, raw["metadata"]["name"]))
        elif event["type"] != "BOOKMARK":
            self.out.put(Changed(self.kind, self.view(raw)))
