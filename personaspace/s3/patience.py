"""Going on to ask a server that fails, for as long as patience lasts and a stop allows."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from typing import TypeVar

from personaspace import interrupt
from personaspace.errors import StoreUnavailable
from personaspace.s3.errors import s3_errors

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_T = TypeVar("_T")


def patiently(
    call: Callable[[], _T],
    doing: str,
    names: Callable[[], tuple[str, str]],
    *,
    seconds: float,
    passing: type[StoreUnavailable] = StoreUnavailable,
    keeps: bool = True,
) -> _T:
    """`call`, repeated with growing pauses as long as the server fails and patience lasts.

    Args:
        call: One request, or several; may be given up at any moment.
        doing: See `s3_errors`.
        names: Bucket and server, for messages.
        seconds: How long to go on.
        passing: After which errors.
        keeps: Whether something may be lost without it (see `interrupt.answered`).

    Raises:
        UserError: What the user can fix.
        StoreUnavailable: What may pass, when patience is over.
        CutOff: Asked to stop, and the time for that is over.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        bucket, server = names()
        who = f"bucket {bucket} at {server}"
        try:
            with s3_errors(bucket, server, doing):
                return interrupt.answered(call, who, keeps=keeps)
        except passing as error:
            wait = random.uniform(pause / 2, pause)
            if time.monotonic() + wait > min(deadline, interrupt.until()):
                if interrupt.asked():
                    raise interrupt.gave_up(who) from error
                raise
        interrupt.answered(functools.partial(time.sleep, wait), who, keeps=keeps)
        pause = min(2 * pause, _LONGEST_PAUSE)
