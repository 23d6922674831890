"""How much of a card's memory a model takes, by its parameters alone, and which cards hold it."""

from __future__ import annotations

from dataclasses import dataclass

from personaspace.errors import UserError
from personaspace.models.architecture import Architecture
from personaspace.models.targets import named
from personaspace.study import base_model
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe

#: Cards that people have, in GB of their makers (10^9 bytes): RTX 4090 and L4, A100 and H100, H200,
#: B200. One of more is to be had (B300: 288), and none of more than that.
CARDS = (24, 80, 141, 192)
LARGEST_CARD = 288
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
#: An adapter's parameter with its gradient and AdamW's two moments, in float32.
_TRAINED_BYTES = 16


@dataclass(frozen=True)
class Footprint:
    """Memory without activations, caches and what the driver takes.

    Attributes:
        parameters: Of the model.
        adapter_parameters: Of the fine-tuning's LoRA adapter.
        weights: Bytes of the model's weights.
        training: Bytes of these, the adapter, its gradients and the optimiser's state.
    """

    parameters: int
    adapter_parameters: int
    weights: int
    training: int

    def left(self, card: int) -> int:
        """Bytes that training leaves of a card of so many GB; below 0: it does not fit."""
        return card * 10**9 - self.training

    @property
    def smallest_card(self) -> int | None:
        """The smallest of `CARDS` and of `LARGEST_CARD`, in GB, that holds training."""
        return next((card for card in (*CARDS, LARGEST_CARD) if self.left(card) > 0), None)


def footprint(model: Model, made: Architecture, targets: tuple[str, ...], rank: int) -> Footprint:
    """What a model and its fine-tuning's adapter take.

    Args:
        model: As the study names it; its files say the number of parameters best.
        made: Its parts.
        targets: What the adapter is put on: rank * (in + out) parameters each.
        rank: Of the adapter.
    """
    shape = base_model.shape(model)
    parameters = (shape and shape.parameters) or made.parameters
    adapter = sum(
        rank * (rows + columns)
        for name, (rows, columns) in made.shapes.items()
        if any(named(name, target) for target in targets)
    )
    weights = parameters * _WIDTHS[model.dtype]
    return Footprint(parameters, adapter, weights, weights + adapter * _TRAINED_BYTES)


def check_fits(model: Model, recipe: Recipe, found: Footprint) -> None:
    """A model is not spread over several cards: one must hold it.

    Raises:
        UserError: No card does.
    """
    if found.smallest_card is None:
        raise UserError(
            f"model.name: {model.name} takes {found.training / 10**9:,.0f} GB in training "
            f"({found.parameters / 10**9:,.0f} billion parameters in {model.dtype}, adapter of "
            f"rank {recipe.rank}): no card has more than {LARGEST_CARD} GB, and one "
            "must hold it all"
        )
