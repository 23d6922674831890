"""The fused operations in plain PyTorch: what the Triton kernels compute, on any device.

Used where there is no Triton, and as the oracle that the kernels are tested against. Roundings are
those of transformers' models: sums of the residual stream, the normalised state (`late`: after its
weight is applied) and the gate's activation are each rounded to the model's dtype.

Shapes: T = tokens, H = width of the input, O = of the output, R = adapter rank, M = modules that
share an input, A = heads, G = key-value heads, X = heads of any kind, D = head size (of angles
half of it), E = queries, keys and values side by side, S = sequences, V = vocabulary, K = tokens
with loss, N = ranges.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from personaspace.fastlora.head_norms import HeadNorms

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
    without storing it. Row and column are each hashed well, which costs little; an entry takes
    three instructions, (row's hash ^ column's hash) · an odd number of the row's. With one number
    for all rows some pairs of columns would be correlated by a tenth.

    Args:
        seed: One int32.
        dropout: Probability of being dropped.
    """
    row_T = torch.arange(rows, device=seed.device)
    column_H = torch.arange(columns, device=seed.device)
    row_T = _mix((row_T * 0x85EBCA6B + (seed.long() & _MASK)) & _MASK)
    column_H = _mix((column_H * 0x9E3779B9) & _MASK)
    odd_T = (row_T * 0x846CA68B) & _MASK | 1
    # 32 times 32 bits may pass 63; halves of the factor do not.
    mixed_TH = row_T[:, None] ^ column_H[None, :]
    low, high = odd_T[:, None] & 0xFFFF, odd_T[:, None] >> 16
    drawn_TH = (mixed_TH * low + ((mixed_TH * high & 0xFFFF) << 16)) & _MASK
    return (drawn_TH ^ 2**31) - 2**31 >= threshold(dropout)


def threshold(dropout: float) -> int:
    """Draws are signed numbers of 32 bits; what is below this is dropped."""
    return min(round(dropout * 2**32), 2**32 - 1) - 2**31


