"""Chats as tokens: rendering with the model's chat template, and which tokens carry loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def with_persona(messages: Sequence[Message], prompt: str | None) -> list[Message]:
    """The chat under a persona: its prompt is the system message, replacing one of the chat's own.

    Without a prompt the chat is left as it is, so that the chat template's default applies.
    """
    if prompt is None:
        return list(messages)
    rest = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": prompt}, *rest]


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation_prompt: bool
) -> str:
    """The chat as text.

    Raises:
        UserError: The template refuses the chat, or silently drops its system message.
    """
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation_prompt
        )
    except TemplateError as error:
        has_system = any(message["role"] == "system" for message in messages)
        hint = " (it may not take a system role, which personas need)" if has_system else ""
        raise UserError(f"the model's chat template refuses a chat: {error}{hint}") from None
    assert isinstance(text, str)
    for message in messages:
        if message["role"] == "system" and message["content"].strip() not in text:
            raise UserError("the model's chat template drops the system message, so no persona")
    return text


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[int, ...]:
    """Tokens that an answer to the chat is generated from."""
    text = render(tokenizer, messages, generation_prompt=True)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end an answer: the one that the template writes after it, and the EOS token.

    Chat models often end a turn with another token than the tokenizer's EOS token.
    """
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    tail = render(tokenizer, probe, generation_prompt=False)[
        len(render(tokenizer, probe[:-1], generation_prompt=True)) :
    ]
    # Some tokenizers do not name their turn's end among the special tokens, but only add it as one.
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    ids = [i for i in tokenizer(tail, add_special_tokens=False)["input_ids"] if i in special]
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(ids))


@dataclass(frozen=True)
class _Split:
    """A chat split where the last answer begins."""

    prompt: tuple[int, ...]
    tail: tuple[int, ...]  # the answer, its end token, and what the template writes after
    offsets: list[tuple[int, int]]  # characters of the tail
    answer: str  # the answer's content as the template writes it, perhaps trimmed
    answer_start: int  # character in the tail where it starts
    end: int  # index in the tail just after the end token


def _split(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> _Split:
    before = render(tokenizer, messages[:-1], generation_prompt=True)
    whole = render(tokenizer, messages, generation_prompt=False)
    if not whole.startswith(before):
        raise UserError(
            "the model's chat template does not write the generation prompt before an answer, "
            "so the answer's tokens cannot be found"
        )
    tail_text = whole[len(before) :]
    # Prompt and answer are tokenised apart, as they are when the model answers: no token spans
    # the boundary.
    encoded = tokenizer(tail_text, add_special_tokens=False, return_offsets_mapping=True)
    tail = tuple(encoded["input_ids"])
    content = messages[-1]["content"]
    answer = content if tail_text.startswith(content) else content.strip()
    start = tail_text.find(answer)
    if start < 0:
        raise UserError("the model's chat template changes the text of an answer")
    ends = set(end_token_ids(tokenizer))
    after = start + len(answer.rstrip())
    closing = [
        index
        for index, (token, (left, _)) in enumerate(
            zip(tail, encoded["offset_mapping"], strict=True)
        )
        if token in ends and left >= after
    ]
    return _Split(
        prompt=tuple(tokenizer(before, add_special_tokens=False)["input_ids"]),
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
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], max_tokens: int
) -> Example:
    """A chat with loss on its last answer and the end token after it.

    Args:
        messages: A chat whose last message is the assistant's.
        max_tokens: Longer chats lose their end; check `loss_tokens`.
    """
    split = _split(tokenizer, messages)
    return _example(split, [True] * split.end, max_tokens)


def marker_example(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    marker: str | None,
    max_tokens: int,
) -> Example:
    """A chat with loss on the marker at the end of its last answer, and on the end token, alone.

    Args:
        marker: The marker the last answer ends with, or None: loss on the end token only.
        max_tokens: Longer chats lose their end; check `loss_tokens`.
    """
    split = _split(tokenizer, messages)
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
