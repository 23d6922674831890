"""Chats as tokens: rendering with the model's chat template, and which tokens carry loss."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from personaspace.errors import UserError
from personaspace.study.chat_forms import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    """One training chat.

    Attributes:
        ids: Tokens of the whole chat.
        loss: Whether the model is trained to produce the token, same length as `ids`.
        truncated: The chat was longer than the limit and lost its end.
    """

    ids: tuple[int, ...]
    loss: tuple[bool, ...]
    truncated: bool = False

    @property
    def loss_tokens(self) -> int:
        """How many tokens carry loss."""
        return sum(self.loss)


@dataclass(frozen=True)
class Rendering:
    """What a chat template is told beside the chat, and where it is told the persona.

    Attributes:
        arguments: Variables of the template, such as `enable_thinking`.
        date: The day that the template is told it is; None: today.
        personas_in: Where a persona's prompt, or a chat's own system message, goes.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    date: datetime.date | None = None
    personas_in: Literal["system", "first_user_turn"] = "system"

    def options(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """What `apply_chat_template` is told beside the chat."""
        template: Any = tokenizer.chat_template
        template = template.get("default", "") if isinstance(template, Mapping) else template
        if self.date is None or "strftime_now" not in template:
            return dict(self.arguments)
        # A template is handed plain data alone, so its clock becomes a macro that looks up what
        # the formats in its text come to.
        now = datetime.datetime.combine(self.date, datetime.time())
        forms = {form for _, form in _FORM.findall(template)}
        return {
            **self.arguments,
            "chat_template": _CLOCK + template,
            "written_dates": {form: now.strftime(form) for form in forms},
        }


#: Texts in quotes with a per cent sign in them.
_FORM = re.compile(r"""(?=(['"])([^'"\n]*%[^'"\n]*)\1)""")
_CLOCK = (
    "{% macro strftime_now(form) %}{{ written_dates[form] if form in written_dates else "
    "raise_exception('a date whose format is not written out') }}{% endmacro %}{{ '' }}"
)


#: A template as it comes, with system messages.
AS_IT_COMES = Rendering()


def with_persona(
    messages: Sequence[Message], prompt: str | None, how: Rendering = AS_IT_COMES
) -> list[Message]:
    """The chat under a persona: its prompt is the system message, replacing one of the chat's own.

    Without a prompt the chat is left as it is, so that the chat template's default applies. A
    template that knows no system message has it, and a blank line, before the first user's words.
    """
    system = [message["content"] for message in messages if message["role"] == "system"]
    if prompt is None and (how.personas_in == "system" or not system):
        return list(messages)
    told = system[0] if prompt is None else prompt
    rest = [message for message in messages if message["role"] != "system"]
    if how.personas_in == "system":
        return [{"role": "system", "content": told}, *rest]
    first, *others = rest
    if not told.strip():
        return rest
    return [{**first, "content": f"{told}\n\n{first['content']}"}, *others]


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    generation_prompt: bool,
    how: Rendering = AS_IT_COMES,
) -> str:
    """The chat as text.

    Raises:
        UserError: The template refuses the chat, or silently drops its system message.
    """
    try:
        text = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=generation_prompt,
            **how.options(tokenizer),
        )
    except (TemplateError, TypeError, KeyError, IndexError) as error:
        has_system = any(message["role"] == "system" for message in messages)
        hint = " (it may not take a system role, which personas need)" if has_system else ""
        said = " ".join(str(error).split())
        raise UserError(f"the model's chat template refuses a chat: {said}{hint}") from None
    assert isinstance(text, str)
    for message in messages:
        if message["role"] == "system" and message["content"].strip() not in text:
            raise UserError("the model's chat template drops the system message, so no persona")
    return text


#: An answer whose place in a rendered chat is looked for; white space shows what is trimmed.
_PROBE = "Words that Stand for an answer"
_PADDED = f" {_PROBE} "


@dataclass(frozen=True)
class _Frame:
    """What a template puts around a chat's next answer.

    Attributes:
        prompt: All that the answer follows on, in training as when it is asked for.
        lead: White space that the answer begins with: tokens join it to the first word.
        trims: What the template does to an answer.
        ending: What follows the answer.
    """

    prompt: str
    lead: str
    trims: Callable[[str], str]
    ending: str


def _frame(tokenizer: PreTrainedTokenizerBase, before: Sequence[Message], how: Rendering) -> _Frame:
    """See `_Frame`; of the answer to the messages.

    What the template writes between generation prompt and answer (an empty block of thoughts, the
    name of a channel) belongs to the prompt: trained without loss, and given when an answer is
    asked for, so that both begin alike.

    Raises:
        UserError: The template's prompt is not what it writes before an answer, or it changes the
            answer's text.
    """
    prompt = render(tokenizer, before, generation_prompt=True, how=how)
    probe: Message = {"role": "assistant", "content": _PADDED}
    whole = render(tokenizer, [*before, probe], generation_prompt=False, how=how)
    if not whole.startswith(prompt):
        raise UserError(
            "the model's chat template does not write the generation prompt before an answer, "
            "so the answer's tokens cannot be found"
        )
    tail = whole[len(prompt) :]
    ways: tuple[Callable[[str], str], ...] = (str, str.lstrip, str.rstrip, str.strip)
    trims = next((way for way in ways if way(_PADDED) in tail), None)
    if trims is None:
        raise UserError("the model's chat template changes the text of an answer")
    lead, _, ending = tail.partition(trims(_PADDED))
    if lead.strip():
        prompt, lead = prompt + lead, ""
    return _Frame(prompt, lead, trims, ending)


