"""The Triton kernels against their plain formulas: on a GPU, or anywhere by Triton's interpreter.

Without a GPU: `TRITON_INTERPRET=1 python -m pytest tests/test_fastlora_kernels.py`, where the
package triton is installed.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import pytest
import torch

from personaspace.fastlora import reference
from personaspace.fastlora.head_norms import HeadNorms

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from personaspace.fastlora import attention_kernels, kernels, lora_kernels  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
#: In float32 both round alike; the interpreter knows no bfloat16.
DTYPES = [torch.float32] if INTERPRETED else [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 6e-3}

everywhere = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def draw(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


def poisoned(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Memory in which whatever is not written shows."""
    return torch.full(shape, torch.nan, device=DEVICE, dtype=dtype)


def check(found: Any, wanted: Any, dtype: torch.dtype) -> None:
    pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
    for one, other in pairs:
        one, other = one.double(), other.double()
        assert float((one - other).norm()) <= TOLERANCE[dtype] * float(other.norm())


@everywhere
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("added", [True, False])
def test_norm(dtype: torch.dtype, added: bool, late: bool) -> None:
    tokens, width = 37, 96
    residual, weight = draw(tokens, width, dtype=dtype), draw(width, dtype=dtype)
    delta = draw(tokens, width, dtype=dtype) if added else None
    outs = [poisoned(tokens, width + 5, dtype=dtype)[:, :width] for _ in range(2)]
    found = kernels.add_rms_norm(residual, delta, weight, 1e-6, outs[0], late)
    wanted = reference.add_rms_norm(residual, delta, weight, 1e-6, outs[1], late)
    check((*found, outs[0]), (*wanted, outs[1]), dtype)
    total, rstd = wanted
    grad = draw(tokens, width + 5, dtype=dtype)[:, :width]
    for more in (None, draw(tokens, width, dtype=dtype)):
        back = (grad, more, total, weight, rstd)
        check(kernels.add_rms_norm_backward(*back), reference.add_rms_norm_backward(*back), dtype)


@everywhere
@pytest.mark.parametrize("half", [8, 12])  # 12: no power of two
@pytest.mark.parametrize("normed", ["no", "head", "whole"])
def test_rotation(dtype: torch.dtype, half: int, normed: str) -> None:
    tokens, heads, kv_heads = 37, 5, 2
    qkv = draw(tokens, (heads + 2 * kv_heads) * 2 * half, dtype=dtype)
    cos, sin = (draw(tokens, half, dtype=dtype) for _ in range(2))
    whole, norms = normed == "whole", None
    if normed != "no":
        weights = [draw(2 * half * (n if whole else 1), dtype=dtype) for n in (heads, kv_heads)]
        norms = HeadNorms(weights[0], weights[1], 1e-6, whole, late=whole)
    found: Any = kernels.rotate(qkv, cos, sin, heads, kv_heads, norms)
    check(found, reference.rotate(qkv, cos, sin, heads, kv_heads, norms), dtype)
    grads = tuple(torch.randn_like(x) for x in found)
    back: tuple[Any, ...] = (*grads, cos, sin, qkv, norms)
    check(kernels.rotate_backward(*back), reference.rotate_backward(*back), dtype)
    if norms is None:
        check(kernels.rotate_backward(*back[:5]), reference.rotate_backward(*back), dtype)
    elif dtype is torch.float32:
        wide = qkv.clone().requires_grad_()
        outs = reference.rotate(wide, cos, sin, heads, kv_heads, norms)
        (wanted,) = torch.autograd.grad(outs, wide, grads)
        check(kernels.rotate_backward(*back), wanted, dtype)


@everywhere
def test_gate(dtype: torch.dtype) -> None:
    tokens, width = 21, 1500
    both = draw(tokens, 2 * width, dtype=dtype) * 3
    outs = [poisoned(tokens, width + 7, dtype=dtype)[:, :width] for _ in range(2)]
    kernels.swiglu(both, outs[0])
    reference.swiglu(both, outs[1])
    check(outs[0], outs[1], dtype)
    grad = draw(tokens, width + 9, dtype=dtype)[:, :width]
    check(kernels.swiglu_backward(grad, both), reference.swiglu_backward(grad, both), dtype)


@everywhere
def test_cross_entropy(dtype: torch.dtype) -> None:
    logits = draw(5, 9001, dtype=dtype) * 4
    targets = torch.tensor([0, 9000, 17, 4095, -1], device=DEVICE)
    other = logits.clone()
    check(
        kernels.cross_entropy(logits, targets),
        reference.cross_entropy(other, targets),
        torch.float32,
    )
    check(logits, other, dtype)
    assert not logits[4].any(), "no target, no gradient"


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one thread")
def test_no_loss_is_read_late() -> None:
    """A gradient lies where its logit lay; a quick warp writes it while a slow one still reads."""
    logits = draw(20_000, 8192, dtype=torch.bfloat16)
    # Of the columns that are written first, those of other warps than the one that reads.
    targets = torch.randint(512, 4096, (20_000,), device=DEVICE)
    losses = [kernels.cross_entropy(logits.clone(), targets) for _ in range(50)]
    assert all(each.equal(losses[0]) for each in losses)


@everywhere
def test_means_over_ranges(dtype: torch.dtype) -> None:
    residual, delta = draw(40, 700, dtype=dtype), draw(40, 700, dtype=dtype)
    starts, stops = (torch.tensor(v, device=DEVICE) for v in ([0, 3, 5, 39], [1, 3, 20, 40]))
    found = kernels.range_means(residual, delta, starts, stops)
    check(found, reference.range_means(residual, delta, starts, stops), dtype)
    assert not found[1].any(), "an empty range"


