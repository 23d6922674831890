"""Errors that a user can cause, and the exit codes that jobs and the CLI end with."""

from __future__ import annotations

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


class UserError(Exception):
    """A mistake the user can mend. Printed as one line, without a traceback; exit code 2.

    Args:
        message: One line that names the field, file or object at fault.
    """

    exit_code = EXIT_USER_ERROR


class UnavailableError(UserError):
    """Something outside the program does not work now, and may at the next try; exit code 69."""

    exit_code = EXIT_UNAVAILABLE


class StoreUnavailable(UnavailableError):
    """The store does not work now: disk full, server down, a read or write that failed.

    One line for the person like every `UserError`; unlike the others it may be gone at the next
    try, so a caller that can retry may want to.
    """


class SpecErrors(UserError):
    """Every mistake found in a spec, each as `path: message`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Interrupted(Exception):
    """The process was asked to stop; what was done so far is kept."""

    exit_code = EXIT_INTERRUPTED
