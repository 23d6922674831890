"""The operations of `cotrain_kernels` by those of one adapter, one segment after another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from personaspace.fastlora.functional import lora_ops


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
