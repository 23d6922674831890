"""The narrow products of LoRA with dropout, as Triton kernels; see `reference.lora_down`.

Shapes: T = tokens, H = width of the input, O = twice that (gate and up), M = modules that share an
input, R = adapter rank, S = splits of a sum.
"""

# mypy: ignore-errors
# Types mean nothing to Triton, which reads these functions' source.
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from personaspace.fastlora.reference import threshold


@dataclass(frozen=True)
class Tiles:
    """How a kernel is cut: a tile's rows and columns, programs along the sum, warps, stages."""

    rows: int
    columns: int
    splits: int
    warps: int
    stages: int


@triton.jit
def _mix(x):
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
def _keep(seed, rows, columns, limit):
    """Bool `[rows, columns]`; see `reference.keep_mask`."""
    row = _mix(rows.to(tl.uint32) * 0x85EBCA6B + seed.to(tl.uint32))
    column = _mix(columns.to(tl.uint32) * 0x9E3779B9)
    odd = (row * 0x846CA68B) | 1
    drawn = (row[:, None] ^ column[None, :]) * odd[:, None]
    return drawn.to(tl.int32, bitcast=True) >= limit


@triton.jit
def _dot(a, b, EXACT: tl.constexpr):
    # TF32, Triton's default for float32, would round more than the tests allow.
    if EXACT:
        return tl.dot(a, b, input_precision="ieee")
    return tl.dot(a, b)


