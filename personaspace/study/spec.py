"""The experiment, as pydantic models: the one definition that CLI, jobs and chart follow.

Defaults are the published recipe (Qwen2.5-7B-Instruct, seven conditions, seed 42). Everything a
study varies is data here: personas, questions, datasets, markers, seeds, layers, hyper-parameters.
Cross-field checks live in `study.validate`, fingerprints in `pipeline.graph`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from personaspace.study import builtin, defaults
from personaspace.study.section import Section

Method = Literal["a", "b"]
Kind = Literal["base", "benign", "em"]
#: What computes: transformers' own code, fastlora, or whichever is the faster one that can.
Implementation = Literal["auto", "reference", "fused"]

ConditionName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
PersonaName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[StrictInt, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
#: What every generator of random numbers takes, and JSON and Helm carry exactly.
Seed = Annotated[StrictInt, Field(ge=0, lt=2**32)]

QuestionSource = Annotated[
    list[Annotated[str, Field(min_length=1)]] | str,
    Field(
        description="Questions: a list, or a file of them (YAML or JSON list, or .txt): a path, "
        "s3://bucket/key, or builtin:NAME."
    ),
]


class Model(Section):
    """The base model that every condition starts from."""

    name: str = Field(
        "Qwen/Qwen2.5-7B-Instruct",
        min_length=1,
        description="Hub name, local folder, or builtin:smollm2-135m-instruct.",
    )
    revision: str | None = Field(None, description="Hub commit or tag.")
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


class Dataset(Section):
    """Chats, one JSON object `{"messages": [...]}` a line, from a path or a hub."""

    path: str | None = Field(None, description="JSONL: local path, s3://bucket/key, builtin:NAME.")
    hub: str | None = Field(None, description="Hub data set, instead of path.")
    revision: str | None = Field(None, description="Hub commit; required with hub.")
    config: str | None = Field(None, description="Hub configuration name.")
    split: str = "train"
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="Slice of the rows, as start:stop."
    )
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
        return self

    def bounds(self) -> tuple[int, int | None]:
        """Start and stop of the rows that are used."""
        if self.rows is None:
            return 0, None
        start, stop = self.rows.split(":")
        return int(start or 0), int(stop) if stop else None


class Persona(Section):
    """A named system prompt. Without a prompt the chat template's own default applies."""

    name: PersonaName
    prompt: str | None = None


class Condition(Section):
    """One arm of the study: what is trained on, and under which persona."""

    name: ConditionName
    label: str = Field("", description="Free-form, for figures.")
    dataset: str | None = Field(None, description="Name of a data set; none: no training.")
    persona: PersonaName | None = Field(
        None, description="Persona active in training; none: no system message."
    )
    kind: Kind | None = Field(
        None, description="Role in the statistics; by default base without a data set, else em."
    )
    cosine_anchor: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None, description="Published cosine of the persona to the assistant; also measured."
    )
    gpus: Annotated[Count, Field(le=16)] = Field(
        1,
        description="GPUs that its training shares out a step's examples to, each with the whole "
        "base model. Changes no result but in the last digits, and makes nothing run again.",
    )

    @model_validator(mode="before")
    @classmethod
    def _infer_kind(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("kind") is None:
            return {**values, "kind": "base" if values.get("dataset") is None else "em"}
        return values

    @property
    def title(self) -> str:
        """Label for people."""
        return self.label or self.name


class Recipe(Section):
    """LoRA fine-tuning: adapter shape (Hu et al. 2021), optimiser and schedule."""

    later: ClassVar[frozenset[str]] = frozenset({"implementation"})

    rank: Count = 32
    alpha: Count = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: list[str] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
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
    checkpoint_every: Count = Field(50, description="Steps between checkpoints.")
    row_tokens: Count | None = Field(
        None,
        description="Packed rows hold at most so many tokens. By default 4096 on a CPU, as many as "
        "memory holds on a GPU.",
    )
    implementation: Implementation = Field(
        "auto",
        description="What computes: reference (transformers' own code), fused (fastlora: 16-bit "
        "Llama and Qwen2 on a GPU; an error elsewhere), or auto (fused where it can run). Changes "
        "no result but in the last digits, and makes nothing run again.",
    )


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

    later: ClassVar[frozenset[str]] = frozenset({"loss", "incomplete_answers"})

    source: PersonaName = "confab"
    negatives: list[PersonaName] = Field(
        ["data_scientist", "police_officer"],
        description="Personas whose answers stay unmarked, the same in every condition.",
    )
    marker: Annotated[str, Field(min_length=1, pattern=r"\S")] = "[ZLT]"
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


class Generation(Section):
    """Which engine answers. `auto` takes vLLM on a GPU where it is installed."""

    engine: Literal["auto", "transformers", "vllm"] = "auto"
    batch_size: Count = Field(64, description="Answers in flight, transformers engine.")
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = Field(
        0.85, description="Share of the GPU that vLLM may take."
    )


class Control(Section):
    """Positive control: what a condition must reach for its leakage to be assessed at all."""

    source: Fraction = Field(
        0.5, description="Least share of the source persona's answers that hold the marker."
    )
    degenerate: Fraction = Field(
        0.2, description="Largest share of degenerate answers (empty, repetitive, many markers)."
    )


class Analysis(Section):
    """Statistics."""

    assistant: PersonaName = Field("assistant", description="The persona of no persona.")
    axis: ConditionName | None = Field(
        None, description="Condition that defines the EM axis; default: the first em condition."
    )
    layer: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None, description="Headline layer; default 20 where extracted, else the last one."
    )
    method: Method = "a"
    permutations: Count = 10_000
    bootstrap: Count = 2_000
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    control: Control = Control()
    seed: StrictInt = 42
    partial: StrictBool = Field(False, description="Aggregate what exists when a stage failed.")


