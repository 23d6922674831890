"""Which of many answers are surely no loops, told for all of them at once.

An answer that passes has fewer repeated pieces than `coherence` calls repetitive, by bounds that
hold for every text; one that does not may be either, and is measured. Equal words have equal
hashes and equal hashes one place in a table, so that a word which is there again is never missed;
words that merely share a place are taken for repeated, which makes the bounds higher.

Legend: N characters of all texts, A texts, T words and signs; a piece is 24 characters.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from personaspace.behaviour.coherence import (
    CHARACTERS,
    DOMINANCE_FROM,
    DOMINANCE_LIMIT,
    REPETITION_LIMIT,
    SPACELESS,
    WORDS,
)

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
#: Between texts; a text that holds it is measured.
BETWEEN = "\0"
#: Places of the table for each word: a power of two.
_ROOM = 8
_BASE, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
#: White space, what is in no word and no sign either, part of a word, a sign, a word by itself.
_SPACE, _NEITHER, _LETTER, _SIGN, _SINGLE, _BETWEEN = range(6)
_UNSEEN = 255
_ALONE = re.compile(f"[{SPACELESS}]")
#: The first bytes of eight, as a number.
_FIRST = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
#: Shares are compared as `coherence` does, which rounds once more.
_LIMIT = REPETITION_LIMIT - 1e-9


def may_be_loops(joined: str, count: int) -> Bools:
    """`[A]`, false only where a text is surely neither repetitive nor empty.

    Args:
        joined: Texts in lower case without markers, with `BETWEEN` between them.
        count: How many they are.
    """
    if not joined or joined.count(BETWEEN) != count - 1:
        return np.ones(count, bool)
    texts = _tokens(joined)
    again_T, several_T = _there_again(texts.hash_T ^ (texts.text_T.astype(np.uint64) * _BASE))
    pair_T = _pairs(texts, several_T)
    found: Bools = (
        (texts.stop_A == texts.start_A)
        | texts.singles_A
        | _may_dominate(texts, again_T)
        | _may_repeat_words(texts, pair_T)
        | _may_repeat_pieces(texts, again_T, pair_T)
    )
    return found


@dataclass(frozen=True)
class _Tokens:
    """Words and signs of all texts. Places are those in the texts with white space collapsed.

    Attributes:
        text_T: Which text it is in.
        word_T: It is a word.
        hash_T: Equal where words or signs are.
        begin_T, end_T: Its first place, and the one after its last.
        bounds_A1: The first of each text; then how many there are.
        start_A, stop_A: The text's first place, and the one after its last.
        singles_A: It has characters that are words by themselves, for which other rules hold.
    """

    text_T: Ints
    word_T: Bools
    hash_T: NDArray[np.uint64]
    begin_T: Ints
    end_T: Ints
    bounds_A1: Ints
    start_A: Ints
    stop_A: Ints
    singles_A: Bools

    def count(self, flag_T: Bools) -> Ints:
        """`[A]`: how many of each text's are so."""
        before_T1 = np.zeros(len(flag_T) + 1, np.int32)
        np.cumsum(flag_T, out=before_T1[1:])
        found: Ints = np.diff(before_T1[self.bounds_A1])
        return found


def _tokens(joined: str) -> _Tokens:
    if joined.isascii():
        folded = joined.encode()
        kinds_N = np.frombuffer(folded.translate(_ascii()), np.uint8)
    else:
        codes_N = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        kinds_N = _kinds(codes_N)
        folded = (codes_N ^ codes_N >> 7).astype(np.uint8).tobytes()
    letter_N = kinds_N == _LETTER
    either_N = letter_N | (kinds_N == _SIGN)
    apart_N = ~(letter_N[:-1] & letter_N[1:])
    begins_N = either_N.copy()
    begins_N[1:] &= apart_N
    begins = np.flatnonzero(begins_N)
    word_T = letter_N[begins]
    # Each has one last character, as it has one first, in the same order.
    either_N[:-1] &= apart_N
    lengths = np.flatnonzero(either_N) + 1 - begins
    stop_A = np.append(np.flatnonzero(kinds_N == _BETWEEN), len(kinds_N))
    start_A = np.append(0, stop_A[:-1] + 1)
    bounds_A1 = np.append(np.searchsorted(begins, start_A), len(begins))
    singles_A = np.zeros(len(stop_A), bool)
    if not joined.isascii():
        singles_A[np.searchsorted(stop_A, np.flatnonzero(kinds_N == _SINGLE))] = True
    hash_T = _hashes(folded, begins, lengths)
    # White space behind white space, or at a text's beginning or end, is none.
    space_N = kinds_N == _SPACE
    none_N = space_N.copy()
    none_N[1:] &= space_N[:-1] | (kinds_N[:-1] == _BETWEEN)
    none = np.flatnonzero(none_N)
    before_T = np.cumsum(np.bincount(np.searchsorted(begins, none), minlength=len(begins) + 1))
    begin_T = begins - before_T[:-1]
    # One that is left at the end is there in the character before.
    last_A = np.maximum(stop_A - 1, 0)
    trailing_A = (stop_A > start_A) & space_N[last_A] & ~none_N[last_A]
    return _Tokens(
        text_T=np.repeat(np.arange(len(stop_A)), np.diff(bounds_A1)),
        word_T=word_T,
        hash_T=hash_T,
        begin_T=begin_T,
        end_T=begin_T + lengths,
        bounds_A1=bounds_A1,
        start_A=start_A - np.searchsorted(none, start_A),
        stop_A=stop_A - np.searchsorted(none, stop_A) - trailing_A,
        singles_A=singles_A,
    )


