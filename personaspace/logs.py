"""Log lines: for people, or JSON objects; and what other libraries say in them."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from datetime import UTC, datetime
from typing import Any


def quiet_libraries() -> None:
    """Keep the libraries' own bars and warnings out of the logs, whose lines are ours."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|torch")
    logging.getLogger("transformers").setLevel(logging.ERROR)


def as_json() -> bool:
    """Whether each line of a log is to be a JSON object: `PERSONASPACE_LOG` is `json`."""
    return os.environ.get("PERSONASPACE_LOG", "") == "json"


def log_line(
    text: str, event: str = "message", json_line: bool | None = None, **fields: Any
) -> str:
    """A line of a log: the time and the text, or a JSON object (default: as the environment says).

    Args:
        text: For people.
        event: Kind of line.
        json_line: None: as `as_json` says.
        fields: More members of the JSON object.
    """
    if not (as_json() if json_line is None else json_line):
        return f"{time.strftime('%H:%M:%S')} {text}"
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, "event": event, **fields, "message": text}, ensure_ascii=False)