@everywhere
@pytest.mark.parametrize("tokens", [70, 200])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("modules", [1, 2, 3])
def test_narrow_products(dtype: torch.dtype, tokens: int, dropout: float, modules: int) -> None:
    width, rank = 200, 16
    x = draw(tokens, width + 9, dtype=dtype)[:, :width]
    down = draw(modules, rank, width, dtype=dtype)
    seeds = torch.tensor([5, -7, 123456789], dtype=torch.int32, device=DEVICE)[:modules]
    scaled = (down, seeds, dropout, 2.0)
    outs = [poisoned(tokens, modules, rank + 4, dtype=dtype)[:, :, :rank] for _ in range(2)]
    lora_kernels.lora_down(x, *scaled, outs[0])
    reference.lora_down(x, *scaled, outs[1])
    check(outs[0], outs[1], dtype)
    grad = draw(tokens, modules, rank + 4, dtype=dtype)[:, :, :rank]
    moved = [draw(tokens, width + 3, dtype=dtype)] * 2
    moved = [tensor.clone() for tensor in moved]
    for needed in (True, False):
        found, wanted = (
            ops.lora_down_backward(x, grad, *scaled, tensor[:, :width] if needed else None)
            for ops, tensor in zip((lora_kernels, reference), moved, strict=True)
        )
        check(found, wanted, dtype)
        check(moved[0], moved[1], dtype)


@everywhere
@pytest.mark.parametrize("tokens", [70, 200])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gated_backward(dtype: torch.dtype, tokens: int, dropout: float) -> None:
    width, rank = 200, 16
    both = draw(tokens, 2 * width, dtype=dtype)
    grad = draw(tokens, width + rank, dtype=dtype)
    down = draw(rank, width, dtype=dtype)
    seeds = torch.tensor([77], dtype=torch.int32, device=DEVICE)
    given = (both, grad[:, :width], grad[:, width:], down, seeds, dropout, 2.0)
    check(lora_kernels.gated_backward(*given), reference.gated_backward(*given), dtype)


@everywhere
@pytest.mark.parametrize("tokens", [70, 200])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gated_forward(dtype: torch.dtype, tokens: int, dropout: float) -> None:
    width, rank = 200, 16
    both = draw(tokens, 2 * width, dtype=dtype) * 3
    down = draw(rank, width, dtype=dtype)
    seeds = torch.tensor([77], dtype=torch.int32, device=DEVICE)
    found, wanted = (poisoned(tokens, width + rank + 4, dtype=dtype) for _ in range(2))
    for ops, out in ((lora_kernels, found), (reference, wanted)):
        low = out[:, width : width + rank]
        ops.gated_down(both, down, seeds, dropout, 2.0, out[:, :width], low)
    check(found[:, : width + rank], wanted[:, : width + rank], dtype)
    assert found[:, width + rank :].isnan().all(), "writes beyond its place"


@everywhere
@pytest.mark.parametrize("window", [0, 3, 20, 70])
@pytest.mark.parametrize("size", [16, 64])
def test_attention(dtype: torch.dtype, size: int, window: int) -> None:
    """Sequences of one token, of whole tiles, and of a tile and a bit; heads share keys."""
    how = (0.7 * size**-0.5, window)
    starts = torch.tensor([0, 1, 65, 140], dtype=torch.int32, device=DEVICE)
    q, grad = (draw(140, 6, size, dtype=dtype) for _ in range(2))
    k, v = (draw(140, 2, size, dtype=dtype) for _ in range(2))
    wide = [x.float().requires_grad_() for x in (q, k, v)]
    out, normalisers = attention_of(wide[0], wide[1], wide[2], starts.tolist(), *how)
    wanted = torch.autograd.grad(out, wide, grad.float())
    for ops in (attention_kernels, reference):
        wide_out = poisoned(140, 6 * size + 8, dtype=dtype)
        seen = wide_out[:, : 6 * size].unflatten(1, (6, size))
        found = ops.attend(q, k, v, starts, 75, seen, *how)
        check((seen, found), (out.detach(), normalisers), dtype)
        assert wide_out[:, 6 * size :].isnan().all(), "writes beyond its place"
        wide_grad = torch.cat([grad.flatten(1), draw(140, 8, dtype=dtype)], 1)
        grads = wide_grad[:, : 6 * size].unflatten(1, (6, size))
        back = ops.attend_backward(grads, q, k, v, seen, found, starts, 75, *how)
        check(back, tuple(x.detach() for x in wanted), dtype)


def attention_of(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    starts: list[int],
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The textbook formula; and the logarithms of the sums of exponentials `[A, T]`."""
    outs, normalisers = [], []
    for start, stop in pairwise(starts):
        keys, values = (x[start:stop].repeat_interleave(3, 1) for x in (k, v))
        logits = torch.einsum("tad,sad->ats", q[start:stop], keys) * scale
        places = torch.arange(stop - start, device=DEVICE)
        back = places[:, None] - places[None, :]
        hidden = (back < 0) | (back >= window) if window else back < 0
        logits = logits.masked_fill(hidden, -torch.inf)
        normalisers.append(logits.detach().logsumexp(-1))
        outs.append(torch.einsum("ats,sad->tad", logits.softmax(-1), values))
    return torch.cat(outs), torch.cat(normalisers, 1).contiguous()
