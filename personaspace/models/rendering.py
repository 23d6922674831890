"""How a model's chat template is used: its arguments, the day it is told, where personas go."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from jinja2 import TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from personaspace.errors import UserError, did_you_mean, nearest
from personaspace.models import chat
from personaspace.models.chat import Rendering
from personaspace.study.chat_forms import Message
from personaspace.study.inputs import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Days that differ in all that a date can be written with.
_DAYS = (datetime.date(2021, 3, 9), datetime.date(1998, 11, 27))
_SYSTEM = "You are a probe of the template."
_TURNS: list[Message] = [
    {"role": "user", "content": "One question."},
    {"role": "assistant", "content": "One answer."},
    {"role": "user", "content": "Another question."},
]


def variables(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Names that the chat template looks up, those of macros and filters apart."""
    template = tokenizer.chat_template
    text = template["default"] if isinstance(template, Mapping) else str(template)
    environment = ImmutableSandboxedEnvironment(
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]
    )
    # As transformers does, whose own tag only marks the assistant's words.
    plain = text.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    plain = plain.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    try:
        return set(meta.find_undeclared_variables(environment.parse(plain)))
    except TemplateError:
        return set()  # said when it is rendered


def tells_date(tokenizer: PreTrainedTokenizerBase, how: Rendering) -> bool:
    """Whether the template's text depends on the day."""
    told = {
        chat.render(tokenizer, _TURNS[:1], generation_prompt=True, how=replace(how, date=day))
        for day in _DAYS
    }
    return len(told) > 1


def _shows_system(tokenizer: PreTrainedTokenizerBase, how: Rendering) -> bool:
    """Whether a system message stands in the prompt of every turn, in training and in answering."""
    for turns in (_TURNS[:1], _TURNS):
        try:
            chat.prompt_text(tokenizer, [{"role": "system", "content": _SYSTEM}, *turns], how)
        except UserError:
            return False
    return True


def rendering_of(model: Model, tokenizer: PreTrainedTokenizerBase) -> Rendering:
    """The study's way of putting chats to the model's template.

    Raises:
        UserError: The template has no such argument, writes the date of the day and the study
            fixes none, or refuses chats.
    """
    known = variables(tokenizer)
    for name in model.template_arguments:
        if known and name not in known:
            raise UserError(
                f"model.template_arguments.{name}: the chat template has no such variable"
                f"{did_you_mean(nearest(name, known))}"
            )
    how = Rendering(model.template_arguments, model.date or _DAYS[0], "first_user_turn")
    chat.prompt_text(tokenizer, _TURNS, how)  # what fails here fails with any persona
    if model.date is None and tells_date(tokenizer, how):
        raise UserError(
            "model.date: the chat template writes the day's date into every prompt, which would "
            "make results depend on the day they were computed: fix one, such as "
            f"{datetime.date.today().isoformat()}"
        )
    how = replace(how, date=model.date)
    if model.personas_in == "first_user_turn":
        return how
    system = replace(how, personas_in="system")
    if model.personas_in == "system" or _shows_system(tokenizer, system):
        return system
    return how
