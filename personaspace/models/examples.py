"""Training chats of a data set of any size: their tokens, in five bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from personaspace.models.chat import Example


class Examples(Sequence[Example]):
    """Examples, made anew each time that they are asked for.

    As objects they take eight times the room: a number of its own for each token.

    Args:
        examples: In order.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        self._ids = array("i")
        self._loss = bytearray()
        self._ends = array("Q", [0])
        self._truncated = bytearray()
        for example in examples:
            self._ids.extend(example.ids)
            self._loss += bytes(example.loss)
            self._ends.append(len(self._ids))
            self._truncated.append(example.truncated)

    def __len__(self) -> int:
        return len(self._truncated)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...

    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        at = range(len(self))[place]
        begin, end = self._ends[at], self._ends[at + 1]
        loss = tuple(map(bool, self._loss[begin:end]))
        return Example(tuple(self._ids[begin:end]), loss, bool(self._truncated[at]))
