"""How much of GPUs' memory a model takes, by its configuration alone, and how many must hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from personaspace.console import many
from personaspace.errors import UserError
from personaspace.models.architecture import Architecture
from personaspace.study import base_model
from personaspace.study.fields import Implementation
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe, named
from personaspace.study.spec import Experiment

#: Cards that people have, in GB of their makers (10^9 bytes): RTX 4090 and L4, A100 and H100, H200,
#: B200. One of more is to be had (B300: 288), and none of more than that.
CARDS = (24, 80, 141, 192)
LARGEST_CARD = 288
#: GPUs of one host that a model is spread over.
COUNTS = (1, 2, 4, 8, 16)
GIB = 1 << 30
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
#: An adapter's parameter with its gradient and AdamW's two moments, in float32.
_TRAINED_BYTES = 16
#: What a process takes on a GPU before it does anything, and the logits of a chunk in training.
_PROCESS, _LOGITS = 1 * GIB, 640 << 20
#: Layers that are whole at a time where the model is spread: one computes, one is gathered.
_GATHERED = 2
#: A batch of passages, whose hidden states are taken.
_READING = 2 * GIB


class Use(StrEnum):
    """What a model is needed for: as many GPUs each time."""

    TRAINING = "training"  # train, couple
    READING = "hidden states"  # extract
    ANSWERING = "answers"  # vLLM, in whatever stage asks
    WHOLE = "log-odds, steering"  # passes that are computed on one GPU alone


@dataclass(frozen=True)
class Footprint:
    """Memory in bytes; activations are those of the longest example, every layer recomputed.

    Attributes:
        parameters: Of the model.
        adapter_parameters: Of the fine-tuning's LoRA adapter.
        weights: Of the model.
        kept: Those of them that each GPU has whole where the model is spread.
        gathered: Those of the largest part that is gathered at a time.
        training: Of weights, adapter, its gradients and the optimiser's state.
        working: Of activations in training, at the least.
        share: Of a GPU that answers may take (`generation.gpu_memory`).
    """

    parameters: int
    adapter_parameters: int
    weights: int
    kept: int
    gathered: int
    training: int
    working: int
    share: float

    def held(self, gpus: int) -> int:
        """Bytes of weights on each GPU, those that are gathered for the moment included."""
        if gpus == 1:
            return self.weights
        spread = -(-(self.weights - self.kept) // gpus)
        return self.kept + spread + _GATHERED * self.gathered

    def need(self, use: Use, gpus: int) -> int:
        """Bytes of each of so many GPUs that a use takes, at the least."""
        match use:
            case Use.TRAINING:
                return self.held(gpus) + self.training - self.weights + self.working
            case Use.READING:
                return self.held(gpus) + _PROCESS + _READING
            case Use.ANSWERING:
                engine = self.weights / gpus + engine_workspace(self.weights // gpus)
                return int(engine / self.share)
            case Use.WHOLE:
                return self.weights + _PROCESS + _READING

    def gpus(self, use: Use, card: float) -> int | None:
        """The fewest GPUs of so many GB that do; None: 16 do not."""
        counts = COUNTS if use is not Use.WHOLE else COUNTS[:1]
        return next((n for n in counts if self.need(use, n) <= card * 10**9), None)

    def left(self, card: int) -> int:
        """Bytes that training leaves of a card of so many GB; below 0: it does not fit."""
        return card * 10**9 - self.need(Use.TRAINING, 1)

    @property
    def smallest_card(self) -> int | None:
        """The smallest of `CARDS` and of `LARGEST_CARD`, in GB, that holds training."""
        return next((card for card in (*CARDS, LARGEST_CARD) if self.left(card) > 0), None)

    def table(self, cards: tuple[float, ...] = CARDS) -> Mapping[float, Mapping[Use, int | None]]:
        """GPUs by card and use."""
        return {card: {use: self.gpus(use, card) for use in Use} for card in cards}


def engine_workspace(weights: int) -> int:
    """What vLLM takes beside weights and cache, at the least, in bytes."""
    return int(1.5 * GIB) + weights // 10


def footprint(
    model: Model,
    made: Architecture,
    targets: tuple[str, ...],
    recipe: Recipe,
    share: float = 1.0,
) -> Footprint:
    """What a model and its fine-tuning's adapter take.

    Args:
        model: As the study names it; its files say the number of parameters best.
        made: Its parts.
        targets: What the adapter is put on: rank * (in + out) parameters each.
        recipe: Of the fine-tuning.
        share: Of a GPU that answers may take.
    """
    shape = base_model.shape(model)
    parameters = (shape and shape.parameters) or made.parameters
    adapter = sum(
        recipe.rank * (rows + columns)
        for name, (rows, columns) in made.shapes.items()
        if any(named(name, target) for target in targets)
    )
    width = _WIDTHS[model.dtype]
    weights = parameters * width
    layer = sum(sum(made.shapes[name]) for name in made.linears) // made.layers
    activations = recipe.max_tokens * width * (made.layers * made.hidden + layer)
    return Footprint(
        parameters,
        adapter,
        weights,
        made.kept * width,
        made.gathered * width,
        weights + adapter * _TRAINED_BYTES,
        activations + _PROCESS + _LOGITS,
        share,
    )


def uses(spec: Experiment) -> dict[Use, str]:
    """What a study needs its model for, and the field that says so."""
    found = {Use.TRAINING: "training", Use.READING: "extraction"}
    if spec.generation.engine == "transformers":
        found[Use.WHOLE] = "generation.engine"
    else:
        found[Use.ANSWERING] = "generation"
    if spec.log_odds is not None:
        found[Use.WHOLE] = "log_odds"
    if spec.steering is not None:
        found[Use.WHOLE] = "steering"
    return found


def is_spread(spec: Experiment, use: Use, found: Footprint) -> bool:
    """Whether training or hidden states will need several GPUs, as far as the study says."""
    hardware = spec.hardware
    if hardware.sharding != "auto":
        return hardware.sharding == "full"
    return found.gpus(use, hardware.gpu_memory or LARGEST_CARD) != 1


def check_not_spread(wanted: Implementation, field: str) -> None:
    """Refuse the packed decoder on a model that is spread.

    Args:
        wanted: What computes it, as the study says.
        field: Where that stands in the spec.

    Raises:
        UserError: It is asked for.
    """
    if wanted == "fused":
        raise UserError(
            f"{field}.implementation: fused cannot run a model that is spread over several GPUs "
            "(hardware)"
        )


def judge_need(judge: Model, made: Architecture) -> int:
    """Bytes of one GPU that a local judge takes, at the least: it is never spread."""
    weights = made.parameters * _WIDTHS[judge.dtype]
    return weights + _PROCESS + _READING


def check_judge_fits(judge: Model, made: Architecture, gpu_memory: float | None) -> None:
    """Refuse a local judge that no GPU holds, or none of the study's.

    Raises:
        UserError: With what it takes.
    """
    card, need = gpu_memory or LARGEST_CARD, judge_need(judge, made) / 10**9
    if need > card:
        why = "no card has more" if gpu_memory is None else "hardware.gpu_memory"
        raise UserError(
            f"judge.model: {judge.name} takes {need:,.{0 if need >= 10 else 1}f} GB of one GPU "
            f"({many(made.parameters)} parameters in {judge.dtype}): one of {card:g} GB does not "
            f"hold it ({why}); a judge on a server (judge.url) may be spread"
        )


def check_fits(spec: Experiment, recipe: Recipe, found: Footprint) -> None:
    """GPUs that hold the model: such as there are, or those that the study names.

    Raises:
        UserError: There are none, or not enough.
    """
    hardware, name = spec.hardware, spec.model.name
    card = hardware.gpu_memory or LARGEST_CARD
    counted = f"{many(found.parameters)} parameters in {spec.model.dtype}"
    for use, field in uses(spec).items():
        count = found.gpus(use, card)
        alone = use is Use.WHOLE or hardware.sharding == "none"
        if count == 1 or (count is not None and not alone and count <= (hardware.gpus or 16)):
            continue
        most = 1 if alone else hardware.gpus or COUNTS[-1]
        most = max(n for n in COUNTS if n <= most)
        where = f"{most} GPUs of {card:g} GB do" if most > 1 else f"one GPU of {card:g} GB does"
        why = "no card has more" if hardware.gpu_memory is None else "hardware.gpu_memory"
        least = f"; {count} would do" if count is not None and not alone else ""
        rank = f", adapter of rank {recipe.rank}" if use is Use.TRAINING else ""
        named = "" if field == use else f"{field}; "
        need = found.need(use, most) / 10**9
        raise UserError(
            f"model.name: {name} takes {need:,.{0 if need >= 10 else 1}f} GB of each GPU for "
            f"{use} ({named}{counted}{rank}): {where} not hold it ({why}){least}"
        )
