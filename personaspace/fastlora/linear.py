"""Linear layers that read the same input, as one product, with LoRA inside it.

Query, key and value (and gate and up) are one GEMM: their weights lie in one buffer, of which the
model's own parameters become views. LoRA is part of the same GEMM: the buffer has room at the right
for the adapters' B, and the input has room for s·dropout(x)·Aᵀ, so that

    [x | s·dropout(x)·Aᵀ] · [W | B]ᵀ = x·Wᵀ + s·dropout(x)·Aᵀ·Bᵀ

costs a hundredth more than the base product and no pass over the output. Backward likewise: the
product of the output's gradient with [W | B] is the input's gradient and that of x·Aᵀ side by side.

Dtypes: base weights and activations in the model's dtype. An adapter's parameters stay in float32,
as PEFT keeps them, and so do its gradients; products use copies in the model's dtype that are made
once a step, which is what autocast does in every product.

Shapes: T = tokens, H = width of the input, W = with room, O = of the joint output, M = modules with
an adapter, R = rank of the trained adapter, F = summed rank of the frozen ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from personaspace.fastlora.functional import lora_ops, ops

#: Rows begin at multiples of so many elements, as GEMMs need for their fastest loads.
_ALIGNED = 8


def join(parameters: Sequence[torch.Tensor], room: int) -> torch.Tensor:
    """One tensor `[O, H + room]` of all, stacked; the parameters become views of it.

    What is in the room is not defined.
    """
    first = parameters[0].data
    rows, width = sum(len(p) for p in parameters), first.shape[1]
    place = first.data_ptr()
    for parameter in parameters:
        if parameter.data_ptr() != place or parameter.stride() != (width + room, 1):
            break
        place += len(parameter) * (width + room) * parameter.element_size()
    else:
        have = first.untyped_storage().nbytes() // first.element_size() - first.storage_offset()
        if have >= rows * (width + room):
            return first.as_strided((rows, width + room), (width + room, 1))
    joint = first.new_empty(rows, width + room)
    start = 0
    for parameter in parameters:
        part = joint[start : start + len(parameter), :width]
        part.copy_(parameter.data)
        parameter.data = part
        start += len(part)
    return joint


class _Adapters:
    """A linear layer's active adapters as PEFT holds them: one trained at most, others frozen."""

    def __init__(self, module: nn.Module) -> None:
        layer: Any = module
        self.trained: tuple[nn.Parameter, nn.Parameter, float, float] | None = None
        self.frozen: list[tuple[torch.Tensor, torch.Tensor]] = []
        if not hasattr(layer, "lora_A"):
            return
        for name in layer.active_adapters:
            if name not in layer.lora_A:
                continue
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            scale = float(layer.scaling[name])
            if a.requires_grad:
                rate = float(getattr(layer.lora_dropout[name], "p", 0.0))
                self.trained = (a, b, scale, rate)
            else:
                self.frozen.append((a.detach(), b.detach().float() * scale))


def alike(modules: Sequence[nn.Module]) -> bool:
    """Whether all layers of a group that have adapters have them of the same ranks and kinds."""
    held = [_Adapters(module) for module in modules]
    shapes = {
        (None if a.trained is None else a.trained[0].shape[0], tuple(len(f) for f, _ in a.frozen))
        for a in held
        if a.trained is not None or a.frozen
    }
    return len(shapes) <= 1


