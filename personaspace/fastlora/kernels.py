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
                  ADD: tl.constexpr, LATE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
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
    w = tl.load(weight + columns, mask=inside, other=0.0)
    if LATE:
        unit = (w.to(tl.float32) * (wide * scale)).to(x.dtype)
    else:
        unit = w * (wide * scale).to(x.dtype)
    tl.store(normed + row * normed_stride + columns, unit, mask=inside)


def add_rms_norm(residual_TH, delta_TH, weight_H, eps, out_TH, late=False):
    """See `reference.add_rms_norm`."""
    T, H = residual_TH.shape
    sum_TH = residual_TH if delta_TH is None else torch.empty_like(residual_TH)
    rstd_T = torch.empty(T, dtype=torch.float32, device=residual_TH.device)
    _add_rms_norm[(T,)](
        residual_TH, residual_TH if delta_TH is None else delta_TH, weight_H, sum_TH, out_TH,
        out_TH.stride(0), rstd_T, eps, H, ADD=delta_TH is not None, LATE=late,
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
def _halves(x, inside, HALF: tl.constexpr):
    low = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    return low, tl.load(x + HALF, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _over(low, high, is_q, is_k, HEADS, KV_HEADS, HALF: tl.constexpr, WHOLE: tl.constexpr):
    """Mean over a head, or over all queries and over all keys, `[X, 1]`."""
    each = tl.sum(low, 1, keep_dims=True) + tl.sum(high, 1, keep_dims=True)
    if WHOLE:
        of_q = tl.sum(tl.where(is_q, each, 0.0)) / (HEADS * 2 * HALF)
        of_k = tl.sum(tl.where(is_k, each, 0.0)) / (KV_HEADS * 2 * HALF)
        return tl.where(is_q, of_q, of_k)
    return each / (2 * HALF)


@triton.jit
def _rotate(qkv, grad, q, k, v, cos, sin, q_weight, k_weight, eps, HEADS, KV_HEADS,
            BACKWARD: tl.constexpr, NORM: tl.constexpr, WHOLE: tl.constexpr, LATE: tl.constexpr,
            HALF: tl.constexpr, PLACES: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK)[:, None]
    place = tl.arange(0, PLACES)[None, :]
    real = place < HALF
    c = tl.load(cos + token * HALF + place, mask=real, other=0.0).to(tl.float32)
    s = tl.load(sin + token * HALF + place, mask=real, other=0.0).to(tl.float32)
    width = 2 * HALF
    at = token * (HEADS + 2 * KV_HEADS) * width + head * width + place
    is_q = head < HEADS
    is_k = (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_v = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
    inside = (head < HEADS + 2 * KV_HEADS) & real
    on_q = q + token * HEADS * width + head * width + place
    on_k = k + token * KV_HEADS * width + (head - HEADS) * width + place
    on_v = v + token * KV_HEADS * width + (head - HEADS - KV_HEADS) * width + place
    kind = qkv.dtype.element_ty
    if NORM:
        x_low, x_high = _halves(qkv + at, inside, HALF)
        scale = _over(x_low * x_low, x_high * x_high, is_q, is_k, HEADS, KV_HEADS, HALF, WHOLE)
        scale = tl.rsqrt(scale + eps)
        of_q = q_weight + place + head * (width if WHOLE else 0)
        of_k = k_weight + place + (head - HEADS) * (width if WHOLE else 0)
        w_low, w_high = _halves(of_q, is_q & real, HALF)
        wk_low, wk_high = _halves(of_k, is_k & real, HALF)
        w_low += wk_low
        w_high += wk_high
    if BACKWARD:
        low, high = _halves(on_q, is_q & real, HALF)
        k_low, k_high = _halves(on_k, is_k & real, HALF)
        v_low, v_high = _halves(on_v, is_v & real, HALF)
        low += k_low + v_low
        high += k_high + v_high
        s = -s
    elif NORM:
        if LATE:
            low = (x_low * scale * w_low).to(kind).to(tl.float32)
            high = (x_high * scale * w_high).to(kind).to(tl.float32)
        else:
            low = ((x_low * scale).to(kind).to(tl.float32) * w_low).to(kind).to(tl.float32)
            high = ((x_high * scale).to(kind).to(tl.float32) * w_high).to(kind).to(tl.float32)
        low = tl.where(is_v, x_low, low)
        high = tl.where(is_v, x_high, high)
    else:
        low, high = _halves(qkv + at, inside, HALF)
    turned_low = tl.where(is_v, low, low * c - high * s)
    turned_high = tl.where(is_v, high, high * c + low * s)
    if BACKWARD:
        if NORM:
            x_low *= scale
            x_high *= scale
            g_low = turned_low * w_low
            g_high = turned_high * w_high
            inner = _over(g_low * x_low, g_high * x_high, is_q, is_k, HEADS, KV_HEADS, HALF, WHOLE)
            turned_low = tl.where(is_v, low, scale * (g_low - x_low * inner))
            turned_high = tl.where(is_v, high, scale * (g_high - x_high * inner))
        tl.store(grad + at, turned_low.to(kind), mask=inside)
        tl.store(grad + at + HALF, turned_high.to(kind), mask=inside)
    else:
        turned_low = turned_low.to(kind)
        turned_high = turned_high.to(kind)
        tl.store(on_q, turned_low, mask=is_q & real)
        tl.store(on_q + HALF, turned_high, mask=is_q & real)
        tl.store(on_k, turned_low, mask=is_k & real)
        tl.store(on_k + HALF, turned_high, mask=is_k & real)
        tl.store(on_v, turned_low, mask=is_v & real)
        tl.store(on_v + HALF, turned_high, mask=is_v & real)


def _rotated(qkv_TE, out_TE, parts, cos_TD, sin_TD, norms, backward):
    T, half = cos_TD.shape
    heads, kv_heads = parts[0].shape[1], parts[1].shape[1]
    norm = norms is not None
    places, block = triton.next_power_of_2(half), triton.next_power_of_2(heads + 2 * kv_heads)
    _rotate[(T,)](
        qkv_TE, out_TE, *parts, cos_TD, sin_TD, norms.q_weight if norm else cos_TD,
        norms.k_weight if norm else cos_TD, norms.eps if norm else 0.0, heads, kv_heads,
        BACKWARD=backward, NORM=norm, WHOLE=norm and norms.whole, LATE=norm and norms.late,
        HALF=half, PLACES=places, BLOCK=block,
        # Norms hold six numbers for each of a thread's: twice the threads keep them in registers.
        num_warps=(8 if block * places <= 4096 else 16) if norm else 4,
    )  # fmt: skip


def rotate(qkv_TE, cos_TD, sin_TD, heads, kv_heads, norms=None):
    """See `reference.rotate`."""
    T, half = cos_TD.shape
    parts = [qkv_TE.new_empty(T, count, 2 * half) for count in (heads, kv_heads, kv_heads)]
    _rotated(qkv_TE, qkv_TE, parts, cos_TD, sin_TD, norms, False)
    return tuple(parts)


def rotate_backward(q_TXD, k_TXD, v_TXD, cos_TD, sin_TD, qkv_TE=None, norms=None):
    """See `reference.rotate_backward`."""
    T, half = cos_TD.shape
    heads, kv_heads = q_TXD.shape[1], k_TXD.shape[1]
    grad_TE = q_TXD.new_empty(T, (heads + 2 * kv_heads) * 2 * half)
    parts = [part.contiguous() for part in (q_TXD, k_TXD, v_TXD)]
    _rotated(grad_TE if qkv_TE is None else qkv_TE, grad_TE, parts, cos_TD, sin_TD, norms, True)
    return grad_TE


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
