"""The fused operations with their gradients.

Base weights are frozen everywhere, so no gradient of theirs is computed. Shapes as in `reference`;
W = a width with room for LoRA.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from shutil import which
from types import ModuleType
from typing import Any

import torch

from personaspace.fastlora import reference
from personaspace.fastlora.head_norms import HeadNorms

#: Ranks of trained adapters that the kernels take: those that the matrix units take as they are.
RANKS = (16, 32, 64, 128)


@cache
def _kernels() -> tuple[ModuleType, ModuleType, ModuleType] | None:
    """The modules of kernels, where Triton is, and the C compiler that it needs."""
    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    if importlib.util.find_spec("triton") is None or not any(c and which(c) for c in compilers):
        return None
    from personaspace.fastlora import attention_kernels, kernels, lora_kernels

    return kernels, lora_kernels, attention_kernels


def has_kernels() -> bool:
    """Whether kernels can be compiled here."""
    return _kernels() is not None


def ops(tensor: torch.Tensor) -> Any:
    """The module that computes on the tensor's device."""
    found = _kernels() if tensor.is_cuda else None
    return reference if found is None else found[0]


def lora_ops(tensor: torch.Tensor, rank: int) -> Any:
    """The module for LoRA's narrow products; its kernels take the ranks of `RANKS`."""
    found = _kernels() if tensor.is_cuda else None
    return found[1] if found is not None and rank in RANKS else reference


def attention_ops(tensor_TAD: torch.Tensor) -> Any:
    """The module of attention with gradients; None where there are no kernels for it."""
    found = _kernels() if tensor_TAD.is_cuda else None
    return found[2] if found and tensor_TAD.shape[2] in found[2].HEAD_SIZES else None


class AddRmsNorm(torch.autograd.Function):
    """residual + delta, and its norm, with room at the right for LoRA (see `linear`)."""

    @staticmethod
    def forward(
        ctx: Any,
        residual_TH: torch.Tensor,
        delta_TH: torch.Tensor | None,
        weight_H: torch.Tensor,
        eps: float,
        room: int,
        late: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Result; remembers what the gradient needs."""
        T, H = residual_TH.shape
        wide_TW = residual_TH.new_empty(T, H + room)
        sum_TH, rstd_T = ops(residual_TH).add_rms_norm(
            residual_TH, delta_TH, weight_H, eps, wide_TW[:, :H], late
        )
        ctx.save_for_backward(sum_TH, weight_H, rstd_T)
        ctx.added = delta_TH is not None
        ctx.set_materialize_grads(False)
        if delta_TH is None:
            sum_TH = residual_TH.view_as(residual_TH)
        return sum_TH, wide_TW

    @staticmethod
    def backward(
        ctx: Any, grad_sum_TH: torch.Tensor | None, grad_wide_TW: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None, None, None]:
        """Gradient."""
        sum_TH, weight_H, rstd_T = ctx.saved_tensors
        grad = grad_sum_TH
        if grad_wide_TW is not None:
            grad = ops(sum_TH).add_rms_norm_backward(
                grad_wide_TW[:, : sum_TH.shape[1]], grad_sum_TH, sum_TH, weight_H, rstd_T
            )
        return grad, grad if ctx.added else None, None, None, None, None


class Rotate(torch.autograd.Function):
    """Queries, keys and values of the joint projection, with rotary positions.

    Where queries and keys are normalised before, the projection is kept for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv_TE: torch.Tensor,
        cos_TD: torch.Tensor,
        sin_TD: torch.Tensor,
        heads: int,
        kv_heads: int,
        norms: HeadNorms | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Result; remembers what the gradient needs."""
        ctx.save_for_backward(cos_TD, sin_TD, None if norms is None else qkv_TE)
        ctx.norms = norms
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = ops(qkv_TE).rotate(
            qkv_TE, cos_TD, sin_TD, heads, kv_heads, norms
        )
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        """Gradient."""
        cos_TD, sin_TD, qkv_TE = ctx.saved_tensors
        grad = ops(cos_TD).rotate_backward(*grads, cos_TD, sin_TD, qkv_TE, ctx.norms)
        return grad, None, None, None, None, None


class HeadLoss(torch.autograd.Function):
    """Summed cross-entropy of an output layer that is not trained.

    The gradient with respect to the states is made in the forward pass, a chunk of tokens at a
    time, so that logits of one chunk are all that is ever held.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states_KH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_K: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        """Result; remembers what the gradient needs."""
        grads_KH = torch.empty_like(states_KH) if ctx.needs_input_grad[0] else None
        losses_K = torch.empty(len(states_KH), dtype=torch.float32, device=states_KH.device)
        for start in range(0, len(states_KH), chunk):
            part = slice(start, start + chunk)
            logits_KV = states_KH[part] @ weight_VH.T
            losses_K[part] = ops(states_KH).cross_entropy(logits_KV, targets_K[part])
            if grads_KH is not None:
                torch.mm(logits_KV, weight_VH, out=grads_KH[part])
        ctx.save_for_backward(grads_KH)
        return losses_K.sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """Gradient."""
        (grads_KH,) = ctx.saved_tensors
        return grads_KH * grad.to(grads_KH.dtype), None, None, None
