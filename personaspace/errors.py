"""Errors that a user can cause, and the exit codes that jobs and the CLI end with."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

EXIT_OK = 0
#: Something failed that a retry may cure (a lost node, a full disk, a bug).
EXIT_FAILURE = 1
#: The user's input is wrong; a retry would fail the same way.
EXIT_USER_ERROR = 2
#: Something outside does not answer (a store, an API); another try may cure it. As in sysexits.h.
EXIT_UNAVAILABLE = 69
#: A bug or a fault of the machine, where 1 means something else. As in sysexits.h.
EXIT_CRASH = 70
#: Asked to stop (SIGTERM, Ctrl-C); state was saved and the next start resumes.
EXIT_INTERRUPTED = 75
#: What a process says that was asked to stop, and what is to be done then.
ASKED, GO_ON = "asked to stop", "run again to continue from here"


class UserError(Exception):
    """An error in the input. Printed as one line, without a traceback; exit code 2.

    Its message is one line that names the field, file or object at fault.
    """

    exit_code = EXIT_USER_ERROR


class UnavailableError(UserError):
    """Something outside the program does not work now, and may at the next try; exit code 69."""

    exit_code = EXIT_UNAVAILABLE


class StoreMissing(UserError):
    """The store's folder does not exist (yet)."""


class StoreUnavailable(UnavailableError):
    """The store does not work now: disk full, server down, a read or write that failed.

    One line for the person like every `UserError`; unlike the others it may be gone at the next
    try, so a caller that can retry may want to.
    """


class StoreBusy(StoreUnavailable):
    """The store's server answers, and says that it cannot now: it is no mistyped address."""


class SpecErrors(UserError):
    """Every mistake found in a spec, a line each.

    Args:
        problems: Each as `path: message`, or something that is printed so.
    """

    def __init__(self, problems: Sequence[Any]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


class Interrupted(Exception):
    """The process was asked to stop; what was done so far is kept."""

    exit_code = EXIT_INTERRUPTED


class CutOff(Interrupted):
    """Asked to stop, and a server that was waited for did not answer: not all was kept."""


_USER_INFO = re.compile(r"(?<=://)[^\s\"'<>]*@")
#: What signs a request or stands for a password, in the query of an address.
_SIGNED = re.compile(
    r"(?i)(?<=[?&])((?:x-(?:amz|goog)-)?(?:signature|credential|security-token)|sig|token|"
    r"(?:access|auth|api)[-_]?(?:token|key)|awsaccesskeyid|key|password|secret)=[^&\s\"'<>]+"
)


def without_passwords(text: str) -> str:
    """A text without what stands before an @ in URLs, and without what signs a request."""
    return _SIGNED.sub(r"\1=…", _USER_INFO.sub("…@", text))


def one_line(error: BaseException) -> str:
    """An error in one line, for people: users' own mistakes as they are, others with their type."""
    if isinstance(error, UserError | Interrupted):
        return without_passwords("; ".join(str(error).splitlines()))
    text = without_passwords(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that an unknown one was probably meant to be; empty if none is near."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return found[0] if found else ""


def did_you_mean(name: str) -> str:
    """The end of a message about an unknown name; empty without a suggestion (see `nearest`)."""
    return f"; did you mean {name!r}?" if name else ""
