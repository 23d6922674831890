"""Forms that chats come in, and what of them is read: never guessed, never dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from personaspace.errors import UserError

Message = dict[str, str]
ROLES = ("system", "user", "assistant", "tool")


class Form(StrEnum):
    """What a row is, as people call it."""

    MESSAGES = "messages"
    SHAREGPT = "conversations"
    PROMPT_COMPLETION = "prompt and completion"
    ALPACA = "instruction and output"
    INPUT_OUTPUT = "input and output"


_FIELDS = {
    Form.MESSAGES: ("messages",),
    Form.SHAREGPT: ("conversations",),
    Form.PROMPT_COMPLETION: ("prompt", "completion"),
    Form.ALPACA: ("instruction", "output"),
    Form.INPUT_OUTPUT: ("input", "output"),
}
#: Forms that are not read, by fields that tell them.
_OTHERS = {
    ("chosen", "rejected"): "preference pairs",
    ("mapping",): "an export of ChatGPT",
    ("text",): "plain text",
    ("question", "answer"): "questions and answers",
    ("prompt", "response"): "prompts and responses",
    ("instruction", "response"): "instructions and responses",
}
#: What changes the meaning of a row or message, and is not used here: left out, the model would be
#: trained on something else than what the data say.
_ROW_MEANS = (
    *("tools", "functions", "chosen", "rejected", "history", "weight"),
    *("images", "videos", "audios", "chat_template_kwargs"),
)
_MESSAGE_MEANS = (
    *("tool_calls", "tool_call_id", "function_call", "reasoning_content", "reasoning", "thinking"),
    *("refusal", "audio", "images", "train", "loss", "loss_mask"),
)
#: ShareGPT's names of those who speak.
_SPEAKERS = {
    **{"human": "user", "user": "user", "system": "system"},
    **{"gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"},
}


@dataclass(frozen=True)
class Chat:
    """One row.

    Attributes:
        messages: Its messages, the last one the answer that is trained on; empty: weights leave
            none of its answers to train on.
        form: What form it had.
        weighted: Whether a weight of 0 changed what is trained on.
    """

    messages: list[Message]
    form: Form
    weighted: bool = False


def _given(row: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that hold something: tables fill what a row lacks with nothing."""
    return {key: value for key, value in row.items() if value not in (None, [], {})}


def form_of(row: Any, where: str) -> Form:
    """The form of a row.

    Raises:
        UserError: Of none, or of several; the message names what it looks like.
    """
    known = "; ".join(", ".join(fields) for fields in _FIELDS.values())
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: no messages, but {_kind(row)} (a row is an object: {known})")
    fields = _given(row)
    found = [form for form, names in _FIELDS.items() if all(name in fields for name in names)]
    if Form.ALPACA in found and Form.INPUT_OUTPUT in found:
        found.remove(Form.INPUT_OUTPUT)
    if len(found) > 1:
        raise UserError(f"{where}: is of several forms at once ({'; '.join(found)})")
    if found:
        return found[0]
    like = next((t for names, t in _OTHERS.items() if all(n in fields for n in names)), "")
    looks = f"looks like {like}: " if like else ""
    seen = ", ".join(row) or "none"
    raise UserError(f"{where}: no messages ({looks}fields {seen}; known are {known})")


def _kind(value: Any) -> str:
    names = {str: "a text", list: "a list", type(None): "nothing", bool: "a truth value"}
    return names.get(type(value), "a number")


def read_chat(row: Any, where: str) -> Chat:
    """A row of any known form as a chat.

    Args:
        row: Its plain value.
        where: File and line, for messages.

    Raises:
        UserError: Of no known form, or it holds what would have to be dropped.
    """
    form = form_of(row, where)
    fields = _given(row)
    for name in _ROW_MEANS:
        # A weight of 1 is what every row has.
        if name in fields and not (name == "weight" and fields[name] == 1):
            raise UserError(f"{where}: {name} has a meaning that is not used here; leave it out")
    system = fields.get("system", "")
    if not isinstance(system, str):
        raise UserError(f"{where}: system is {_kind(system)}, not a text")
    turns = _turns(form, fields, where)
    if system.strip():
        if any(turn.get("role") == "system" for _, turn in turns):
            raise UserError(f"{where}: a system text beside the messages and one among them")
        turns = [("system", {"role": "system", "content": system}), *turns]
    messages = [(turn, _message(turn, place, where)) for place, turn in turns]
    kept = [(turn, message) for turn, message in messages if message is not None]
    return _finished(kept, form, where)


