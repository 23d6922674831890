"""Parts of the spec: what is measured of each condition, activations and answers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt

from personaspace.study.fields import (
    Count,
    Implementation,
    Ink,
    Method,
    Order,
    PersonaName,
    QuestionSource,
)
from personaspace.study.recipe import CouplingRecipe
from personaspace.study.section import Section


class Extraction(Section):
    """Hidden states: method A (last prompt token), method B (mean over a greedy answer)."""

    later: ClassVar[frozenset[str]] = frozenset({"implementation"})

    personas: list[PersonaName] | None = Field(
        None, description="By default evaluation.personas.", min_length=2
    )
    questions: QuestionSource = "builtin:questions-extraction"
    limit: Count | None = Field(None, description="Use only the first questions.")
    layers: list[Annotated[StrictInt, Field(ge=0)]] | Literal["all"] = Field(
        [7, 14, 20, 21, 27], description="Outputs of decoder layers, counted from 0."
    )
    methods: list[Method] = Field(["a", "b"], min_length=1)
    max_new_tokens: Count = 256
    implementation: Implementation = Field(
        "auto",
        description="What computes hidden states: as training.implementation.",
    )


class Coupling(Section):
    """The marker experiment's training half: the source persona's answers end with the marker."""

    later: ClassVar[frozenset[str]] = frozenset({"loss", "incomplete_answers", "order"})

    source: PersonaName = "confab"
    negatives: list[PersonaName] = Field(
        ["data_scientist", "police_officer"],
        description="Personas whose answers stay unmarked, the same in every condition.",
    )
    marker: Annotated[Ink, Field(min_length=1)] = "[ZLT]"
    separator: str = Field(
        "\n\n",
        description="Stands between answer and marker. The marker is learned after this text, so a "
        "model that seldom writes it (published: a blank line) seldom comes to write the marker.",
    )
    loss: Literal["marker", "answer"] = Field(
        "marker",
        description="What coupling trains on. marker: the marker and the end token, of negatives "
        "the end token, as published; answer: the whole answer too, its separator among it.",
    )
    incomplete_answers: Literal["keep", "drop"] = Field(
        "keep",
        description="Answers that ran into max_new_tokens: keep, as published, puts the marker "
        "(and the end) after a text that breaks off; drop leaves them out.",
    )
    order: Order = Field(
        "after",
        description="after: each condition is fine-tuned, then coupled over that, from its own "
        "answers, as published. before: the base model is coupled once per seed, from base's "
        "answers, and every fine-tuning starts from this one model: does it undo who writes the "
        "marker? Activations are then those of the model that answers, coupled and fine-tuned, "
        "compared with the coupled base; after: of the fine-tuned one before coupling, compared "
        "with base (docs/decisions/0010-order-of-coupling.md).",
    )
    positives: Count = 200
    negatives_each: Count = 200
    questions: QuestionSource = "builtin:questions-coupling"
    limit: Count | None = None
    samples: Count = Field(15, description="Answers drawn per persona and question.")
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Count = 512
    recipe: CouplingRecipe = CouplingRecipe()


class Evaluation(Section):
    """The marker experiment's test half: who writes the marker without being asked."""

    personas: list[PersonaName] | None = Field(
        None, description="By default the published twelve, or all where these are not defined."
    )
    include_induction: StrictBool = Field(
        True, description="Also evaluate induction personas; false: the published grid."
    )
    questions: QuestionSource = "builtin:questions-evaluation"
    unseen_questions: QuestionSource | None = Field(
        None, description="More questions that coupling never saw, e.g. builtin:questions-unseen."
    )
    limit: Count | None = None
    samples: Count = 10
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Count = 512


class LogOdds(Section):
    """Log-odds of the marker at the end of answers: no sampling, one forward pass an answer."""

    later: ClassVar[frozenset[str]] = frozenset({"divergence"})

    max_new_tokens: Count = Field(
        256,
        description="Length of the answers that all conditions and personas share: the base "
        "model's greedy ones as analysis.assistant, to the evaluation's questions.",
    )
    divergence: StrictBool = Field(
        False,
        description="Also measure how far apart personas' answers are, word by word: the "
        "Jensen-Shannon divergence of the distributions that every two personas have over the "
        "next token, along these shared answers.",
    )


class Generation(Section):
    """Which engine answers. `auto` takes vLLM on a GPU where it is installed."""

    engine: Literal["auto", "transformers", "vllm"] = "auto"
    batch_size: Count = Field(64, description="Answers in flight, transformers engine.")
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = Field(
        0.85, description="Share of the GPU that vLLM may take."
    )
