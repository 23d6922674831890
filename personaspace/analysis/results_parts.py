"""Parts of `results.json`: what a study is, and its counts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from personaspace.analysis.control_rows import ControlLimits
from personaspace.analysis.rows import STRICT, Interval95, Real, Target, Variant

ConditionKind = Literal["base", "benign", "em"]
#: In the order of every figure and table.
KINDS: tuple[ConditionKind, ...] = ("base", "benign", "em")


class Part(BaseModel):
    """Base of the parts: frozen, unknown fields are errors."""

    model_config = STRICT


class ModelInfo(Part):
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


class PersonaInfo(Part):
    """A persona and its system prompt."""

    name: str
    """Its name in the spec."""
    prompt: str | None = None
    """System prompt; None: no system message, so the chat template's default, or several."""
    prompts: list[str] = Field([], exclude_if=lambda texts: not texts)
    """Its wordings, where it has several; else it is left out."""

    @property
    def told(self) -> str | None:
        """Its prompt for people, or its wordings one after the other; None: no system message."""
        if not self.prompts:
            return self.prompt
        return " · ".join(f"({place}) {text}" for place, text in enumerate(self.prompts, 1))


class QuestionsInfo(Part):
    """Questions of a stage, and the themes that they come in."""

    stage: Literal["extraction", "evaluation", "judge"]
    """Whose questions they are."""
    count: int
    """How many questions there are."""
    themes: int | None = None
    """In how many themes, which are then the samples of tests; None: they have none."""
    unthemed: int = 0
    """Questions without a theme among others with one; each counts as a theme of its own."""

    @property
    def what(self) -> str:
        """How many of what, for people."""
        return f"{self.count} questions of {'the judge' if self.stage == 'judge' else self.stage}"


class AnalysisInfo(Part):
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


class PrimaryInfo(Part):
    """The comparison that was decided on before the study ran."""

    metric: str
    """Metric of its row."""
    name: str
    """Name of its row."""
    measure: str
    """What is compared, as in the spec."""
    condition: str | None = None
    """The condition; None: the mean of the EM conditions."""
    against: str
    """The condition that is subtracted."""
    method: str | None = None
    """Extraction method; None: it is counted in answers."""
    layer: int | None = None
    """Decoder layer; None: it is counted in answers."""
    target: Target
    """Whom the claim is about."""


class RegistrationInfo(Part):
    """The page that registered the study before it ran."""

    source: str
    """Where it lies."""
    sha256: str
    """SHA-256 of the page."""
    digest: str
    """SHA-256 of what it registers: spec and digests of the data, which are those of this study."""


class StudyCondition(Part):
    """A condition of the study: the base model, or one way of fine-tuning it."""

    name: str
    """Its name in the spec."""
    label: str = ""
    """What figures and tables call it; empty: its name."""
    kind: ConditionKind = "em"
    """`base` (not fine-tuned), `benign` (on harmless data) or `em` (on narrowly bad data)."""
    seeds: list[int] = []
    """Seeds of its training runs, some of the study's; empty: all of these."""
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


class DimensionRow(Part):
    """Dimensions of a condition's activations that are far larger than the others."""

    method: str
    """Extraction method: a or b."""
    layer: int
    """Decoder layer, counted from 0."""
    condition: str
    """The condition."""
    seed: int
    """Training seed of the comparison."""
    massive: list[int]
    """Base's massive dimensions, largest first, ten at most: those with at least 1 % of |μ|² (μ:
    mean over personas) and ten times the median dimension."""
    massive_count: int
    """How many these are."""
    massive_share: float
    """Their share of the condition's |μ|²."""
    top1_share: float
    """Share of the largest dimension in |μ|²."""
    top3_share: float
    """Share of the three largest."""
    top10_share: float
    """Share of the ten largest."""
    anisotropy: Real
    """Mean cosine of two different activations; None with one."""
    median_norm: float
    """Median length of an activation."""
    largest_norm: float
    """The largest length, in units of the median."""
    norm_outliers: float
    """Share of activations more than twice or less than half as long as the median."""


