"""Training steps by the model's own forward pass: on CPUs, and for what fastlora does not compute.

On a GPU a step fits itself to the memory: rows are as long as a trial of two lengths says, layers
are recomputed where rows would become too short, and a step that is out of memory all the same is
done again with less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from personaspace.errors import UserError
from personaspace.fastlora import Costs, MemoryPlan, free_bytes, memory_plan, until_it_fits
from personaspace.models import architecture
from personaspace.models.chat import Example
from personaspace.models.determinism import steady_attention
from personaspace.training import packing

if TYPE_CHECKING:
    from peft import PeftModel

    from personaspace.models.team import Team

#: Share of the free memory that a trial of less recomputation must surely fit into.
_TRIAL = 0.7
#: Tokens of a row where the spec says nothing. Attention with a mask costs their square.
ROW_TOKENS = 4096


class PlainStep:
    """The model's own forward pass over packed rows.

    Args:
        model: The PEFT model.
        row_tokens: Rows hold at most so many tokens, where memory does not ask for less.
        longest: Tokens of the longest example; None: rows do not become shorter.

    Attributes:
        plan: Length of rows, and of how many layers the activations are recomputed.
    """

    def __init__(self, model: PeftModel, row_tokens: int, longest: int | None = None) -> None:
        self.model = model
        base: Any = model.get_base_model()
        self.rows = architecture.rows_of(base)
        if self.rows is not architecture.Rows.SINGLE and not packing.keeps_apart(base, self.rows):
            self.rows = architecture.Rows.SINGLE
        self.positions = architecture.takes_positions(base)
        self.longest = row_tokens if longest is None else longest
        if self.rows is architecture.Rows.SINGLE:
            row_tokens = self.longest
        self.plan = MemoryPlan(max(row_tokens, self.longest), 0)
        _, layers = architecture.decoder_of(base)
        self.layers = [each for each in layers if isinstance(each, GradientCheckpointingLayer)]
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.team: Team | None = None
        self.shortest: Example | None = None

    @classmethod
    def planned(
        cls, model: PeftModel, examples: Sequence[Example], row_tokens: int | None
    ) -> PlainStep:
        """As a GPU's free memory allows; on a CPU rows are as long as asked for.

        Args:
            examples: Of the training.
            row_tokens: Rows hold at most so many, if given.
        """
        longest = max(examples, key=lambda example: len(example.ids))
        step = cls(model, row_tokens or ROW_TOKENS, len(longest.ids))
        if step.model.device.type != "cuda" or step.rows is architecture.Rows.SINGLE:
            return step
        with torch.random.fork_rng(devices=[step.model.device]):
            need = step.costs(longest)
        if need is not None:
            free, most = free_bytes(step.model.device), step.plan.row_tokens
            step.plan = memory_plan(free, need, most, step.longest)
        return step

    @classmethod
    def sharded(
        cls, model: PeftModel, examples: Sequence[Example], row_tokens: int | None, team: Team
    ) -> PlainStep:
        """On a model that is spread over a team, whose processes run every row together.

        On a GPU all take the rows that suit the one with the least memory. A row that does not fit
        ends the training: none of them could go on from the middle of it.
        """
        by_length = sorted(examples, key=lambda example: len(example.ids))
        longest = by_length[-1]
        step = cls(model, row_tokens or ROW_TOKENS, len(longest.ids))
        step.team, step.shortest = team, by_length[0]
        if step.model.device.type == "cuda":
            with torch.random.fork_rng(devices=[step.model.device]):
                step.plan = step._planned_together(longest, team)
        return step

    def _planned_together(self, longest: Example, team: Team) -> MemoryPlan:
        """Rows and recomputation for the least memory of the team, from trials that all run."""
        device, layers, length = self.model.device, len(self.layers), len(longest.ids)
        most = self.plan.row_tokens
        self._peak([longest], layers)  # what libraries take at first use is no part of a row
        once, twice = (self._together([longest] * count, layers) for count in (1, 2))
        moments = 8 * sum(parameter.numel() for parameter in self.trained)
        base: Any = self.model.get_base_model()
        edge = int(base.config.get_text_config().hidden_size) * base.dtype.itemsize
        slope = max(1, (twice - once) // length)
        fixed = max(0, once - slope * length) + moments
        # All but the edges may be what each layer keeps: dear, so that the next trial surely fits.
        kept = max(edge, slope - layers * edge)
        need = Costs(max(1, layers), kept, edge, 0, fixed)
        free = -team.most(-free_bytes(device))
        if layers > 1 and fixed + length * (kept * layers // 2 + slope) < free * _TRIAL:
            half = self._together([longest], layers // 2)
            kept = max(edge, edge + (half - once) // length // (layers - layers // 2))
            need = Costs(layers, kept, edge, max(0, slope - layers * edge - kept), fixed)
        if self.rows is architecture.Rows.SINGLE:
            most = length
        return memory_plan(free, need, most, self.longest)

    def _together(self, examples: Sequence[Example], recomputed: int) -> int:
        """`_peak` of the process where it is highest."""
        assert self.team is not None
        found = self._peak(examples, recomputed)
        assert found is not None
        return self.team.most(found)

    def costs(self, example: Example) -> Costs | None:
        """Bytes that a row takes, tried with the example once and twice; None: no memory for it."""
        length, layers = len(example.ids), len(self.layers)
        self._peak([example], 0)  # what libraries take at first use is no part of a row
        once, twice = (self._peak([example] * count, 0) for count in (1, 2))
        if once is None or twice is None:
            return None
        each = max(1, (twice - once) // length)
        again = each
        if layers > 1:
            both = [self._peak([example] * count, layers) for count in (1, 2)]
            if both[0] is not None and both[1] is not None:
                again = min(each, max(1, (both[1] - both[0]) // length))
        base: Any = self.model.get_base_model()
        edge = int(base.config.get_text_config().hidden_size) * base.dtype.itemsize
        count = max(1, layers)
        # A row without recomputation takes layers · kept + working, with it layers · edge + kept
        # + working.
        kept = max(edge, (each - again + count * edge) // max(1, count - 1))
        working = max(0, each - count * kept)
        moments = 8 * sum(parameter.numel() for parameter in self.trained)
        return Costs(count, kept, edge, working, max(0, once - each * length) + moments)

    def _peak(self, examples: Sequence[Example], recomputed: int) -> int | None:
        """Bytes that the GPU holds at most besides what it holds before; None: too many."""
        device = self.model.device
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        plan = MemoryPlan(sum(len(example.ids) for example in examples), recomputed)
        training = self.model.training
        self.model.train()
        done = self._attempt(examples, 1, plan) is not None
        self.model.train(training)
        self.forget()
        return torch.cuda.max_memory_allocated(device) - before if done else None

    def backward(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor:
        """See `trainer.StepEngine.backward`.

        Where the GPU's memory does not suffice, this step and those after it take shorter rows, or
        recompute more layers.

        Raises:
            UserError: The GPU's memory is too small for the longest example.
        """

        def attempt(plan: MemoryPlan) -> torch.Tensor | None:
            torch.manual_seed(seed)
            return self._attempt(batch, loss_tokens, plan)

        if self.team is not None:
            torch.manual_seed(seed)
            found = self._attempt(batch, loss_tokens, self.plan)
            assert found is not None
            return found
        total, self.plan = until_it_fits(
            attempt, self.plan, layers=len(self.layers), longest=self.longest
        )
        return total

    def forget(self) -> None:
        """Drop the gradients."""
        for parameter in self.trained:
            parameter.grad = None

    def _attempt(
        self, batch: Sequence[Example], loss_tokens: int, plan: MemoryPlan
    ) -> torch.Tensor | None:
        """Gradients and the mean loss; None, and no gradients, if memory did not suffice."""
        device = self.model.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        try:
            with steady_attention(device), self._recomputing(plan.checkpointed):
                for row, weight in self._laid_out(batch, plan.row_tokens):
                    # Each row's share of the step's mean over all its loss tokens.
                    loss = row_loss(self.model, row.to(device), self.positions) / loss_tokens
                    loss = loss * weight
                    loss.backward()
                    total += loss.detach()
        except torch.OutOfMemoryError:
            self.forget()
            if self.team is not None:
                raise UserError(
                    f"the GPUs' memory is too small for rows of {plan.row_tokens} tokens with "
                    f"{plan.checkpointed} of {len(self.layers)} layers recomputed, the model "
                    f"spread over {self.team.processes}: lower row_tokens or max_tokens, or take "
                    "more GPUs"
                ) from None
            return None
        return total

    def _laid_out(
        self, batch: Sequence[Example], row_tokens: int
    ) -> Iterator[tuple[packing.PackedRow, float]]:
        """Rows, and what their loss counts: 0 for those that are there for the others' sake."""
        rows = packing.pack(batch, row_tokens, self.rows)
        # Before the first row: within rows all wait for each other's weights.
        most = len(rows) if self.team is None else self.team.most(len(rows))
        for row in rows:
            yield row, 1.0
        if self.shortest is not None:
            idle = packing.make_row([self.shortest], masked=self.rows is architecture.Rows.MASK)
            for _ in range(most - len(rows)):
                yield idle, 0.0

    @contextmanager
    def _recomputing(self, count: int) -> Iterator[None]:
        """The first layers' activations are computed again in the backward pass."""
        chosen: list[Any] = self.layers[:count]
        for layer in chosen:
            # Dropout draws the same again: the generator's state is kept.
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            layer.gradient_checkpointing = True
        try:
            yield
        finally:
            for layer in chosen:
                layer.gradient_checkpointing = False


def row_loss(
    model: torch.nn.Module, row: packing.PackedRow, positions: bool = True
) -> torch.Tensor:
    """Summed cross-entropy over the row's loss tokens; logits are computed for these alone.

    Args:
        positions: Whether the model is told positions.
    """
    told = {"position_ids": row.positions_BT} if positions else {}
    output = model(
        input_ids=row.ids_BT,
        **told,
        attention_mask=row.mask_B1TT,
        use_cache=False,
        logits_to_keep=row.keep_K,
    )
    return cross_entropy(output.logits[0].float(), row.targets_K, reduction="sum")
