"""Every error that a user can cause ends a command in one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import wraps
from typing import Any

from personaspace import logs
from personaspace.errors import (
    EXIT_FAILURE,
    EXIT_USER_ERROR,
    Interrupted,
    SpecErrors,
    StoreUnavailable,
    UserError,
)


def guarded(command: Callable[..., Any], *, job: bool = False) -> Callable[..., Any]:
    """A command whose errors end in one line on stderr and the right exit code.

    Args:
        command: What is run.
        job: A cluster runs it, and tries again when a store is away (69); people fix it (2).
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            _complain(str(error), **_problems(error))
            raise SystemExit(error.exit_code if job else _code(error)) from None
        except Interrupted as error:
            _complain(f"{error}; run again to continue from here")
            raise SystemExit(error.exit_code) from None
        except BrokenPipeError:
            # The reader (head, less) has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _complain(f"{where}{error.strerror or error}")
            raise SystemExit(EXIT_FAILURE) from None

    return run


def as_job(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command as a cluster's pod runs it: see `guarded`."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        logs.setup()
        return command(*args, **kwargs)

    return guarded(run, job=True)


def _code(error: UserError) -> int:
    return EXIT_USER_ERROR if isinstance(error, StoreUnavailable) else error.exit_code


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


def _complain(text: str, **fields: Any) -> None:
    logs.tell(text, logs.RunEvent.ERROR, **fields)