class RobustRow(Part):
    """An estimate of M1 to M3 or shape at the headline layer, of activations that were changed."""

    transform: Literal["as_is", "without_massive", "scaled"]
    """`as_is`; base's massive dimensions removed; each dimension divided by its standard deviation
    in base."""
    method: str
    """Extraction method: a or b."""
    layer: int
    """Decoder layer, counted from 0."""
    metric: str
    """M1, M2, M3 or shape."""
    name: str
    """The measure, as in the rows."""
    condition: str | None = None
    """The condition; None: the mean of the EM conditions."""
    against: str | None = None
    """Condition that is subtracted."""
    value: Real = None
    """The estimate over all runs, for these personas."""
    ci95: Interval95 = None
    """Its 95 % interval."""
    p: Real = None
    """Its p, in no family: the row as it is carries the test."""


class TrajectoryRow(Part):
    """A measure of a condition after some of the steps of its training, over all its runs."""

    condition: str
    """The condition."""
    step: int
    """Optimiser steps; 0: base."""
    whole: bool
    """Whether that is the whole training, which the study's own rows are about."""
    metric: str
    """M1, M2, M3, bystander_mean or source."""
    name: str
    """The measure, as in the rows; `source`: share of the source persona's answers with the
    marker."""
    method: str | None = None
    """Extraction method: a or b."""
    layer: int | None = None
    """Decoder layer, counted from 0."""
    value: Real = None
    """The estimate, for these personas."""
    ci95: Interval95 = None
    """Its 95 % interval."""
    p: Real = None
    """Of a dose: that `value` is 0, as the study tests it of the whole training."""
    p_bh: Real = None
    """p adjusted by Benjamini and Hochberg over all doses, conditions and measures."""
    p_holm: Real = None
    """p adjusted by Holm likewise."""
    n: int | None = None
    """Training runs, or questions where one run is all."""
    run_variation: bool | None = None
    """Whether the interval holds run-to-run variation."""


class PersonaPlace(Part):
    """Where one persona vector is."""

    condition: str
    """The condition."""
    persona: str
    """The persona."""
    first: float
    """Coordinate on base's first principal component, in units of activations."""
    second: float
    """Coordinate on the second."""
    along: Real = None
    """Position along the axis from base's assistant (0) to that of the axis condition (1); None
    without such an axis."""


class PersonaSpace(Part):
    """All persona vectors of one training seed in base's basis, at the headline layer."""

    method: str
    """Extraction method: a or b."""
    layer: int
    """Decoder layer, counted from 0."""
    seed: int
    """Training seed of the comparison."""
    assistant: str
    """The persona that the axis is of."""
    axis: str | None = None
    """Condition that defines the axis; None: no axis."""
    shares: list[float]
    """Share of the variance between base's personas on the first two principal components."""
    places: list[PersonaPlace]
    """By condition and persona."""


class RateRow(Part):
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


class FormRow(Part):
    """Form of the answers of one condition, seed and persona."""

    condition: str
    """The condition."""
    seed: int | None = None
    """Training seed."""
    persona: str
    """The persona that answers."""
    total: int
    """All answers."""
    words_mean: Real = None
    """Mean length in words, the marker left out."""
    words_median: Real = None
    """Median length in words, the marker left out."""
    places: int
    """Places where a marker was taught to stand: after each separator, in all answers."""
    taken: int
    """How many of these places a marker follows."""
    with_place: int
    """Answers with such a place."""
    first_taken: int
    """Answers in which a marker follows the first of them."""
    rate_equal_length: Real = None
    """Share of answers with the marker if lengths were distributed as in all answers together;
    None where some length does not occur."""


class TrainingRow(Part):
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


class NoticeInfo(Part):
    """What was to be known of the study before it ran."""

    code: str
    """What it is about, such as `demonstration-chats`."""
    path: str
    """The field of the spec that it is about."""
    text: str
    """In a sentence or two, for people."""


class MeasureInfo(Part):
    """What a kind of row is called, tests, shows and cannot show."""

    metric: str
    """M1, M2, M3, shape, bystander_mean, length, persona_text, log_odds, divergence, steering, H1,
    H2 or H3."""
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