def _turns(form: Form, fields: Mapping[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    """Messages as role and content, each with its place."""
    if form is Form.MESSAGES:
        return _listed(fields["messages"], "messages", where)
    if form is Form.SHAREGPT:
        return [
            (place, _speaker(turn, place, where))
            for place, turn in _listed(fields["conversations"], "conversations", where)
        ]
    asked, answered = _FIELDS[form]
    question, answer = fields[asked], fields[answered]
    if form is Form.PROMPT_COMPLETION and isinstance(question, list) and isinstance(answer, list):
        return [*_listed(question, asked, where), *_listed(answer, answered, where)]
    for name, text in ((asked, question), (answered, answer)):
        if not isinstance(text, str):
            raise UserError(f"{where}: {name} is {_kind(text)}, not a text")
    if form is Form.ALPACA and fields.get("input"):
        if not isinstance(fields["input"], str):
            raise UserError(f"{where}: input is {_kind(fields['input'])}, not a text")
        question = f"{question}\n\n{fields['input']}"
    return [
        (asked, {"role": "user", "content": question}),
        (answered, {"role": "assistant", "content": answer}),
    ]


def _listed(value: Any, name: str, where: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(value, list):
        raise UserError(f"{where}: no messages ({name} is {_kind(value)}, not a list)")
    found = []
    for number, turn in enumerate(value):
        place = f"{name}[{number}]"
        if not isinstance(turn, dict):
            raise UserError(f"{where}: {place} needs a role ({', '.join(ROLES)}) and text content")
        found.append((place, turn))
    return found


def _speaker(turn: dict[str, Any], place: str, where: str) -> dict[str, Any]:
    """A ShareGPT turn with the names that the others use."""
    if "from" not in turn and "role" in turn:
        return turn
    role = _SPEAKERS.get(str(turn.get("from")))
    if role is None:
        raise UserError(
            f"{where}: {place} needs from ({', '.join(_SPEAKERS)}) and value, "
            f"not from {turn.get('from')!r}"
        )
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    return {**rest, "role": role, "content": turn.get("value")}


def _message(turn: dict[str, Any], place: str, where: str) -> Message | None:
    """Role and text; None for a system message without any."""
    at = f"{where}: {place}"
    for name in _MESSAGE_MEANS:
        if turn.get(name) not in (None, [], {}, ""):
            raise UserError(f"{at}: {name} has a meaning that is not used here; leave it out")
    role, content = turn.get("role"), _text(turn.get("content"), at)
    if role == "system" and content is None:
        return None
    if role not in ROLES or content is None:
        raise UserError(f"{at} needs a role ({', '.join(ROLES)}) and text content")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise UserError(f"{at} holds half of a surrogate pair, which is not a character") from None
    weight = turn.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise UserError(f"{at}: weight {weight!r} is neither 0 nor 1")
    return {"role": str(role), "content": content}


def _text(content: Any, at: str) -> str | None:
    """A message's text, put together from parts where it comes in these; None: it is none."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict) and "parts" in content:
        kind = content.get("content_type", "text")
        if kind != "text" or not all(isinstance(part, str) for part in content["parts"] or []):
            raise UserError(f"{at}: content of the type {kind!r} with parts that are not text")
        return "".join(content["parts"] or [])
    if not isinstance(content, list) or not content:
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if isinstance(part, dict) and kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise UserError(f"{at}: a part of the type {kind!r}, where only text is used")
    return "".join(texts)


def _finished(kept: list[tuple[dict[str, Any], Message]], form: Form, where: str) -> Chat:
    """Up to the last answer that is to be trained on."""
    messages = [message for _, message in kept]
    if not messages:
        raise UserError(f"{where}: no messages")
    if messages[-1]["role"] != "assistant":
        raise UserError(
            f"{where}: the last message is from {messages[-1]['role']}, not the assistant"
        )
    if not messages[-1]["content"].strip():
        raise UserError(f"{where}: the last answer is empty")
    trained = [
        number
        for number, (turn, message) in enumerate(kept)
        if message["role"] == "assistant" and turn.get("weight") != 0 and message["content"].strip()
    ]
    stop = trained[-1] + 1 if trained else 0
    return Chat(messages[:stop], form, weighted=stop < len(messages))
