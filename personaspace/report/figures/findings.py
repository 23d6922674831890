"""The aggregate artifact as figures and report read it: results, checked once, with selections.

`results.json` may be partial: any list may be empty and any number null. What is malformed is
reported as one line that names the file and the field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from personaspace.analysis.rows import Row
from personaspace.errors import UserError

#: What a figure draws of a metric: variant and name of the sub-measure, best first.
#: A metric's other sub-measures (centred cosine, contrasts …) appear in the tables alone.
HEADLINES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "M1": (("recommended", "raw_cosine"), ("published", "raw_cosine")),
    "M2": (("recommended", "split_half_delta"), ("published", "axis_shift")),
    "M3": (("recommended", "nearest_centroid_above_chance"), ("recommended", "nearest_centroid")),
    "bystander_mean": (("recommended", None), ("published", None)),
}
#: Sub-measures whose headline number is their change from base.
_BY_CHANGE = {("M2", "axis_shift")}
#: Sub-measures that stand beside chance, not beside the base model.
AGAINST_CHANCE = "_above_chance"


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ModelInfo(_Part):
    """The base model."""

    name: str = "unnamed model"
    revision: str | None = None
    dtype: str | None = None
    num_layers: int | None = None
    hidden_size: int | None = None


class Persona(_Part):
    """A persona and its system prompt (none: the chat template's default)."""

    name: str
    prompt: str | None = None


class AnalysisInfo(_Part):
    """How the statistics were computed."""

    layer: int | None = None
    method: str | None = None
    permutations: int | None = None
    bootstrap: int | None = None
    seed: int | None = None
    alpha: float = 0.05


class Condition(_Part):
    """One arm of the study."""

    name: str
    label: str = ""
    kind: Literal["base", "benign", "em"] = "em"
    persona: str | None = None
    induction_persona: str | None = None
    cosine_anchor: float | None = None
    cosine_measured: dict[str, float | None] | None = None

    @property
    def title(self) -> str:
        """Label for people."""
        return self.label or self.name

    @property
    def induced(self) -> str | None:
        """The persona active in training, as it is evaluated."""
        return self.induction_persona or self.persona


def _whole_interval(value: Any) -> Any:
    """A row as JSON has it; an interval of which an end is missing is none."""
    if isinstance(value, dict) and None in (value.get("ci95") or ()):
        return {**value, "ci95": None}
    return value


Rows = list[Annotated[Row, BeforeValidator(_whole_interval)]]


class Measure(_Part):
    """What a measure is called, tests, shows and cannot show, in the analysis's own words."""

    metric: str
    variant: str
    name: str | None = None
    title: str = ""
    null: str | None = None
    effect: str | None = None
    shows: str | None = None
    cannot: str | None = None
    interval: str | None = None


class Rate(_Part):
    """Marker counts of one condition, seed and persona; `rate` and `ci95` are fractions."""

    condition: str
    seed: int | None = None
    persona: str
    hits: int
    terminal: int | None = None
    degenerate: int | None = None
    total: int
    rate: float | None = None
    ci95: tuple[float, float] | None = None


class Training(_Part):
    """First and last training loss of one fine-tuning run."""

    condition: str
    seed: int | None = None
    stage: str
    steps: int | None = None
    loss_first: float | None = None
    loss_last: float | None = None
    examples: int | None = None
    tokens: int | None = None


class Findings(_Part):
    """Everything in `results.json`."""

    study: str
    title: str = ""
    model: ModelInfo = ModelInfo()
    seeds: list[int] = []
    marker: str = ""
    source: str | None = None
    negatives: list[str] = []
    personas: list[Persona] = []
    evaluated_personas: list[str] = []
    layers: list[int] = []
    methods: list[str] = []
    analysis: AnalysisInfo = AnalysisInfo()
    conditions: list[Condition]
    geometry: Rows = []
    leakage: Rows = []
    rates: list[Rate] = []
    training: list[Training] = []
    notes: list[str] = []
    caveats: list[str] = []
    measures: list[Measure] = []

    @cached_property
    def arms(self) -> list[Condition]:
        """Conditions in the order of every figure and table: base, benign, then EM as given."""
        order = {"base": 0, "benign": 1, "em": 2}
        return sorted(self.conditions, key=lambda condition: order[condition.kind])

    @cached_property
    def by_name(self) -> dict[str, Condition]:
        """Conditions by name."""
        return {condition.name: condition for condition in self.conditions}

    @property
    def base(self) -> Condition | None:
        """The untrained condition, if the study has one."""
        return next((c for c in self.arms if c.kind == "base"), None)

    @property
    def hero_layer(self) -> int | None:
        """The layer shown first: the analysis's, else the deepest extracted."""
        if self.analysis.layer is not None:
            return self.analysis.layer
        return max(self.layers) if self.layers else None

    @property
    def hero_method(self) -> str | None:
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

    def rate(self, condition: str, persona: str, seed: int | None = None) -> float | None:
        """Share of answers with the marker, 0–1; pooled over seeds when none is given."""
        rows = [
            r
            for r in self.rates
            if r.condition == condition
            and r.persona == persona
            and (seed is None or r.seed == seed)
        ]
        total = sum(r.total for r in rows)
        return sum(r.hits for r in rows) / total if total else None

    def bystanders(self, condition: Condition) -> list[str]:
        """Evaluated personas but the source and the condition's induction persona."""
        left_out = {self.source, condition.induced if condition.kind == "em" else None}
        return [name for name in self.ordered_personas if name not in left_out]


def headline_rows(rows: Iterable[Row], metric: str) -> list[Row]:
    """Rows of the variant and sub-measure that figures draw for a metric.

    The recommended variant wins where it exists, else the published. M2 is drawn as its change
    from base, so that is what `value` holds here.
    """
    mine = [row for row in rows if row.metric == metric and row.value is not None]
    for variant, name in HEADLINES.get(metric, ()):
        found = [row for row in mine if row.variant == variant and row.name == name]
        if found and (metric, name) in _BY_CHANGE:
            change = [replace(row, value=row.delta, ci95=None) for row in found]
            found = [row for row in change if row.value is not None]
        if found:
            return found
    return []


def pooled(rows: Sequence[Row]) -> Row | None:
    """The row over all seeds, if there is one, or the only row."""
    overall = [row for row in rows if row.seed is None]
    if overall:
        return overall[0]
    return rows[0] if len(rows) == 1 else None


def mean_value(rows: Sequence[Row]) -> float | None:
    """The pooled row's value, else the plain mean over seeds; None without rows."""
    one = pooled(rows)
    if one is not None:
        return one.value
    values = [row.value for row in rows if row.value is not None]
    return sum(values) / len(values) if values else None


def read_json(path: Path) -> Any:
    """A JSON file, with NaN and infinities read as null.

    Raises:
        UserError: Missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise UserError(f"{path}: not found (is this an aggregate folder?)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from None


def load_findings(folder: Path) -> Findings:
    """Reads and checks `results.json` of an aggregate folder.

    Raises:
        UserError: Missing or malformed, naming the field.
    """
    path = Path(folder) / "results.json"
    try:
        findings = Findings.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UserError(f"{path}: {field}: {first['msg']}") from None
    if not findings.conditions:
        raise UserError(f"{path}: conditions: empty; there is nothing to report")
    return findings
