"""Causal attention within sequences that lie end to end.

In training on a GPU by the kernels of `attention_kernels`, otherwise there by PyTorch's own
variable-length attention (FlashAttention-2, Dao 2023), elsewhere by a loop over the sequences. A
sequence may have more keys than queries: its queries are then its last tokens.

Shapes: T = queries of all sequences, X = their keys, S = sequences, A = heads, G = key-value heads,
D = head size, W = A·D with room for LoRA.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from personaspace.fastlora.functional import attention_ops
from personaspace.fastlora.layout import Layout
from personaspace.fastlora.reference import visible


@cache
def _varlen() -> tuple[Any, frozenset[str]] | None:
    """PyTorch's function (from 2.10) and the names of its arguments, which still change."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def available(device: torch.device) -> bool:
    """Whether attention over packed sequences is fast on the device."""
    if device.type != "cuda" or _varlen() is None:
        return False
    # FlashAttention-2 needs Ampere or later.
    return torch.cuda.get_device_capability(device) >= (8, 0)


def has_windows() -> bool:
    """Whether PyTorch's function takes windows and a scale (from 2.11)."""
    found = _varlen()
    return found is not None and {"window_size", "scale"} <= found[1]


def attend(
    q_TAD: torch.Tensor,
    k_XGD: torch.Tensor,
    v_XGD: torch.Tensor,
    layout: Layout,
    scale: float,
    window: int,
    room: int = 0,
) -> torch.Tensor:
    """`[T, A·D]`: each query over its own sequence's keys up to its own position.

    In training, with room at the right for LoRA (see `linear`).

    Args:
        scale: Of the products of queries and keys.
        window: Keys that a query sees, itself counted; 0: all before it.
    """
    ours = attention_ops(q_TAD) if layout.keys_X is None and q_TAD.requires_grad else None
    if ours is not None:
        out: torch.Tensor = _Attend.apply(q_TAD, k_XGD, v_XGD, layout, scale, window, room, ours)
        return out
    found = _varlen() if q_TAD.is_cuda and q_TAD.element_size() == 2 else None
    if found is None:
        return _looped(q_TAD, k_XGD, v_XGD, layout, scale, window).flatten(1)
    function, names = found
    options: dict[str, Any] = (
        {"window_size": (window - 1, 0)} if "window_size" in names else {"is_causal": True}
    )
    if scale != q_TAD.shape[2] ** -0.5:
        options["scale"] = scale
    if "enable_gqa" in names:
        options["enable_gqa"] = True
    seen_TAD: torch.Tensor = function(
        q_TAD,
        k_XGD,
        v_XGD,
        layout.cu_seqlens_S1,
        layout.cu_seqlens_k_S1,
        layout.max_seqlen,
        layout.max_seqlen_k,
        **options,
    )
    return seen_TAD.flatten(1)


class _Attend(torch.autograd.Function):
    """Attention for training, by the kernels of `ours`."""

    @staticmethod
    def forward(
        ctx: Any,
        q_TAD: torch.Tensor,
        k_TGD: torch.Tensor,
        v_TGD: torch.Tensor,
        layout: Layout,
        scale: float,
        window: int,
        room: int,
        ours: Any,
    ) -> torch.Tensor:
        """Result; remembers what the gradient needs."""
        T, A, D = q_TAD.shape
        out_TW = q_TAD.new_empty(T, A * D + room)
        out_TAD = out_TW[:, : A * D].unflatten(1, (A, D))
        lse_AT = ours.attend(
            q_TAD, k_TGD, v_TGD, layout.cu_seqlens_S1, layout.max_seqlen, out_TAD, scale, window
        )
        # What comes next writes into the room, which no gradient here reads: `data`, since PyTorch
        # would take it for a change of what is kept.
        ctx.save_for_backward(q_TAD, k_TGD, v_TGD, out_TW.data, lse_AT)
        ctx.layout, ctx.ours, ctx.how = layout, ours, (scale, window)
        return out_TW

    @staticmethod
    def backward(ctx: Any, grad_TW: torch.Tensor) -> tuple[Any, ...]:
        """Gradient."""
        q_TAD, k_TGD, v_TGD, out_TW, lse_AT = ctx.saved_tensors
        _, A, D = q_TAD.shape
        grad_TAD, out_TAD = (x[:, : A * D].unflatten(1, (A, D)) for x in (grad_TW, out_TW))
        grads = ctx.ours.attend_backward(
            grad_TAD, q_TAD, k_TGD, v_TGD, out_TAD, lse_AT, ctx.layout.cu_seqlens_S1,
            ctx.layout.max_seqlen, *ctx.how,
        )  # fmt: skip
        return *grads, None, None, None, None, None


def _looped(
    q_TAD: torch.Tensor,
    k_XGD: torch.Tensor,
    v_XGD: torch.Tensor,
    layout: Layout,
    scale: float,
    window: int,
) -> torch.Tensor:
    cu_seqlens, cu_seqlens_k = layout.cu_seqlens_S1.tolist(), layout.cu_seqlens_k_S1.tolist()
    parts = []
    for number in range(len(cu_seqlens) - 1):
        q = q_TAD[cu_seqlens[number] : cu_seqlens[number + 1]].transpose(0, 1)[None]
        keys = slice(cu_seqlens_k[number], cu_seqlens_k[number + 1])
        k, v = (t[keys].transpose(0, 1)[None] for t in (k_XGD, v_XGD))
        mask = visible(q.shape[2], k.shape[2], window, q.device)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)
