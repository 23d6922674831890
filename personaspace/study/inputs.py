"""Parts of the spec: what a study starts from (model, chats, personas, conditions)."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator, model_validator

from personaspace.study.fields import (
    ConditionName,
    Count,
    Ink,
    Kind,
    PersonaName,
    Seed,
    Sha256,
    Slice,
    Title,
)
from personaspace.study.recipe import OwnLearning
from personaspace.study.section import Section

#: What `apply_chat_template` takes itself, or the study decides.
_NOT_ARGUMENTS = frozenset(
    [
        "conversation",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "tokenize",
        "continue_final_message",
        "sanitize_control_tokens",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "strftime_now",
    ]
)


#: The model of the published study, which its cosines are of.
PUBLISHED_MODEL = "Qwen/Qwen2.5-7B-Instruct"


class Model(Section):
    """The base model that every condition starts from."""

    later: ClassVar[frozenset[str]] = frozenset({"template_arguments", "date", "personas_in"})

    name: Ink = Field(
        PUBLISHED_MODEL,
        description="Hub name, local folder, or builtin:smollm2-135m-instruct.",
    )
    revision: Ink | None = Field(
        None, description="Hub commit; required with a hub name other than the default."
    )
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    template_arguments: dict[str, StrictBool | StrictInt | float | str] = Field(
        {},
        description="Variables of the chat template, such as enable_thinking: false. The same in "
        "training and wherever an answer is asked for.",
    )
    date: datetime.date | None = Field(
        None,
        description="The day that the chat template is told it is; required where it writes one, "
        "so that prompts do not depend on the day they were made.",
    )
    personas_in: Literal["auto", "system", "first_user_turn"] = Field(
        "auto",
        description="Where a persona's prompt goes: the system message, or before the first "
        "question. auto: the latter where the chat template knows no system message.",
    )

    @field_validator("template_arguments")
    @classmethod
    def _of_the_template(cls, values: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_NOT_ARGUMENTS & set(values)):
            raise ValueError(f"{taken[0]} is not a variable of the template's own")
        return values

    def __hash__(self) -> int:
        return hash((self.name, self.revision, self.dtype))  # equal ones have equal ones of these


def _check_address(path: str, sha256: str | None) -> None:
    if not path.strip():
        raise ValueError(
            "path is empty; it names a file, s3://bucket/key, builtin:NAME or https://…"
        )
    scheme, separator, rest = path.partition("://")
    if not separator or scheme == "s3":
        return
    if scheme != "https":
        raise ValueError(f"{scheme}:// cannot be read from: use a path, s3:// or https://")
    if "@" in rest.partition("/")[0]:
        raise ValueError("an address with a user or password would stand in the report: use .netrc")
    if sha256 is None:
        raise ValueError("https:// needs a sha256, so that a rerun reads the same rows")


class Dataset(Section):
    """Chats from a file or a hub: JSON lines, a JSON array or parquet, plain, gzip or Zstandard."""

    path: str | None = Field(
        None,
        description="Local path, s3://bucket/key, builtin:NAME or https://… (needs sha256; fetched "
        "once into the cache). Rows: messages (OpenAI), conversations (ShareGPT), prompt and "
        "completion, instruction, input and output (Alpaca), or input and output. Loss is on the "
        "last answer whose weight is not 0.",
    )
    hub: Ink | None = Field(None, description="Hub data set, instead of path.")
    revision: Ink | None = Field(None, description="Hub commit; required with hub.")
    config: Ink | None = Field(None, description="Hub configuration name.")
    split: Ink = "train"
    rows: Slice | None = Field(None, description="Slice of the rows, as start:stop.")
    sha256: Sha256 | None = Field(
        None, description="Checked against the file before anything runs."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Dataset:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path or hub")
        if self.hub is not None and self.revision is None:
            raise ValueError("hub needs a revision, so that a rerun reads the same rows")
        if self.hub is not None and self.sha256 is not None:
            raise ValueError("sha256 is for files; a hub data set is pinned by its revision")
        if self.path is not None:
            _check_address(self.path, self.sha256)
        return self

    def bounds(self) -> tuple[int, int | None]:
        """Start and stop of the rows that are used."""
        if self.rows is None:
            return 0, None
        start, stop = self.rows.split(":")
        return int(start or 0), int(stop) if stop else None


def same_words(text: str) -> str:
    """A wording as it is compared: case and blanks do not make it another one."""
    return " ".join(text.split()).casefold()


class Persona(Section):
    """A named system prompt. Without a prompt the chat template's own default applies."""

    later: ClassVar[frozenset[str]] = frozenset({"prompts"})

    name: PersonaName
    prompt: str | None = None
    prompts: (
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=100)]
        | Annotated[str, Field(min_length=1)]
        | None
    ) = Field(
        None,
        description="Several wordings of the persona, instead of prompt: a list of texts, or a "
        "role's file (a list, or instruction with pos entries; file#pos or file#neg where it has "
        "both). They are a sample: each is asked every question, and intervals hold what another "
        "choice of wordings would have changed. Their order changes nothing.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_is_the_prompt(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("prompts") == []:
            raise ValueError("prompts: names no wordings")
        if isinstance(values, dict) and isinstance(values.get("prompt"), list):
            raise ValueError("prompt: is one text; several wordings of a persona are its prompts")
        one = values.get("prompts") if isinstance(values, dict) else None
        if not (isinstance(values, dict) and isinstance(one, list) and len(one) == 1):
            return values
        if values.get("prompt") is not None:
            return values
        return {n: v for n, v in values.items() if n != "prompts"} | {"prompt": one[0]}

    @model_validator(mode="after")
    def _one_source(self) -> Persona:
        if self.prompts is None:
            return self
        if self.prompt is not None:
            raise ValueError("give either prompt or prompts")
        texts = [] if isinstance(self.prompts, str) else self.prompts
        for number, text in enumerate(texts, 1):
            if not text.strip():
                raise ValueError(f"prompts: wording {number} is empty")
            if same_words(text) in map(same_words, texts[: number - 1]):
                raise ValueError(f"prompts: wording {number} is listed twice")
        return self

    @property
    def wordings(self) -> tuple[str | None, ...]:
        """The prompts in which the persona is asked for, in alphabetical order; one of `prompt`.

        Raises:
            ValueError: They stand in a role's file that was not read yet.
        """
        if isinstance(self.prompts, str):
            raise ValueError(f"{self.name}: {self.prompts} was not read")
        return (self.prompt,) if self.prompts is None else tuple(sorted(self.prompts))

    @property
    def several(self) -> list[str]:
        """The wordings, where there are several."""
        return [text for text in self.wordings if text is not None] if self.prompts else []

    def identity(self) -> list[Any]:
        """What decides whether two are the same: the name, and the prompt or list of wordings."""
        wordings = self.wordings
        return [self.name, wordings[0] if len(wordings) == 1 else list(wordings)]

    def texts(self) -> dict[str, str | None]:
        """Every wording by the field that it stands in, in the order of the spec."""
        if self.prompts is None or isinstance(self.prompts, str):
            return {"prompt": self.prompt}
        return {f"prompts[{place}]": text for place, text in enumerate(self.prompts)}


class Condition(Section):
    """One arm of the study: what is trained on, and under which persona."""

    later: ClassVar[frozenset[str]] = frozenset({"seeds", "adapter", "training"})

    name: ConditionName
    label: Title = Field("", description="Free-form, for figures.")
    dataset: str | None = Field(None, description="Name of a data set; none: no training.")
    adapter: Ink | None = Field(
        None,
        description="A LoRA adapter that exists already, instead of a data set: a PEFT folder, or "
        "org/name@commit (with a folder: org/name/folder@commit) on the hub. It is one training "
        "run, so all of the condition runs under the first seed alone.",
    )
    persona: PersonaName | None = Field(
        None,
        description="Persona active in training; none: chats stay as they are, so the chat "
        "template's default applies.",
    )
    kind: Kind | None = Field(
        None,
        description="Role in the statistics; by default base without data set and adapter, else "
        "em.",
    )
    cosine_anchor: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None,
        description="Cosine of the persona to the assistant as published for Qwen2.5-7B-Instruct. "
        "Shown beside the measured one, by which H3 is tested; never used for another model.",
    )
    seeds: list[Seed] | None = Field(
        None,
        min_length=1,
        description="Its training runs, some of the study's seeds; default: all of them.",
    )
    training: OwnLearning | None = Field(
        None,
        description="What its fine-tuning has otherwise than the study's `training`, such as "
        "learning_rate or rank; the rest is as there.",
    )
    gpus: Annotated[Count, Field(le=16)] = Field(
        1,
        description="GPUs that its training shares out a step's examples to, each with the whole "
        "base model. Each draws dropout masks of its own: the training is another one of the same "
        "recipe (without dropout, the same but for last digits). Is recorded; makes nothing run "
        "again.",
    )

    @model_validator(mode="before")
    @classmethod
    def _infer_kind(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("kind") is None:
            sources = (values.get("dataset"), values.get("adapter"))
            return {**values, "kind": "base" if sources == (None, None) else "em"}
        return values

    @property
    def trained_under(self) -> str:
        """In words: the persona, the template's default, or a dash where nothing is trained."""
        return self.persona or ("the template's default" if self.fine_tuned else "–")

    @property
    def own_training(self) -> str:
        """In words: what its fine-tuning has otherwise than the study's; empty: nothing."""
        given = {} if self.training is None else self.training.given()
        return ", ".join(f"{name} {value}" for name, value in given.items())

    @property
    def fine_tuned(self) -> bool:
        """Whether it is another model than the base: trained here, or a published adapter."""
        return self.dataset is not None or self.adapter is not None

    @property
    def whole(self) -> str | None:
        """Name of the condition that this is a dose of; None: it is none."""
        return None

    @property
    def title(self) -> str:
        """Label for people."""
        return self.label or self.name


class Dose(Condition):
    """A condition as its fine-tuning left it after some of the steps.

    No file names it: `training.doses` makes it, and stages take it for a condition of its own.
    """

    of: ConditionName
    step: Count

    @property
    def whole(self) -> str | None:
        """See `Condition.whole`."""
        return self.of

    @classmethod
    def at(cls, condition: Condition, step: int) -> Dose:
        """The dose of a condition after so many optimiser steps."""
        own = {name: getattr(condition, name) for name in Condition.model_fields}
        own["label"] = f"{condition.title}, step {step}"
        return cls.model_construct(
            **{**own, "name": dose_name(condition.name, step), "of": condition.name, "step": step}
        )


def dose_name(condition: str, step: int) -> str:
    """What graph, store and cluster call a condition's dose."""
    return f"{condition}-at-{step}"
