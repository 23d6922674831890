"""Training chats: reading, checking and pinning them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personaspace.errors import UnavailableError, UserError
from personaspace.study import containers, sources
from personaspace.study.chat_forms import Message, read_chat
from personaspace.study.conversations import Conversations
from personaspace.study.inputs import Dataset


@dataclass(frozen=True)
class Chats:
    """Chats of one data set, in order.

    Attributes:
        conversations: Messages of each chat, the last one from the assistant.
        digest: SHA-256 of the file, or of name, revision and slice for a hub data set; of that and
            a note where weights took chats or answers out.
        left_out: Rows in which no answer is to be trained on (weight 0).
    """

    conversations: Conversations
    digest: str
    left_out: int = 0


def _chats(rows: Iterable[tuple[str, Any]], digest: str) -> Chats:
    """Reads rows, each with where it stands."""
    left_out, weighted = 0, False

    def kept() -> Iterator[list[Message]]:
        nonlocal left_out, weighted
        for where, row in rows:
            chat = read_chat(row, where)
            weighted |= chat.weighted
            if chat.messages:
                yield chat.messages
            else:
                left_out += 1

    conversations = Conversations(kept())
    if weighted:
        # Before weights were read the same file meant other chats.
        digest = hashlib.sha256(f"{digest} weights".encode()).hexdigest()
    return Chats(conversations, digest, left_out)


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
    identity = [dataset.hub, dataset.config, dataset.revision, split]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    where = f"hub data set {dataset.hub}: row"
    return _chats(((f"{where} {start + n}", row) for n, row in enumerate(rows)), digest)


def load(dataset: Dataset, folder: Path) -> Chats:
    """Read and check a data set.

    Args:
        folder: Where relative paths start.

    Raises:
        UserError: Missing, of no known form, a row that would lose a part of what it says, a last
            message not from the assistant, no rows in the slice, or another SHA-256 than the
            spec's.
        UnavailableError: The hub, bucket or server does not answer.
    """
    if dataset.hub is not None:
        chats = _read_hub(dataset)
        name = dataset.hub
    else:
        assert dataset.path is not None
        name = sources.shown(dataset.path)
        raw = sources.read_bytes(dataset.path, folder, sha256=dataset.sha256)
        digest = hashlib.sha256(raw).hexdigest()
        if dataset.sha256 is not None and digest != dataset.sha256:
            raise UserError(f"{name}: SHA-256 is {digest}, the spec says {dataset.sha256}")
        chats = _chats(containers.rows_of(name, raw, dataset.bounds()), digest)
    if not chats.conversations:
        where = f" in {dataset.rows}" if dataset.rows else ""
        why = f" to train on: weight 0 in all {chats.left_out}" if chats.left_out else ""
        raise UserError(f"{name}: no rows{where}{why}")
    return chats
