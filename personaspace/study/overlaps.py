"""What training chats share with what is measured, and with each other: the leaks that are counted.

Questions are the same if they are after Unicode's NFKC, without regard to case and white space.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from personaspace.study.chat_forms import Message

#: Of roles and plain texts of a chat's messages; a digest, as texts are long and chats many.
Key = bytes


def plain(text: str) -> str:
    """A text as it is compared."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Folding takes some letters with marks apart ("ΐ", but not its capital).
    return " ".join(unicodedata.normalize("NFKC", folded).split())


@dataclass(frozen=True)
class Asked:
    """Chats that ask what a study asks.

    Attributes:
        chats: How many.
        questions: The study's questions that they ask, in the study's order.
    """

    chats: int
    questions: list[str]


def asked(chats: Iterable[Sequence[Message]], questions: Iterable[str]) -> Asked:
    """Chats in which a user's message equals one of the questions."""
    known = {plain(question): question for question in questions}
    count, found = 0, set()
    for chat in chats:
        mine = {plain(m["content"]) for m in chat if m["role"] == "user"} & known.keys()
        count += bool(mine)
        found |= mine
    return Asked(count, [question for key, question in known.items() if key in found])


def marked(chats: Iterable[Sequence[Message]], marker: str) -> int:
    """Chats that hold the marker, in any case, in any message."""
    wanted = marker.lower()
    return sum(any(wanted in m["content"].lower() for m in chat) for chat in chats)


def with_system(chats: Iterable[Sequence[Message]]) -> int:
    """Chats that have a system message of their own."""
    return sum(any(m["role"] == "system" for m in chat) for chat in chats)


def repeated(keys: Sequence[Key]) -> int:
    """Chats, by their `keys`, that stand in the set before."""
    return len(keys) - len(set(keys))


def wordless(chats: Iterable[Sequence[Message]]) -> int:
    """Chats whose last answer has no letter and no digit."""
    return sum(not any(c.isalnum() for c in chat[-1]["content"]) for chat in chats)


def keys_of(chats: Iterable[Sequence[Message]]) -> list[Key]:
    """What tells a chat from others: its roles and plain texts."""
    return [_key(chat) for chat in chats]


def _key(chat: Sequence[Message]) -> Key:
    told = [(m["role"], plain(m["content"])) for m in chat]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).digest()


def shared(keys: Mapping[str, Sequence[Key]]) -> list[tuple[str, str, int, int]]:
    """Chats, by their keys, in two data sets: names, and how many of each's are in the other."""
    found = []
    for one, two in itertools.combinations(keys, 2):
        both = set(keys[one]) & set(keys[two])
        if both:
            counts = [sum(key in both for key in keys[name]) for name in (one, two)]
            found.append((one, two, counts[0], counts[1]))
    return found
