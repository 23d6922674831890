"""Counts over very many answers: `coherence` of those alone that might be repetitive.

Most answers are prose and repeat next to nothing: `sieve` passes them. Of the others arithmetic on
arrays, over many at once, finds a share of repeated pieces that is never below the true one; only
where it reaches the limit is the answer measured itself. So the counts are those of `coherence`,
and most answers cost microseconds.

Legend: N characters of all answers of a batch, A answers, T words and signs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personaspace.behaviour.coherence import (
    CHARACTERS,
    DOMINANCE_LIMIT,
    REPETITION_LIMIT,
    SPACELESS,
    WORDS,
    coherence,
)
from personaspace.behaviour.sieve import surely_varied

Ints = NDArray[np.uint64]
#: Characters that are looked at in one go: their arrays fit a processor's cache.
BATCH = 1 << 16
#: Places in the table that pieces are told apart by, for each piece: a power of two.
_ROOM = 8
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
#: Characters of the scripts from Latin to Cyrillic, and of typography.
_FEW = 0x2100
_SPACE, _LETTER, _SIGN, _SINGLE = range(4)


def degenerate(answers: Iterable[str], marker: str) -> Iterator[bool]:
    """Which answers are degenerate, as `coherence` says, in order.

    Args:
        answers: As generated; no more of them are held at once than a batch.
        marker: Left out before repetition is measured; two of it are degenerate.
    """
    wanted = marker.lower()
    for batch in _batches(answers):
        found = [False] * len(batch)
        texts, places = [], []
        for place, answer in enumerate(batch):
            text = answer.lower()
            markers = text.count(wanted)
            text = " ".join((text.replace(wanted, " ") if markers else text).split())
            if markers > 1 or not text:
                found[place] = True
            elif not surely_varied(text):
                texts.append(text)
                places.append(place)
        if texts:
            for suspect in np.flatnonzero(_may_repeat(texts)):
                place = places[suspect]
                found[place] = coherence(batch[place], marker=marker).degenerate
        yield from found


def _batches(answers: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for answer in answers:
        batch.append(answer)
        size += len(answer)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@cache
def _kinds(count: int) -> NDArray[np.uint8]:
    """What each of the first characters is: white space and _, part of a word, a sign, a word."""
    table, alone = np.full(count, _SIGN, np.uint8), re.compile(f"[{SPACELESS}]")
    for code in range(count):
        character = chr(code)
        if character.isalnum():
            table[code] = _LETTER
        elif character.isspace() or character == "_":
            table[code] = _SPACE
        if alone.match(character):
            table[code] = _SINGLE
    return table


def _may_repeat(texts: Sequence[str]) -> NDArray[np.bool_]:
    """`[A]`, false only where an answer is surely not repetitive."""
    lengths_A = np.array([len(text) for text in texts])
    raw = "\n".join(texts).encode("utf-32-le", "surrogatepass")
    codes_N = np.frombuffer(raw, np.uint32)
    answer_N = np.repeat(np.arange(len(texts)), lengths_A + 1)[: len(codes_N)]
    # Most texts use few scripts, and a table of all characters takes a second to make.
    kinds_N = _kinds(_FEW if codes_N.max() < _FEW else 0x110000)[codes_N]
    suspect_A = _share(_pieces(codes_N), answer_N, CHARACTERS, len(texts)) >= REPETITION_LIMIT
    # Words that begin with a character which is a word alone follow other rules: all measured.
    suspect_A[answer_N[kinds_N == _SINGLE]] = True
    letter_N = kinds_N == _LETTER
    before_N = np.concatenate(([False], letter_N[:-1]))
    after_N = np.concatenate((letter_N[1:], [False]))
    begins = np.flatnonzero((letter_N & ~before_N) | (kinds_N == _SIGN))
    word_T = letter_N[begins]
    hash_T = codes_N[begins].astype(np.uint64) * _MIX
    hash_T[word_T] = _word_hashes(codes_N, begins[word_T], np.flatnonzero(letter_N & ~after_N) + 1)
    answer_T = answer_N[begins]
    shares_A = _share(_windows(hash_T), answer_T, WORDS, len(texts))
    suspect_A |= shares_A >= REPETITION_LIMIT
    suspect_A |= _may_dominate(hash_T[word_T], answer_T[word_T], len(texts))
    return suspect_A


def _pieces(codes_N: NDArray[np.uint32]) -> Ints:
    """A hash of the 24 characters from each one on: those of 8 and of 16 put together."""
    hashes, width, power = codes_N.astype(np.uint64), 1, _BASE
    eight = hashes
    while width < 16:
        hashes = hashes[:-width] * power + hashes[width:]
        width, power = 2 * width, _square(power)
        if width == 8:
            eight = hashes
    if len(hashes) <= 16:
        return hashes[:0]
    together: Ints = hashes[: len(eight) - 16] * _MIX + eight[16 : 16 + len(hashes)]
    return together


def _square(number: np.uint64) -> np.uint64:
    return np.uint64(int(number) ** 2 % 2**64)


def _windows(hash_T: Ints) -> Ints:
    """A hash of four words from each one on."""
    if len(hash_T) < WORDS:
        return hash_T[:0]
    two = hash_T[:-1] * _BASE + hash_T[1:]
    four: Ints = two[:-2] * _MIX + two[2:]
    return four


def _word_hashes(codes_N: NDArray[np.uint32], begins: Any, ends: Any) -> Ints:
    """A hash of each word, whatever stands before it."""
    powers, inverse = _powers(len(codes_N))
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(codes_N * powers, dtype=np.uint64)))
    hashes: Ints = (sums[ends] - sums[begins]) * inverse[begins]
    return hashes


_POWERS: list[tuple[Ints, Ints]] = []


def _powers(count: int) -> tuple[Ints, Ints]:
    """Powers of an odd number modulo 2^64, and of its inverse."""
    if not _POWERS or len(_POWERS[0][0]) < count:
        size = max(count, 2 * BATCH)
        backwards = np.uint64(pow(int(_BASE), -1, 2**64))
        with np.errstate(over="ignore"):
            made = [
                np.cumprod(np.concatenate((np.ones(1, np.uint64), np.full(size - 1, base))))
                for base in (_BASE, backwards)
            ]
        _POWERS[:] = [(made[0].astype(np.uint64), made[1].astype(np.uint64))]
    powers, inverse = _POWERS[0]
    return powers[:count], inverse[:count]


def _share(hashes: Ints, answer: NDArray[Any], width: int, answers: int) -> NDArray[np.float64]:
    """`[A]` share of pieces that may repeat another of the same answer; never below the true one.

    Args:
        hashes: Of the piece that begins at each place.
        answer: Of each place (also those at which no piece begins).
        width: Places of a piece.
        answers: How many there are.
    """
    count = len(hashes)
    owner = answer[:count]
    whole = owner == answer[width - 1 : width - 1 + count]
    owner, hashes = owner[whole], hashes[whole]
    total = np.bincount(owner, minlength=answers)
    if not len(owner):
        return np.zeros(answers)
    bits = int(len(owner) * _ROOM).bit_length()
    mixed = (hashes ^ (owner.astype(np.uint64) * _BASE)) * _MIX
    slot = (mixed >> np.uint64(64 - bits)).astype(np.intp)
    last = np.empty(1 << bits, np.int32)
    index = np.arange(len(owner), dtype=np.int32)
    last[slot] = index
    repeated = np.bincount(owner[last[slot] != index], minlength=answers)
    return np.where(total > 1, repeated / np.maximum(total, 1), 0.0)


def _may_dominate(hash_W: Ints, owner_W: NDArray[Any], answers: int) -> NDArray[np.bool_]:
    """`[A]`, false only where no word is as frequent as it must be; A words of 5 and more."""
    total = np.bincount(owner_W, minlength=answers)
    if not len(owner_W):
        return np.zeros(answers, bool)
    key = np.sort((owner_W.astype(np.uint64) << np.uint64(40)) | (hash_W >> np.uint64(24)))
    starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    runs = np.diff(np.concatenate((starts, [len(key)])))
    most = np.zeros(answers, np.int64)
    np.maximum.at(most, (key[starts] >> np.uint64(40)).astype(np.intp), runs)
    return most >= DOMINANCE_LIMIT * np.maximum(total, 1)
