"""Parts of the spec: how adapters are trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    StrictBool,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from personaspace.study.fields import Count, Fraction, Implementation
from personaspace.study.section import Section

#: Linear layers that are adapted where a model has them all: as published.
PUBLISHED_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)


def named(name: str, target: str) -> bool:
    """Whether a layer is a target, by PEFT's rule: the whole name, or its last parts."""
    return f".{name}".endswith(f".{target}")


class Learning(Section):
    """What decides what an adapter learns: its shape (Hu et al. 2021), optimiser and schedule."""

    formerly: ClassVar[Mapping[str, Any]] = {"targets": list(PUBLISHED_TARGETS)}

    rank: Count = 32
    alpha: Count = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: Annotated[list[str], Field(min_length=1)] | Literal["auto"] = Field(
        "auto",
        description="Linear layers that get an adapter, by the last parts of their names. auto: "
        "the seven projections of Llama and Qwen where the model has them all, as published; else "
        "all linear layers of the decoder but those that choose among experts.",
    )
    rank_stabilised: StrictBool = Field(
        False, description="Scale by alpha/sqrt(rank) (Kalajdzievski 2023) instead of alpha/rank."
    )
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Fraction = Field(0.03, description="Share of the steps, rounded up.")
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    batch_size: Count = Field(16, description="Examples per optimiser step.")
    epochs: Count = 1
    max_steps: Count | None = Field(None, description="Stop after so many optimiser steps.")
    max_tokens: Count = Field(2048, description="Longer examples are cut at the end.")


class Recipe(Learning):
    """LoRA fine-tuning: adapter shape (Hu et al. 2021), optimiser and schedule."""

    later: ClassVar[frozenset[str]] = frozenset({"implementation"})

    checkpoint_every: Count = Field(50, description="Steps between checkpoints.")
    row_tokens: Count | None = Field(
        None,
        description="Packed rows hold at most so many tokens. By default 4096 on a CPU, as many as "
        "memory holds on a GPU. Rows of another length draw other dropout masks: the training is "
        "another one of the same recipe (without dropout, the same but for last digits). Makes "
        "nothing run again.",
    )
    implementation: Implementation = Field(
        "auto",
        description="What computes: reference (transformers' own code), fused (fastlora: on a GPU, "
        "in 16 bits, the families that docs/models.md names; an error elsewhere), or auto (fused "
        "where it can run). They draw other dropout masks: the training is another one of the same "
        "recipe (without dropout, the same but for last digits). Is recorded; makes nothing run "
        "again.",
    )

    def changed(self, own: OwnLearning | None) -> Self:
        """This recipe, with what a condition has of its own in place of the study's."""
        return self if own is None else self.model_copy(update=own.given())


class Training(Recipe):
    """The conditions' fine-tuning."""

    later: ClassVar[frozenset[str]] = Recipe.later | {"doses", "doses_in"}

    doses: list[Count] = Field(
        [],
        max_length=100,
        description="Also measure every condition as it stands after these optimiser steps of the "
        "same training, in ascending order; the last step is measured anyway. Changes nothing of "
        "what is measured without.",
    )
    doses_in: Annotated[list[Literal["extract", "evaluate"]], Field(min_length=1)] = Field(
        ["extract"],
        description="What is measured at each dose: extract (hidden states), evaluate (coupling "
        "and answers).",
    )

    @model_validator(mode="after")
    def _doses_for_stages(self) -> Self:
        if not self.doses and self.doses_in != type(self).model_fields["doses_in"].default:
            raise ValueError("doses_in goes with doses: there is nothing to measure")
        return self


class OwnLearning(Learning):
    """What a condition's fine-tuning has of its own; whatever is not given is as in `training`."""

    @model_validator(mode="before")
    @classmethod
    def _all_others_are_shared(cls, values: object) -> object:
        shared = Training.model_fields.keys() - Learning.model_fields.keys()
        for name in values if isinstance(values, dict) else ():
            if name in shared:
                raise ValueError(f"{name} is one for all conditions: it goes into training")
        return values

    def given(self) -> dict[str, Any]:
        """The fields that are given."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set)}

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A default that nobody gave would be an override where it is read again.
        return {n: value for n, value in handler(self).items() if n in self.model_fields_set}

    def told(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """As `Section.told`; a field that is not given is none of its defaults."""
        return self.model_dump(mode="json", exclude=set(exclude))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        for field in handler.resolve_ref_schema(schema).get("properties", {}).values():
            field.pop("default", None)  # that of the study's `training`
        return schema


def unlike_recipes(recipes: Sequence[Recipe]) -> list[str]:
    """Names of the fields, of those that decide what is learned, in which recipes differ."""
    return [
        name
        for name in Learning.model_fields
        if any(getattr(each, name) != getattr(recipes[0], name) for each in recipes)
    ]


class CouplingRecipe(Recipe):
    """LoRA fine-tuning of the marker, over the condition's own adapter."""

    rank_stabilised: StrictBool = Field(
        True, description="Scale by alpha/sqrt(rank) (Kalajdzievski 2023) instead of alpha/rank."
    )
    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: Fraction = Field(0.05, description="Share of the steps, rounded up.")
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    epochs: Count = 20
    max_tokens: Count = Field(1024, description="Longer examples are cut at the end.")
