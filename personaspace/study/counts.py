"""Numbers of chats and questions as notices tell them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from personaspace.console import counted, verb


def seen(times: Iterable[float]) -> str:
    """How often each chat is trained on, or what part of them is."""
    counts = sorted(times)
    if counts[-1] < 1:
        return f"of which {' to '.join(dict.fromkeys(map(_part, counts)))} are seen"
    ends = sorted({f"{round(value, 1):g}" for value in counts}, key=float)
    if ends == ["1"]:
        return "each seen once"
    return f"each seen {ends[0]}{f' to {ends[-1]}' if len(ends) > 1 else ''} times"


def _part(share: float) -> str:
    """A part between 0 and 1, with so many digits that it is told neither as none nor as all."""
    digits = 0
    while float(f"{100 * share:.{digits}f}") in (0, 100):
        digits += 1
    return f"{share:.{digits}%}"


def of_its(some: int, every: int, does: str, do: str, noun: str = "chat") -> str:
    """1 of its 12 chats holds, 3 of its 12 chats hold."""
    return f"{some:,} of its {counted(every, noun)} {verb(some, does, do)}"


def span(counts: Sequence[int]) -> str:
    """The least and the greatest, or the one that all are."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
