"""The fused operations in plain PyTorch: what the Triton kernels compute, on any device.

Used where there is no Triton, and as the oracle that the kernels are tested against. Roundings are
those of transformers' Llama: sums of the residual stream, the normalised state and the gate's
activation are each rounded to the model's dtype.

Shapes: T = tokens, H = width of the input, O = of the output, R = adapter rank, M = modules that
share an input, D = head size, V = vocabulary, K = tokens with loss, N = ranges.
"""

from __future__ import annotations

import torch

_MASK = 0xFFFFFFFF


def _mix(x: torch.Tensor) -> torch.Tensor:
    """A 32-bit mixer (Wellons, hash-prospector, `lowbias32`) on int64 tensors."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def keep_mask(seed: torch.Tensor, rows: int, columns: int, dropout: float) -> torch.Tensor:
    """Which entries dropout keeps. Bool `[rows, columns]`.

    A function of seed, row and column alone, so that the backward pass can have the mask again
    without storing it: each row is a SplitMix sequence (Steele, Lea & Flood 2014, here with 32
    bits) that starts where a hash of seed and row says.

    Args:
        seed: One int32.
        dropout: Probability of being dropped.
    """
    row_T = torch.arange(rows, device=seed.device)
    column_H = torch.arange(columns, device=seed.device)
    start_T = _mix((row_T * 0x85EBCA6B + (seed.long() & _MASK)) & _MASK)
    drawn_TH = _mix((start_T[:, None] + column_H[None, :] * 0x9E3779B9) & _MASK)
    return (drawn_TH >> 1) >= threshold(dropout)


def threshold(dropout: float) -> int:
    """31-bit number below which a draw is dropped."""
    return round(dropout * 2**31)


def add_rms_norm(
    residual_TH: torch.Tensor,
    delta_TH: torch.Tensor | None,
    weight_H: torch.Tensor,
    eps: float,
    out_TH: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum, and 1/rms `[T]` in float32; the sum's norm (Zhang & Sennrich 2019) goes to `out_TH`."""
    sum_TH = residual_TH if delta_TH is None else residual_TH + delta_TH
    wide_TH = sum_TH.float()
    rstd_T = torch.rsqrt(wide_TH.pow(2).mean(-1) + eps)
    out_TH.copy_(weight_H * (wide_TH * rstd_T[:, None]).to(sum_TH.dtype))
    return sum_TH, rstd_T


def add_rms_norm_back(
    slope_normed_TH: torch.Tensor,
    slope_sum_TH: torch.Tensor | None,
    sum_TH: torch.Tensor,
    weight_H: torch.Tensor,
    rstd_T: torch.Tensor,
) -> torch.Tensor:
    """Gradient with respect to the sum."""
    unit_TH = sum_TH.float() * rstd_T[:, None]
    wide_TH = slope_normed_TH.float() * weight_H.float()
    inner_T1 = (wide_TH * unit_TH).mean(-1, keepdim=True)
    slope_TH = rstd_T[:, None] * (wide_TH - unit_TH * inner_T1)
    if slope_sum_TH is not None:
        slope_TH = slope_TH + slope_sum_TH.float()
    return slope_TH.to(sum_TH.dtype)