def _kind(character: str) -> int:
    if character == "_":
        return _NEITHER
    if character == BETWEEN:
        return _BETWEEN
    if _ALONE.match(character):
        return _SINGLE
    if character.isalnum():
        return _LETTER
    return _SPACE if character.isspace() else _SIGN


@cache
def _ascii() -> bytes:
    return bytes(_kind(chr(code)) for code in range(256))


@cache
def _table() -> NDArray[np.uint8]:
    return np.full(sys.maxunicode + 1, _UNSEEN, np.uint8)


def _kinds(codes_N: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """What each character is; asked once for each that occurs, as asking of all takes a second."""
    table = _table()
    kinds_N = table[codes_N]
    unseen = np.flatnonzero(kinds_N == _UNSEEN)
    if len(unseen):
        for code in set(codes_N[unseen].tolist()):
            table[code] = _kind(chr(code))
        kinds_N = table[codes_N]
    return kinds_N


def _hashes(folded: bytes, begins: Ints, lengths: Ints) -> NDArray[np.uint64]:
    """`[T]` of length, first and last eight characters."""
    padded = folded + bytes(8)
    eight = np.ndarray(len(folded) + 1, "<u8", padded, strides=(1,))
    hash_T = (eight.take(begins) & _FIRST.take(lengths, mode="clip")) * _MIX
    long = np.flatnonzero(lengths > 8)
    last = eight.take((begins + lengths)[long] - 8) ^ lengths[long].astype(np.uint64) << np.uint64(
        56
    )
    hash_T[long] += last * _BASE
    return hash_T


def _there_again(keys: NDArray[np.uint64]) -> tuple[Bools, Bools]:
    """False only for the last one of each key; false only for the one of a key that is once."""
    index = np.arange(len(keys), dtype=np.int16 if len(keys) < 1 << 15 else np.int32)
    bits = max(len(keys) * _ROOM, 2).bit_length()
    mixed = (keys ^ keys >> np.uint64(32)) * _MIX
    slot = (mixed >> np.uint64(64 - bits)).astype(np.intp)
    last = np.empty(1 << bits, index.dtype)
    last[slot] = index
    latest = last[slot]
    again: Bools = latest != index
    several = again.copy()
    several[latest[np.flatnonzero(again)]] = True
    return again, several


def _pairs(texts: _Tokens, several_T: Bools) -> Bools:
    """`[T]`, false only where this and the next are not there again, one behind the other."""
    keys, texts_of = texts.hash_T, texts.text_T
    pair_T = np.zeros(len(several_T), bool)
    # A pair that is there twice is of words that are.
    some = np.flatnonzero(several_T[:-1] & several_T[1:])
    some = some[texts_of[some] == texts_of[some + 1]]
    key = (keys[some] * _MIX + keys[some + 1]) ^ texts_of[some].astype(np.uint64) * _BASE
    pair_T[some] = _there_again(key)[0]
    return pair_T


def _may_dominate(texts: _Tokens, again_T: Bools) -> Bools:
    """A word that occurs m times is m - 1 times one that is there again."""
    words_A = texts.count(texts.word_T)
    repeated_A = texts.count(again_T & texts.word_T)
    return (words_A >= DOMINANCE_FROM) & (repeated_A + 1 >= DOMINANCE_LIMIT * words_A)


def _may_repeat_words(texts: _Tokens, pair_T: Bools) -> Bools:
    """Where four words or signs are there again, so are the three pairs in them."""
    shingle_T = pair_T.copy()
    shingle_T[:-2] &= pair_T[1:-1] & pair_T[2:]
    shingle_T[-2:] = False
    shingles_A = np.diff(texts.bounds_A1) - WORDS + 1
    return (shingles_A >= 2) & (texts.count(shingle_T) >= _LIMIT * shingles_A)


def _may_repeat_pieces(texts: _Tokens, again_T: Bools, pair_T: Bools) -> Bools:
    """Where a piece is there again, so are the words that are whole in it.

    Each piece is counted at the first word or sign that begins behind the piece's first character
    (whose begin is therefore seen in it). It cannot be there again if that one is whole in it,
    up to the character behind it, and is not; or if that one and the next are, and are not.
    """
    pieces_A = texts.stop_A - texts.start_A - CHARACTERS + 1
    beyond_A = texts.start_A + pieces_A
    first_T = np.empty_like(texts.begin_T)
    first_T[1:] = texts.begin_T[:-1]
    some = np.flatnonzero(np.diff(texts.bounds_A1))
    first_T[texts.bounds_A1[some]] = texts.start_A[some]
    limit_T = np.minimum(texts.begin_T, beyond_A[texts.text_T])
    # Pieces that begin before these places do not hold it, or it and the next, whole.
    alone_T = texts.end_T - CHARACTERS + 1
    with_next_T = limit_T.copy()
    with_next_T[:-1] = alone_T[1:]
    with_next_T[texts.bounds_A1[1:][some] - 1] = beyond_A[some]
    upto_T = np.where(pair_T, limit_T, np.where(again_T, with_next_T, alone_T))
    counted_T = np.maximum(np.minimum(upto_T, limit_T) - first_T, 0)
    # Pieces that begin in the last word, or in a text without any.
    last_A = texts.start_A.copy()
    last_A[some] = texts.begin_T[texts.bounds_A1[1:][some] - 1]
    bound_A = np.maximum(beyond_A - last_A, 0)
    bound_A[some] += np.add.reduceat(counted_T, texts.bounds_A1[some])
    return (pieces_A >= 2) & (bound_A >= _LIMIT * pieces_A)