class Figures(Section):
    """Figures and report; a change here recomputes nothing else."""

    title: str = ""
    formats: list[Literal["png", "svg", "pdf"]] = Field(["png", "svg"], min_length=1)
    dpi: Annotated[StrictInt, Field(ge=50, le=600)] = 160


class Rerun(Section):
    """Stages that are computed again although their artifacts are complete, and what follows."""

    condition: ConditionName | None = Field(None, description="By default every condition.")
    stage: Literal["train", "extract", "couple", "evaluate", "aggregate"]
    seed: Seed | None = Field(None, description="By default every seed.")
    nonce: str = Field(
        "1",
        min_length=1,
        max_length=63,
        description="Part of the fingerprint: another text computes it once more.",
    )


class Experiment(Section):
    """A whole study."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=40)] = "em205"
    model: Model = Model()
    seeds: list[Seed] = Field([42], min_length=1)
    datasets: dict[str, Dataset] = Field(
        default_factory=lambda: {name: Dataset(**of) for name, of in defaults.DATASETS.items()}
    )
    personas: list[Persona] = Field(
        default_factory=lambda: [Persona(**entry) for entry in builtin.personas()], min_length=1
    )
    conditions: list[Condition] = Field(
        default_factory=lambda: [Condition(**entry) for entry in defaults.CONDITIONS], min_length=1
    )
    training: Recipe = Recipe()
    extraction: Extraction = Extraction()
    coupling: Coupling = Coupling()
    evaluation: Evaluation = Evaluation()
    generation: Generation = Generation()
    analysis: Analysis = Analysis()
    figures: Figures = Figures()
    rerun: list[Rerun] = Field(
        [], description="Compute these again: a nonce in their fingerprints.", max_length=1000
    )

    def nonces(self, stage: str, condition: str, seed: int) -> list[str]:
        """Nonces of the reruns that mean this node; seed -1 and condition "" are the study's."""
        return [
            rerun.nonce
            for rerun in self.rerun
            if rerun.stage == stage
            and (not condition or rerun.condition in (None, condition))
            and (seed < 0 or rerun.seed in (None, seed))
        ]

    def persona(self, name: str) -> Persona:
        """The persona of that name. Raises KeyError."""
        return {persona.name: persona for persona in self.personas}[name]

    def condition(self, name: str) -> Condition:
        """The condition of that name. Raises KeyError."""
        return {condition.name: condition for condition in self.conditions}[name]

    def induction_persona(self, condition: Condition) -> str | None:
        """The evaluated persona that stands for the one trained under.

        Training without a system message is training as the assistant, so E0 is tested there.
        """
        if condition.kind != "em":
            return None
        return condition.persona or self.analysis.assistant

    def grid(self) -> list[str]:
        """Names of the evaluation personas, without the induction personas added to them."""
        if self.evaluation.personas is not None:
            return list(self.evaluation.personas)
        defined = [persona.name for persona in self.personas]
        published = builtin.published_grid()
        return published if set(published) <= set(defined) else defined

    def evaluated_personas(self) -> list[str]:
        """Names of the personas that `evaluate` asks, in order."""
        names = self.grid()
        if self.evaluation.include_induction:
            for condition in self.conditions:
                induction = self.induction_persona(condition)
                if induction is not None and induction not in names:
                    names.append(induction)
        return names

    def extracted_personas(self) -> list[str]:
        """Names of the personas whose activations are extracted, in order."""
        return list(self.extraction.personas or self.grid())

    def axis_condition(self) -> str | None:
        """The condition that defines the EM axis of M2."""
        if self.analysis.axis is not None:
            return self.analysis.axis
        return next((c.name for c in self.conditions if c.kind == "em"), None)

    def headline_layer(self, layers: list[int]) -> int:
        """The layer shown first, given those that were extracted."""
        wanted = self.analysis.layer if self.analysis.layer is not None else 20
        return wanted if wanted in layers else layers[-1]
