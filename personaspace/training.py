"""LoRA fine-tuning: packed, padding-free batches; checkpoints; exact resume.

Every source of randomness is derived from the seed and the step's number (order of examples,
dropout), so a run that stopped at any step and went on from its checkpoint ends with the adapter of
a run that never stopped, bit for bit on a CPU.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from personaspace import interrupt, packing
from personaspace.attention import steady_attention
from personaspace.chat import Example
from personaspace.errors import UserError
from personaspace.generation.base import derive_seed
from personaspace.spec import Recipe

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class StepLog:
    """What one optimiser step did.

    Attributes:
        step: Number, from 1.
        loss: Mean cross-entropy over the loss tokens of the step, nats.
        learning_rate: Used in the step.
        gradient_norm: Before clipping.
        tokens: Tokens seen.
        loss_tokens: Tokens that carried loss.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    loss_tokens: int


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its state between steps.

    Attributes:
        load: Folder of the latest checkpoint, or None.
        save: Called with the step's number and a function that writes into a folder.
    """

    load: Callable[[], Path | None]
    save: Callable[[int, Callable[[Path], None]], None]


def usable(examples: Sequence[Example], what: str) -> tuple[list[Example], dict[str, int]]:
    """The examples that carry loss, and how many were cut or left out for length.

    Raises:
        UserError: None is left.
    """
    kept = [example for example in examples if example.loss_tokens > 0]
    counts = {
        "examples": len(kept),
        "truncated": sum(example.truncated for example in kept),
        "dropped": len(examples) - len(kept),
    }
    if not kept:
        raise UserError(f"{what}: no example has a loss token within max_tokens")
    return kept, counts


def total_steps(recipe: Recipe, examples: int) -> int:
    """Optimiser steps of a run: whole epochs, the last batch of each possibly smaller."""
    steps = recipe.epochs * math.ceil(examples / recipe.batch_size)
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def batch_indices(recipe: Recipe, examples: int, seed: int, step: int) -> list[int]:
    """Which examples make up a step (from 0): each epoch is one seeded permutation."""
    per_epoch = math.ceil(examples / recipe.batch_size)
    epoch, position = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    order = torch.randperm(examples, generator=generator).tolist()
    return order[position * recipe.batch_size : (position + 1) * recipe.batch_size]


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Rate of a step (from 0): linear warm-up over ceil(warmup·steps), then the schedule to zero.

    The same curves as transformers' `get_linear_schedule_with_warmup` and
    `get_cosine_schedule_with_warmup`.
    """
    warmup = math.ceil(recipe.warmup * steps)
    if step < warmup:
        return recipe.learning_rate * step / max(1, warmup)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    progress = (step - warmup) / max(1, steps - warmup)
    if recipe.schedule == "linear":
        return recipe.learning_rate * max(0.0, 1.0 - progress)
    return recipe.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


class Trainer:
    """One LoRA run.

    Args:
        model: The PEFT model whose trainable parameters are the adapter.
        examples: All with at least one loss token.
        recipe: Hyper-parameters.
        seed: The study's seed.
    """

    def __init__(
        self, model: PeftModel, examples: Sequence[Example], recipe: Recipe, seed: int
    ) -> None:
        self.model = model
        self.examples = list(examples)
        self.recipe = recipe
        self.seed = seed
        self.steps = total_steps(recipe, len(self.examples))
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.optimiser = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        self.log: list[StepLog] = []

    def run(
        self,
        checkpoints: Checkpoints | None = None,
        advance: Callable[[StepLog], None] | None = None,
    ) -> list[StepLog]:
        """Train to the end, from the latest checkpoint if there is one.

        Raises:
            Interrupted: Asked to stop; the state was saved first.
            UserError: The loss or its gradient became NaN or infinite.
        """
        if checkpoints is not None and (folder := checkpoints.load()) is not None:
            self._restore(folder)
            for done in self.log:
                if advance is not None:
                    advance(done)
        self.model.train()
        while len(self.log) < self.steps:
            if interrupt.asked():
                if checkpoints is not None and self.log:
                    checkpoints.save(len(self.log), self._write)
                interrupt.check()
            entry = self._step(len(self.log))
            self.log.append(entry)
            if advance is not None:
                advance(entry)
            due = len(self.log) % self.recipe.checkpoint_every == 0 and len(self.log) < self.steps
            if checkpoints is not None and due:
                checkpoints.save(len(self.log), self._write)
        self.model.eval()
        return self.log

    def _step(self, step: int) -> StepLog:
        recipe = self.recipe
        members = batch_indices(recipe, len(self.examples), self.seed, step)
        batch = [self.examples[index] for index in members]
        loss_tokens = sum(example.loss_tokens for example in batch)
        rate = learning_rate(recipe, step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(derive_seed(self.seed, "dropout", step))
        total = 0.0
        with steady_attention(self.device):
            for row in packing.pack(batch, recipe.row_tokens):
                # Each row's share of the step's mean over all its loss tokens.
                loss = row_loss(self.model, row.to(self.device)) / loss_tokens
                loss.backward()
                total += float(loss.detach())
        limit = math.inf if recipe.clip_norm is None else recipe.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), limit)
        for name, value in (("loss", total), ("gradient's norm", float(norm))):
            if not math.isfinite(value):
                raise UserError(f"step {step + 1}: the {name} is {value}; lower learning_rate")
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        tokens = sum(len(example.ids) for example in batch)
        return StepLog(step + 1, total, rate, float(norm), tokens, loss_tokens)

    def _write(self, folder: Path) -> None:
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"parameter:{name}"] = parameter.detach().cpu().contiguous()
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"{key}:{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        save_file(tensors, folder / "state.safetensors")
        log = [asdict(entry) for entry in self.log]
        (folder / "log.json").write_text(json.dumps(log), encoding="utf-8")

    def _restore(self, folder: Path) -> None:
        tensors = load_file(folder / "state.safetensors")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter:{name}"])
                state = {}
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    value = tensors[f"{key}:{name}"]
                    state[key] = value if key == "step" else value.to(parameter.device)
                self.optimiser.state[parameter] = state
        entries = json.loads((folder / "log.json").read_text(encoding="utf-8"))
        self.log = [StepLog(**entry) for entry in entries]


def row_loss(model: torch.nn.Module, row: packing.Row) -> torch.Tensor:
    """Summed cross-entropy over the row's loss tokens; logits are computed for these alone."""
    output = model(
        input_ids=row.ids_BT,
        position_ids=row.positions_BT,
        attention_mask=row.mask_B1TT,
        use_cache=False,
        logits_to_keep=row.keep_K,
    )
    return cross_entropy(output.logits[0].float(), row.targets_K, reduction="sum")