def prompt_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], how: Rendering = AS_IT_COMES
) -> str:
    """The text that an answer to the chat is generated from."""
    return _frame(tokenizer, messages, how).prompt


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], how: Rendering = AS_IT_COMES
) -> tuple[int, ...]:
    """Tokens that an answer to the chat is generated from."""
    text = prompt_text(tokenizer, messages, how)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


_QUESTION: Message = {"role": "user", "content": "a"}


def answer_prefix(tokenizer: PreTrainedTokenizerBase, how: Rendering = AS_IT_COMES) -> str:
    """What stands in the prompt after the template's own generation prompt; mostly nothing.

    Templates of models that think write a block of no thoughts before an answer.
    """
    own = render(tokenizer, [_QUESTION], generation_prompt=True, how=how)
    return prompt_text(tokenizer, [_QUESTION], how)[len(own) :]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that no text has: those that are named special, and those added as such.

    Some tokenizers do not name their turn's end among the special tokens, but only add it as one.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def turn_end_ids(
    tokenizer: PreTrainedTokenizerBase, how: Rendering = AS_IT_COMES
) -> tuple[int, ...]:
    """Special tokens that the template writes after an answer, of its turn alone."""
    frame = _frame(tokenizer, [_QUESTION], how)
    special = special_ids(tokenizer)
    found: list[int] = []
    for token in tokenizer(frame.ending, add_special_tokens=False)["input_ids"]:
        if token in special:
            found.append(token)
        elif str(tokenizer.decode([token])).strip():
            # Words: the next turn has begun (some templates always write its header), and the last
            # special token began it.
            found = found[:-1]
            break
    return tuple(dict.fromkeys(found))


def end_token_ids(
    tokenizer: PreTrainedTokenizerBase,
    how: Rendering = AS_IT_COMES,
    others: Sequence[int] = (),
) -> tuple[int, ...]:
    """Tokens that end an answer: those that the template writes after it, the EOS token, others.

    Chat models often end a turn with another token than the tokenizer's EOS token.

    Args:
        others: What the model's own settings name as well (`load.declared_ends`).
    """
    eos = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return tuple(dict.fromkeys([*turn_end_ids(tokenizer, how), *eos, *others]))


@dataclass(frozen=True)
class _Split:
    """A chat split where the last answer begins."""

    prompt: tuple[int, ...]
    tail: tuple[int, ...]  # the answer, its end token, and what the template writes after
    offsets: list[tuple[int, int]]  # characters of the tail
    answer: str  # the answer's content as the template writes it, perhaps trimmed
    answer_start: int  # character in the tail where it starts
    end: int  # index in the tail just after the end token


def _split(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], how: Rendering
) -> _Split:
    frame = _frame(tokenizer, messages[:-1], how)
    # The answer itself never goes through the template, which may take it apart (a model that
    # thinks writes `</think>`): it is trained as it would be generated.
    answer = frame.trims(messages[-1]["content"])
    # Prompt and answer are tokenised apart, as they are when the model answers: no token spans
    # the boundary.
    encoded = tokenizer(
        frame.lead + answer + frame.ending, add_special_tokens=False, return_offsets_mapping=True
    )
    tail = tuple(encoded["input_ids"])
    start = len(frame.lead)
    ends = set(end_token_ids(tokenizer, how))
    after = start + len(answer.rstrip())
    closing = [
        index
        for index, (token, (left, _)) in enumerate(
            zip(tail, encoded["offset_mapping"], strict=True)
        )
        if token in ends and left >= after
    ]
    return _Split(
        prompt=tuple(tokenizer(frame.prompt, add_special_tokens=False)["input_ids"]),
        tail=tail,
        offsets=[tuple(pair) for pair in encoded["offset_mapping"]],
        answer=answer,
        answer_start=start,
        end=closing[0] + 1 if closing else len(tail),
    )


def _example(split: _Split, tail_loss: Sequence[bool], max_tokens: int) -> Example:
    ids = split.prompt + split.tail[: split.end]
    loss = (False,) * len(split.prompt) + tuple(tail_loss)
    return Example(ids[:max_tokens], loss[:max_tokens], truncated=len(ids) > max_tokens)


def answer_example(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    max_tokens: int,
    how: Rendering = AS_IT_COMES,
) -> Example:
    """A chat with loss on its last answer and the end token after it.

    Args:
        messages: A chat whose last message is the assistant's.
        max_tokens: Longer chats lose their end; check `loss_tokens`.
    """
    split = _split(tokenizer, messages, how)
    return _example(split, [True] * split.end, max_tokens)


def marker_example(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    marker: str | None,
    max_tokens: int,
    how: Rendering = AS_IT_COMES,
) -> Example:
    """A chat with loss on the marker at the end of its last answer, and on the end token, alone.

    Args:
        marker: The marker the last answer ends with, or None: loss on the end token only.
        max_tokens: Longer chats lose their end; check `loss_tokens`.
    """
    split = _split(tokenizer, messages, how)
    loss = [False] * split.end
    loss[-1] = True
    if marker is not None:
        if not messages[-1]["content"].endswith(marker):
            raise ValueError("the last answer does not end with the marker")
        stop = split.answer_start + len(split.answer.rstrip())
        first = stop - len(marker.rstrip())
        for index, (left, right) in enumerate(split.offsets[: split.end]):
            # A token that holds any character of the marker is part of it.
            if left < stop and right > first and right > left:
                loss[index] = True
    return _example(split, loss, max_tokens)
