"""The termination message: one line by which Kubernetes says how a container ended, and why."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from personaspace.errors import Interrupted, UserError

#: What the kubelet keeps of a message.
LIMIT_BYTES = 4096


def message_of(error: BaseException) -> str:
    """An error in one line, for a person."""
    if isinstance(error, UserError | Interrupted):
        return "; ".join(str(error).splitlines())
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def write(message: str) -> None:
    """Leave a message where Kubernetes reads it, if there is such a place.

    The file is named by `PERSONASPACE_TERMINATION_LOG`; without it, or where it cannot be written,
    nothing happens. What is too long loses its middle: the last line stays.
    """
    path = os.environ.get("PERSONASPACE_TERMINATION_LOG")
    if path:
        raw = message.encode(errors="replace")
        if len(raw) > LIMIT_BYTES:
            last = "\n" + message.rpartition("\n")[2] if "\n" in message else ""
            end = ("…" + last[:500]).encode(errors="replace")
            raw = raw[: LIMIT_BYTES - len(end)].decode(errors="ignore").encode() + end
        with suppress(OSError):
            Path(path).write_bytes(raw)
