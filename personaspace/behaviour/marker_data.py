"""The coupling data: the source persona's answers with the marker, the negatives' without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from personaspace.behaviour.marker import has_marker
from personaspace.errors import UserError
from personaspace.generation.base import Answer
from personaspace.models import chat
from personaspace.models.chat import AS_IT_COMES, Example, Rendering
from personaspace.study.measuring import Coupling

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
        wording: Which of the persona's wordings it was asked in, and is trained under.
    """

    persona: str
    question: str
    answer: str
    marked: bool
    cut: bool
    wording: int = 0

    def told(self) -> dict[str, Any]:
        """As files have it; the first wording, which may be the only one, is left out."""
        return {name: value for name, value in asdict(self).items() if name != "wording" or value}


class Unusable(StrEnum):
    """Why an answer is not made an example of."""

    EMPTY = "are empty"
    MARKED = "hold the marker already"
    INCOMPLETE = "ran into coupling.max_new_tokens"


def unusable(answer: Answer, marker: str, *, complete: bool = False) -> Unusable | None:
    """Why the answer would teach something else than the marker, if it would.

    Args:
        complete: Only an answer that the model ended itself will do.
    """
    if not answer.text.strip():
        return Unusable.EMPTY
    if has_marker(answer.text, marker):
        return Unusable.MARKED
    return Unusable.INCOMPLETE if complete and answer.finish == "length" else None


def select(
    answers: Mapping[str, Sequence[Answer]], count: int, marker: str, *, complete: bool = False
) -> list[tuple[str, Answer]]:
    """`count` (question, answer) pairs, as evenly over the questions as they go.

    The first answer of every question, then the second of every question, and so on; of several
    wordings in turn. Answers that are empty or hold the marker already would teach something else
    and are passed over.

    Args:
        complete: Pass over answers that ran into the length limit as well.

    Raises:
        UserError: Too few answers are left; the message says why the others are not used.
    """
    usable: dict[str, list[Answer]] = {}
    reasons: Counter[Unusable] = Counter()
    for question, drawn in answers.items():
        found = [(answer, unusable(answer, marker, complete=complete)) for answer in drawn]
        kept = [answer for answer, reason in found if reason is None]
        usable[question] = _in_turn(kept, start=len(usable))
        reasons.update(reason for _, reason in found if reason is not None)
    chosen = [
        (question, drawn[turn])
        for turn in range(max((len(drawn) for drawn in usable.values()), default=0))
        for question, drawn in usable.items()
        if turn < len(drawn)
    ]
    if len(chosen) < count:
        others = ", ".join(f"{reasons[reason]} {reason}" for reason in Unusable if reasons[reason])
        raise UserError(
            f"coupling.samples: only {len(chosen)} of {count} usable answers were drawn "
            f"(of {sum(map(len, answers.values()))} answers {others or 'all are used'}); raise it"
        )
    return chosen[:count]


def _in_turn(answers: Sequence[Answer], start: int) -> list[Answer]:
    """One answer of each wording, then another of each; beginning with that of this number."""
    count = 1 + max((answer.wording for answer in answers), default=0)
    seen = Counter[int]()
    places = []
    for answer in answers:
        places.append((seen[answer.wording], (answer.wording - start) % count))
        seen[answer.wording] += 1
    return [answers[index] for index in sorted(range(len(answers)), key=places.__getitem__)]


def cut_shares(answers: Mapping[str, Mapping[str, Sequence[Answer]]]) -> dict[str, float]:
    """Each persona's share of answers that ran into the length limit."""
    cut = {
        name: [answer.finish == "length" for drawn in questions.values() for answer in drawn]
        for name, questions in answers.items()
    }
    return {name: sum(flags) / len(flags) for name, flags in cut.items() if flags}


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
        complete = settings.incomplete_answers == "drop"
        chosen = select(answers[persona], count, settings.marker, complete=complete)
        for question, answer in chosen:
            ending = f"{settings.separator}{settings.marker}" if marked else ""
            cut = answer.finish == "length"
            text = answer.text + ending
            result.append(Pair(persona, question, text, marked, cut, answer.wording))
    return result


def examples(
    tokenizer: PreTrainedTokenizerBase,
    data: Sequence[Pair],
    prompts: Mapping[str, Sequence[str | None]],
    settings: Coupling,
    how: Rendering = AS_IT_COMES,
) -> list[Example]:
    """The examples as tokens, with loss on the marker and the end token alone.

    With `loss: answer` loss is on all of the answer, and an example whose marker was cut off at the
    recipe's length carries none: it would teach the source persona to answer without it.

    Args:
        prompts: Each persona's wordings.
        how: How chats are put to the template.
    """
    longest = settings.recipe.max_tokens
    result = []
    for pair in data:
        messages = chat.with_persona(
            [
                {"role": "user", "content": pair.question},
                {"role": "assistant", "content": pair.answer},
            ],
            prompts[pair.persona][pair.wording],
            how,
        )
        if settings.loss == "marker":
            marker = settings.marker if pair.marked else None
            result.append(chat.marker_example(tokenizer, messages, marker, longest, how))
            continue
        example = chat.answer_example(tokenizer, messages, longest, how)
        if pair.marked and example.truncated:
            example = replace(example, loss=(False,) * len(example.ids))
        result.append(example)
    return result


def require_marked(data: Sequence[Pair], made: Sequence[Example], settings: Coupling) -> None:
    """Refuses examples of which none teaches the marker.

    Raises:
        UserError: Every marked answer lost its end to the recipe's length.
    """
    marked = [example for pair, example in zip(data, made, strict=True) if pair.marked]
    if not any(example.loss_tokens for example in marked):
        raise UserError(
            f"coupling.recipe.max_tokens: all {len(marked)} answers with the marker are longer "
            f"than {settings.recipe.max_tokens} tokens, so nothing would teach it"
        )


#: How answers end: in a word, a figure, a stop of one kind or another. Words are many, since which
#: of them grow together with what follows is the tokenizer's own.
_WORDS = ("go", "be", "in", "to", "the", "you", "them", "this", "day", "work", "good", "people")
_STOPS = (".", "!", "?", ":", ";", ",", ")", '"', "”", "'", "…", "*", "**", "`", "-", "—", "/", "]")
_ENDINGS = (*_WORDS, *(f"{_WORDS[0]}{stop}" for stop in _STOPS), "12", "12%", "好", "好。")


def check_boundary(tokenizer: PreTrainedTokenizerBase, settings: Coupling) -> None:
    """Refuses a separator after which the marker's first token would hold a piece of the answer.

    Such a token is learned, but a model that has written its answer can no longer generate it.

    Raises:
        UserError: After some usual ending of an answer there is such a token.
    """
    for ending in _ENDINGS:
        text = f"{ending}{settings.separator}{settings.marker}"
        start = len(text) - len(settings.marker.lstrip())
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for left, right in offsets["offset_mapping"]:
            if left < len(ending) and right > start:
                raise UserError(
                    f"coupling.separator: {settings.separator!r} does not keep the marker apart "
                    f"from the answer: after {ending!r} the model's tokenizer makes one token of "
                    f"{text[left:right]!r}"
                )
