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

from personaspace.analysis.control_rows import ControlRow
from personaspace.analysis.judged_rows import JudgedRow, JudgeInfo
from personaspace.analysis.results_parts import (
    KINDS,
    AnalysisInfo,
    ConditionKind,
    DimensionRow,
    FormRow,
    MeasureInfo,
    ModelInfo,
    NoticeInfo,
    PersonaInfo,
    PersonaSpace,
    PrimaryInfo,
    QuestionsInfo,
    RateRow,
    RegistrationInfo,
    RobustRow,
    StudyCondition,
    TrainingRow,
    TrajectoryRow,
)
from personaspace.analysis.rows import STRICT, Row
from personaspace.analysis.steering_rows import SteeringRow
from personaspace.files import as_model, read_json
from personaspace.schema_page import page

#: The file's name in an aggregate artifact.
RESULTS_FILE = "results.json"
#: Raised when a field is renamed, removed, or means something else.
FORMAT: Literal[1] = 1


def _known_format(value: Any) -> Any:
    if value != FORMAT:
        raise PydanticCustomError(
            "format",
            "{found} is not a format that this version of personaspace reads (it reads {known})",
            {"found": repr(value), "known": FORMAT},
        )
    return value


class Results(BaseModel):
    """The statistics of a study, with nothing that changes from run to run.

    Any list may be empty and any number null: a study may be partial.
    """

    model_config = STRICT

    format: Annotated[Literal[1], BeforeValidator(_known_format)] = FORMAT
    """Version of this format. Files of before it had one lack it, and are read as format 1."""
    study: str
    """Name of the study."""
    title: str = ""
    """Title for figures and report; empty: made from the name."""
    digest: str | None = None
    """SHA-256 of spec and data, as a registration has it; figures carry it in their metadata."""
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
    questions: list[QuestionsInfo] = []
    """Questions of extraction and evaluation, and their themes."""
    layers: list[int] = []
    """Decoder layers whose activations were read, counted from 0."""
    methods: list[str] = []
    """Extraction methods: a (last prompt token), b (mean over the answer)."""
    analysis: AnalysisInfo = AnalysisInfo()
    """How the statistics were computed."""
    primary: PrimaryInfo | None = None
    """The comparison that the study is for; None: every test is exploratory."""
    registration: RegistrationInfo | None = None
    """The page that registered this very study before it ran; None: none is named."""
    conditions: list[StudyCondition] = Field(min_length=1)
    """The conditions, in the spec's order."""
    geometry: list[Row] = []
    """M1, M2, M3 and shape."""
    dimensions: list[DimensionRow] = []
    """How much a few dimensions make of the activations."""
    robustness: list[RobustRow] = []
    """M1 to M3 and shape at the headline layer without these dimensions, and with all of one
    scale."""
    trajectories: list[TrajectoryRow] = []
    """M1 to M3, and leakage, over the steps of training: exploratory, in no family of the rows."""
    spaces: list[PersonaSpace] = []
    """Where every persona is at the headline layer, for pictures; one for each training seed."""
    leakage: list[Row] = []
    """Leakage of the marker, length of the answers, and H1 to H3."""
    rates: list[RateRow] = []
    """Counts of answers with the marker."""
    forms: list[FormRow] = []
    """Length of answers, and places in them where a marker was taught to stand."""
    control: list[ControlRow] = []
    """Of each condition with answers, whether its leakage can be assessed."""
    judge: JudgeInfo | None = None
    """The judge of the conditions' answers to open questions; None: the study has none."""
    judged: list[JudgedRow] = []
    """What it said: how often answers of the fine-tuned models are misaligned."""
    steering: list[SteeringRow] = []
    """What vectors cause, added to a layer's output or projected out of it."""
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

    @cached_property
    def runs(self) -> dict[str, int]:
        """Training runs of each condition that is trained, by name."""
        return {c.name: len(c.seeds or self.seeds) for c in self.conditions if c.kind != "base"}

    @property
    def single_runs(self) -> bool:
        """No condition was trained more than once (nor is a seed unknown)."""
        return bool(self.seeds) and max(self.runs.values(), default=1) == 1

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
