"""Chats of a data set of any size, in about the room that their texts take."""

from __future__ import annotations

import marshal
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from personaspace.study.chat_forms import Message


class Conversations(Sequence[list[Message]]):
    """Messages of each chat; made anew each time that they are asked for.

    As objects, short chats take four times the room of their texts.

    Args:
        chats: Messages of each chat, in order.
    """

    def __init__(self, chats: Iterable[list[Message]]) -> None:
        self._packed = bytearray()
        self._ends = array("Q", [0])
        for chat in chats:
            self._packed += marshal.dumps([(m["role"], m["content"]) for m in chat])
            self._ends.append(len(self._packed))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> list[Message]: ...

    @overload
    def __getitem__(self, place: slice) -> list[list[Message]]: ...

    def __getitem__(self, place: int | slice) -> list[Message] | list[list[Message]]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        at = range(len(self))[place]
        begin, end = self._ends[at], self._ends[at + 1]
        chat = marshal.loads(memoryview(self._packed)[begin:end])  # noqa: S302 - packed by us
        return [{"role": role, "content": content} for role, content in chat]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]
