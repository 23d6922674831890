"""Row-wise quantisation to float8_e4m3fn as a Triton kernel: a row is read, scaled and written.

Shapes: T = rows, P = rows filled up, K = columns.
"""

# mypy: ignore-errors
# Types mean nothing to Triton, which reads these functions' source.
from __future__ import annotations

import torch
import triton
import triton.language as tl

#: As in `fp8`: a row without a number as large as this counts as zeros.
LEAST = tl.constexpr(1e-30)
#: Rows of at most so many columns stay in registers between the two passes over them.
ONE_PASS = 8192


@triton.jit
def _quantise(x, x_stride, out, scales, T, K, LARGEST: tl.constexpr, ONE: tl.constexpr,
              BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    real = row < T
    from_row = x + row * x_stride
    to_row = out + row * K
    if ONE:
        held = tl.load(from_row + places, mask=real & (places < K), other=0.0).to(tl.float32)
        highest = tl.max(tl.abs(held), 0)
    else:
        most = tl.zeros([BLOCK], tl.float32)
        for start in range(0, K, BLOCK):
            inside = real & (start + places < K)
            part = tl.load(from_row + start + places, mask=inside, other=0.0).to(tl.float32)
            most = tl.maximum(most, tl.abs(part))
        highest = tl.max(most, 0)
    # A row of zeros, as of those that fill up, has the scale 1.
    highest = tl.where(highest > LEAST, highest, LARGEST)
    factor = LARGEST / highest
    tl.store(scales + row, highest / LARGEST)
    if ONE:
        scaled = tl.minimum(tl.maximum(held * factor, -LARGEST), LARGEST)
        tl.store(to_row + places, scaled.to(out.dtype.element_ty), mask=places < K)
    else:
        for start in range(0, K, BLOCK):
            inside = real & (start + places < K)
            part = tl.load(from_row + start + places, mask=inside, other=0.0).to(tl.float32)
            scaled = tl.minimum(tl.maximum(part * factor, -LARGEST), LARGEST)
            to = to_row + start + places
            tl.store(to, scaled.to(out.dtype.element_ty), mask=start + places < K)


def quantise(x_TK: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fp8.quantise_plainly`."""
    T, K = x_TK.shape
    assert x_TK.stride(1) == 1
    out_PK = torch.empty(rows, K, dtype=torch.float8_e4m3fn, device=x_TK.device)
    scale_P1 = torch.empty(rows, 1, dtype=torch.float32, device=x_TK.device)
    one = K <= ONE_PASS
    block = triton.next_power_of_2(K) if one else ONE_PASS // 2
    _quantise[(rows,)](
        x_TK, x_TK.stride(0), out_PK, scale_P1, T, K, LARGEST=torch.finfo(out_PK.dtype).max,
        ONE=one, BLOCK=block, num_warps=8 if block >= 2048 else 4,
    )  # fmt: skip
    return out_PK, scale_P1
