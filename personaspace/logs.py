"""One set-up of logging, for this package and for libraries: lines for people, or JSON objects.

With `PERSONASPACE_LOG=json` each line is a JSON object: `time` (UTC, ISO 8601), `level`, `event`
(a `RunEvent`), `logger`, further fields, and `message` (what the plain line would say). Libraries'
messages, Python's warnings and uncaught errors are such lines as well.
`PERSONASPACE_LOG_LEVEL` is the lowest level that appears.
"""

from __future__ import annotations

import json as _json
import logging
import math
import os
import sys
import threading
import time
import traceback
import warnings
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, TextIO

from personaspace.errors import UserError, without_passwords

FORMAT, LEVEL = "PERSONASPACE_LOG", "PERSONASPACE_LOG_LEVEL"
#: The logger above all of this package's.
PACKAGE = "personaspace"
LEVELS = ("debug", "info", "warning", "error")
#: Members of a record that are logging's own; all others are fields of the message.
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "event", "fields"}
#: What keeps libraries from writing lines of their own: bars, messages of C++ code, a set-up.
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "VLLM_CONFIGURE_LOGGING": "0",
}


class RunEvent(StrEnum):
    """Kinds of lines.

    Of a stage: `start`, `progress` and `end`. `trouble` may pass by itself, an `error` does not.
    `released`: a conductor has let a pod or a Job go.
    """

    START = "start"
    PROGRESS = "progress"
    END = "end"
    MESSAGE = "message"
    TROUBLE = "trouble"
    ERROR = "error"
    RELEASED = "released"


_LEVEL_OF_END = {"failed": logging.ERROR, "blocked": logging.WARNING, "not run": logging.WARNING}
_LEVEL_OF: dict[str, int] = {RunEvent.TROUBLE: logging.WARNING, RunEvent.ERROR: logging.ERROR}


class PeopleFormatter(logging.Formatter):
    """The time and the text; of a library also its name."""

    def format(self, record: logging.LogRecord) -> str:
        """A line, or more if an error's traceback is told."""
        text = record.getMessage().rstrip()
        if record.name == "py.warnings":
            text = f"warning: {text.splitlines()[0]}"  # the line of code below tells nothing
        elif record.name.partition(".")[0] != PACKAGE:
            text = f"{record.name}: {text}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text = without_passwords(text)
        return f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what `extra` holds becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The object's text."""
        now = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event = RunEvent.TROUBLE if record.levelno >= logging.WARNING else RunEvent.MESSAGE
        if record.levelno >= logging.ERROR:
            event = RunEvent.ERROR
        entry = {
            "time": now.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", event),
            "logger": record.name,
            **{name: value for name, value in vars(record).items() if name not in _OWN},
            **getattr(record, "fields", {}),
            "message": record.getMessage().rstrip(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        text = _json.dumps(_finite(entry), ensure_ascii=False, default=str)
        # Half of a surrogate pair, which a file name may hold, has no encoding but its escape.
        return without_passwords(text.encode("utf-8", "backslashreplace").decode())


def _finite(value: Any) -> Any:
    """The same without NaN and infinity, for which JSON has no words."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to what is stderr at that time: a live table takes its place for a while."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """Stderr as it is now."""
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """Not kept."""


def as_json() -> bool:
    """Whether each line of a log is to be a JSON object: `PERSONASPACE_LOG` is `json`."""
    return os.environ.get(FORMAT, "") == "json"


def setup(json: bool | None = None, level: str | None = None) -> None:
    """Set up logging of a process of ours: all goes to stderr in one format.

    A second call replaces what the first set up. Processes that a process starts read the
    environment, so each calls this without arguments.

    Args:
        json: Whether lines are JSON objects; None: as `as_json` says.
        level: The lowest level that appears, one of `LEVELS`; None: as the environment says, else
            info. Libraries' messages appear from warning on: what they tell below that is for
            their makers, and holds signed requests.

    Raises:
        UserError: An unknown level.
    """
    json = as_json() if json is None else json
    wanted = (level or os.environ.get(LEVEL) or "info").lower()
    if wanted not in LEVELS:
        raise UserError(f"log level {wanted!r}: not one of {', '.join(LEVELS)}")
    root, number = logging.getLogger(), logging.getLevelNamesMapping()[wanted.upper()]
    for former in list(root.handlers):
        if isinstance(former, _Handler) or type(former) is logging.StreamHandler:
            root.removeHandler(former)
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if json else PeopleFormatter())
    root.addHandler(handler)
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger(PACKAGE).setLevel(number)
    logging.captureWarnings(True)
    _adopt()
    if json:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda found: _log_uncaught(
            found.exc_type, found.exc_value or found.exc_type(), found.exc_traceback
        )


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception_only(kind, error)).strip()
    logging.getLogger(PACKAGE).critical(
        text, exc_info=(kind, error, trace), extra={"event": RunEvent.ERROR}
    )


def _is_set_up() -> bool:
    return any(isinstance(handler, _Handler) for handler in logging.getLogger().handlers)


def _adopt() -> None:
    """Let libraries that write by themselves hand their messages on instead."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] != PACKAGE:
            for handler in list(logger.handlers):
                if isinstance(handler, logging.StreamHandler) and not isinstance(
                    handler, logging.FileHandler
                ):
                    logger.removeHandler(handler)
                    logger.propagate = True


def quiet_libraries() -> None:
    """Keep the libraries' own bars and warnings out of the logs, whose lines are ours."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|torch")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if _is_set_up():
        _adopt()  # what was imported since


def _level(event: str, state: str | None) -> int:
    """Of a line; an end's is that of the state that something ended in."""
    if event == RunEvent.END and state is not None:
        return _LEVEL_OF_END.get(state, logging.INFO)
    return _LEVEL_OF.get(event, logging.INFO)


def shows(event: str, state: str | None = None) -> bool:
    """Whether such lines are of a level that appears; all do where nothing was set up.

    Args:
        event: Kind of line; see `RunEvent`.
        state: What the line says something ended in, if it does.
    """
    level = _level(event, state)
    return not _is_set_up() or logging.getLogger(PACKAGE).isEnabledFor(level)


def log_line(
    text: str, event: str = RunEvent.MESSAGE, json_line: bool | None = None, **fields: Any
) -> str:
    """A line of a log: the time and the text, or a JSON object (default: as the environment says).

    Args:
        text: For people.
        event: Kind of line; see `RunEvent`.
        json_line: None: as `as_json` says.
        fields: More members of the JSON object.
    """
    level = _level(event, fields.get("state"))
    record = logging.LogRecord(PACKAGE, level, "", 0, text, None, None)
    record.event, record.fields = event, fields
    formatter = (
        JsonFormatter if (as_json() if json_line is None else json_line) else PeopleFormatter
    )
    return formatter().format(record)


def tell(text: str, event: str = RunEvent.MESSAGE, **fields: Any) -> None:
    """On stderr: the text alone, or a JSON object where logs are such."""
    line = log_line(text, event, **fields) if as_json() else without_passwords(text)
    print(line, file=sys.stderr, flush=True)
