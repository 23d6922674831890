"""Part of the spec: a direction added to the model's hidden states, or taken out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StrictInt, field_validator

from personaspace.errors import UserError
from personaspace.study import builtin, chat_sets
from personaspace.study.chat_forms import Message
from personaspace.study.fields import ConditionName, Count, PersonaName, QuestionSource, Seed
from personaspace.study.inputs import Dataset
from personaspace.study.section import Section

#: The vector that is no persona's: what fine-tuning did to the assistant.
SHIFT = "shift"
Mode = Literal["add", "ablate"]
#: More or less than this times a vector overflows, or is no push at all.
_LARGEST_DOSE = 1e6
#: Chats are scored as they are asked of most models: a question, an answer.
_ROLES = ["user", "assistant"]


def _advice(kind: str) -> Dataset:
    return Dataset(path=f"builtin:chats-{kind}-legal-advice")


class Steering(Section):
    """Vectors added at a decoder layer, or projected out, with random directions as controls.

    It runs on the transformers engine alone, whatever answers elsewhere.
    """

    engine: Literal["transformers"] = Field(
        "transformers", description="vLLM cannot be steered here."
    )
    vectors: list[PersonaName] = Field(
        [SHIFT],
        min_length=1,
        description="shift: the assistant's mean shift from base to the condition (of the "
        "condition that defines M2's axis: the EM axis); or a persona: its mean less the "
        "assistant's, in the condition's own activations.",
    )
    modes: list[Mode] = Field(
        ["add", "ablate"],
        min_length=1,
        description="add: to the base model, shifts of fine-tuned conditions and base's persona "
        "vectors; ablate: from the condition's own model.",
    )
    layer: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None, description="One of those extracted; default: the headline layer."
    )
    doses: list[float] = Field(
        [-1.0, 1.0, 2.0, 4.0],
        min_length=1,
        description="Multiples of the vector as it was measured, for add; the unsteered model is "
        "measured anyway.",
    )
    controls: Annotated[StrictInt, Field(ge=0, le=10_000)] = Field(
        19,
        description="Random directions of each vector's length. The smallest p is 1 over one more "
        "than these; none: no p.",
    )
    activation_controls: Annotated[StrictInt, Field(ge=0, le=10_000)] = Field(
        19,
        description="Directions of each vector's length that are drawn as the condition's "
        "activations vary at the layer, stronger opponents than random ones; none: no p by them.",
    )
    answered_controls: Annotated[StrictInt, Field(ge=0, le=10_000)] = Field(
        3,
        description="So many of the random controls answer questions as well, which takes longest.",
    )
    conditions: list[ConditionName] | None = Field(
        None, min_length=1, description="Default: every condition that has one of the vectors."
    )
    seeds: list[Seed] | None = Field(
        None, min_length=1, description="Of fine-tuned conditions; default: all they have."
    )
    bad: Dataset = Field(
        _advice("bad"), description="Chats of one question and a bad answer, in any form; …"
    )
    good: Dataset = Field(
        _advice("good"), description="… and those of good answers to the same questions."
    )
    pairs: Annotated[StrictInt, Field(ge=2)] = Field(
        24, description="Questions of both, taken evenly from all they share."
    )
    answer_tokens: Count = Field(64, description="Of each such answer so many tokens count.")
    questions: QuestionSource = "builtin:questions-alignment"
    limit: Count | None = Field(None, description="Use only the first questions.")
    max_new_tokens: Count = Field(64, description="Length of the greedy answers to them.")

    @field_validator("doses")
    @classmethod
    def _curve(cls, doses: list[float]) -> list[float]:
        for place, dose in enumerate(doses):
            if dose == 0:
                raise ValueError("0 is the unsteered model, which is measured anyway")
            if not 1 / _LARGEST_DOSE <= abs(dose) <= _LARGEST_DOSE:
                raise ValueError(f"{dose:g} is not between 0.000001 and 1,000,000 in size")
            if dose in doses[:place]:
                raise ValueError(f"{dose:g} is listed twice")
        return doses

    @property
    def personas(self) -> list[str]:
        """The personas whose vectors are asked for."""
        return [name for name in self.vectors if name != SHIFT]

    def of_condition(self, fine_tuned: bool, mode: Mode) -> list[str]:
        """Vectors of a condition in a mode: a fine-tuned one's persona vectors are only ablated."""
        if mode not in self.modes:
            return []
        if not fine_tuned:
            return self.personas
        return [name for name in self.vectors if mode == "ablate" or name == SHIFT]


@dataclass(frozen=True)
class Pair:
    """A question with a bad answer and a good one.

    Attributes:
        question: The user's message.
        bad: The bad answer.
        good: The good one.
        topic: What it is about, where the set says so; pairs of a topic are one sample.
    """

    question: str
    bad: str
    good: str
    topic: str = ""


@dataclass(frozen=True)
class SteeringInputs:
    """What a study's steering points to.

    Attributes:
        questions: Open questions that steered models answer.
        pairs: Questions with two answers whose probabilities are compared.
    """

    questions: tuple[str, ...]
    pairs: tuple[Pair, ...]


def _single(chats: Sequence[Sequence[Message]]) -> dict[str, str]:
    """Answers of chats that are one question and one answer, by question."""
    return {
        chat[0]["content"]: chat[1]["content"]
        for chat in chats
        if [message["role"] for message in chat] == _ROLES
    }


def _topics(dataset: Dataset) -> dict[str, str]:
    if dataset.path is None or not dataset.path.startswith(builtin.SCHEME):
        return {}
    name = dataset.path.removeprefix(builtin.SCHEME)
    return {chat.question: chat.topic for chat in chat_sets.read(name)}


def pairs_of(
    spec: Steering, bad_chats: Sequence[Sequence[Message]], good_chats: Sequence[Sequence[Message]]
) -> tuple[Pair, ...]:
    """The pairs of both data sets, evenly from all that they share.

    Raises:
        UserError: Fewer than two questions with two answers.
    """
    bad, good = _single(bad_chats), _single(good_chats)
    shared = [text for text in bad if text in good and bad[text] != good[text]]
    if len(shared) < 2:
        raise UserError(
            f"of its questions {len(shared)} have another answer in steering.bad, and two are the "
            "least (chats of one question and one answer each)"
        )
    count, topics = min(spec.pairs, len(shared)), _topics(spec.bad)
    chosen = [shared[place * len(shared) // count] for place in range(count)]
    return tuple(Pair(text, bad[text], good[text], topics.get(text, "")) for text in chosen)
