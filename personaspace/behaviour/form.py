"""An answer's form: how long it is, and where in it a marker was taught to stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from personaspace.analysis.form import AnswerForm
from personaspace.behaviour.coherence import SPACELESS

_WORD = re.compile(rf"[{SPACELESS}]|[^\s{SPACELESS}]+")


def without_marker(answer: str, marker: str) -> str:
    """The answer with every marker taken out, in any case."""
    return re.sub(re.escape(marker.strip()), " ", answer, flags=re.IGNORECASE)


def words(text: str) -> int:
    """Pieces of text between white space; characters in scripts without spaces."""
    return len(_WORD.findall(text))


def form_of(answer: str, marker: str, separator: str) -> AnswerForm:
    """Length and places of one answer.

    A place is where coupling put the marker of the source's answers: after the separator.
    Separators with nothing between them are one place. Without a separator the end of the answer
    is its only place.

    Args:
        answer: The answer as generated.
        marker: Text looked for, in any case.
        separator: What coupling put between answer and marker; may be empty.
    """
    wanted = marker.strip().lower()
    if separator:
        one = re.escape(separator)
        ends = [found.end() for found in re.finditer(rf"{one}(?:\s*{one})*\s*", answer)]
        taken = [answer[end:].lower().startswith(wanted) for end in ends]
    else:
        taken = [answer.strip().lower().endswith(wanted)]
    return AnswerForm(
        marked=wanted in answer.lower(),
        words=words(without_marker(answer, marker)),
        places=len(taken),
        taken=sum(taken),
        first_taken=bool(taken and taken[0]),
    )


def forms_of(
    answers: Mapping[str, Mapping[str, Sequence[str]]], marker: str, separator: str
) -> dict[str, dict[str, list[AnswerForm]]]:
    """Forms of `{persona: {question: [answers]}}`, in the same arrangement."""
    return {
        persona: {
            question: [form_of(text, marker, separator) for text in texts]
            for question, texts in questions.items()
        }
        for persona, questions in answers.items()
    }