@triton.jit
def _sigmoid(x, EXACT: tl.constexpr):
    if EXACT:
        return tl.sigmoid(x)
    # Four instructions, right to 2⁻²¹; the library's twenty would bound the kernel below.
    return tl.inline_asm_elementwise(
        "{ .reg .f32 t; mul.f32 t, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 t, t; "
        "add.f32 t, t, 0f3F800000; rcp.approx.ftz.f32 $0, t; }",
        "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def _tile(x, stride, rows, columns, T, H):
    at = x + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    return tl.load(at, mask=(rows < T)[:, None] & (columns < H)[None, :], other=0.0)


@triton.jit
def _gather(partial, out, out_stride, out_module, count, SPLITS, WIDTH: tl.constexpr,
            RANK: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(SPLITS):
        total += tl.load(partial + split * count + places, mask=inside, other=0.0)
    across = places % WIDTH
    to = out + (places // WIDTH).to(tl.int64) * out_stride + across // RANK * out_module
    tl.store(to + across % RANK, total.to(out.dtype.element_ty), mask=inside)


def _gathered(partial_STMR, out_TMR):
    """Adds up what the splits found, into `out_TMR`.

    In a fixed order, unlike atomic additions: the same input gives the same bits.
    """
    splits, T, M, R = partial_STMR.shape
    count = T * M * R
    _gather[(triton.cdiv(count, 1024),)](
        partial_STMR, out_TMR, out_TMR.stride(0), out_TMR.stride(1), count, splits, WIDTH=M * R,
        RANK=R, BLOCK=1024,
    )  # fmt: skip


@triton.jit
def _down(x, x_stride, down, seeds, partial, T, H, per_split, limit, scale,
          MODULES: tl.constexpr, RANK: tl.constexpr, DROPOUT: tl.constexpr, EXACT: tl.constexpr,
          BM: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    module = tl.program_id(0) % MODULES
    rows = tl.program_id(0) // MODULES * BM + tl.arange(0, BM)
    split = tl.program_id(1)
    ranks = tl.arange(0, RANK)
    seed = tl.load(seeds + module)
    total = tl.zeros([BM, RANK], tl.float32)
    for start in range(split * per_split, min(split * per_split + per_split, H), BK):
        columns = start + tl.arange(0, BK)
        tile = _tile(x, x_stride, rows, columns, T, H)
        if DROPOUT:
            tile = tl.where(_keep(seed, rows, columns, limit), tile, 0.0)
        on_down = down + (module * RANK + ranks)[None, :] * H + columns[:, None]
        weights = tl.load(on_down, mask=(columns < H)[:, None], other=0.0)
        total += _dot(tile, weights, EXACT)
    to = partial + (split.to(tl.int64) * T + rows[:, None]) * (MODULES * RANK)
    tl.store(to + module * RANK + ranks[None, :], total * scale, mask=(rows < T)[:, None])


def _down_tiles(M: int) -> Tiles:
    return {3: Tiles(64, 128, 2, 4, 3), 2: Tiles(64, 64, 4, 4, 3)}.get(M, Tiles(64, 128, 8, 8, 3))


def lora_down(x_TH, down_MRH, seeds_M, dropout, scale, out_TMR, tiles=None):
    """See `reference.lora_down`."""
    T, H = x_TH.shape
    M, R, _ = down_MRH.shape
    tiles = tiles or _down_tiles(M)
    per_split = triton.cdiv(triton.cdiv(H, tiles.columns), tiles.splits) * tiles.columns
    splits = triton.cdiv(H, per_split)
    partial = torch.empty(splits, T, M, R, dtype=torch.float32, device=x_TH.device)
    _down[(triton.cdiv(T, tiles.rows) * M, splits)](
        x_TH, x_TH.stride(0), down_MRH, seeds_M, partial, T, H, per_split, threshold(dropout),
        scale / (1 - dropout), MODULES=M, RANK=R, DROPOUT=dropout > 0,
        EXACT=x_TH.dtype == torch.float32, BM=tiles.rows, BK=tiles.columns,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    _gathered(partial, out_TMR)


@triton.jit
def _gated_down(both, x, x_stride, down, seeds, partial, T, WIDTH, per_split, limit, scale,
                RANK: tl.constexpr, DROPOUT: tl.constexpr, EXACT: tl.constexpr,
                BM: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    split = tl.program_id(1)
    ranks = tl.arange(0, RANK)
    seed = tl.load(seeds)
    total = tl.zeros([BM, RANK], tl.float32)
    for start in range(split * per_split, min(split * per_split + per_split, WIDTH), BK):
        columns = start + tl.arange(0, BK)
        gate = _tile(both, 2 * WIDTH, rows, columns, T, WIDTH)
        up = _tile(both + WIDTH, 2 * WIDTH, rows, columns, T, WIDTH)
        wide = gate.to(tl.float32)
        tile = (wide * _sigmoid(wide, EXACT)).to(gate.dtype) * up
        to = x + rows.to(tl.int64)[:, None] * x_stride + columns[None, :]
        tl.store(to, tile, mask=(rows < T)[:, None] & (columns < WIDTH)[None, :])
        if DROPOUT:
            tile = tl.where(_keep(seed, rows, columns, limit), tile, 0.0)
        on_down = down + ranks[None, :] * WIDTH + columns[:, None]
        weights = tl.load(on_down, mask=(columns < WIDTH)[:, None], other=0.0)
        total += _dot(tile, weights, EXACT)
    to = partial + (split.to(tl.int64) * T + rows[:, None]) * RANK + ranks[None, :]
    tl.store(to, total * scale, mask=(rows < T)[:, None])


def _gated_down_tiles() -> Tiles:
    return Tiles(32, 128, 8, 4, 3)


def gated_down(both_TO, down_RH, seeds_M, dropout, scale, x_TH, out_TR, tiles=None):
    """See `reference.gated_down`."""
    T, width = x_TH.shape
    R = len(down_RH)
    tiles = tiles or _gated_down_tiles()
    per_split = triton.cdiv(triton.cdiv(width, tiles.columns), tiles.splits) * tiles.columns
    splits = triton.cdiv(width, per_split)
    partial = torch.empty(splits, T, 1, R, dtype=torch.float32, device=x_TH.device)
    _gated_down[(triton.cdiv(T, tiles.rows), splits)](
        both_TO, x_TH, x_TH.stride(0), down_RH, seeds_M, partial, T, width, per_split,
        threshold(dropout), scale / (1 - dropout), RANK=R, DROPOUT=dropout > 0,
        EXACT=x_TH.dtype == torch.float32, BM=tiles.rows, BK=tiles.columns,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    _gathered(partial, out_TR[:, None])


@triton.jit
def _module_backward(tile, grad, grad_stride, down, seed, rows, columns, T, H, limit,
                     RANK: tl.constexpr, DROPOUT: tl.constexpr, EXACT: tl.constexpr):  # fmt: skip
    """What a module adds to the gradient of x, and to that of A."""
    ranks = tl.arange(0, RANK)
    g = _tile(grad, grad_stride, rows, ranks, T, RANK)
    moved = _dot(g, _tile(down, H, ranks, columns, RANK, H), EXACT)
    if DROPOUT:
        keep = _keep(seed, rows, columns, limit)
        tile = tl.where(keep, tile, 0.0)
        moved = tl.where(keep, moved, 0.0)
    return moved, _dot(tl.trans(g), tile, EXACT)


@triton.jit
def _backward(x, x_stride, grad, grad_stride, grad_module, down, seeds, out, out_stride, partial,
              T, H, per_split, limit, scale, MODULES: tl.constexpr, RANK: tl.constexpr,
              DROPOUT: tl.constexpr, NEED_X: tl.constexpr, EXACT: tl.constexpr, BM: tl.constexpr,
              BN: tl.constexpr):  # fmt: skip
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    split = tl.program_id(1)
    ranks = tl.arange(0, RANK)
    learned0 = tl.zeros([RANK, BN], tl.float32)
    learned1 = tl.zeros([RANK, BN], tl.float32)
    learned2 = tl.zeros([RANK, BN], tl.float32)
    for start in range(split * per_split, min(split * per_split + per_split, T), BM):
        rows = start + tl.arange(0, BM)
        tile = _tile(x, x_stride, rows, columns, T, H)
        moved, more = _module_backward(tile, grad, grad_stride, down, tl.load(seeds), rows, columns,
                                       T, H, limit, RANK, DROPOUT, EXACT)  # fmt: skip
        learned0 += more
        if MODULES > 1:
            other, more = _module_backward(tile, grad + grad_module, grad_stride, down + RANK * H,
                                           tl.load(seeds + 1), rows, columns, T, H, limit,
                                           RANK, DROPOUT, EXACT)  # fmt: skip
            moved += other
            learned1 += more
        if MODULES > 2:
            other, more = _module_backward(tile, grad + 2 * grad_module, grad_stride,
                                           down + 2 * RANK * H, tl.load(seeds + 2), rows, columns,
                                           T, H, limit, RANK, DROPOUT, EXACT)  # fmt: skip
            moved += other
            learned2 += more
        if NEED_X:
            to = out + rows.to(tl.int64)[:, None] * out_stride + columns[None, :]
            inside = (rows < T)[:, None] & (columns < H)[None, :]
            before = tl.load(to, mask=inside, other=0.0).to(tl.float32)
            tl.store(to, (before + moved * scale).to(out.dtype.element_ty), mask=inside)
    to = partial + split.to(tl.int64) * MODULES * RANK * H + ranks[:, None] * H + columns[None, :]
    inside = (columns < H)[None, :]
    tl.store(to, learned0 * scale, mask=inside)
    if MODULES > 1:
        tl.store(to + RANK * H, learned1 * scale, mask=inside)
    if MODULES > 2:
        tl.store(to + 2 * RANK * H, learned2 * scale, mask=inside)


def _backward_tiles(M: int) -> Tiles:
    return Tiles(64, 64, 16, 8 if M == 3 else 4, 3)


def lora_down_backward(x_TH, grad_TMR, down_MRH, seeds_M, dropout, scale, grad_x_TH, tiles=None):
    """See `reference.lora_down_backward`."""
    T, H = x_TH.shape
    M, R, _ = down_MRH.shape
    tiles = tiles or _backward_tiles(M)
    per_split = triton.cdiv(triton.cdiv(T, tiles.rows), tiles.splits) * tiles.rows
    splits = triton.cdiv(T, per_split)
    out_TH = x_TH if grad_x_TH is None else grad_x_TH
    partial = torch.empty(splits, M, R, H, dtype=torch.float32, device=x_TH.device)
    _backward[(triton.cdiv(H, tiles.columns), splits)](
        x_TH, x_TH.stride(0), grad_TMR, grad_TMR.stride(0), grad_TMR.stride(1), down_MRH,
        seeds_M, out_TH, out_TH.stride(0), partial, T, H, per_split, threshold(dropout),
        scale / (1 - dropout), MODULES=M, RANK=R, DROPOUT=dropout > 0,
        NEED_X=grad_x_TH is not None, EXACT=x_TH.dtype == torch.float32,
        BM=tiles.rows, BN=tiles.columns, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return partial[0] if splits == 1 else partial.sum(0)


@triton.jit
def _gated_backward(both, grad, grad_stride, grad_low, down, seeds, out, partial, T, WIDTH,
                    per_split, limit, scale, RANK: tl.constexpr, DROPOUT: tl.constexpr,
                    EXACT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    split = tl.program_id(1)
    ranks = tl.arange(0, RANK)
    seed = tl.load(seeds)
    learned = tl.zeros([RANK, BN], tl.float32)
    for start in range(split * per_split, min(split * per_split + per_split, T), BM):
        rows = start + tl.arange(0, BM)
        gate = _tile(both, 2 * WIDTH, rows, columns, T, WIDTH)
        up = _tile(both + WIDTH, 2 * WIDTH, rows, columns, T, WIDTH)
        s = _tile(grad, grad_stride, rows, columns, T, WIDTH).to(tl.float32)
        wide = gate.to(tl.float32)
        sigmoid = _sigmoid(wide, EXACT)
        x = (wide * sigmoid).to(gate.dtype) * up
        moved, more = _module_backward(x, grad_low, grad_stride, down, seed, rows, columns, T,
                                       WIDTH, limit, RANK, DROPOUT, EXACT)  # fmt: skip
        learned += more
        s += moved * scale
        active = wide * sigmoid
        grad_gate = s * up.to(tl.float32) * (sigmoid + active - active * sigmoid)
        at = out + rows.to(tl.int64)[:, None] * 2 * WIDTH + columns[None, :]
        inside = (rows < T)[:, None] & (columns < WIDTH)[None, :]
        tl.store(at, grad_gate.to(out.dtype.element_ty), mask=inside)
        tl.store(at + WIDTH, (s * active).to(out.dtype.element_ty), mask=inside)
    to = partial + split.to(tl.int64) * RANK * WIDTH + ranks[:, None] * WIDTH + columns[None, :]
    tl.store(to, learned * scale, mask=(columns < WIDTH)[None, :])


def _gated_tiles() -> Tiles:
    # Small tiles: several of them on a multiprocessor hide each other's waits.
    return Tiles(64, 32, 8, 4, 3)


def gated_backward(both_TO, grad_TH, grad_TR, down_RH, seeds_M, dropout, scale, tiles=None):
    """See `reference.gated_backward`."""
    T, width = grad_TH.shape
    R = len(down_RH)
    tiles = tiles or _gated_tiles()
    per_split = triton.cdiv(triton.cdiv(T, tiles.rows), tiles.splits) * tiles.rows
    splits = triton.cdiv(T, per_split)
    out_TO = torch.empty_like(both_TO)
    partial = torch.empty(splits, R, width, dtype=torch.float32, device=both_TO.device)
    assert grad_TH.stride(0) == grad_TR.stride(0)
    _gated_backward[(triton.cdiv(width, tiles.columns), splits)](
        both_TO, grad_TH, grad_TH.stride(0), grad_TR, down_RH, seeds_M, out_TO, partial,
        T, width, per_split, threshold(dropout), scale / (1 - dropout), RANK=R,
        DROPOUT=dropout > 0, EXACT=both_TO.dtype == torch.float32, BM=tiles.rows,
        BN=tiles.columns, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out_TO, partial[0] if splits == 1 else partial.sum(0)