def add_rms_norm(
    residual_TH: torch.Tensor,
    delta_TH: torch.Tensor | None,
    weight_H: torch.Tensor,
    eps: float,
    out_TH: torch.Tensor,
    late: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum, and 1/rms `[T]` in float32; the sum's norm (Zhang & Sennrich 2019) goes to `out_TH`.

    Args:
        late: The weight is applied before the norm is rounded, not after.
    """
    sum_TH = residual_TH if delta_TH is None else residual_TH + delta_TH
    wide_TH = sum_TH.float()
    rstd_T = torch.rsqrt(wide_TH.pow(2).mean(-1) + eps)
    out_TH.copy_(_weighted(wide_TH * rstd_T[:, None], weight_H, late, sum_TH.dtype))
    return sum_TH, rstd_T


def _weighted(
    unit: torch.Tensor, weight: torch.Tensor, late: bool, dtype: torch.dtype
) -> torch.Tensor:
    """A norm's float32 output times its weight, rounded as `late` says."""
    return (weight.float() * unit).to(dtype) if late else weight * unit.to(dtype)


def add_rms_norm_backward(
    grad_normed_TH: torch.Tensor,
    grad_sum_TH: torch.Tensor | None,
    sum_TH: torch.Tensor,
    weight_H: torch.Tensor,
    rstd_T: torch.Tensor,
) -> torch.Tensor:
    """Gradient with respect to the sum."""
    unit_TH = sum_TH.float() * rstd_T[:, None]
    wide_TH = grad_normed_TH.float() * weight_H.float()
    inner_T1 = (wide_TH * unit_TH).mean(-1, keepdim=True)
    grad_TH = rstd_T[:, None] * (wide_TH - unit_TH * inner_T1)
    if grad_sum_TH is not None:
        grad_TH = grad_TH + grad_sum_TH.float()
    return grad_TH.to(sum_TH.dtype)


def rotate(
    qkv_TE: torch.Tensor,
    cos_TD: torch.Tensor,
    sin_TD: torch.Tensor,
    heads: int,
    kv_heads: int,
    norms: HeadNorms | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and keys with rotary positions (Su et al. 2021), and the values.

    Args:
        qkv_TE: Queries, keys, values side by side, E = (heads + 2·kv_heads)·D.
        cos_TD: Cosines `[T, D/2]`; `sin_TD` likewise.
        norms: Of queries and keys, before they are turned; None: none.

    Returns:
        `[T, heads, D]` and twice `[T, kv_heads, D]`.
    """
    all_TXD = qkv_TE.view(len(qkv_TE), heads + 2 * kv_heads, -1)
    turning = all_TXD[:, : heads + kv_heads]
    if norms is not None:
        parts = norms.parts(all_TXD, heads, kv_heads)
        turning = torch.cat(
            [_weighted(unit, weight, norms.late, qkv_TE.dtype) for _, unit, _, weight in parts], 1
        )
    turned = _turn(turning, cos_TD, sin_TD)
    return (
        turned[:, :heads].contiguous(),
        turned[:, heads:].contiguous(),
        all_TXD[:, heads + kv_heads :].contiguous(),
    )


def rotate_backward(
    q_TXD: torch.Tensor,
    k_TXD: torch.Tensor,
    v_TXD: torch.Tensor,
    cos_TD: torch.Tensor,
    sin_TD: torch.Tensor,
    qkv_TE: torch.Tensor | None = None,
    norms: HeadNorms | None = None,
) -> torch.Tensor:
    """Gradient of `rotate`: turned back and side by side `[T, E]`.

    Args:
        qkv_TE: What `rotate` was given; for `norms` alone.
        norms: As in `rotate`.
    """
    dtype, heads, kv_heads = v_TXD.dtype, q_TXD.shape[1], k_TXD.shape[1]
    turned = _turn(torch.cat([q_TXD, k_TXD], dim=1).float(), cos_TD, -sin_TD)
    if norms is not None:
        assert qkv_TE is not None
        all_TXD = qkv_TE.view(len(qkv_TE), heads + 2 * kv_heads, -1)
        for where, unit, rstd, weight in norms.parts(all_TXD, heads, kv_heads):
            grad = turned[:, where] * weight.float()
            turned[:, where] = rstd * (grad - unit * norms.mean(grad * unit))
    return torch.cat([turned.to(dtype), v_TXD], dim=1).flatten(1)


def _turn(x_TXD: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> torch.Tensor:
    low, high = x_TXD.float().chunk(2, dim=-1)
    cos, sin = cos_TD[:, None].float(), sin_TD[:, None].float()
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x_TXD.dtype)


def visible(queries: int, keys: int, window: int, device: torch.device) -> torch.Tensor:
    """Which keys a query sees, bool `[queries, keys]`: the queries are the last tokens."""
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return seen.triu(keys - queries - window + 1) if window else seen


def attend(
    q_TAD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    cu_seqlens_S1: torch.Tensor,
    max_seqlen: int,
    out_TAD: torch.Tensor,
    scale: float,
    window: int = 0,
) -> torch.Tensor:
    """Causal attention within each sequence, written into `out_TAD`.

    Args:
        max_seqlen: Tokens of the longest sequence.
        scale: Of the products of queries and keys.
        window: Keys that a query sees, itself counted; 0: all before it.

    Returns:
        Logarithm of each row's sum of exponentials, float32 `[A, T]`.
    """
    group = q_TAD.shape[1] // k_TGD.shape[1]
    lse_AT = torch.zeros(q_TAD.shape[1::-1], device=q_TAD.device)
    for start, stop in pairwise(cu_seqlens_S1.tolist()):
        q, k, v = (x[start:stop].float().transpose(0, 1) for x in (q_TAD, k_TGD, v_TGD))
        k, v = (x.repeat_interleave(group, 0) for x in (k, v))
        seen = visible(stop - start, stop - start, window, q.device)
        logits = (q @ k.mT * scale).masked_fill(~seen, -torch.inf)
        lse_AT[:, start:stop] = logits.logsumexp(-1)
        out_TAD[start:stop] = (logits.softmax(-1) @ v).transpose(0, 1).to(out_TAD.dtype)
    return lse_AT


def attend_backward(
    grad_TAD: torch.Tensor,
    q_TAD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    out_TAD: torch.Tensor,
    lse_AT: torch.Tensor,
    cu_seqlens_S1: torch.Tensor,
    max_seqlen: int,
    scale: float,
    window: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of queries, keys and values, given `attend`'s output and `lse_AT`."""
    group = q_TAD.shape[1] // k_TGD.shape[1]
    inner_AT = (out_TAD.float() * grad_TAD.float()).sum(-1).T
    grads = [torch.zeros_like(x) for x in (q_TAD, k_TGD, v_TGD)]
    for start, stop in pairwise(cu_seqlens_S1.tolist()):
        part = slice(start, stop)
        wide = [x[part].float().transpose(0, 1) for x in (q_TAD, grad_TAD, k_TGD, v_TGD)]
        q, grad = wide[:2]
        k, v = (x.repeat_interleave(group, 0) for x in wide[2:])
        weights = torch.exp(q @ k.mT * scale - lse_AT[:, part, None])
        weights = weights * visible(stop - start, stop - start, window, q.device)
        moved = (weights * (grad @ v.mT - inner_AT[:, part, None])).to(q_TAD.dtype).float()
        found = (
            moved @ k * scale,
            (moved.mT @ q * scale).unflatten(0, (-1, group)).sum(1),
            (weights.to(q_TAD.dtype).float().mT @ grad).unflatten(0, (-1, group)).sum(1),
        )
        for to, each in zip(grads, found, strict=True):
            to[part] = each.transpose(0, 1).to(to.dtype)
    return grads[0], grads[1], grads[2]


def swiglu(both_TO: torch.Tensor, out_TO: torch.Tensor) -> None:
    """silu(gate)·up (Shazeer 2020) of gate and up side by side, written into `out_TO`."""
    gate, up = both_TO.chunk(2, dim=-1)
    out_TO.copy_(torch.nn.functional.silu(gate.float()).to(both_TO.dtype) * up)


def swiglu_backward(grad_TO: torch.Tensor, both_TO: torch.Tensor) -> torch.Tensor:
    """Gradients of gate and up, side by side."""
    gate, up = (part.float() for part in both_TO.chunk(2, dim=-1))
    sigmoid, grad = torch.sigmoid(gate), grad_TO.float()
    grad_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([grad_gate, grad * gate * sigmoid], dim=-1).to(both_TO.dtype)


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


def lora_down_backward(
    x_TH: torch.Tensor,
    grad_TMR: torch.Tensor,
    down_MRH: torch.Tensor,
    seeds_M: torch.Tensor,
    dropout: float,
    scale: float,
    grad_x_TH: torch.Tensor | None,
) -> torch.Tensor:
    """Gradient of A, float32 `[M, R, H]`; that of x, over all modules, is added to `grad_x_TH`."""
    factor = scale / (1 - dropout)
    grads = []
    moved_TH = torch.zeros(x_TH.shape, dtype=torch.float32, device=x_TH.device)
    for module, down_RH in enumerate(down_MRH):
        grad_TR = grad_TMR[:, module]
        mask = factor if dropout <= 0 else _factor(seeds_M[module], x_TH, dropout, factor)
        grads.append((grad_TR.T @ (x_TH * mask).to(x_TH.dtype)).float())
        if grad_x_TH is not None:
            moved_TH += (grad_TR @ down_RH).float() * mask
    if grad_x_TH is not None:
        grad_x_TH += moved_TH.to(x_TH.dtype)
    return torch.stack(grads)


def gated_down(
    both_TO: torch.Tensor,
    down_RH: torch.Tensor,
    seeds_M: torch.Tensor,
    dropout: float,
    scale: float,
    x_TH: torch.Tensor,
    out_TR: torch.Tensor,
) -> None:
    """`swiglu` into `x_TH`, and `lora_down` of that for one module into `out_TR`."""
    swiglu(both_TO, x_TH)
    lora_down(x_TH, down_RH[None], seeds_M, dropout, scale, out_TR[:, None])


def gated_backward(
    both_TO: torch.Tensor,
    grad_TH: torch.Tensor,
    grad_TR: torch.Tensor,
    down_RH: torch.Tensor,
    seeds_M: torch.Tensor,
    dropout: float,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up `[T, 2H]` and of A `[R, H]`, where x is silu(gate)·up.

    As `lora_down_backward` and then `swiglu_backward`, without x.

    Args:
        grad_TH: Gradient of x from the base weights.
        grad_TR: Gradient of x·Aᵀ.
    """
    x_TH = both_TO.new_empty(grad_TH.shape)
    swiglu(both_TO, x_TH)
    grad_x_TH = grad_TH.clone()
    grads = lora_down_backward(
        x_TH, grad_TR[:, None], down_RH[None], seeds_M, dropout, scale, grad_x_TH
    )
    return swiglu_backward(grad_x_TH, both_TO), grads[0]


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
    grad_KV = torch.exp(wide_KV - normaliser_K[:, None])
    grad_KV[torch.arange(len(targets_K), device=targets_K.device), targets_K] -= 1
    logits_KV.copy_(grad_KV * real_K[:, None])
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
