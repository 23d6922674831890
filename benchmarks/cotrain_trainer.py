"""Adapters of several conditions trained at once, each as `Trainer` trains one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import common
from benchmarks.cotrain_model import Inputs, TogetherDecoder
from personaspace.fastlora.layout import PAD_MULTIPLE
from personaspace.fastlora.training import dropout_seeds
from personaspace.models.chat import Example
from personaspace.seeds import derive_seed
from personaspace.study.recipe import Recipe
from personaspace.study.schedule import total_steps
from personaspace.training.trainer import batch_indices, learning_rate


@dataclass(frozen=True)
class Condition:
    """One fine-tuning: its examples and the seed that decides all else."""

    examples: list[Example]
    seed: int


def conditions(count: int, steps: int, vocabulary: int, about: int) -> list[Condition]:
    """Different examples for each."""
    size = Recipe().batch_size * steps
    return [
        Condition(common.chats(size, vocabulary, about, seed=number), 7 + number)
        for number in range(count)
    ]


class TogetherTrainer:
    """Trains adapters of all conditions at once, each as `Trainer` would.

    Args:
        model: The base model, without adapters.
        rows: Rows that a step is cut into.
    """

    def __init__(
        self, model: Any, recipe: Recipe, conditions: Sequence[Condition], rows: int = 1
    ) -> None:
        self.recipe, self.conditions, self.rows = recipe, conditions, rows
        self.decoder = TogetherDecoder(model, recipe, len(conditions))
        for number, condition in enumerate(conditions):
            self.decoder.start(number, recipe, condition.seed)
        self.bank = self.decoder.bank
        self.steps = total_steps(recipe, len(conditions[0].examples))
        device = model.device
        self.parameters = []
        for values, grads in zip(self.bank.values_CP, self.bank.grads_CP, strict=True):
            parameter = torch.nn.Parameter(values)
            parameter.grad = grads
            self.parameters.append(parameter)
        self.optimiser = torch.optim.AdamW(
            [{"params": [p], "lr": recipe.learning_rate} for p in self.parameters],
            weight_decay=recipe.weight_decay, fused=device.type == "cuda",
        )  # fmt: skip
        each = [
            part for step in range(self.steps) for c in conditions for part in self.batch(c, step)
        ]
        tokens = max(sum(len(example.ids) for example in part) for part in each)
        self.inputs = Inputs(
            len(conditions), -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE,
            max(sum(example.loss_tokens for example in part) for part in each),
            max(map(len, each)), max(len(e.ids) for c in conditions for e in c.examples),
            len(self.decoder.layers), device,
        )  # fmt: skip
        self.tokens = 0
        self.losses: list[torch.Tensor] = []
        self.graph: torch.cuda.CUDAGraph | None = None
        self._recorded: torch.Tensor | None = None

    def batch(self, condition: Condition, step: int) -> list[list[Example]]:
        """A step's examples, by row."""
        members = batch_indices(self.recipe, len(condition.examples), condition.seed, step)
        each = -(-len(members) // self.rows)
        return [
            [condition.examples[index] for index in members[start : start + each]]
            for start in range(0, len(members), each)
        ]

    def gradients(self, step: int) -> torch.Tensor:
        """Mean losses `[C]`; the bank's gradients are those of the step."""
        self.bank.grads_CP.zero_()
        batches = [self.batch(condition, step) for condition in self.conditions]
        loss_tokens = [sum(e.loss_tokens for part in batch for e in part) for batch in batches]
        drawn = [
            dropout_seeds(derive_seed(c.seed, "dropout", step), self.rows, len(self.decoder.layers))
            for c in self.conditions
        ]
        total: Any = 0
        for row in range(len(batches[0])):
            seeds_CL7 = torch.stack([each[row] for each in drawn])
            self.inputs.load([batch[row] for batch in batches], loss_tokens, seeds_CL7)
            if self.graph is not None:
                self.graph.replay()
                assert self._recorded is not None
                total = total + self._recorded
            else:
                total = total + self.inputs.backward(self.decoder)
        self.tokens += sum(len(e.ids) for batch in batches for part in batch for e in part)
        found: torch.Tensor = total
        return found

    def step(self, step: int) -> None:
        """One optimiser step (from 0) of every condition."""
        self.losses.append(self.gradients(step))
        rate = learning_rate(self.recipe, step, self.steps)
        limit = math.inf if self.recipe.clip_norm is None else self.recipe.clip_norm
        for group in self.optimiser.param_groups:
            group["lr"] = rate
            torch.nn.utils.clip_grad_norm_(group["params"], limit)
        self.optimiser.step()

    def record(self) -> None:
        """From now on rows are started as a CUDA graph; inputs of the first step are in it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.gradients(0)  # whatever happens at first use cannot be recorded
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self._recorded = self.inputs.backward(self.decoder)
        self.graph, self.tokens = graph, 0
