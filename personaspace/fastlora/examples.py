"""What fastlora is given: examples to train on, passages to read; and how they share rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Example(Protocol):
    """A sequence to train on.

    Attributes:
        ids: Its tokens.
        loss: Whether the model is trained to produce the token, same length as `ids`.
    """

    @property
    def ids(self) -> Sequence[int]:
        """See the class."""
        ...

    @property
    def loss(self) -> Sequence[bool]:
        """See the class."""
        ...


class Passage(Protocol):
    """A prompt and what follows it, which one pass reads.

    Attributes:
        prompt: Its tokens, at least one.
        answer: Tokens of what follows, perhaps none.
    """

    @property
    def prompt(self) -> tuple[int, ...]:
        """See the class."""
        ...

    @property
    def answer(self) -> tuple[int, ...]:
        """See the class."""
        ...


def loss_places(examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Positions in the row whose logits predict a token with loss, and those tokens."""
    keep, targets, start = [], [], 0
    for example in examples:
        # Logits at a position predict the next token, so loss on token p reads position p - 1.
        for position in range(1, len(example.ids)):
            if example.loss[position]:
                keep.append(start + position - 1)
                targets.append(example.ids[position])
        start += len(example.ids)
    return keep, targets


def bins(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Indices of the examples of each row, whose lengths sum to at most `row_tokens`.

    First-fit decreasing (Johnson 1973): within 11/9 of the fewest rows possible. An example that is
    longer has a row of its own.
    """
    found: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for number, free in enumerate(room):
            if lengths[index] <= free:
                found[number].append(index)
                room[number] -= lengths[index]
                break
        else:
            found.append([index])
            room.append(row_tokens - lengths[index])
    return [sorted(members) for members in found]
