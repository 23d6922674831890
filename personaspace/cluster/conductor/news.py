"""What the conductor's threads tell its loop, one class a kind."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from dataclasses import dataclass

from personaspace.cluster.states import Cause
from personaspace.cluster.views import JobView, PodView

View = JobView | PodView


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects of a kind, by name, as a fresh list has them."""

    kind: str
    views: Mapping[str, View]


@dataclass(frozen=True, slots=True)
class Changed:
    """An object is new, or another than before."""

    kind: str
    view: View


@dataclass(frozen=True, slots=True)
class Deleted:
    """An object is gone."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class WatchTrouble:
    """The API did not answer well; it is asked again."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class WatchRefused:
    """The API continues to forbid it."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Checked:
    """A node's manifest was looked for; `fault` is None where it is as it should be."""

    node: str
    fault: Cause | None


@dataclass(frozen=True, slots=True)
class StoreTrouble:
    """The store could not be read for a node, and has not been for so many seconds."""

    node: str
    text: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Patched:
    """A patch was answered; `error` is empty where it was taken."""

    name: str
    error: str


FromWatch = Listed | Changed | Deleted | WatchTrouble | WatchRefused
FromStore = Checked | StoreTrouble
News = FromWatch | FromStore | Patched
Inbox = queue.Queue[News]
