"""LoRA training and hidden states of Llama-like models on a GPU, several times faster.

A decoder over packed tokens: no padding, no mask, LoRA inside the base products, kernels fused
around the GEMMs. It reads a transformers model (with LoRA adapters of PEFT, if any) and computes
what its own forward pass does. Three entrances:

* `obstacle`: may it compute this model, and if not, why?
* `training_step`: gradients of an optimiser step.
* `hidden_states`: states of chosen layers.

What else is here serves those who lay out rows and fit them to memory as it does; nothing more of
this package is for others. README.md here says what it supports and how exact and
how fast it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from personaspace.fastlora.examples import Example, Passage, bins, loss_places
from personaspace.fastlora.extraction import hidden_states
from personaspace.fastlora.graphs import GraphedStep
from personaspace.fastlora.memory import Costs, MemoryPlan, free_bytes, until_it_fits
from personaspace.fastlora.memory import plan as memory_plan
from personaspace.fastlora.obstacles import (
    Obstacle,
    ObstacleCode,
    PlannedAdapter,
    computation_obstacle,
    foreseen_obstacle,
    obstacle,
)
from personaspace.fastlora.training import PackedStep

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = [
    "Costs",
    "Example",
    "MemoryPlan",
    "Obstacle",
    "ObstacleCode",
    "Passage",
    "PlannedAdapter",
    "TrainingStep",
    "bins",
    "foreseen_obstacle",
    "free_bytes",
    "hidden_states",
    "loss_places",
    "memory_plan",
    "obstacle",
    "training_step",
    "until_it_fits",
]


class TrainingStep(Protocol):
    """Computes gradients of optimiser steps."""

    @property
    def plan(self) -> MemoryPlan:
        """How steps fit into memory; shorter rows where that turned out too small."""
        ...

    def backward(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor:
        """Gradients, in the parameters' `grad`, of the mean loss over `loss_tokens` tokens.

        Args:
            batch: Examples of the step.
            loss_tokens: What the summed loss is divided by: the batch's tokens with loss, or those
                of all its shares where the batch is one of several.
            seed: Decides the step's dropout masks.

        Returns:
            The mean loss, float64 on the device; nothing waits for it.

        Raises:
            UserError: The GPU's memory is too small for the longest example.
        """
        ...


def training_step(
    model: PeftModel, *, longest: int, examples: int, row_tokens: int | None = None
) -> TrainingStep:
    """What computes the steps of a training, as the GPU's free memory allows.

    Steps of small models, which a GPU computes faster than the host can start their kernels, are
    recorded as CUDA graphs. Trained parameters may change between steps, and nothing else of the
    model. On a CPU, where it is only for trying, it computes the same, slowly.

    Args:
        model: PEFT model; its base model's weights are frozen.
        longest: Tokens of the longest example of the training.
        examples: Of a step, at most.
        row_tokens: Rows hold at most so many tokens, if given.

    Raises:
        ValueError: fastlora cannot compute the model.
    """
    base: Any = model.get_base_model()
    if (unable := computation_obstacle(base)) is not None:
        raise ValueError(unable.text)
    return GraphedStep(PackedStep.planned(model, longest, row_tokens), model, examples)
