"""Counts over very many answers: `coherence` of those alone that might be repetitive.

Most answers are prose and repeat next to nothing: `sieve` passes them, many at a time. Loops that
last to the end of an answer are told by comparing it with itself. Only what is left is measured,
so the counts are those of `coherence`, and most answers cost microseconds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

from personaspace.behaviour.coherence import CHARACTERS, REPETITION_LIMIT, coherence
from personaspace.behaviour.sieve import BETWEEN, may_be_loops

#: Characters that are looked at in one go: their arrays fit a processor's cache.
BATCH = 1 << 16


def places(answers: Sequence[str], marker: str) -> tuple[list[int], list[int]]:
    """Which answers are degenerate, as `coherence` says, and which hold the marker's own text.

    Args:
        answers: As generated.
        marker: Left out before repetition is measured; two of it are degenerate.

    Returns:
        Places in `answers`, rising: of the degenerate ones; of those that hold the marker in any
        case, without the white space around it.
    """
    degenerate: list[int] = []
    marked: list[int] = []
    sizes = np.cumsum(np.fromiter(map(len, answers), np.int64, len(answers)))
    ends = np.flatnonzero(np.diff(sizes // BATCH, append=-1)) + 1
    for begin, end in itertools.pairwise([0, *ends.tolist()]):
        loops, holding = _of_batch(answers[begin:end], marker.lower())
        degenerate += [begin + place for place in loops]
        marked += [begin + place for place in holding]
    return degenerate, marked


def _of_batch(batch: Sequence[str], wanted: str) -> tuple[list[int], list[int]]:
    bare = wanted.strip()
    joined = BETWEEN.join(batch).lower()
    texts = joined.split(BETWEEN)
    if len(texts) != len(batch):
        texts = [answer.lower() for answer in batch]
        found = [coherence(answer, marker=wanted).degenerate for answer in batch]
        return list(itertools.compress(range(len(batch)), found)), _holding(texts, bare)
    marked = _places_of(bare, joined, texts)
    twice = {place for place in marked if texts[place].count(wanted) > 1}
    found_at = set(twice)
    for place in _suspects(joined.replace(wanted, " ") if marked else joined, len(batch)):
        if place not in twice:
            text = " ".join(texts[place].replace(wanted, " ").split())
            if surely_loops(text) or coherence(text).degenerate:
                found_at.add(place)
    return sorted(found_at), marked


def _holding(texts: Sequence[str], bare: str) -> list[int]:
    return [place for place, text in enumerate(texts) if bare in text]


def _places_of(bare: str, joined: str, texts: Sequence[str]) -> list[int]:
    """As `_holding`: most texts hold none, so those that do are looked for in all together."""
    if BETWEEN in bare:
        return _holding(texts, bare)
    found = [match.start() for match in re.finditer(re.escape(bare), joined)]
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    places: list[int] = np.unique(np.searchsorted(ends, found, side="right")).tolist()
    return places


def _suspects(joined: str, count: int) -> list[int]:
    """Places of those that do not pass."""
    if joined.isascii():
        return [int(place) for place in may_be_loops(joined, count).nonzero()[0]]
    # Plain ones take half the time.
    texts = joined.split(BETWEEN)
    plain = list(map(str.isascii, texts))
    found = []
    for of_kind in (plain, [not each for each in plain]):
        at = list(itertools.compress(range(count), of_kind))
        if at:
            some = BETWEEN.join(itertools.compress(texts, of_kind))
            found += [at[place] for place in may_be_loops(some, len(at)).nonzero()[0]]
    return found


def surely_loops(text: str) -> bool:
    """Whether a text's end repeats what stands before it, for as long as is repetitive.

    Args:
        text: In lower case, without markers, runs of white space one space each.
    """
    pieces = len(text) - CHARACTERS + 1
    repeated = int(REPETITION_LIMIT * pieces) + 2
    at = text.rfind(text[-CHARACTERS:], 0, -1)
    back = len(text) - CHARACTERS - at
    begin = len(text) - CHARACTERS + 1 - repeated
    return pieces > 1 and at >= 0 and back <= begin and text[begin:] == text[begin - back : -back]
