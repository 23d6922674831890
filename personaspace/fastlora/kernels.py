"""The operations of `reference` as Triton kernels; same names, arguments and results.

Each reads its inputs once and writes its outputs once: they are bound by memory, and PyTorch's own
operations would take several passes. Dropout masks are made again in the backward pass from their
seeds, so none is stored. Shapes as in `reference`.
"""

# mypy: ignore-errors
# Types mean nothing to Triton, which reads these functions' source.
from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _add_rms_norm(residual, delta, weight, total, normed, normed_stride, rstd, eps, H,
                  ADD: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    x = tl.load(residual + row * H + columns, mask=inside, other=0.0)
    if ADD:
        x = x + tl.load(delta + row * H + columns, mask=inside, other=0.0)
        tl.store(total + row * H + columns, x, mask=inside)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide) / H + eps)
    tl.store(rstd + row, scale)
    unit = (wide * scale).to(x.dtype)
    w = tl.load(weight + columns, mask=inside, other=0.0)
    tl.store(normed + row * normed_stride + columns, w * unit, mask=inside)


def add_rms_norm(residual_TH, delta_TH, weight_H, eps, out_TH):
    """See `reference.add_rms_norm`."""
    T, H = residual_TH.shape
    sum_TH = residual_TH if delta_TH is None else torch.empty_like(residual_TH)
    rstd_T = torch.empty(T, dtype=torch.float32, device=residual_TH.device)
    _add_rms_norm[(T,)](
        residual_TH, residual_TH if delta_TH is None else delta_TH, weight_H, sum_TH, out_TH,
        out_TH.stride(0), rstd_T, eps, H, ADD=delta_TH is not None,
        BLOCK=triton.next_power_of_2(H), num_warps=8,
    )  # fmt: skip
    return sum_TH, rstd_T


