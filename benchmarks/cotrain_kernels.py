"""`fastlora.lora_kernels` for rows in segments of equal length, each with adapters of its own.

The kernels are those of one adapter, at addresses moved by a third number of the grid, the segment;
so rows are counted from the segment's beginning, by which dropout draws its masks. Tiles and splits
are those of a segment alone. Shapes as there; C = segments, T = rows of all segments.
"""

# mypy: ignore-errors
# Types mean nothing to Triton, which reads these functions' source.
from __future__ import annotations

import torch
import triton
import triton.language as tl

from personaspace.fastlora.lora_kernels import (
    _backward,
    _backward_tiles,
    _down,
    _down_tiles,
    _gated_backward,
    _gated_down,
    _gated_down_tiles,
    _gated_tiles,
    _gather,
)
from personaspace.fastlora.reference import threshold


@triton.jit
def _gathers(partial, out, out_stride, out_module, count, rows, SPLITS, WIDTH: tl.constexpr,
             RANK: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    segment = tl.program_id(2).to(tl.int64)
    _gather(partial + segment * SPLITS * count, out + segment * rows * out_stride, out_stride,
            out_module, count, SPLITS, WIDTH, RANK, BLOCK)  # fmt: skip


def _gathered(partial_CSTMR, out_TMR):
    segments, splits, rows, M, R = partial_CSTMR.shape
    count = rows * M * R
    _gathers[(triton.cdiv(count, 1024), 1, segments)](
        partial_CSTMR, out_TMR, out_TMR.stride(0), out_TMR.stride(1), count, rows, splits,
        WIDTH=M * R, RANK=R, BLOCK=1024,
    )  # fmt: skip


@triton.jit
def _downs(x, x_stride, down, seeds, partial, partial_segment, T, H, per_split, limit, scale,
           MODULES: tl.constexpr, RANK: tl.constexpr, DROPOUT: tl.constexpr, EXACT: tl.constexpr,
           BM: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    segment = tl.program_id(2).to(tl.int64)
    _down(x + segment * T * x_stride, x_stride, down + segment * MODULES * RANK * H,
          seeds + segment * MODULES, partial + segment * partial_segment, T, H, per_split, limit,
          scale, MODULES, RANK, DROPOUT, EXACT, BM, BK)  # fmt: skip


def lora_down(x_TH, down_CMRH, seeds_CM, dropout, scale, out_TMR):
    """See `reference.lora_down`, of each segment."""
    C, M, R, H = down_CMRH.shape
    rows, tiles = len(x_TH) // C, _down_tiles(M)
    per_split = triton.cdiv(triton.cdiv(H, tiles.columns), tiles.splits) * tiles.columns
    splits = triton.cdiv(H, per_split)
    partial = torch.empty(C, splits, rows, M, R, dtype=torch.float32, device=x_TH.device)
    _downs[(triton.cdiv(rows, tiles.rows) * M, splits, C)](
        x_TH, x_TH.stride(0), down_CMRH, seeds_CM, partial, partial.stride(0), rows, H, per_split,
        threshold(dropout), scale / (1 - dropout), MODULES=M, RANK=R, DROPOUT=dropout > 0,
        EXACT=x_TH.dtype == torch.float32, BM=tiles.rows, BK=tiles.columns,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    _gathered(partial, out_TMR)


@triton.jit
def _gated_downs(both, x, x_stride, down, seeds, partial, partial_segment, T, WIDTH, per_split,
                 limit, scale, RANK: tl.constexpr, DROPOUT: tl.constexpr, EXACT: tl.constexpr,
                 BM: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    segment = tl.program_id(2).to(tl.int64)
    _gated_down(both + segment * T * 2 * WIDTH, x + segment * T * x_stride, x_stride,
                down + segment * RANK * WIDTH, seeds + segment, partial + segment * partial_segment,
                T, WIDTH, per_split, limit, scale, RANK, DROPOUT, EXACT, BM, BK)  # fmt: skip


def gated_down(both_TO, down_CRH, seeds_C, dropout, scale, x_TH, out_TR):
    """See `reference.gated_down`, of each segment."""
    C, R, width = down_CRH.shape
    rows, tiles = len(x_TH) // C, _gated_down_tiles()
    per_split = triton.cdiv(triton.cdiv(width, tiles.columns), tiles.splits) * tiles.columns
    splits = triton.cdiv(width, per_split)
    partial = torch.empty(C, splits, rows, 1, R, dtype=torch.float32, device=x_TH.device)
    _gated_downs[(triton.cdiv(rows, tiles.rows), splits, C)](
        both_TO, x_TH, x_TH.stride(0), down_CRH, seeds_C, partial, partial.stride(0), rows, width,
        per_split, threshold(dropout), scale / (1 - dropout), RANK=R, DROPOUT=dropout > 0,
        EXACT=x_TH.dtype == torch.float32, BM=tiles.rows, BK=tiles.columns,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    _gathered(partial, out_TR[:, None])


@triton.jit
def _backwards(x, x_stride, grad, grad_stride, grad_module, down, seeds, out, out_stride, partial,
               partial_segment, T, H, per_split, limit, scale, MODULES: tl.constexpr,
               RANK: tl.constexpr, DROPOUT: tl.constexpr, NEED_X: tl.constexpr,
               EXACT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    segment = tl.program_id(2).to(tl.int64)
    _backward(x + segment * T * x_stride, x_stride, grad + segment * T * grad_stride, grad_stride,
              grad_module, down + segment * MODULES * RANK * H, seeds + segment * MODULES,
              out + segment * T * out_stride, out_stride, partial + segment * partial_segment,
              T, H, per_split, limit, scale, MODULES, RANK, DROPOUT, NEED_X, EXACT, BM,
              BN)  # fmt: skip


def lora_down_backward(x_TH, grad_TMR, down_CMRH, seeds_CM, dropout, scale, grad_x_TH):
    """See `reference.lora_down_backward`, of each segment: `[C, M, R, H]`."""
    C, M, R, H = down_CMRH.shape
    rows, tiles = len(x_TH) // C, _backward_tiles(M)
    per_split = triton.cdiv(triton.cdiv(rows, tiles.rows), tiles.splits) * tiles.rows
    splits = triton.cdiv(rows, per_split)
    out_TH = x_TH if grad_x_TH is None else grad_x_TH
    partial = torch.empty(C, splits, M, R, H, dtype=torch.float32, device=x_TH.device)
    _backwards[(triton.cdiv(H, tiles.columns), splits, C)](
        x_TH, x_TH.stride(0), grad_TMR, grad_TMR.stride(0), grad_TMR.stride(1), down_CMRH, seeds_CM,
        out_TH, out_TH.stride(0), partial, partial.stride(0), rows, H, per_split,
        threshold(dropout), scale / (1 - dropout), MODULES=M, RANK=R, DROPOUT=dropout > 0,
        NEED_X=grad_x_TH is not None, EXACT=x_TH.dtype == torch.float32,
        BM=tiles.rows, BN=tiles.columns, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return partial.sum(1)


@triton.jit
def _gated_backwards(both, grad, grad_stride, grad_low, down, seeds, out, partial, partial_segment,
                     T, WIDTH, per_split, limit, scale, RANK: tl.constexpr, DROPOUT: tl.constexpr,
                     EXACT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    segment = tl.program_id(2).to(tl.int64)
    wide = segment * T * 2 * WIDTH
    _gated_backward(both + wide, grad + segment * T * grad_stride, grad_stride,
                    grad_low + segment * T * grad_stride, down + segment * RANK * WIDTH,
                    seeds + segment, out + wide, partial + segment * partial_segment, T, WIDTH,
                    per_split, limit, scale, RANK, DROPOUT, EXACT, BM, BN)  # fmt: skip


def gated_backward(both_TO, grad_TH, grad_TR, down_CRH, seeds_C, dropout, scale):
    """See `reference.gated_backward`, of each segment: `[T, 2H]` and `[C, R, H]`."""
    C, R, width = down_CRH.shape
    rows, tiles = len(grad_TH) // C, _gated_tiles()
    per_split = triton.cdiv(triton.cdiv(rows, tiles.rows), tiles.splits) * tiles.rows
    splits = triton.cdiv(rows, per_split)
    out_TO = torch.empty_like(both_TO)
    partial = torch.empty(C, splits, R, width, dtype=torch.float32, device=both_TO.device)
    assert grad_TH.stride(0) == grad_TR.stride(0)
    _gated_backwards[(triton.cdiv(width, tiles.columns), splits, C)](
        both_TO, grad_TH, grad_TH.stride(0), grad_TR, down_CRH, seeds_C, out_TO, partial,
        partial.stride(0), rows, width, per_split, threshold(dropout), scale / (1 - dropout),
        RANK=R, DROPOUT=dropout > 0, EXACT=both_TO.dtype == torch.float32, BM=tiles.rows,
        BN=tiles.columns, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out_TO, partial.sum(1)
