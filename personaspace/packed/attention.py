"""Causal attention within sequences that lie end to end.

On a GPU PyTorch's own variable-length attention (FlashAttention-2, Dao 2023), elsewhere a loop over
the sequences. A sequence may have more keys than queries: its queries are then its last tokens.

Shapes: T = queries of all sequences, X = their keys, A = heads, G = key-value heads, D = head size.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from personaspace.packed.functional import attention_ops
from personaspace.packed.layout import Layout


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


def attend(
    q_TAD: torch.Tensor, k_XGD: torch.Tensor, v_XGD: torch.Tensor, layout: Layout
) -> torch.Tensor:
    """`[T, A, D]`: each query over its own sequence's keys up to its own position."""
    found = _varlen() if q_TAD.is_cuda and q_TAD.element_size() == 2 else None
    if found is None:
        return _looped(q_TAD, k_XGD, v_XGD, layout)
    given = (layout.starts_S1, layout.key_starts_S1, layout.longest, layout.longest_keys)
    if layout.keys_X is None and q_TAD.requires_grad and "return_aux" in found[1]:
        out: torch.Tensor = _Attend.apply(q_TAD, k_XGD, v_XGD, layout)
    else:
        function, names = found
        out = function(q_TAD, k_XGD, v_XGD, *given, **_options(names))
    return out


def _options(names: frozenset[str]) -> dict[str, Any]:
    causal: dict[str, Any] = (
        {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}
    )
    return {**causal, "enable_gqa": True} if "enable_gqa" in names else causal


class _Attend(torch.autograd.Function):
    """PyTorch's variable-length attention, with gradients that know of shared keys and values.

    FlashAttention-2's own gradients are made for every query head and summed afterwards.
    """

    @staticmethod
    def forward(
        ctx: Any, q_TAD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor, layout: Layout
    ) -> torch.Tensor:
        from torch.nn.attention.varlen import AuxRequest

        found = _varlen()
        assert found is not None
        function, names = found
        starts, longest = layout.starts_S1, layout.longest
        out_TAD, lse_AT = function(
            q_TAD, k_TGD, v_TGD, starts, starts, longest, longest,
            return_aux=AuxRequest(lse=True), **_options(names),
        )  # fmt: skip
        # PyTorch's documentation says [T, A], its code so far gives [A, T].
        if lse_AT.shape != q_TAD.shape[1::-1]:
            lse_AT = lse_AT.T.contiguous()
        ctx.save_for_backward(q_TAD, k_TGD, v_TGD, out_TAD, lse_AT)
        ctx.layout = layout
        kept: torch.Tensor = out_TAD
        return kept

    @staticmethod
    def backward(ctx: Any, slope_TAD: torch.Tensor) -> tuple[Any, ...]:
        q_TAD, k_TGD, v_TGD, out_TAD, lse_AT = ctx.saved_tensors
        layout: Layout = ctx.layout
        slopes = attention_ops(q_TAD).attend_back(
            slope_TAD.contiguous(), q_TAD, k_TGD, v_TGD, out_TAD, lse_AT, layout.starts_S1,
            layout.longest,
        )  # fmt: skip
        return *slopes, None


def _looped(
    q_TAD: torch.Tensor, k_XGD: torch.Tensor, v_XGD: torch.Tensor, layout: Layout
) -> torch.Tensor:
    starts, key_starts = layout.starts_S1.tolist(), layout.key_starts_S1.tolist()
    parts = []
    for number in range(len(starts) - 1):
        q = q_TAD[starts[number] : starts[number + 1]].transpose(0, 1)[None]
        keys = slice(key_starts[number], key_starts[number + 1])
        k, v = (t[keys].transpose(0, 1)[None] for t in (k_XGD, v_XGD))
        before = k.shape[2] - q.shape[2]
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(before)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)
