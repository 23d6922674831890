"""Gradients of an optimiser step on a GPU: its examples in few rows, nothing padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from personaspace.fastlora import memory
from personaspace.fastlora.decoder import PackedDecoder
from personaspace.fastlora.examples import Example, bins, loss_places
from personaspace.fastlora.layout import Layout, lay_out
from personaspace.fastlora.memory import MemoryPlan

if TYPE_CHECKING:
    from peft import PeftModel

#: Adapted modules of a layer, at most.
MODULES = 7


def dropout_seeds(seed: int, rows: int, layers: int) -> torch.Tensor:
    """Seeds of a step's dropout masks, int32 `[rows, layers, MODULES]`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(-(2**31), 2**31, (rows, layers, MODULES), generator=generator)
    return drawn.to(torch.int32)


class PackedStep:
    """Runs the examples of a step through the packed decoder.

    Args:
        model: PEFT model whose base has no `computation_obstacle`.
        plan: Length of rows, and layers that recompute, until memory turns out too small for it.
        longest: Tokens of the longest example; None: rows stay as long as planned.
    """

    def __init__(self, model: PeftModel, plan: MemoryPlan, longest: int | None = None) -> None:
        base: Any = model.get_base_model()
        self.device: torch.device = base.device
        self.plan = plan
        self.longest = plan.row_tokens if longest is None else longest
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.decoder = PackedDecoder(base, plan.checkpointed)
        self.layers = len(self.decoder.layers)

    @classmethod
    def planned(cls, model: PeftModel, longest: int, row_tokens: int | None) -> PackedStep:
        """As the GPU's free memory allows; on a CPU rows are as long as asked for.

        Args:
            longest: Tokens of the longest example.
            row_tokens: Rows hold at most so many, if given.
        """
        base: Any = model.get_base_model()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        limit = min(row_tokens or memory.LONGEST_ROW, memory.LONGEST_ROW)
        if base.device.type != "cuda":
            return cls(model, MemoryPlan(max(limit, longest), 0), longest)
        free = memory.free_bytes(base.device)
        return cls(model, memory.plan(free, memory.costs(base, trained), limit, longest), longest)

    def backward(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor:
        """Gradients of the mean loss over `loss_tokens`; the mean itself, float64 on the device.

        Where the GPU's memory does not suffice, this step and those after it take shorter rows, or
        recompute more layers.

        Args:
            seed: Decides the step's dropout masks.

        Raises:
            UserError: The GPU's memory is too small for the longest example.
        """

        def attempt(plan: MemoryPlan) -> torch.Tensor | None:
            self.plan, self.decoder.checkpointed = plan, plan.checkpointed
            total = self._rows(batch, loss_tokens, seed)
            if total is None:
                self.forget()
            return total

        return memory.until_it_fits(attempt, self.plan, layers=self.layers, longest=self.longest)[0]

    def forget(self) -> None:
        """Drop the gradients."""
        for parameter in self.trained:
            parameter.grad = None

    def _rows(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor | None:
        """One attempt; None if memory did not suffice."""
        rows = bins([len(example.ids) for example in batch], self.plan.row_tokens)
        seeds = self._to_device(dropout_seeds(seed, len(rows), self.layers))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        self.decoder.refresh()
        try:
            for number, members in enumerate(rows):
                layout, keep_K, targets_K = self._row([batch[index] for index in members])
                loss = self.decoder.loss(layout, keep_K, targets_K, seeds[number]) / loss_tokens
                loss.backward()
                total += loss.detach()
        except torch.OutOfMemoryError:
            return None
        return total

    def _row(self, examples: Sequence[Example]) -> tuple[Layout, torch.Tensor, torch.Tensor]:
        keep, targets = loss_places(examples)
        return (
            lay_out([example.ids for example in examples], self.device),
            self._to_device(torch.tensor(keep, dtype=torch.long)),
            self._to_device(torch.tensor(targets, dtype=torch.long)),
        )

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)
