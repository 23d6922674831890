"""Every error that a user can cause ends a command in one line and an exit code."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import wraps
from typing import Any

from personaspace import interrupt, logs
from personaspace.errors import (
    ASKED,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    GO_ON,
    Interrupted,
    SpecErrors,
    StoreBusy,
    StoreUnavailable,
    UserError,
)
from personaspace.extras import missing

#: What is wrong with a path that somebody gave.
_THEIRS = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.ENXIO,
}  # fmt: skip


def guarded(
    command: Callable[..., Any], *, job: bool = False, takes_signals: bool = False
) -> Callable[..., Any]:
    """A command whose errors end in one line on stderr and the right exit code.

    Args:
        command: What is run.
        job: A cluster runs it, and tries again when a store is away (69); people fix it (2), unless
            its server says that it is busy.
        takes_signals: It says itself what a signal does; others are broken off.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            if not takes_signals:
                interrupt.release()
            return command(*args, **kwargs)
        except UserError as error:
            complain(str(error), **_problems(error))
            raise SystemExit(error.exit_code if job else _code(error)) from None
        except ModuleNotFoundError as error:
            # One of our own is a bug; others are in extras, which need not be installed.
            if (error.name or "").partition(".")[0] in ("", "personaspace", "jobs"):
                raise
            complain(str(missing(error)))
            raise SystemExit(EXIT_USER_ERROR) from None
        except Interrupted as error:
            complain(f"{error}; {GO_ON}")
            interrupt.said()
            interrupt.leave_soon(error.exit_code)
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            complain(ASKED)
            interrupt.said()
            raise SystemExit(EXIT_INTERRUPTED) from None
        except BrokenPipeError as error:
            if not _reader_is_gone(sys.stdout.fileno()):
                complain(f"a process of this run is gone ({error.strerror})")
                raise SystemExit(EXIT_FAILURE) from None
            # The reader (head, less) has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            complain(f"{where}{error.strerror or error}")
            theirs = not job and error.errno in _THEIRS
            raise SystemExit(EXIT_USER_ERROR if theirs else EXIT_FAILURE) from None

    return run


def as_job(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command as a cluster's pod runs it: see `guarded`."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        logs.setup()
        return command(*args, **kwargs)

    return guarded(run, job=True, takes_signals=True)


def _reader_is_gone(pipe: int) -> bool:
    """Whether nobody will read what is written there: only that is a reader's "enough"."""
    look = select.poll()
    look.register(pipe, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in look.poll(0))


def _code(error: UserError) -> int:
    away = isinstance(error, StoreUnavailable) and not isinstance(error, StoreBusy)
    return EXIT_USER_ERROR if away else error.exit_code


def _problems(error: UserError) -> dict[str, Any]:
    """A spec's problems, for programs."""
    if not isinstance(error, SpecErrors):
        return {}
    return {
        "problems": [
            asdict(one) if is_dataclass(one) and not isinstance(one, type) else one
            for one in error.problems
        ]
    }


def complain(text: str, **fields: Any) -> None:
    """One line on stderr that says what is wrong."""
    logs.tell(text, logs.RunEvent.ERROR, **fields)
