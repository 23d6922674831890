"""Counts over very many answers: `coherence` of those alone that might be repetitive.

Most answers are prose and repeat next to nothing: `sieve` passes them, many at a time. Loops that
last to the end of an answer are told by comparing it with itself. Only what is left is measured,
so the counts are those of `coherence`, and most answers cost microseconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from personaspace.behaviour.coherence import CHARACTERS, REPETITION_LIMIT, coherence
from personaspace.behaviour.sieve import BETWEEN, may_be_loops

#: Characters that are looked at in one go: their arrays fit a processor's cache.
BATCH = 1 << 16


def degenerate(answers: Sequence[str], marker: str) -> list[bool]:
    """Which answers are degenerate, as `coherence` says.

    Args:
        answers: As generated.
        marker: Left out before repetition is measured; two of it are degenerate.
    """
    wanted = marker.lower()
    sizes = np.cumsum(np.fromiter(map(len, answers), np.int64, len(answers)))
    ends = np.flatnonzero(np.diff(sizes // BATCH, append=-1)) + 1
    found: list[bool] = []
    for begin, end in itertools.pairwise([0, *ends.tolist()]):
        found += _of_batch(answers[begin:end], wanted)
    return found


def _of_batch(batch: Sequence[str], wanted: str) -> list[bool]:
    joined = BETWEEN.join(batch).lower()
    texts = joined.split(BETWEEN)
    if len(texts) != len(batch):
        return [coherence(answer, marker=wanted).degenerate for answer in batch]
    found = [False] * len(batch)
    if wanted in joined:
        found = [wanted in text and text.count(wanted) > 1 for text in texts]
        joined = joined.replace(wanted, " ")
        texts = joined.split(BETWEEN)
    for place in _suspects(joined, texts):
        if not found[place]:
            text = " ".join(texts[place].split())
            found[place] = surely_loops(text) or coherence(text).degenerate
    return found


def _suspects(joined: str, texts: list[str]) -> list[int]:
    """Places of those that do not pass."""
    if joined.isascii():
        return [int(place) for place in may_be_loops(joined, len(texts)).nonzero()[0]]
    found = []
    # Plain ones take half the time.
    for plain in (True, False):
        places = [place for place, text in enumerate(texts) if text.isascii() is plain]
        if places:
            some = BETWEEN.join([texts[place] for place in places])
            found += [places[at] for at in may_be_loops(some, len(places)).nonzero()[0]]
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
