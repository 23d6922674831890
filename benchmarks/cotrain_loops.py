"""The operations of `cotrain_kernels` by those of one adapter, one segment after another.

They stand in for the kernels where there is no GPU, or where these do not give what they should.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from personaspace.fastlora.functional import RANKS, has_kernels, lora_ops


def looped(like: torch.Tensor, rank: int) -> Any:
    """The operations of `cotrain_kernels`, one segment after another, by those of one adapter."""
    ops = lora_ops(like, rank)

    def parts(count: int, *tensors: Any) -> Any:
        split = [[None] * count if t is None else t.unflatten(0, (count, -1)) for t in tensors]
        return zip(*split, strict=True)

    def lora_down(x_TH: Any, down: Any, seeds: Any, dropout: float, scale: float, out: Any) -> None:
        for c, (x, to) in enumerate(parts(len(down), x_TH, out)):
            ops.lora_down(x, down[c], seeds[c], dropout, scale, to)

    def gated_down(
        both_TO: Any, down: Any, seeds: Any, dropout: float, scale: float, x_TH: Any, out: Any
    ) -> None:
        for c, (both, x, to) in enumerate(parts(len(down), both_TO, x_TH, out)):
            ops.gated_down(both, down[c], seeds[c : c + 1], dropout, scale, x, to)

    def lora_down_backward(
        x_TH: Any, grad: Any, down: Any, seeds: Any, dropout: float, scale: float, grad_x: Any
    ) -> torch.Tensor:
        return torch.stack([
            ops.lora_down_backward(x, g, down[c], seeds[c], dropout, scale, to)
            for c, (x, g, to) in enumerate(parts(len(down), x_TH, grad, grad_x))
        ])  # fmt: skip

    def gated_backward(
        both_TO: Any, grad_TH: Any, grad_TR: Any, down: Any, seeds: Any, dropout: float,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        made = [
            ops.gated_backward(both, g, low, down[c], seeds[c : c + 1], dropout, scale)
            for c, (both, g, low) in enumerate(parts(len(down), both_TO, grad_TH, grad_TR))
        ]
        return torch.cat([one for one, _ in made]), torch.stack([other for _, other in made])

    return SimpleNamespace(
        lora_down=lora_down, gated_down=gated_down,
        lora_down_backward=lora_down_backward, gated_backward=gated_backward,
    )  # fmt: skip


@cache
def kernels_are_wrong() -> str | None:
    """Why the kernels for segments are not taken: none are there, or they differ from the loops."""
    if not torch.cuda.is_available() or not has_kernels():
        return "there is no GPU, no Triton or no C compiler"
    try:
        from benchmarks import cotrain_kernels

        torch.manual_seed(0)
        x = torch.randn(3 * 136, 200, device="cuda", dtype=torch.bfloat16)
        rank = 32
        down = torch.randn(3, 2, rank, 200, device="cuda", dtype=torch.bfloat16) / 14
        found = [_tried(ops, x, down) for ops in (cotrain_kernels, looped(x, rank))]
    except Exception as error:  # whatever the compiler or the driver says
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    for one, other in zip(*found, strict=True):
        error = float((one.float() - other.float()).norm() / other.float().norm())
        if not error < 1e-2:
            return f"the kernels are off by {error:.2g}"
    return None


def _tried(ops: Any, x: torch.Tensor, down: torch.Tensor) -> list[torch.Tensor]:
    """What all four operations give."""
    segments, modules, rank, width = down.shape
    seeds = torch.arange(segments * modules, device=x.device, dtype=torch.int32)
    seeds, how = seeds.view(segments, modules), (0.05, 2.0)
    low, to = x.new_zeros(len(x), modules, rank), torch.zeros_like(x)
    ops.lora_down(x, down, seeds, *how, low)
    grad_down = ops.lora_down_backward(x, low, down, seeds, *how, to)
    both, inner = torch.cat([x, x.flip(0)], 1), torch.empty_like(x)
    one, of_one = down[:, 0].contiguous(), seeds[:, 0].contiguous()
    ops.gated_down(both, one, of_one, *how, inner, low[:, 0])
    wide = torch.cat([x, low[:, 0]], 1)
    made = ops.gated_backward(both, wide[:, :width], wide[:, width:], one, of_one, *how)
    return [low, to, grad_down, inner, *made]


def segment_ops(like: torch.Tensor, rank: int) -> Any:
    """What computes the narrow products of all segments."""
    if like.is_cuda and rank in RANKS and kernels_are_wrong() is None:
        from benchmarks import cotrain_kernels

        return cotrain_kernels
    return looped(like, rank)
