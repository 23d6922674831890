"""How a training step fits into a GPU's memory: how long rows are, and which layers recompute."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from personaspace.errors import UserError
from personaspace.fastlora.architectures import ARCHITECTURES, QkNorm, head_size
from personaspace.fastlora.decoder import LOGIT_BYTES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)

#: Share of the free memory that is planned with; the rest is for fragments and workspaces.
USABLE = 0.92
#: No row is made shorter than this to spare a layer's recomputation: narrower GEMMs cost as much.
SHORTEST_ROW = 1024
#: Longest row: GEMMs gain nothing beyond.
LONGEST_ROW = 16384


@dataclass(frozen=True)
class Costs:
    """Bytes that a step takes besides weights.

    Attributes:
        layers: Decoder layers.
        kept: A token and layer, kept from the forward pass for the backward pass.
        edge: A token and layer, kept where the layer computes the rest again.
        working: A token, while a layer's backward pass runs.
        fixed: Whatever the row: gradients, the optimiser's state, logits of a chunk.
    """

    layers: int
    kept: int
    edge: int
    working: int
    fixed: int

    def step(self, tokens: int, checkpointed: int) -> int:
        """Peak bytes of a row of so many tokens with so many layers recomputed."""
        again = self.kept if checkpointed else 0
        each = (self.layers - checkpointed) * self.kept + checkpointed * self.edge
        return self.fixed + tokens * (each + again + self.working)


@dataclass(frozen=True)
class MemoryPlan:
    """What was decided.

    Attributes:
        row_tokens: Rows hold at most so many tokens.
        checkpointed: Layers whose activations are recomputed in the backward pass.
    """

    row_tokens: int
    checkpointed: int


def costs(model: PreTrainedModel, trained: int) -> Costs:
    """What the packed decoder keeps and needs for this model.

    Args:
        trained: Parameters that are trained.
    """
    config: Any = model.config
    hidden, inner = int(config.hidden_size), int(config.intermediate_size)
    heads, kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
    head, traits = head_size(config), ARCHITECTURES[config.model_type]
    size = torch.finfo(model.dtype).bits // 8
    # Two sums and two norms of them; queries, keys, values; attention's output, twice where there
    # are no kernels for it; gate and up. Adapters' inner states and 1/rms are a hundredth of it.
    kept = size * (4 * hidden + (3 * heads + 2 * kv_heads) * head + 2 * inner)
    if traits.qk_norm is not QkNorm.NONE:  # the projection from before its norms
        kept += size * (heads + 2 * kv_heads) * head
    return Costs(
        layers=int(config.num_hidden_layers),
        kept=kept + kept // 64,
        edge=size * 2 * hidden,
        working=size * (4 * inner + 8 * hidden),
        # Gradients and two moments in float32; logits and the states they come from.
        fixed=12 * trained + LOGIT_BYTES + (256 << 20),
    )


def plan(free: int, need: Costs, limit: int, longest: int) -> MemoryPlan:
    """The longest rows that need no recomputation; else the fewest layers that recompute.

    Where rows of `SHORTEST_ROW` do not fit even if every layer recomputes, they become shorter.

    Args:
        free: Bytes that may be used.
        limit: Rows need be no longer than this, but for a longer example.
        longest: Tokens of the longest example, which must fit.
    """
    usable = int(free * USABLE)
    limit = max(limit, longest)
    each = need.step(1, 0) - need.fixed
    fits = min(limit, max(0, usable - need.fixed) // each)
    smallest = max(longest, min(limit, SHORTEST_ROW))
    if fits >= smallest:
        return MemoryPlan(fits, 0)
    for checkpointed in range(1, need.layers + 1):
        if need.step(smallest, checkpointed) <= usable:
            return MemoryPlan(smallest, checkpointed)
    # Not even that: rows as long as fit when every layer recomputes.
    room = max(0, usable - need.fixed) // (need.step(1, need.layers) - need.fixed)
    return MemoryPlan(max(longest, min(smallest, room)), need.layers)


def tighter(plan: MemoryPlan, layers: int, longest: int) -> MemoryPlan | None:
    """The next plan for less memory: shorter rows, then more layers recomputed, else None.

    Args:
        layers: Decoder layers.
        longest: Tokens of the longest example, which must fit.
    """
    shortest = max(longest, SHORTEST_ROW)
    if plan.row_tokens > shortest:
        return MemoryPlan(max(shortest, plan.row_tokens * 3 // 4), plan.checkpointed)
    if plan.checkpointed < layers:
        return MemoryPlan(plan.row_tokens, min(layers, plan.checkpointed + max(1, layers // 8)))
    return None


def free_bytes(device: torch.device) -> int:
    """Bytes this process may still take on the GPU, its limit counted in if it has one."""
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    idle = torch.cuda.memory_reserved(device) - allocated
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(device)
    return min(free + idle, int(total * share) - allocated)


def until_it_fits(
    attempt: Callable[[MemoryPlan], Result | None], plan: MemoryPlan, *, layers: int, longest: int
) -> tuple[Result, MemoryPlan]:
    """What the first attempt gives that memory suffices for, and the plan that it had.

    Args:
        attempt: Gives None where memory does not suffice, and then holds none of what it took.
        plan: Of the first attempt; those after it have tighter ones.
        layers: Layers that can be recomputed.
        longest: Tokens of the longest example.

    Raises:
        UserError: The GPU's memory is too small for the longest example.
    """
    while (found := attempt(plan)) is None:
        # What a failed attempt held is free only here, where its frames are gone.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        was, after = plan, tighter(plan, layers, longest)
        if after is None:
            raise UserError(
                f"the GPU's memory is too small for rows of {was.row_tokens} tokens, with all "
                f"{layers} layers recomputed: lower max_tokens"
            )
        plan = after
        _LOG.warning(
            "the GPU's memory is too small for rows of %d tokens, with %d of %d layers "
            "recomputed; from here on rows of %d, with %d",
            *(was.row_tokens, was.checkpointed, layers),
            *(plan.row_tokens, plan.checkpointed),
        )
    return found, plan
