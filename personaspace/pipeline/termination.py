"""The termination message: by which a container says, through Kubernetes, how it ended and why.

`kubectl describe pod` and dashboards show it as it is, so the sentences for people come first. Its
last line is one JSON object, an `Ending`: what programs read, so that none has to understand a
sentence. (JSON alone would be what people see first; an annotation would need leave to patch pods,
which stages do not have.)
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from personaspace import interrupt
from personaspace.errors import (
    Interrupted,
    UnavailableError,
    UserError,
    one_line,
    without_passwords,
)
from personaspace.files import environment_number

#: Seconds from SIGTERM to SIGKILL; the chart says here what it gives a pod.
GRACE = "PERSONASPACE_GRACE"
#: What the kubelet keeps of a message.
LIMIT_BYTES = 4096
#: What of it an ending may take, and of that its text.
ENDING_BYTES, TEXT_BYTES = 2048, 1024


def take_signals() -> None:
    """Have signals set the flag (`interrupt.install`), within the time that there is to stop.

    Raises:
        UserError: The environment names a time that is no number.
    """
    interrupt.install(environment_number(GRACE, interrupt.GRACE_SECONDS))


class Code(StrEnum):
    """How a container ended."""

    COMPLETE = "Complete"
    USER_ERROR = "UserError"
    UNAVAILABLE = "Unavailable"
    INTERRUPTED = "Interrupted"
    ERROR = "Error"
    #: Of a conductor: some Jobs failed or did not run.
    JOBS_FAILED = "JobsFailed"


class Ending(BaseModel):
    """How a container ended, for programs.

    Attributes:
        node: What it ran: `train:e4-villain:42`, `condition:e4-villain:42`, `aggregate`,
            `conductor`, `check`.
        code: How that ended.
        text: Why, for people, without what it ran.
        artifacts: Keys in the store, by node, of what is complete.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: str
    code: Code
    text: str = ""
    artifacts: dict[str, str] = Field(default_factory=dict)


def code_of(error: BaseException) -> Code:
    """The code of an ending by an error."""
    if isinstance(error, Interrupted):
        return Code.INTERRUPTED
    if isinstance(error, UnavailableError):
        return Code.UNAVAILABLE
    return Code.USER_ERROR if isinstance(error, UserError) else Code.ERROR


def write_error(node: str, error: BaseException) -> None:
    """Leave an error as the ending of what was run."""
    text = one_line(error)
    write(f"{node}: {text}", Ending(node=node, code=code_of(error), text=text))


def write(message: str, ending: Ending) -> None:
    """Leave a message where Kubernetes reads it, if there is such a place.

    The file is named by `PERSONASPACE_TERMINATION_LOG`; without it, or where it cannot be written,
    nothing happens. A message that is too long loses its middle: its last line stays.

    Args:
        message: For people; one or several lines.
        ending: The same for programs.
    """
    path = os.environ.get("PERSONASPACE_TERMINATION_LOG")
    if not path:
        return
    message = without_passwords(message)
    tail = f"\n{_line(ending)}".encode()
    room = LIMIT_BYTES - len(tail)
    raw = message.encode(errors="replace")
    if len(raw) > room:
        last = "\n" + message.rpartition("\n")[2] if "\n" in message else ""
        end = _cut("…" + last, room // 2)
        raw = _cut(message, room - len(end)) + end
    with suppress(OSError):
        Path(path).write_bytes(raw + tail)


def read(message: str) -> tuple[str, Ending | None]:
    """A termination message's part for people, and the ending; None: it has none.

    A container that could not leave one (out of memory, killed) has the end of its log as message.
    """
    people, _, last = message.rstrip().rpartition("\n")
    try:
        return people.strip("\n"), Ending.model_validate_json(last)
    except ValidationError:
        return message.strip("\n"), None


def _line(ending: Ending) -> str:
    text = _cut(ending.text, TEXT_BYTES).decode()
    line = ending.model_copy(update={"text": text}).model_dump_json(exclude_defaults=True)
    if len(line.encode()) <= ENDING_BYTES:
        return line
    return ending.model_copy(update={"text": "", "artifacts": {}}).model_dump_json(
        exclude_defaults=True
    )


def _cut(text: str, count: int) -> bytes:
    """The first bytes of a text, no character cut in two."""
    return text.encode(errors="replace")[:count].decode(errors="ignore").encode()
