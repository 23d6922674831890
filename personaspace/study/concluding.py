"""Parts of the spec: statistics, figures, and what is computed once more."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from personaspace.study.fields import (
    ConditionName,
    Draws,
    Fraction,
    Ink,
    Method,
    PersonaName,
    Seed,
    Title,
)
from personaspace.study.section import Section


class Control(Section):
    """Positive control: what a condition must reach for its leakage to be assessed at all."""

    source: Fraction = Field(
        0.5, description="Least share of the source persona's answers that hold the marker."
    )
    degenerate: Fraction = Field(
        0.2, description="Largest share of degenerate answers (empty, repetitive, many markers)."
    )


class Primary(Section):
    """The one comparison that the study is for: a condition less another, over its training runs.

    It alone carries the headline, and is not corrected for the others, which are exploratory.
    """

    measure: Literal[
        "raw_cosine", "spread", "split_half", "displacement", "nearest_centroid", "lda", "bystander"
    ] = Field(
        description="M1: raw_cosine, spread; M2: split_half, displacement; M3: nearest_centroid, "
        "lda; leakage: bystander."
    )
    condition: ConditionName | None = Field(
        None, description="Default: the mean of the EM conditions, which goes with benign."
    )
    against: ConditionName = Field(description="The condition that is subtracted.")
    layer: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None, description="Default: the headline layer. bystander has none."
    )
    method: Method | None = Field(None, description="Default: analysis.method.")
    target: Literal["these_personas", "new_personas"] = Field(
        "these_personas", description="Whom the claim is about."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_something(cls, values: object) -> object:
        if values == {}:
            raise ValueError("is empty: it needs at least measure and against")
        return values


class Analysis(Section):
    """Statistics."""

    later: ClassVar[frozenset[str]] = frozenset({"primary", "registration"})

    assistant: PersonaName = Field("assistant", description="The ordinary assistant.")
    axis: ConditionName | None = Field(
        None, description="Condition that defines the EM axis; default: the first em condition."
    )
    layer: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None, description="Headline layer; default 20 where extracted, else the last one."
    )
    method: Method = "a"
    permutations: Draws = 10_000
    bootstrap: Draws = 2_000
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    control: Control = Control()
    primary: Primary | None = Field(
        None, description="Decided before the study runs; none: every test is exploratory."
    )
    registration: Ink | None = Field(
        None,
        description="Page that `personaspace preregister` wrote (path or s3://bucket/key). A study "
        "that is not the registered one is refused.",
    )
    seed: Seed = 42
    partial: StrictBool = Field(False, description="Aggregate what exists when a stage failed.")


class Figures(Section):
    """Figures and report; a change here recomputes nothing else."""

    title: Title = ""
    formats: list[Literal["png", "svg", "pdf"]] = Field(["png", "svg"], min_length=1)
    dpi: Annotated[StrictInt, Field(ge=50, le=600)] = 160


class Rerun(Section):
    """Stages that are computed again although their artifacts are complete, and what follows."""

    condition: ConditionName | None = Field(None, description="By default every condition.")
    stage: Literal[
        "train",
        "extract",
        "couple",
        "evaluate",
        "judge",
        "logodds",
        "steer",
        "aggregate",
        "publish",
    ]
    seed: Seed | None = Field(None, description="By default every seed.")
    nonce: Ink = Field(
        "1",
        max_length=63,
        description="Part of the fingerprint: another text computes it once more.",
    )
