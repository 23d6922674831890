"""`results.json`, the one definition: written through these models, and read through them.

Light: without numpy, so that a command may read results where only the store and pydantic are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from personaspace.analysis.control_rows import ControlLimits, ControlRow
from personaspace.analysis.rows import STRICT, Interval95, Real, Row, Variant
from personaspace.files import as_model, read_json
from personaspace.schema_page import page

#: The file's name in an aggregate artifact.
RESULTS_FILE = "results.json"
#: Raised when a field is renamed, removed, or means something else.
FORMAT: Literal[1] = 1

ConditionKind = Literal["base", "benign", "em"]
#: In the order of every figure and table.
KINDS: tuple[ConditionKind, ...] = ("base", "benign", "em")


def _known_format(value: Any) -> Any:
    if value != FORMAT:
        raise PydanticCustomError(
            "format",
            "{found} is not a format that this version of personaspace reads (it reads {known})",
            {"found": repr(value), "known": FORMAT},
        )
    return value


class _Part(BaseModel):
    model_config = STRICT


class ModelInfo(_Part):
    """The base model."""

    name: str = "unnamed model"
    """Repository, folder or built-in model."""
    revision: str | None = None
    """Revision of the repository, where one was named."""
    dtype: str | None = None
    """Number format of the weights in training and inference."""
    num_layers: int | None = None
    """Decoder layers; None where the model's shape was not known."""
    hidden_size: int | None = None
    """Width of the residual stream; None where the model's shape was not known."""


class PersonaInfo(_Part):
    """A persona and its system prompt."""

    name: str
    """Its name in the spec."""
    prompt: str | None = None
    """System prompt; None: no system message, so the chat template's default."""


class AnalysisInfo(_Part):
    """How the statistics were computed, and which of them are shown first."""

    method: str | None = None
    """Extraction method that is shown first: a or b."""
    permutations: int | None = None
    """Draws of each permutation test."""
    bootstrap: int | None = None
    """Draws of each bootstrap interval."""
    alpha: float = 0.05
    """Level that p-values are judged by."""
    seed: int | None = None
    """Seed of all random draws of the analysis."""
    layer: int | None = None
    """Headline layer, counted from 0."""
    control: ControlLimits = ControlLimits()
    """Limits of the positive control."""


class StudyCondition(_Part):
    """A condition of the study: the base model, or one way of fine-tuning it."""

    name: str
    """Its name in the spec."""
    label: str = ""
    """What figures and tables call it; empty: its name."""
    kind: ConditionKind = "em"
    """`base` (not fine-tuned), `benign` (on harmless data) or `em` (on narrowly bad data)."""
    persona: str | None = None
    """Persona of the system prompt in fine-tuning; None: no system message."""
    induction_persona: str | None = None
    """The evaluated persona that stands for the one trained under; None unless `em`."""
    cosine_anchor: float | None = None
    """Published cosine of that persona to the assistant, as given in the spec."""
    cosine_measured: dict[str, float | None] | None = None
    """The same cosine in this study's base model, by layer; None where it was not measured."""

    @property
    def title(self) -> str:
        """Label for people."""
        return self.label or self.name

    @property
    def induced(self) -> str | None:
        """The persona active in training, as it is evaluated."""
        return self.induction_persona or self.persona


class RateRow(_Part):
    """Answers with the marker of one condition, seed and persona."""

    condition: str
    """The condition."""
    seed: int | None = None
    """Training seed."""
    persona: str
    """The persona that answers."""
    hits: int
    """Answers that contain the marker, in upper or lower case."""
    terminal: int | None = None
    """Answers that end with the marker and have it once."""
    degenerate: int | None = None
    """Answers that are empty, repetitive, or have more than one marker."""
    total: int
    """All answers."""
    rate: Real = None
    """hits / total, a fraction."""
    ci95: Interval95 = None
    """Wilson's 95 % interval of `rate`."""
    separated: int | None = None
    """Answers that contain the separator after which coupling taught the marker."""


