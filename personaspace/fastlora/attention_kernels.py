"""Causal attention within sequences that lie end to end, and its gradients, as Triton kernels.

The algorithm is FlashAttention-2's (Dao 2023), cut for chats of some hundred tokens. Where several
query heads share keys and values, one program sums over them, so that no gradient is kept for each
head and added up afterwards; queries have a kernel of their own, so that nothing is added in
memory. See `reference.attend`.

Shapes: T = tokens, S = sequences, A = heads, G = key-value heads, D = head size.
"""

# mypy: ignore-errors
# Types mean nothing to Triton, which reads these functions' source.
from __future__ import annotations

import torch
import triton
import triton.language as tl

from personaspace.fastlora.lora_kernels import Tiles, _dot

#: Sizes of heads that the kernels take.
HEAD_SIZES = (16, 32, 64, 128)


@triton.jit
def _attend(q, k, v, out, out_stride, lse, cu_seqlens, T, scale, window, HEADS, KV_HEADS,
            D: tl.constexpr, WINDOWED: tl.constexpr, EXACT: tl.constexpr, BM: tl.constexpr,
            BN: tl.constexpr):  # fmt: skip
    head = tl.program_id(0) % HEADS
    sequence = tl.program_id(0) // HEADS
    start = tl.load(cu_seqlens + sequence)
    stop = tl.load(cu_seqlens + sequence + 1)
    # The last rows see the most keys and so go first.
    first = start + (tl.num_programs(1) - 1 - tl.program_id(1)) * BM
    if first < stop:
        rows = first + tl.arange(0, BM)
        place = tl.arange(0, D)
        inside = rows < stop
        at = rows.to(tl.int64)[:, None] * HEADS * D + head * D + place[None, :]
        queries = tl.load(q + at, mask=inside[:, None], other=0.0)
        total = tl.zeros([BM, D], tl.float32)
        # Without a window every row sees the first key, so that no row's highest stays infinite.
        highest = tl.full([BM], -float("inf"), tl.float32)
        norm = tl.zeros([BM], tl.float32)
        lowest = start
        if WINDOWED:
            lowest = max(start, first - window + 1)
        for key in range(lowest, min(first + BM, stop), BN):
            keys = key + tl.arange(0, BN)
            on = keys.to(tl.int64)[:, None] * KV_HEADS * D + place[None, :]
            on += head // (HEADS // KV_HEADS) * D
            k_tile = tl.load(k + on, mask=(keys < stop)[:, None], other=0.0)
            v_tile = tl.load(v + on, mask=(keys < stop)[:, None], other=0.0)
            logits = _dot(queries, tl.trans(k_tile), EXACT) * (scale * 1.4426950408889634)
            logits = tl.where(keys[None, :] <= rows[:, None], logits, -float("inf"))
            if WINDOWED:
                near = rows[:, None] - keys[None, :] < window
                logits = tl.where(near, logits, -float("inf"))
            higher = tl.maximum(highest, tl.max(logits, 1))
            base = higher
            if WINDOWED:
                base = tl.where(higher == -float("inf"), 0.0, higher)
            weights = tl.exp2(logits - base[:, None])
            carried = tl.exp2(highest - base)
            norm = norm * carried + tl.sum(weights, 1)
            total = total * carried[:, None] + _dot(weights.to(v_tile.dtype), v_tile, EXACT)
            highest = higher
        to = out + rows.to(tl.int64)[:, None] * out_stride + head * D + place[None, :]
        kind = out.dtype.element_ty
        tl.store(to, (total / norm[:, None]).to(kind), mask=inside[:, None])
        normaliser = (highest + tl.log2(norm)) * 0.6931471805599453
        tl.store(lse + head * T + rows, normaliser, mask=inside)


