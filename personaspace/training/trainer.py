"""LoRA fine-tuning: packed, padding-free batches; checkpoints; exact resume.

Every source of randomness is derived from the seed and the step's number (order of examples,
dropout), so a run that stopped at any step and went on from its checkpoint ends with the adapter of
a run that never stopped, bit for bit on a CPU.

The gradients of a step come from an engine: on a GPU `personaspace.fastlora`, elsewhere the model's
own forward pass. Both see the same examples in the same order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from personaspace import fastlora, interrupt
from personaspace.errors import Interrupted, UserError
from personaspace.models import implementation
from personaspace.models.chat import Example
from personaspace.models.examples import Examples
from personaspace.models.implementation import Taken
from personaspace.seeds import derive_seed
from personaspace.study.recipe import Recipe
from personaspace.study.schedule import total_steps
from personaspace.training import checkpoints
from personaspace.training.checkpoints import Checkpoints, Snapshot
from personaspace.training.plain import PlainStep

if TYPE_CHECKING:
    from peft import PeftModel

#: Another run may replace a checkpoint after it was found and before it is read: then look again.
_LOOKS = 5


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


def usable(examples: Iterable[Example], what: str) -> tuple[Examples, dict[str, int]]:
    """The examples that carry loss, and how many were cut or left out for length.

    Raises:
        UserError: None is left.
    """
    counts = {"examples": 0, "truncated": 0, "dropped": 0}

    def with_loss() -> Iterator[Example]:
        for example in examples:
            left = example.loss_tokens > 0
            counts["examples" if left else "dropped"] += 1
            counts["truncated"] += left and example.truncated
            if left:
                yield example

    kept = Examples(with_loss())
    if not kept:
        raise UserError(f"{what}: no example has a loss token within max_tokens")
    return kept, counts


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


class StepEngine(Protocol):
    """Computes the gradients of an optimiser step."""

    def backward(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor:
        """Adds gradients of the mean loss over `loss_tokens`; returns the mean, float64.

        Args:
            seed: Decides what dropout drops.
        """
        ...


def step_engine(
    model: PeftModel, examples: Sequence[Example], recipe: Recipe, field: str = "training"
) -> StepEngine:
    """The engine that the recipe asks for; by default the fastest for the model where it is.

    Args:
        field: Where the recipe stands in the spec.

    Raises:
        UserError: `fused` is asked for and cannot run.
    """
    base: Any = model.get_base_model()
    if implementation.choose(recipe.implementation, base, field).taken is Taken.FUSED:
        longest = max(len(example.ids) for example in examples)
        return fastlora.training_step(
            model, longest=longest, examples=recipe.batch_size, row_tokens=recipe.row_tokens
        )
    return PlainStep.planned(model, examples, recipe.row_tokens)


@dataclass(frozen=True)
class _Launched:
    """A step whose loss and gradient norm may still be computing.

    Attributes:
        entry: The log's entry, without the two.
        numbers: Loss and gradient norm, float64 `[2]`, on the host once `copied` has happened.
        copied: CUDA event, or None if the numbers are there.
    """

    entry: StepLog
    numbers: torch.Tensor
    copied: Any


class Trainer:
    """One LoRA run.

    On a GPU a step's loss is read after the next step was started, so that the GPU never waits for
    the host; a loss that is no number then ends the run one step later than on a CPU.

    Args:
        model: The PEFT model whose trainable parameters are the adapter.
        examples: All with at least one loss token.
        recipe: Hyper-parameters.
        seed: The study's seed.
        engine: Computes gradients; by default what the recipe asks for.
        until: Stop after so many steps of the schedule; None: at its end.
    """

    def __init__(
        self,
        model: PeftModel,
        examples: Sequence[Example],
        recipe: Recipe,
        seed: int,
        engine: StepEngine | None = None,
        until: int | None = None,
    ) -> None:
        self.model = model
        self.examples = examples
        self.recipe = recipe
        self.seed = seed
        self.steps = total_steps(recipe, len(self.examples))
        self.last = self.steps if until is None else min(until, self.steps)
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.on_gpu = self.device.type == "cuda"
        #: Steps that may be launched before an earlier one's loss is read.
        self.behind = 1 if self.on_gpu else 0
        self.engine = engine or step_engine(model, self.examples, recipe)
        #: Whether to stop before the next step.
        self.asked: Callable[[], bool] = interrupt.asked
        self.optimiser = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=self.on_gpu,
        )
        self.log: list[StepLog] = []
        self._launched: deque[_Launched] = deque()

    def run(
        self,
        kept: Checkpoints | None = None,
        advance: Callable[[StepLog], None] | None = None,
    ) -> list[StepLog]:
        """Train to the end, from the latest checkpoint if there is one.

        Args:
            kept: Where checkpoints go; steps go on while one is written.
            advance: Told of every step, those of the checkpoint included.

        Raises:
            Interrupted: Asked to stop; the state was saved first.
            UserError: The loss or its gradient became NaN or infinite.
        """
        if kept is not None and self._restored(kept):
            for done in self.log:
                if advance is not None:
                    advance(done)
        self.model.train()
        also = frozenset() if kept is None else kept.also
        with checkpoints.saving(kept, len(self.log)) as saver:
            self._steps(saver, advance, also)
        self.model.eval()
        return self.log

    def _steps(
        self,
        saver: checkpoints.Saver,
        advance: Callable[[StepLog], None] | None,
        also: frozenset[int],
    ) -> None:
        taken: deque[Snapshot] = deque()  # of steps whose loss is not known yet
        for step in range(len(self.log) + 1, self.last + 1):
            saver.check()
            if self.asked():
                self._settle(0, advance)
                if self.log and saver.keeps:
                    last = taken.pop() if taken else self._snapshot(len(self.log))
                    saver.save(last, self._entries(last.step))
                    saver.wait()
                raise Interrupted("asked to stop")
            self._launch(step - 1)
            due = step % self.recipe.checkpoint_every == 0 or step in also
            if due and step < self.last and saver.keeps:
                taken.append(self._snapshot(step))
            self._settle(self.behind, advance)
            while taken and taken[0].step <= len(self.log):
                known = taken.popleft()
                saver.save(known, self._entries(known.step))
        self._settle(0, advance)

    def _launch(self, step: int) -> None:
        recipe = self.recipe
        members = batch_indices(recipe, len(self.examples), self.seed, step)
        batch = [self.examples[index] for index in members]
        loss_tokens = sum(example.loss_tokens for example in batch)
        rate = learning_rate(recipe, step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        seed = derive_seed(self.seed, "dropout", step)
        loss = self.engine.backward(batch, loss_tokens, seed)
        limit = math.inf if recipe.clip_norm is None else recipe.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), limit)
        tokens = sum(len(example.ids) for example in batch)
        entry = StepLog(step + 1, math.nan, rate, math.nan, tokens, loss_tokens)
        numbers = torch.stack([loss, norm.double()])
        if self.on_gpu:
            host = torch.empty(2, dtype=torch.float64, pin_memory=True)
            host.copy_(numbers, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self._launched.append(_Launched(entry, host, copied))
        else:
            self._launched.append(_Launched(entry, numbers, None))
            _check(step, *numbers.tolist())
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def _settle(self, left: int, advance: Callable[[StepLog], None] | None) -> None:
        """Log the steps launched, all but the last `left`."""
        while len(self._launched) > left:
            launched = self._launched.popleft()
            if launched.copied is not None:
                launched.copied.synchronize()
            loss, norm = launched.numbers.tolist()
            _check(len(self.log), loss, norm)
            self.log.append(replace(launched.entry, loss=loss, gradient_norm=norm))
            if advance is not None:
                advance(self.log[-1])

    def _snapshot(self, step: int) -> Snapshot:
        """The state after the steps launched so far, of which `step` is the latest."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"{checkpoints.PARAMETER}{name}"] = parameter
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"{key}:{name}"] = torch.as_tensor(value)
        return Snapshot(step, tensors)

    def _entries(self, steps: int) -> list[dict[str, Any]]:
        return [asdict(entry) for entry in self.log[:steps]]

    def _restored(self, kept: Checkpoints) -> bool:
        """Go on from the latest checkpoint; whether there is one."""
        for left in reversed(range(_LOOKS)):
            folder = kept.load()
            if folder is None:
                return False
            try:
                self._restore(folder)
            except FileNotFoundError:
                if not left:
                    raise
            else:
                return True
        raise AssertionError("the last look returns or raises")

    def _restore(self, folder: Path) -> None:
        tensors, entries = checkpoints.read(folder)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"{checkpoints.PARAMETER}{name}"])
                state = {}
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    value = tensors[f"{key}:{name}"]
                    on_host = key == "step" and not self.on_gpu
                    state[key] = value if on_host else value.to(parameter.device)
                self.optimiser.state[parameter] = state
        self.log = [StepLog(**entry) for entry in entries]


def _check(step: int, loss: float, norm: float) -> None:
    for name, value in (("loss", loss), ("gradient's norm", norm)):
        if not math.isfinite(value):
            raise UserError(f"step {step + 1}: the {name} is {value}; lower learning_rate")