class TrainingRow(_Part):
    """First and last loss of one training run."""

    condition: str
    """The condition."""
    seed: int | None = None
    """Training seed."""
    stage: str
    """`train` (fine-tuning) or `couple` (marker coupling)."""
    steps: int | None = None
    """Optimiser steps."""
    loss_first: Real = None
    """Mean loss of the first step, in nats per trained token."""
    loss_last: Real = None
    """Mean loss of the last step, in nats per trained token."""
    examples: int | None = None
    """Examples with at least one token that carries loss."""
    tokens: int | None = None
    """Tokens that the model saw, over all steps."""


class NoticeInfo(_Part):
    """What was to be known of the study before it ran."""

    code: str
    """What it is about, such as `demonstration-chats`."""
    path: str
    """The field of the spec that it is about."""
    text: str
    """In a sentence or two, for people."""


class MeasureInfo(_Part):
    """What a kind of row is called, tests, shows and cannot show."""

    metric: str
    """M1, M2, M3, bystander_mean, H1, H2 or H3."""
    variant: Variant
    """`published` or `recommended`."""
    name: str | None = None
    """Tells apart the measures of one metric; as in the rows."""
    title: str = ""
    """Short name for people."""
    shows: str | None = None
    """What a row of it shows, as a sentence."""
    cannot: str | None = None
    """What it cannot show, as a sentence."""
    null: str | None = None
    """Null hypothesis of p; None: there is no test."""
    effect: str | None = None
    """What the effect size is; None: there is none."""


