"""What steering did, as `results.json` has it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel

from personaspace.analysis.rows import STRICT, Interval95, Real


class SteeringMeasure(StrEnum):
    """What a steered model is measured by."""

    ADVICE = "advice"
    GOOD = "good"
    DEGENERATE = "degenerate"
    SURPRISE = "surprise"


class SteeringRow(BaseModel):
    """A measure of a model that is steered along a vector, against the same model untouched."""

    model_config = STRICT

    condition: str
    """Whose vector it is."""
    seed: int | None = None
    """Training seed; None: over all runs, which are then the units."""
    runs: int = 1
    """Training runs that it is over. With one, run-to-run variation is in no interval."""
    model: Literal["base", "own"]
    """The model that is steered: base, or the condition's own."""
    mode: Literal["add", "ablate"]
    """Whether the vector is added to a layer's output, or projected out of it."""
    vector: str
    """`shift` (of the assistant, from base to the condition) or a persona (less the assistant)."""
    layer: int
    """Decoder layer, counted from 0."""
    method: str
    """Extraction method that the vector was measured by: a or b."""
    measure: SteeringMeasure
    """`advice`: mean log p per token of bad answers less that of good ones, nats; `good`: that of
    the good ones alone; `degenerate`: share of the steered model's greedy answers; `surprise`:
    −log p per token of these answers under the untouched model, nats."""
    dose: Real = None
    """Multiple of the vector that is added; None: of `add` all doses together (of `advice`;
    `delta` is then the change per dose, least squares through the untouched model), of `ablate`
    none is needed."""
    relative: Real = None
    """Length of what is added, in median lengths of the activations there; of `ablate` and of all
    doses together that of the vector."""
    value: Real = None
    """Mean over questions, steered."""
    unsteered: Real = None
    """The same, untouched."""
    delta: Real = None
    """The change."""
    delta_ci95: Interval95 = None
    """95 % interval of the change, with questions (or their topics) as samples; over several runs
    with these as units. Of a share cut to what that can change by."""
    n: int = 0
    """Questions, or topics of questions where several have one."""
    controls: int = 0
    """Random directions of the same length, in place of the vector."""
    control_low: Real = None
    """Least change among these."""
    control_high: Real = None
    """Greatest change among these."""
    p: Real = None
    """Rank of the vector's change, in absolute size, among the controls' and its own; of `advice`,
    over all doses together or ablated. None: no test. Random directions are mild opponents:
    `p_matched` is the one to go by."""
    p_floor: Real = None
    """The smallest that p could be: 1 / (controls + 1)."""
    matched: int = 0
    """Directions of the same length, drawn as the condition's activations vary."""
    matched_low: Real = None
    """Least change among these."""
    matched_high: Real = None
    """Greatest change among these."""
    p_matched: Real = None
    """As p, among these."""
    p_matched_floor: Real = None
    """The smallest that this could be: 1 / (matched + 1)."""
    trained_on: int | None = None
    """Of `advice`, questions of which the condition was trained on one of the answers; None: of
    another measure, or not known."""
