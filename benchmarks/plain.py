"""The plain recipe: what a script on top of transformers' Trainer and PEFT does.

Batches of four padded to their longest, four of them a step, gradient checkpointing, autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from personaspace.models.chat import Example
from personaspace.study.recipe import Recipe
from personaspace.training.trainer import Trainer


def padded(examples: Sequence[Example], device: torch.device) -> dict[str, torch.Tensor]:
    """Padding at the right, labels of -100 without loss."""
    width = max(len(example.ids) for example in examples)
    shape = (len(examples), width)
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, -100),
    }
    for number, example in enumerate(examples):
        length = len(example.ids)
        batch["input_ids"][number, :length] = torch.tensor(example.ids)
        batch["attention_mask"][number, :length] = 1
        labels = [i if on else -100 for i, on in zip(example.ids, example.loss, strict=True)]
        batch["labels"][number, :length] = torch.tensor(labels)
    return {name: tensor.to(device) for name, tensor in batch.items()}


class PlainRecipe:
    """An engine for `training.Trainer`: the gradients of a step, the usual way.

    Args:
        model: PEFT model.
        recipe: For the batch size.
        micro: Examples of a forward pass.
        exact: Nothing is cast or recomputed; the model should be in float32.
    """

    def __init__(self, model: Any, recipe: Recipe, micro: int = 4, exact: bool = False) -> None:
        self.model = model
        self.micro = micro
        self.exact = exact
        if exact:
            return
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def backward(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor:
        """See `training.StepEngine.backward`."""
        torch.manual_seed(seed)
        device = self.model.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        for start in range(0, len(batch), self.micro):
            inputs = padded(batch[start : start + self.micro], device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=not self.exact):
                loss = self.model(**inputs, use_cache=False, num_items_in_batch=loss_tokens).loss
            loss.backward()
            total += loss.detach()
            float(loss.detach())  # Trainer reads its loss for NaN and the log
        return total

    def close(self) -> None:
        """The model as before."""
        if self.exact:
            return
        self.model.gradient_checkpointing_disable()


def steps(trainer: Trainer, first: int, count: int) -> list[float]:
    """Runs steps and gives their losses."""
    for step in range(first, first + count):
        trainer._launch(step)
        trainer._settle(trainer.behind, None)
    trainer._settle(0, None)
    return [entry.loss for entry in trainer.log]
