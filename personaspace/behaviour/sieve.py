"""Which answers are surely no loops, told in microseconds: all but a few of ordinary prose.

An answer that passes has fewer repeated pieces than `coherence` calls repetitive, by bounds that
hold for every text; one that does not may be either, and is measured.
"""

from __future__ import annotations

import itertools
import string

from personaspace.behaviour.coherence import (
    CHARACTERS,
    DOMINANCE_FROM,
    DOMINANCE_LIMIT,
    REPETITION_LIMIT,
    WORDS,
)

_ALNUM = (string.ascii_letters + string.digits).encode()
#: Everything between words becomes white space.
_ONLY_WORDS = bytes(code if code in _ALNUM else ord(" ") for code in range(256))
#: Characters of words and signs; what is neither is left out.
_KINDS = bytes(ord("w" if code in _ALNUM else "s") for code in range(256))
_NEITHER = b" _"
#: A piece of CHARACTERS holds a whole block of this length at one of its places 0, STEP, 2 STEP …
_STEP = 12
_BLOCK = CHARACTERS - _STEP + 1
#: Each block is looked for in all that comes before it: longer texts are for arrays.
_LONGEST = 4096


def surely_varied(text: str) -> bool:
    """False where the text might be repetitive; never True where it is.

    Args:
        text: In lower case, runs of white space one space each, without markers.
    """
    if len(text) > _LONGEST or not text.isascii():
        return False
    raw = text.encode()
    words = raw.translate(_ONLY_WORDS).split()
    # A word that occurs m times is m - 1 times one that was there before.
    again = len(words) - len(set(words))
    if len(words) >= DOMINANCE_FROM and again + 1 >= DOMINANCE_LIMIT * len(words):
        return False
    return not _may_repeat_words(raw, words, again) and not _may_repeat_pieces(raw)


def _may_repeat_words(raw: bytes, words: list[bytes], again: int) -> bool:
    """Whether the share of repeated 4-grams of words and signs can reach the limit.

    A repeated 4-gram begins with a sign, or with a word that was there before, or, by a second
    count: holds a pair of neighbouring words that was there before (one 4-gram that begins with a
    word, and two that begin with signs, have a given pair as their first), or has three signs or
    more, so two in a row (and is one of three 4-grams that hold those).
    """
    kinds = raw.translate(_KINDS, _NEITHER)
    signs = kinds.count(b"s")
    shingles = len(words) + signs - WORDS + 1
    limit = REPETITION_LIMIT * shingles
    if shingles < 2 or again + signs < limit:
        return False
    pairs = max(len(words) - 1 - len(set(itertools.pairwise(words))), 0)
    # Signs in a row are counted two by two: there are at most twice as many pairs of them.
    crowded = min(signs + signs // 3, 6 * kinds.count(b"ss"))
    return pairs + min(signs, 2 * pairs) + crowded >= limit


def _may_repeat_pieces(raw: bytes) -> bool:
    """Whether the share of repeated pieces of 24 characters can reach the limit.

    Where a piece was there before, so was the first block that it holds, and no more than `_STEP`
    pieces have a block as their first.
    """
    pieces = len(raw) - CHARACTERS + 1
    if pieces < 2:
        return False
    find = raw.find
    found = 0
    for start in range(_STEP, len(raw) - _BLOCK + 1, _STEP):
        if find(raw[start : start + _BLOCK]) < start:
            found += 1
    return _STEP * found >= REPETITION_LIMIT * pieces