def rotate(
    qkv_TE: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor, heads: int, kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and keys with rotary positions (Su et al. 2021), and the values.

    Args:
        qkv_TE: Queries, keys, values side by side, E = (heads + 2·kv_heads)·D.
        cos_TD: Cosines `[T, D/2]`; `sin_TD` likewise.

    Returns:
        `[T, heads, D]` and twice `[T, kv_heads, D]`.
    """
    all_TXD = qkv_TE.view(len(qkv_TE), heads + 2 * kv_heads, -1)
    turned = _turn(all_TXD[:, : heads + kv_heads], cos_TD, sin_TD)
    return (
        turned[:, :heads].contiguous(),
        turned[:, heads:].contiguous(),
        all_TXD[:, heads + kv_heads :].contiguous(),
    )


def rotate_back(
    q_TXD: torch.Tensor,
    k_TXD: torch.Tensor,
    v_TXD: torch.Tensor,
    cos_TD: torch.Tensor,
    sin_TD: torch.Tensor,
) -> torch.Tensor:
    """Gradient of `rotate`: turned back and side by side `[T, E]`."""
    turned = _turn(torch.cat([q_TXD, k_TXD], dim=1), cos_TD, -sin_TD)
    return torch.cat([turned, v_TXD], dim=1).flatten(1)


def _turn(x_TXD: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> torch.Tensor:
    low, high = x_TXD.float().chunk(2, dim=-1)
    cos, sin = cos_TD[:, None].float(), sin_TD[:, None].float()
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x_TXD.dtype)


def swiglu(both_TO: torch.Tensor, out_TO: torch.Tensor) -> None:
    """silu(gate)·up (Shazeer 2020) of gate and up side by side, written into `out_TO`."""
    gate, up = both_TO.chunk(2, dim=-1)
    out_TO.copy_(torch.nn.functional.silu(gate.float()).to(both_TO.dtype) * up)


def swiglu_back(slope_TO: torch.Tensor, both_TO: torch.Tensor) -> torch.Tensor:
    """Gradients of gate and up, side by side."""
    gate, up = (part.float() for part in both_TO.chunk(2, dim=-1))
    sigmoid, slope = torch.sigmoid(gate), slope_TO.float()
    slope_gate = slope * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([slope_gate, slope * gate * sigmoid], dim=-1).to(both_TO.dtype)


def lora_down(
    x_TH: torch.Tensor,
    down_MRH: torch.Tensor,
    seeds_M: torch.Tensor,
    dropout: float,
    scale: float,
    out_TMR: torch.Tensor,
) -> None:
    """scale·dropout(x)·Aᵀ for each module, each with a mask of its own, written into `out_TMR`."""
    for module, down_RH in enumerate(down_MRH):
        kept_TH = x_TH
        if dropout > 0:
            kept_TH = x_TH * keep_mask(seeds_M[module], x_TH.shape[0], x_TH.shape[1], dropout)
        out_TMR[:, module] = (kept_TH @ down_RH.T) * (scale / (1 - dropout))


def lora_down_back(
    x_TH: torch.Tensor,
    slope_TMR: torch.Tensor,
    down_MRH: torch.Tensor,
    seeds_M: torch.Tensor,
    dropout: float,
    scale: float,
    slope_x_TH: torch.Tensor | None,
) -> torch.Tensor:
    """Gradient of A, float32 `[M, R, H]`; that of x, over all modules, is added to `slope_x_TH`."""
    factor = scale / (1 - dropout)
    slopes = []
    moved_TH = torch.zeros(x_TH.shape, dtype=torch.float32, device=x_TH.device)
    for module, down_RH in enumerate(down_MRH):
        slope_TR = slope_TMR[:, module]
        mask = factor if dropout <= 0 else _factor(seeds_M[module], x_TH, dropout, factor)
        slopes.append((slope_TR.T @ (x_TH * mask).to(x_TH.dtype)).float())
        if slope_x_TH is not None:
            moved_TH += (slope_TR @ down_RH).float() * mask
    if slope_x_TH is not None:
        slope_x_TH += moved_TH.to(x_TH.dtype)
    return torch.stack(slopes)


def gated_back(
    both_TO: torch.Tensor,
    slope_TH: torch.Tensor,
    slope_TR: torch.Tensor,
    down_RH: torch.Tensor,
    seeds_M: torch.Tensor,
    dropout: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up `[T, 2H]` and of A `[R, H]`, where x is silu(gate)·up.

    As `lora_down_back` and then `swiglu_back`, without x.

    Args:
        slope_TH: Gradient of x from the base weights.
        slope_TR: Gradient of x·Aᵀ.
    """
    x_TH = both_TO.new_empty(slope_TH.shape)
    swiglu(both_TO, x_TH)
    slope_x_TH = slope_TH.clone()
    slopes = lora_down_back(
        x_TH, slope_TR[:, None], down_RH[None], seeds_M, dropout, scale, slope_x_TH
    )
    return swiglu_back(slope_x_TH, both_TO), slopes[0]


def _factor(seed: torch.Tensor, x_TH: torch.Tensor, dropout: float, factor: float) -> torch.Tensor:
    return keep_mask(seed, x_TH.shape[0], x_TH.shape[1], dropout).float() * factor


def cross_entropy(logits_KV: torch.Tensor, targets_K: torch.Tensor) -> torch.Tensor:
    """Loss of each token, float32 `[K]`; the logits are overwritten by their gradients.

    A target below 0 is none: no loss, no gradient.
    """
    wide_KV = logits_KV.float()
    real_K = targets_K >= 0
    targets_K = targets_K.clamp(min=0)
    normaliser_K = wide_KV.logsumexp(-1)
    loss_K = normaliser_K - wide_KV.gather(1, targets_K[:, None])[:, 0]
    slope_KV = torch.exp(wide_KV - normaliser_K[:, None])
    slope_KV[torch.arange(len(targets_K), device=targets_K.device), targets_K] -= 1
    logits_KV.copy_(slope_KV * real_K[:, None])
    return loss_K * real_K


def range_means(
    residual_TH: torch.Tensor,
    delta_TH: torch.Tensor,
    starts_N: torch.Tensor,
    stops_N: torch.Tensor,
) -> torch.Tensor:
    """Mean of residual + delta over each range of tokens, float32 `[N, H]`; 0 for an empty one."""
    sum_TH = (residual_TH + delta_TH).float()
    means = [
        sum_TH[start:stop].mean(0) if stop > start else torch.zeros_like(sum_TH[0])
        for start, stop in zip(starts_N.tolist(), stops_N.tolist(), strict=True)
    ]
    return torch.stack(means)
