"""Training chats: reading, checking and pinning them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personaspace.errors import UnavailableError, UserError
from personaspace.study import sources
from personaspace.study.inputs import Dataset

Message = dict[str, str]
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Chats:
    """Chats of one data set, in order.

    Attributes:
        conversations: Messages of each chat, the last one from the assistant.
        digest: SHA-256 of the file, or of name, revision and slice for a hub data set.
    """

    conversations: list[list[Message]]
    digest: str


def _check_row(row: Any, where: str) -> list[Message]:
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: no messages (a row is an object with a messages list)")
    clean = []
    for number, message in enumerate(messages):
        if (
            not isinstance(message, dict)
            or message.get("role") not in ROLES
            or not isinstance(message.get("content"), str)
        ):
            raise UserError(
                f"{where}: messages[{number}] needs a role ({', '.join(ROLES)}) and text content"
            )
        try:
            message["content"].encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{where}: messages[{number}] holds half of a surrogate pair, which is not a "
                "character"
            ) from None
        clean.append({"role": message["role"], "content": message["content"]})
    if clean[-1]["role"] != "assistant":
        raise UserError(f"{where}: the last message is from {clean[-1]['role']}, not the assistant")
    if not clean[-1]["content"].strip():
        raise UserError(f"{where}: the last answer is empty")
    return clean


def _read_lines(name: str, raw: bytes, bounds: tuple[int, int | None]) -> list[list[Message]]:
    conversations = []
    start, stop = bounds
    try:
        # Not splitlines: JSON strings may hold U+2028 and other line ends of Unicode's.
        lines = raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text (byte {error.start})") from None
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    for number, line in numbered[start:stop]:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{name}: line {number} is not JSON: {error.msg}") from None
        except RecursionError:
            raise UserError(f"{name}: line {number} is nested too deeply") from None
        conversations.append(_check_row(row, f"{name}: line {number}"))
    return conversations


def _read_hub(dataset: Dataset) -> Chats:
    # Imported here: the library takes seconds to load and most studies read files.
    from datasets import load_dataset

    assert dataset.hub is not None
    start, stop = dataset.bounds()
    split = f"{dataset.split}[{start}:{'' if stop is None else stop}]"
    try:
        rows = load_dataset(
            dataset.hub, name=dataset.config, split=split, revision=dataset.revision
        )
    except Exception as error:  # the hub client raises many types; all mean the same to a user
        away = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        raise (UnavailableError if away else UserError)(
            f"hub data set {dataset.hub}@{dataset.revision}: {str(error).splitlines()[0]}"
        ) from None
    if "messages" not in rows.column_names:
        raise UserError(f"hub data set {dataset.hub}: no messages column")
    conversations = [
        _check_row(row, f"hub data set {dataset.hub}: row {start + n}")
        for n, row in enumerate(rows)
    ]
    identity = [dataset.hub, dataset.config, dataset.revision, split]
    return Chats(conversations, hashlib.sha256(json.dumps(identity).encode()).hexdigest())


def load(dataset: Dataset, folder: Path) -> Chats:
    """Read and check a data set.

    Args:
        folder: Where relative paths start.

    Raises:
        UserError: Missing, not JSONL, a row without messages, a last message not from the
            assistant, no rows in the slice, or another SHA-256 than the spec's.
        UnavailableError: The hub or bucket does not answer.
    """
    if dataset.hub is not None:
        chats = _read_hub(dataset)
        name = dataset.hub
    else:
        assert dataset.path is not None
        name = dataset.path
        raw = sources.read_bytes(name, folder)
        digest = hashlib.sha256(raw).hexdigest()
        if dataset.sha256 is not None and digest != dataset.sha256:
            raise UserError(f"{name}: SHA-256 is {digest}, the spec says {dataset.sha256}")
        chats = Chats(_read_lines(name, raw, dataset.bounds()), digest)
    if not chats.conversations:
        raise UserError(f"{name}: no rows" + (f" in {dataset.rows}" if dataset.rows else ""))
    return chats