class Results(_Part):
    """The statistics of a study, with nothing that changes from run to run.

    Any list may be empty and any number null: a study may be partial.
    """

    format: Annotated[Literal[1], BeforeValidator(_known_format)] = FORMAT
    """Version of this format. Files of before it had one lack it, and are read as format 1."""
    study: str
    """Name of the study."""
    title: str = ""
    """Title for figures and report; empty: made from the name."""
    model: ModelInfo = ModelInfo()
    """The base model of the study."""
    seeds: list[int] = []
    """Training seeds."""
    marker: str = ""
    """Text that coupling teaches the source persona to write."""
    source: str | None = None
    """Persona that is taught the marker."""
    negatives: list[str] = []
    """Personas that coupling trains not to write the marker."""
    personas: list[PersonaInfo] = []
    """All personas of the study."""
    evaluated_personas: list[str] = []
    """Names of those that are asked for the marker rates."""
    layers: list[int] = []
    """Decoder layers whose activations were read, counted from 0."""
    methods: list[str] = []
    """Extraction methods: a (last prompt token), b (mean over the answer)."""
    analysis: AnalysisInfo = AnalysisInfo()
    """How the statistics were computed."""
    conditions: list[StudyCondition] = Field(min_length=1)
    """The conditions, in the spec's order."""
    geometry: list[Row] = []
    """M1, M2 and M3."""
    leakage: list[Row] = []
    """Leakage of the marker, and H1 to H3."""
    rates: list[RateRow] = []
    """Counts of answers with the marker."""
    control: list[ControlRow] = []
    """Of each condition with answers, whether its leakage can be assessed."""
    training: list[TrainingRow] = []
    """Losses of the training runs."""
    notes: list[str] = []
    """What the analysis left out, and why."""
    measures: list[MeasureInfo] = []
    """The measures that occur in the rows."""
    notices: list[NoticeInfo] = []
    """What was to be known of the study before it ran: data for demonstration, for one."""
    caveats: list[str] = []
    """What the data themselves warn of."""

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Reads results, from their file or from the folder that holds it.

        Raises:
            UserError: Missing, malformed or of another format; the message names the file and the
                field.
        """
        path = Path(path)
        path = path / RESULTS_FILE if path.is_dir() else path
        value = read_json(path)
        former = isinstance(value, dict) and "format" not in value
        return as_model(
            value, cls, f"{path} (without `format`: an older file)" if former else str(path)
        )

    def to_dict(self) -> dict[str, Any]:
        """The file's content, as JSON takes it."""
        return self.model_dump(mode="json")

    @property
    def rows(self) -> list[Row]:
        """Geometry, then leakage."""
        return [*self.geometry, *self.leakage]

    @cached_property
    def ordered_conditions(self) -> list[StudyCondition]:
        """Conditions in the order of every figure and table: base, benign, then EM as given."""
        return sorted(self.conditions, key=lambda condition: KINDS.index(condition.kind))

    @cached_property
    def by_name(self) -> dict[str, StudyCondition]:
        """Conditions by name."""
        return {condition.name: condition for condition in self.conditions}

    def of_kind(self, kind: ConditionKind) -> list[StudyCondition]:
        """Conditions of one kind, as given."""
        return [condition for condition in self.conditions if condition.kind == kind]

    @property
    def base(self) -> StudyCondition | None:
        """The untrained condition, if the study has one."""
        return next(iter(self.of_kind("base")), None)

    @property
    def headline_layer(self) -> int | None:
        """The layer shown first: the analysis's, else the deepest extracted."""
        if self.analysis.layer is not None:
            return self.analysis.layer
        return max(self.layers) if self.layers else None

    @property
    def headline_method(self) -> str | None:
        """The extraction method shown first."""
        return self.analysis.method or (self.methods[0] if self.methods else None)

    @cached_property
    def ordered_personas(self) -> list[str]:
        """Evaluated personas with the source last; those of the rates if none are listed."""
        names = self.evaluated_personas or list(dict.fromkeys(r.persona for r in self.rates))
        return [n for n in names if n != self.source] + [n for n in names if n == self.source]

    def label(self, condition: str | None) -> str:
        """A condition's label, or its name where results do not describe it."""
        if condition is None:
            return "all conditions"
        known = self.by_name.get(condition)
        return known.title if known else condition

    def measure_title(self, row: Row) -> str:
        """What a row's measure is called: the analysis's words, else its name in the results."""
        key = (row.metric, row.variant, row.name)
        for measure in self.measures:
            if (measure.metric, measure.variant, measure.name) == key and measure.title:
                return measure.title
        return (row.name or row.metric).replace("_", " ")

    @property
    def not_assessable(self) -> dict[str, ControlRow]:
        """Conditions whose leakage cannot be assessed, by name, in the order of the figures."""
        failed = {row.condition: row for row in self.control if row.status == "not_assessable"}
        return {c.name: failed[c.name] for c in self.ordered_conditions if c.name in failed}

    def rates_of(self, condition: str, persona: str | None = None) -> list[RateRow]:
        """Counts of a condition, of all personas or of one."""
        return [
            rate
            for rate in self.rates
            if rate.condition == condition and persona in (None, rate.persona)
        ]

    def rate(self, condition: str, persona: str) -> float | None:
        """Share of answers with the marker, 0–1, over all seeds; None without answers."""
        return share(self.rates_of(condition, persona), "hits")

    def bystanders(self, condition: StudyCondition) -> list[str]:
        """Evaluated personas but the source and the condition's induction persona."""
        left_out = {self.source, condition.induced if condition.kind == "em" else None}
        return [name for name in self.ordered_personas if name not in left_out]


def json_schema() -> dict[str, Any]:
    """JSON schema of the file as it is written, with every field."""
    return Results.model_json_schema(mode="serialization")


def markdown() -> str:
    """The reference page: every field of the file."""
    intro = [
        "`results.json` holds the statistics of a study. Written by `make schema` from the models",
        "in `personaspace/analysis/results.py`; [results.schema.json](results.schema.json) is the",
        "same for programs, [metrics.md](metrics.md) says what each kind of row shows and cannot",
        "show. A file has every field, in this order; what does not apply is null. In Python,",
        "`personaspace.analysis.results.Results.read(path)` reads it.",
    ]
    return page("Results", intro, json_schema(), defaults=False)


Counted = Literal["hits", "terminal", "degenerate", "separated"]


def share(rates: Sequence[RateRow], counted: Counted) -> float | None:
    """What is counted, as a share of all answers of rows that count it; None of none."""
    known = [(count, rate.total) for rate in rates if (count := getattr(rate, counted)) is not None]
    total = sum(total for _, total in known)
    return sum(count for count, _ in known) / total if total else None
