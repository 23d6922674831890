"""Attention that rounds the same way every time, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def steady_attention(device: torch.device) -> Iterator[None]:
    """On a CPU, use PyTorch's plain attention kernel.

    The fused CPU kernel gives each thread a scratch buffer of another alignment, and the products
    in it then round differently: a row's last bits depend on which thread gets the row, that is on
    its place in the batch. The plain kernel costs about a tenth more time.
    """
    if device.type != "cpu":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield
