"""Lines of the pods' logs: JSON objects where the release logs such (`logFormat: json`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Trouble(StrEnum):
    """What a conductor's line of trouble is about."""

    STUDY = "study"
    STORE = "store"
    PATCH = "patch"
    JOBS = "jobs"
    PODS = "pods"
    MISSING_JOBS = "missing_jobs"
    MISSING_PODS = "missing_pods"


@dataclass(frozen=True)
class Entry:
    """A line of a log.

    Attributes:
        event: Its kind.
        message: For people.
        time: UTC, ISO 8601.
        fields: All members of the object.
    """

    event: str
    message: str
    time: str
    fields: dict[str, Any]


def entry_of(line: str) -> Entry | None:
    """A line as the object that it is; None: it is a line of another kind."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    event, message, time = (found.get(name) for name in ("event", "message", "time"))
    if isinstance(event, str) and isinstance(message, str) and isinstance(time, str):
        return Entry(event, message, time, found)
    return None


def for_people(line: str) -> str:
    """A line as it would read in a log of plain lines: time, message, an error's traceback."""
    entry = entry_of(line)
    if entry is None:
        return line
    trace = entry.fields.get("traceback")
    return f"{entry.time[11:19]} {entry.message}" + (f"\n{trace.rstrip()}" if trace else "")