@triton.jit
def _attend_grad_q(q, k, v, out, out_stride, grad, grad_stride, lse, delta, grad_q, cu_seqlens, T,
                   scale, window, HEADS, KV_HEADS, D: tl.constexpr, WINDOWED: tl.constexpr,
                   EXACT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """Gradient of the queries; on the way the rows' products of output and its gradient."""
    head = tl.program_id(0) % HEADS
    sequence = tl.program_id(0) // HEADS
    start = tl.load(cu_seqlens + sequence)
    stop = tl.load(cu_seqlens + sequence + 1)
    # The last rows see the most keys and so go first.
    first = start + (tl.num_programs(1) - 1 - tl.program_id(1)) * BM
    if first < stop:
        rows = first + tl.arange(0, BM)
        place = tl.arange(0, D)
        inside = rows < stop
        at = rows.to(tl.int64)[:, None] * HEADS * D + head * D + place[None, :]
        queries = tl.load(q + at, mask=inside[:, None], other=0.0)
        wide, across = rows.to(tl.int64)[:, None], head * D + place[None, :]
        grads = tl.load(grad + wide * grad_stride + across, mask=inside[:, None], other=0.0)
        seen = tl.load(out + wide * out_stride + across, mask=inside[:, None], other=0.0)
        inner = tl.sum(seen.to(tl.float32) * grads.to(tl.float32), 1)
        tl.store(delta + head * T + rows, inner, mask=inside)
        normaliser = tl.load(lse + head * T + rows, mask=inside, other=0.0) * 1.4426950408889634
        total = tl.zeros([BM, D], tl.float32)
        lowest = start
        if WINDOWED:
            lowest = max(start, first - window + 1)
        for key in range(lowest, min(first + BM, stop), BN):
            keys = key + tl.arange(0, BN)
            on = keys.to(tl.int64)[:, None] * KV_HEADS * D + place[None, :]
            on += head // (HEADS // KV_HEADS) * D
            k_tile = tl.load(k + on, mask=(keys < stop)[:, None], other=0.0)
            v_tile = tl.load(v + on, mask=(keys < stop)[:, None], other=0.0)
            logits = _dot(queries, tl.trans(k_tile), EXACT) * (scale * 1.4426950408889634)
            weights = tl.exp2(logits - normaliser[:, None])
            weights = tl.where(keys[None, :] <= rows[:, None], weights, 0.0)
            if WINDOWED:
                weights = tl.where(rows[:, None] - keys[None, :] < window, weights, 0.0)
            moved = weights * (_dot(grads, tl.trans(v_tile), EXACT) - inner[:, None])
            total += _dot(moved.to(k_tile.dtype), k_tile, EXACT)
        tl.store(grad_q + at, (total * scale).to(grad_q.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _attend_grad_kv(q, k, v, grad, grad_stride, lse, delta, grad_k, grad_v, cu_seqlens, T, scale,
                    window, HEADS, KV_HEADS, D: tl.constexpr, WINDOWED: tl.constexpr,
                    EXACT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """Gradients of keys and values, summed over the query heads that share them."""
    kv_head = tl.program_id(0) % KV_HEADS
    sequence = tl.program_id(0) // KV_HEADS
    start = tl.load(cu_seqlens + sequence)
    stop = tl.load(cu_seqlens + sequence + 1)
    first = start + tl.program_id(1) * BN
    if first < stop:
        keys = first + tl.arange(0, BN)
        place = tl.arange(0, D)
        inside = keys < stop
        on = keys.to(tl.int64)[:, None] * KV_HEADS * D + kv_head * D + place[None, :]
        k_tile = tl.load(k + on, mask=inside[:, None], other=0.0)
        v_tile = tl.load(v + on, mask=inside[:, None], other=0.0)
        total_k = tl.zeros([BN, D], tl.float32)
        total_v = tl.zeros([BN, D], tl.float32)
        last = stop
        if WINDOWED:
            last = min(stop, first + BN - 1 + window)
        blocks = tl.cdiv(last - first, BM)
        # Heads and rows in one loop: the next tile is on its way across heads too.
        for turn in range(blocks * (HEADS // KV_HEADS)):
            head = kv_head * (HEADS // KV_HEADS) + turn // blocks
            rows = first + turn % blocks * BM + tl.arange(0, BM)
            at = rows.to(tl.int64)[:, None] * HEADS * D + head * D + place[None, :]
            queries = tl.load(q + at, mask=(rows < stop)[:, None], other=0.0)
            at = rows.to(tl.int64)[:, None] * grad_stride + head * D + place[None, :]
            grads = tl.load(grad + at, mask=(rows < stop)[:, None], other=0.0)
            normaliser = tl.load(lse + head * T + rows, mask=rows < stop, other=0.0)
            inner = tl.load(delta + head * T + rows, mask=rows < stop, other=0.0)
            logits = _dot(k_tile, tl.trans(queries), EXACT) * (scale * 1.4426950408889634)
            weights = tl.exp2(logits - normaliser[None, :] * 1.4426950408889634)
            weights = tl.where(keys[:, None] <= rows[None, :], weights, 0.0)
            if WINDOWED:
                weights = tl.where(rows[None, :] - keys[:, None] < window, weights, 0.0)
            total_v += _dot(weights.to(grads.dtype), grads, EXACT)
            moved = weights * (_dot(v_tile, tl.trans(grads), EXACT) - inner[None, :])
            total_k += _dot(moved.to(queries.dtype), queries, EXACT)
        kind = grad_k.dtype.element_ty
        tl.store(grad_k + on, (total_k * scale).to(kind), mask=inside[:, None])
        tl.store(grad_v + on, total_v.to(kind), mask=inside[:, None])


def attend(q_TAD, k_TGD, v_TGD, cu_seqlens_S1, max_seqlen, out_TAD, scale, window=0, tiles=None):
    """See `reference.attend`."""
    T, A, D = q_TAD.shape
    tiles = tiles or Tiles(64, 32, 1, 4, 3)
    lse_AT = torch.empty(A, T, dtype=torch.float32, device=q_TAD.device)
    _attend[(A * (len(cu_seqlens_S1) - 1), triton.cdiv(max_seqlen, tiles.rows))](
        q_TAD, k_TGD, v_TGD, out_TAD, out_TAD.stride(0), lse_AT, cu_seqlens_S1, T, scale, window,
        A, k_TGD.shape[1], D=D, WINDOWED=window > 0, EXACT=q_TAD.dtype == torch.float32,
        BM=tiles.rows, BN=tiles.columns, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return lse_AT


def attend_backward(
    grad_TAD, q_TAD, k_TGD, v_TGD, out_TAD, lse_AT, cu_seqlens_S1, max_seqlen, scale, window=0,
    tiles=None,
):  # fmt: skip
    """See `reference.attend_backward`."""
    T, A, D = q_TAD.shape
    G = k_TGD.shape[1]
    on_q, on_k = tiles or (Tiles(64, 32, 1, 4, 3), Tiles(32, 64, 1, 4, 3))
    grads = [torch.empty_like(x) for x in (q_TAD, k_TGD, v_TGD)]
    delta_AT = torch.empty_like(lse_AT)
    sequences = len(cu_seqlens_S1) - 1
    how = {"D": D, "WINDOWED": window > 0, "EXACT": q_TAD.dtype == torch.float32}
    _attend_grad_q[(A * sequences, triton.cdiv(max_seqlen, on_q.rows))](
        q_TAD, k_TGD, v_TGD, out_TAD, out_TAD.stride(0), grad_TAD, grad_TAD.stride(0), lse_AT,
        delta_AT, grads[0], cu_seqlens_S1, T, scale, window, A, G, **how,
        BM=on_q.rows, BN=on_q.columns, num_warps=on_q.warps, num_stages=on_q.stages,
    )  # fmt: skip
    _attend_grad_kv[(G * sequences, triton.cdiv(max_seqlen, on_k.columns))](
        q_TAD, k_TGD, v_TGD, grad_TAD, grad_TAD.stride(0), lse_AT, delta_AT, grads[1],
        grads[2], cu_seqlens_S1, T, scale, window, A, G, **how,
        BM=on_k.rows, BN=on_k.columns, num_warps=on_k.warps, num_stages=on_k.stages,
    )  # fmt: skip
    return tuple(grads)
