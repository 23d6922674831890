"""Whether an answer is language at all, so that gibberish is not read as leakage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

#: Words of a shingle, as in seq-rep-4 (Welleck et al. 2020).
WORDS = 4
#: Characters of a shingle; catches loops inside one long word and in scripts without spaces.
CHARACTERS = 24
#: An answer is repetitive when this share of its shingles has occurred before in it. Ordinary prose
#: stays near 0: of 6,720 answers of two fine-tuned 7B models, fewer than 1 in 500 get here.
REPETITION_LIMIT = 0.3
#: … or when one word makes up this share of five words or more.
DOMINANCE_LIMIT = 0.5
DOMINANCE_FROM = 5
#: Scripts written without spaces, as a class of a regular expression: a character is a word there.
SPACELESS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{SPACELESS}]|[^\W_]+|[^\w\s]")


@dataclass(frozen=True)
class Coherence:
    """Whether an answer is language, so that gibberish is not read as leakage or as its absence.

    Attributes:
        empty: Nothing but white space and markers.
        repetition: Share of word 4-grams, or of 24-character pieces if that is higher, that repeat
            an earlier one of the same answer; 0 for texts too short to have two.
        dominance: Share of the most frequent word, 0 below five words.
        repetitive: `repetition` ≥ 0.3 or `dominance` ≥ 0.5.
        repeated_marker: The marker occurs twice or more.
    """

    empty: bool
    repetition: float
    dominance: float
    repetitive: bool
    repeated_marker: bool

    @property
    def degenerate(self) -> bool:
        """Empty, repetitive, or with more than one marker."""
        return self.empty or self.repetitive or self.repeated_marker


def _repeated_share(shingles: Sequence[Hashable]) -> float:
    """1 − distinct/all; 0 below two."""
    return 1 - len(set(shingles)) / len(shingles) if len(shingles) > 1 else 0.0


def coherence(answer: str, *, marker: str | None = None) -> Coherence:
    """Measures one answer; that it was cut at the length limit is no fault of it.

    Args:
        answer: The answer as generated.
        marker: Left out before repetition is measured, and counted on its own.
    """
    text = answer.lower()
    markers = 0
    if marker:
        markers = text.count(marker.lower())
        text = text.replace(marker.lower(), " ")
    # White space is layout, not language: a run of it counts once.
    text = " ".join(text.split())
    words = _WORD.findall(text)
    starts = range(len(text) - CHARACTERS + 1)
    repetition = max(
        _repeated_share(list(zip(*(words[place:] for place in range(WORDS)), strict=False))),
        _repeated_share([text[start : start + CHARACTERS] for start in starts]),
    )
    lexical = [word for word in words if word.isalnum()]
    dominance = 0.0
    if len(lexical) >= DOMINANCE_FROM:
        dominance = Counter(lexical).most_common(1)[0][1] / len(lexical)
    return Coherence(
        empty=not text,
        repetition=repetition,
        dominance=dominance,
        repetitive=repetition >= REPETITION_LIMIT or dominance >= DOMINANCE_LIMIT,
        repeated_marker=markers > 1,
    )