class JointLinear:
    """Linear layers with one input, their adapters included.

    Args:
        modules: `nn.Linear` or PEFT's LoRA layer around one, in the order of their outputs; `alike`
            holds for them.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        bases: list[Any] = [getattr(module, "base_layer", module) for module in modules]
        ends = [0]
        for base in bases:
            ends.append(ends[-1] + int(base.out_features))
        held = [_Adapters(module) for module in modules]
        self.parts = [
            (slice(ends[n], ends[n + 1]), adapters)
            for n, adapters in enumerate(held)
            if adapters.trained is not None or adapters.frozen
        ]
        trained = [a.trained for _, a in self.parts if a.trained is not None]
        self.rank = len(trained[0][0]) if trained else 0
        self.scale, self.dropout = trained[0][2:] if trained else (1.0, 0.0)
        self.parameters = [p for entry in trained for p in entry[:2]]
        self.frozen_rank = sum(len(a) for a, _ in self.parts[0][1].frozen) if self.parts else 0
        self.width = self.rank + self.frozen_rank
        self.features = int(bases[0].in_features)
        used = len(self.parts) * self.width
        self.room = -(-used // _ALIGNED) * _ALIGNED
        self.weight_OW = join([base.weight for base in bases], self.room)
        self.bias_O: torch.Tensor | None = None
        if any(base.bias is not None for base in bases):
            biases = [
                base.weight.new_zeros(base.out_features) if base.bias is None else base.bias
                for base in bases
            ]
            self.bias_O = torch.cat(biases).detach()
        self._fill()

    def _columns(self, n: int, rank: int | None = None) -> slice:
        """Where a module's share of the room is; its first `rank` columns, or all."""
        start = self.features + n * self.width
        return slice(start, start + (self.width if rank is None else rank))

    def _fill(self) -> None:
        like, count = self.weight_OW, len(self.parts)
        like[:, self.features :] = 0
        self.down_MRH = like.new_zeros(count, self.rank, self.features)
        self.frozen_down = like.new_zeros(count * self.frozen_rank, self.features)
        for n, (where, adapters) in enumerate(self.parts):
            row, column = n * self.frozen_rank, self._columns(n).start + self.rank
            for a, b in adapters.frozen:
                self.frozen_down[row : row + len(a)] = a.to(like.dtype)
                like[where, column : column + len(a)] = b.to(like.dtype)
                row, column = row + len(a), column + len(a)

    def copies(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Where copies of the trained parameters are kept, and the parameters."""
        targets = []
        for n in range(len(self.parts) if self.rank else 0):
            where, _ = self.parts[n]
            targets += [self.down_MRH[n], self.weight_OW[where, self._columns(n, self.rank)]]
        return targets, [parameter.detach() for parameter in self.parameters]

    def low(self, wide_TW: torch.Tensor) -> torch.Tensor:
        """The part of the room that is used, as `[T, M, R + F]`: the trained adapter's first."""
        used = wide_TW[:, self.features : self.features + len(self.parts) * self.width]
        low_TMF: torch.Tensor = used.unflatten(1, (len(self.parts), self.width))
        return low_TMF

    def __call__(self, x_TW: torch.Tensor, seeds_M: torch.Tensor | None = None) -> torch.Tensor:
        """Joint output `[T, O]`.

        Args:
            x_TW: Input with room at the right, which is written to; or without, and then copied.
            seeds_M: Seeds of the dropout masks, one a module with an adapter; None: no dropout.
        """
        if not self.parts:
            return nn.functional.linear(x_TW, self.weight_OW, self.bias_O)
        out: torch.Tensor = _Joint.apply(x_TW, self, *self._drop(seeds_M), *self.parameters)
        return out

    def gated(self, both_TO: torch.Tensor, seeds_M: torch.Tensor | None = None) -> torch.Tensor:
        """Output for the input silu(gate)·up, given gate and up side by side.

        The input itself is not kept for the backward pass.
        """
        out: torch.Tensor = _Gated.apply(both_TO, self, *self._drop(seeds_M), *self.parameters)
        return out

    def _drop(self, seeds_M: torch.Tensor | None) -> tuple[torch.Tensor, float]:
        if seeds_M is None:
            device = self.weight_OW.device
            return torch.zeros(len(self.parts), dtype=torch.int32, device=device), 0.0
        return seeds_M, self.dropout

    def _forward(
        self,
        x_TW: torch.Tensor,
        seeds_M: torch.Tensor,
        dropout: float,
        both_TO: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Fills the room of the input, or with gate and up all of it, and multiplies."""
        x_TH, used = x_TW[:, : self.features], len(self.parts) * self.width
        if used < self.room:
            x_TW[:, self.features + used :] = 0
        if both_TO is not None and not self.rank:
            ops(both_TO).swiglu(both_TO, x_TH)
        if self.parts:
            low_TMR = self.low(x_TW)
            trained_TMR, how = low_TMR[:, :, : self.rank], (seeds_M, dropout, self.scale)
            if self.rank and both_TO is not None:
                lora_ops(x_TW, self.rank).gated_down(
                    both_TO, self.down_MRH[0], *how, x_TH, trained_TMR[:, 0]
                )
            elif self.rank:
                lora_ops(x_TW, self.rank).lora_down(x_TH, self.down_MRH, *how, trained_TMR)
            if self.frozen_rank:
                low = x_TH @ self.frozen_down.T
                low_TMR[:, :, self.rank :] = low.unflatten(1, (len(self.parts), -1))
        return self._product(x_TW)

    def _product(self, x_TW: torch.Tensor) -> torch.Tensor:
        """Base weights' and adapters' product, given all of the input; biases are in it."""
        return nn.functional.linear(x_TW, self.weight_OW, self.bias_O)

    def _product_backward(self, grad_TO: torch.Tensor) -> torch.Tensor:
        """Gradient of what `_product` was given."""
        return grad_TO @ self.weight_OW

    def _backward(self, grad_TO: torch.Tensor) -> torch.Tensor:
        """Gradient of the input from base and frozen weights, and in its room that of x·Aᵀ."""
        grad_TW = self._product_backward(grad_TO)
        if self.frozen_rank:
            low_TMR = self.low(grad_TW)[:, :, self.rank :]
            grad_TW[:, : self.features].addmm_(low_TMR.flatten(1), self.frozen_down)
        return grad_TW

    def _grads(
        self, grad_TO: torch.Tensor, low_TMR: torch.Tensor, grad_down_MRH: torch.Tensor
    ) -> list[torch.Tensor]:
        """Gradients of all trained parameters, in their order."""
        found = []
        for n, (where, _) in enumerate(self.parts):
            grad_up = _wide_product(grad_TO[:, where].T, low_TMR[:, n, : self.rank])
            found += [grad_down_MRH[n], grad_up]
        return found


def _wide_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a·b in float32."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


class _Joint(torch.autograd.Function):
    """x·Wᵀ + b + Σ s·dropout(x)·Aᵀ·Bᵀ, with gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TW: torch.Tensor,
        joint: JointLinear,
        seeds_M: torch.Tensor,
        dropout: float,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        ctx.narrow = x_TW.shape[1] == joint.features
        if ctx.narrow:
            x_TH = x_TW
            x_TW = x_TH.new_empty(len(x_TH), joint.features + joint.room)
            x_TW[:, : joint.features] = x_TH
        out_TO = joint._forward(x_TW, seeds_M, dropout)
        ctx.save_for_backward(x_TW, seeds_M)
        ctx.joint, ctx.dropout = joint, dropout
        return out_TO

    @staticmethod
    def backward(ctx: Any, grad_TO: torch.Tensor) -> tuple[Any, ...]:
        x_TW, seeds_M = ctx.saved_tensors
        joint: JointLinear = ctx.joint
        features, rank = joint.features, joint.rank
        grad_x_TH: torch.Tensor | None = None
        if ctx.needs_input_grad[0]:
            grad_TW = joint._backward(grad_TO)
            grad_x_TH = grad_TW[:, :features]
        else:
            grad_TW = grad_TO.new_empty(len(grad_TO), features + joint.room)
            torch.mm(grad_TO, joint.weight_OW[:, features:], out=grad_TW[:, features:])
        grads: list[torch.Tensor] = []
        if rank:
            grad_down = lora_ops(x_TW, rank).lora_down_backward(
                x_TW[:, :features], joint.low(grad_TW)[:, :, :rank], joint.down_MRH, seeds_M,
                ctx.dropout, joint.scale, grad_x_TH,
            )  # fmt: skip
            grads = joint._grads(grad_TO, joint.low(x_TW), grad_down)
        grad = grad_x_TH if ctx.narrow or grad_x_TH is None else grad_TW
        return grad, None, None, None, *grads


class _Gated(torch.autograd.Function):
    """As `_Joint`, of silu(gate)·up."""

    @staticmethod
    def forward(
        ctx: Any,
        both_TO: torch.Tensor,
        joint: JointLinear,
        seeds_M: torch.Tensor,
        dropout: float,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        x_TW = both_TO.new_empty(len(both_TO), joint.features + joint.room)
        out_TO = joint._forward(x_TW, seeds_M, dropout, both_TO)
        low_TMR = joint.low(x_TW).clone() if joint.rank else None
        ctx.save_for_backward(both_TO, low_TMR, seeds_M)
        ctx.joint, ctx.dropout = joint, dropout
        return out_TO

    @staticmethod
    def backward(ctx: Any, grad_TO: torch.Tensor) -> tuple[Any, ...]:
        both_TO, low_TMR, seeds_M = ctx.saved_tensors
        joint: JointLinear = ctx.joint
        grad_TW = joint._backward(grad_TO)
        grad_x_TH = grad_TW[:, : joint.features]
        if not joint.rank:
            grad = ops(both_TO).swiglu_backward(grad_x_TH, both_TO)
            return grad, None, None, None
        grad, grad_down = lora_ops(both_TO, joint.rank).gated_backward(
            both_TO, grad_x_TH, joint.low(grad_TW)[:, 0, : joint.rank], joint.down_MRH[0],
            seeds_M, ctx.dropout, joint.scale,
        )  # fmt: skip
        grads = joint._grads(grad_TO, low_TMR, grad_down[None])
        return grad, None, None, None, *grads