@triton.jit
def _add_rms_norm_backward(grad_normed, grad_stride, grad_sum, total, weight, rstd, out, H,
                           ADD: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    scale = tl.load(rstd + row)
    unit = tl.load(total + row * H + columns, mask=inside, other=0.0).to(tl.float32) * scale
    wide = tl.load(grad_normed + row * grad_stride + columns, mask=inside, other=0.0)
    wide = wide.to(tl.float32)
    wide *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    grad = scale * (wide - unit * (tl.sum(wide * unit) / H))
    if ADD:
        grad += tl.load(grad_sum + row * H + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * H + columns, grad.to(out.dtype.element_ty), mask=inside)


def add_rms_norm_backward(grad_normed_TH, grad_sum_TH, sum_TH, weight_H, rstd_T):
    """See `reference.add_rms_norm_backward`."""
    T, H = sum_TH.shape
    out_TH = torch.empty_like(sum_TH)
    add = grad_sum_TH is not None
    _add_rms_norm_backward[(T,)](
        grad_normed_TH, grad_normed_TH.stride(0),
        grad_sum_TH.contiguous() if add else sum_TH, sum_TH, weight_H, rstd_T, out_TH, H,
        ADD=add, BLOCK=triton.next_power_of_2(H), num_warps=8,
    )  # fmt: skip
    return out_TH


@triton.jit
def _rotate(qkv, q, k, v, cos, sin, HEADS, KV_HEADS, BACKWARD: tl.constexpr, HALF: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK)[:, None]
    place = tl.arange(0, HALF)[None, :]
    c = tl.load(cos + token * HALF + place).to(tl.float32)
    s = tl.load(sin + token * HALF + place).to(tl.float32)
    width = 2 * HALF
    joint = qkv + token * (HEADS + 2 * KV_HEADS) * width + head * width + place
    is_q = head < HEADS
    is_k = (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_v = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
    on_q = q + token * HEADS * width + head * width + place
    on_k = k + token * KV_HEADS * width + (head - HEADS) * width + place
    on_v = v + token * KV_HEADS * width + (head - HEADS - KV_HEADS) * width + place
    if BACKWARD:
        low = tl.load(on_q, mask=is_q, other=0.0).to(tl.float32)
        low += tl.load(on_k, mask=is_k, other=0.0).to(tl.float32)
        low += tl.load(on_v, mask=is_v, other=0.0).to(tl.float32)
        high = tl.load(on_q + HALF, mask=is_q, other=0.0).to(tl.float32)
        high += tl.load(on_k + HALF, mask=is_k, other=0.0).to(tl.float32)
        high += tl.load(on_v + HALF, mask=is_v, other=0.0).to(tl.float32)
        s = -s
    else:
        inside = head < HEADS + 2 * KV_HEADS
        low = tl.load(joint, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(joint + HALF, mask=inside, other=0.0).to(tl.float32)
    turned_low = tl.where(is_v, low, low * c - high * s).to(qkv.dtype.element_ty)
    turned_high = tl.where(is_v, high, high * c + low * s).to(qkv.dtype.element_ty)
    if BACKWARD:
        inside = head < HEADS + 2 * KV_HEADS
        tl.store(joint, turned_low, mask=inside)
        tl.store(joint + HALF, turned_high, mask=inside)
    else:
        tl.store(on_q, turned_low, mask=is_q)
        tl.store(on_q + HALF, turned_high, mask=is_q)
        tl.store(on_k, turned_low, mask=is_k)
        tl.store(on_k + HALF, turned_high, mask=is_k)
        tl.store(on_v, turned_low, mask=is_v)
        tl.store(on_v + HALF, turned_high, mask=is_v)


def rotate(qkv_TE, cos_TD, sin_TD, heads, kv_heads):
    """See `reference.rotate`."""
    T, half = cos_TD.shape
    q = qkv_TE.new_empty(T, heads, 2 * half)
    k = qkv_TE.new_empty(T, kv_heads, 2 * half)
    v = qkv_TE.new_empty(T, kv_heads, 2 * half)
    block = triton.next_power_of_2(heads + 2 * kv_heads)
    _rotate[(T,)](qkv_TE, q, k, v, cos_TD, sin_TD, heads, kv_heads,
                  BACKWARD=False, HALF=half, BLOCK=block)  # fmt: skip
    return q, k, v


def rotate_backward(q_TXD, k_TXD, v_TXD, cos_TD, sin_TD):
    """See `reference.rotate_backward`."""
    T, half = cos_TD.shape
    heads, kv_heads = q_TXD.shape[1], k_TXD.shape[1]
    qkv_TE = q_TXD.new_empty(T, (heads + 2 * kv_heads) * 2 * half)
    block = triton.next_power_of_2(heads + 2 * kv_heads)
    parts = (part.contiguous() for part in (q_TXD, k_TXD, v_TXD))
    _rotate[(T,)](qkv_TE, *parts, cos_TD, sin_TD, heads, kv_heads,
                  BACKWARD=True, HALF=half, BLOCK=block)  # fmt: skip
    return qkv_TE


@triton.jit
def _swiglu(both, grad, grad_stride, out, out_stride, WIDTH, BACKWARD: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    on_gate = row * 2 * WIDTH + columns
    gate = tl.load(both + on_gate, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + on_gate + WIDTH, mask=inside, other=0.0)
    sigmoid = tl.sigmoid(gate)
    to = out + row * out_stride + columns
    if BACKWARD:
        s = tl.load(grad + row * grad_stride + columns, mask=inside, other=0.0).to(tl.float32)
        grad_gate = s * up.to(tl.float32) * sigmoid * (1.0 + gate * (1.0 - sigmoid))
        tl.store(to, grad_gate.to(up.dtype), mask=inside)
        tl.store(to + WIDTH, (s * gate * sigmoid).to(up.dtype), mask=inside)
    else:
        tl.store(to, (gate * sigmoid).to(up.dtype) * up, mask=inside)


def swiglu(both_TO, out_TO):
    """See `reference.swiglu`."""
    T, width = out_TO.shape
    grid = (T, triton.cdiv(width, 1024))
    _swiglu[grid](both_TO, both_TO, 0, out_TO, out_TO.stride(0), width, BACKWARD=False, BLOCK=1024)


def swiglu_backward(grad_TO, both_TO):
    """See `reference.swiglu_backward`."""
    T, width = grad_TO.shape
    out = torch.empty_like(both_TO)
    grid = (T, triton.cdiv(width, 1024))
    _swiglu[grid](both_TO, grad_TO, grad_TO.stride(0), out, 2 * width, width,
                  BACKWARD=True, BLOCK=1024)  # fmt: skip
    return out


@triton.jit
def _cross_entropy(logits, targets, losses, V, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * V
    places = tl.arange(0, BLOCK)
    target = tl.load(targets + row)
    real = target >= 0
    # Read here, since the sums below make warps wait for each other: after them, a quick warp
    # writes the gradient over it before a slow one has read it.
    wanted = tl.load(base + target, mask=real, other=0.0).to(tl.float32)
    highest = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        x = tl.load(base + start + places, mask=start + places < V, other=-float("inf"))
        x = x.to(tl.float32)
        higher = tl.maximum(highest, x)
        # exp(-inf + inf) is no number: where nothing was seen yet, nothing is carried on.
        carried = tl.where(highest == -float("inf"), 0.0, total * tl.exp(highest - higher))
        total = carried + tl.where(x == -float("inf"), 0.0, tl.exp(x - higher))
        highest = higher
    top = tl.max(highest)
    total = tl.sum(tl.where(highest == -float("inf"), 0.0, total * tl.exp(highest - top)))
    normaliser = top + tl.log(total)
    tl.store(losses + row, tl.where(real, normaliser - wanted, 0.0))
    for start in range(0, V, BLOCK):
        inside = start + places < V
        x = tl.load(base + start + places, mask=inside, other=-float("inf")).to(tl.float32)
        grad = tl.exp(x - normaliser) - tl.where(start + places == target, 1.0, 0.0)
        grad = tl.where(real, grad, 0.0)
        tl.store(base + start + places, grad.to(logits.dtype.element_ty), mask=inside)


def cross_entropy(logits_KV, targets_K):
    """See `reference.cross_entropy`."""
    K, V = logits_KV.shape
    losses_K = torch.empty(K, dtype=torch.float32, device=logits_KV.device)
    _cross_entropy[(K,)](logits_KV, targets_K, losses_K, V, BLOCK=4096, num_warps=8)
    return losses_K


@triton.jit
def _range_means(residual, delta, starts, stops, out, H, BLOCK: tl.constexpr):
    number = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < H
    start = tl.load(starts + number)
    stop = tl.load(stops + number)
    total = tl.zeros([BLOCK], tl.float32)
    for token in range(start, stop):
        at = token * H + columns  # the ranges are int64, and so is this
        x = tl.load(residual + at, mask=inside, other=0.0)
        total += (x + tl.load(delta + at, mask=inside, other=0.0)).to(tl.float32)
    count = tl.maximum(stop - start, 1).to(tl.float32)
    tl.store(out + number * H + columns, total / count, mask=inside)


def range_means(residual_TH, delta_TH, starts_N, stops_N):
    """See `reference.range_means`."""
    N, H = len(starts_N), residual_TH.shape[1]
    out_NH = torch.empty(N, H, dtype=torch.float32, device=residual_TH.device)
    grid = (N, triton.cdiv(H, 512))
    _range_means[grid](residual_TH, delta_TH, starts_N, stops_N, out_NH, H, BLOCK=512)
    return out_NH
