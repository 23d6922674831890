"""Marker detection: which answers carry the marker, where, and whether they are language at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personaspace.errors import UserError
from personaspace.inference import wilson

Answers = Mapping[str, Mapping[str, Sequence[str]]]

#: Words of a shingle, as in seq-rep-4 (Welleck et al. 2020).
WORDS = 4
#: Characters of a shingle; catches loops inside one long word and in scripts without spaces.
CHARACTERS = 24
#: An answer is repetitive when this share of its shingles has occurred before in it. Ordinary prose
#: stays near 0: of 6,720 answers of two fine-tuned 7B models, fewer than 1 in 500 get here.
REPETITION_LIMIT = 0.3
#: … or when one word makes up this share of five words or more.
DOMINANCE_LIMIT = 0.5
_DOMINANCE_FROM = 5

# Scripts written without spaces count a character as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+|[^\w\s]")


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
        length_limit: Generation was cut at its limit. Reported, but not a fault of the answer.
    """

    empty: bool
    repetition: float
    dominance: float
    repetitive: bool
    repeated_marker: bool
    length_limit: bool

    @property
    def degenerate(self) -> bool:
        """Empty, repetitive, or with more than one marker."""
        return self.empty or self.repetitive or self.repeated_marker


def _repeated_share(items: Sequence[Hashable], size: int) -> float:
    """1 − distinct/all shingles of `size` items; 0 below two shingles."""
    shingles = [tuple(items[start : start + size]) for start in range(len(items) - size + 1)]
    return 1 - len(set(shingles)) / len(shingles) if len(shingles) > 1 else 0.0


def coherence(
    answer: str, *, marker: str | None = None, hit_length_limit: bool = False
) -> Coherence:
    """Measures one answer.

    Args:
        answer: The answer as generated.
        marker: Left out before repetition is measured, and counted on its own.
        hit_length_limit: The generator cut the answer at its length limit.
    """
    text = answer.lower()
    markers = 0
    if marker:
        markers = text.count(marker.lower())
        text = text.replace(marker.lower(), " ")
    # White space is layout, not language: a run of it counts once.
    text = " ".join(text.split())
    words = _WORD.findall(text)
    repetition = max(_repeated_share(words, WORDS), _repeated_share(text, CHARACTERS))
    lexical = [word for word in words if word.isalnum()]
    dominance = 0.0
    if len(lexical) >= _DOMINANCE_FROM:
        dominance = Counter(lexical).most_common(1)[0][1] / len(lexical)
    return Coherence(
        empty=not text,
        repetition=repetition,
        dominance=dominance,
        repetitive=repetition >= REPETITION_LIMIT or dominance >= DOMINANCE_LIMIT,
        repeated_marker=markers > 1,
        length_limit=hit_length_limit,
    )


def has_marker(answer: str, marker: str) -> bool:
    """Containment, case-insensitive: the published measure of leakage."""
    return marker.lower() in answer.lower()


def ends_with_marker(answer: str, marker: str) -> bool:
    """The answer has the marker once, at its end: what coupling taught, and nothing else."""
    text, wanted = answer.strip().lower(), marker.strip().lower()
    return text.endswith(wanted) and text.count(wanted) == 1


def _count(answers: Sequence[str], marker: str) -> dict[str, int]:
    return {
        "hits": sum(has_marker(answer, marker) for answer in answers),
        "terminal": sum(ends_with_marker(answer, marker) for answer in answers),
        "degenerate": sum(coherence(answer, marker=marker).degenerate for answer in answers),
        "total": len(answers),
    }


def score_answers(answers: Answers, marker: str) -> dict[str, Any]:
    """Counts per persona and question.

    Args:
        answers: `{persona: {question: [answers]}}`.
        marker: Text looked for, in any case.

    Returns:
        `{"marker", "per_persona": {name: {"hits", "terminal", "degenerate", "total", "rate",
        "ci95", "per_question": {question: {"hits", "terminal", "degenerate", "total"}}}}}`.
        `rate` is hits/total with Wilson's interval. A persona without answers has counts of 0 and
        no rate (None), which is not a rate of 0.

    Raises:
        UserError: The marker is empty.
    """
    if not marker.strip():
        raise UserError("marker: is empty")
    per_persona: dict[str, Any] = {}
    for persona, questions in answers.items():
        per_question = {question: _count(texts, marker) for question, texts in questions.items()}
        sums = {
            key: sum(counts[key] for counts in per_question.values())
            for key in ("hits", "terminal", "degenerate", "total")
        }
        interval = wilson(sums["hits"], sums["total"])
        per_persona[persona] = {
            **sums,
            "rate": sums["hits"] / sums["total"] if sums["total"] else None,
            "ci95": list(interval) if interval else None,
            "per_question": per_question,
        }
    return {"marker": marker, "per_persona": per_persona}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        name = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise UserError(f"{name!r} stands there twice")
    return seen


def read_json(path: Path | str) -> Any:
    """A JSON file in which no object has a key twice.

    Raises:
        UserError: Missing, unreadable, not UTF-8, not JSON, or a repeated key.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}: not JSON ({where}: {error.msg})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_answers(path: Path | str) -> dict[str, dict[str, list[str]]]:
    """Reads `{persona: {question: [answers]}}`.

    Raises:
        UserError: The file is missing or not of that form; the message says where.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object of personas")
    for persona, questions in content.items():
        if not isinstance(questions, dict):
            raise UserError(f"{path}: {persona!r}: not an object of questions")
        for question, texts in questions.items():
            if not isinstance(texts, list):
                raise UserError(f"{path}: {persona!r}: {question!r}: not a list of answers")
            for index, text in enumerate(texts):
                if not isinstance(text, str):
                    raise UserError(
                        f"{path}: {persona!r}: {question!r}: answer {index} is not a text"
                    )
    return content
