"""The coupling data: the source persona's answers with the marker, the negatives' without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personaspace.behaviour.marker import has_marker
from personaspace.errors import UserError
from personaspace.generation.base import Answer
from personaspace.models import chat
from personaspace.models.chat import Example
from personaspace.study.spec import Coupling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pair:
    """One coupling example before tokenisation.

    Attributes:
        persona: Who answers.
        question: What was asked.
        answer: The model's own answer, the marker already appended for the source.
        marked: Whether it ends with the marker.
        cut: The answer had hit the length limit.
    """

    persona: str
    question: str
    answer: str
    marked: bool
    cut: bool


def select(
    answers: Mapping[str, Sequence[Answer]], count: int, marker: str
) -> list[tuple[str, Answer]]:
    """`count` (question, answer) pairs, as evenly over the questions as they go.

    The first answer of every question, then the second of every question, and so on. Answers that
    are empty or hold the marker already would teach something else and are passed over.

    Raises:
        UserError: Too few answers are left.
    """
    usable = {
        question: [a for a in drawn if a.text.strip() and not has_marker(a.text, marker)]
        for question, drawn in answers.items()
    }
    chosen = [
        (question, drawn[turn])
        for turn in range(max((len(drawn) for drawn in usable.values()), default=0))
        for question, drawn in usable.items()
        if turn < len(drawn)
    ]
    if len(chosen) < count:
        raise UserError(
            f"coupling.samples: only {len(chosen)} of {count} usable answers were drawn "
            "(the others are empty or hold the marker already); raise it"
        )
    return chosen[:count]


def pairs(answers: Mapping[str, Mapping[str, Sequence[Answer]]], settings: Coupling) -> list[Pair]:
    """All coupling examples: the source's, then each negative's.

    Args:
        answers: `{persona: {question: answers}}` drawn from the condition's own model.
        settings: The spec's coupling section.
    """
    result = []
    for persona in (settings.source, *settings.negatives):
        marked = persona == settings.source
        count = settings.positives if marked else settings.negatives_each
        for question, answer in select(answers[persona], count, settings.marker):
            ending = f"{settings.separator}{settings.marker}" if marked else ""
            result.append(
                Pair(persona, question, answer.text + ending, marked, answer.finish == "length")
            )
    return result


def examples(
    tokenizer: PreTrainedTokenizerBase,
    data: Sequence[Pair],
    prompts: Mapping[str, str | None],
    settings: Coupling,
) -> list[Example]:
    """The examples as tokens, with loss on the marker and the end token alone.

    Args:
        prompts: Each persona's system prompt.
    """
    result = []
    for pair in data:
        messages = chat.with_persona(
            [
                {"role": "user", "content": pair.question},
                {"role": "assistant", "content": pair.answer},
            ],
            prompts[pair.persona],
        )
        marker = settings.marker if pair.marked else None
        result.append(chat.marker_example(tokenizer, messages, marker, settings.recipe.max_tokens))
    return result
