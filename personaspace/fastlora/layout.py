"""Sequences laid end to end, as tensors on a device.

Shapes: T = tokens with padding, S = sequences, K = tokens with loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

#: Rows are filled up to a multiple of so many tokens: whole tiles for the GEMMs, and few different
#: sizes for the allocator.
PAD_MULTIPLE = 128


@dataclass(frozen=True)
class Layout:
    """Where each sequence of a row begins and what its attention may see.

    The padding at the end is a sequence of its own, which nothing reads.

    Attributes:
        ids_T: Tokens.
        positions_T: Position of each token within its own sequence (after its prefix, if any).
        cu_seqlens_S1: First token of each sequence, and the end: FlashAttention's cumulative
            lengths; int32.
        max_seqlen: Tokens of the longest sequence.
        cu_seqlens_k_S1: The same for keys; differs where sequences go on from a prefix.
        max_seqlen_k: Keys of the longest sequence.
        keys_X: Where each key stands among prefix keys followed by the row's own, or None.
        tokens: Tokens without padding.
    """

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    cu_seqlens_S1: torch.Tensor
    max_seqlen: int
    cu_seqlens_k_S1: torch.Tensor
    max_seqlen_k: int
    keys_X: torch.Tensor | None
    tokens: int

    def __len__(self) -> int:
        return len(self.ids_T)


def _device_copy(values: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    tensor = torch.tensor(values, dtype=dtype)
    if device.type == "cuda":
        # From pinned memory the copy does not wait for the GPU.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def lay_out(
    sequences: Sequence[Sequence[int]],
    device: torch.device,
    prefixes: Sequence[tuple[int, int]] | None = None,
    prefix_tokens: int = 0,
) -> Layout:
    """Sequences end to end, filled up.

    Args:
        sequences: Tokens of each, none empty.
        prefixes: For each sequence where its prefix starts and how long it is, among all prefixes'
            tokens; None without prefixes.
        prefix_tokens: Tokens of all prefixes, with padding.
    """
    ids: list[int] = []
    positions: list[int] = []
    cu_seqlens, cu_seqlens_k, max_seqlen_k = [0], [0], 0
    keys: list[int] = []
    for number, sequence in enumerate(sequences):
        begin, length = prefixes[number] if prefixes is not None else (0, 0)
        if prefixes is not None:
            keys.extend(range(begin, begin + length))
            first = prefix_tokens + len(ids)
            keys.extend(range(first, first + len(sequence)))
        ids.extend(sequence)
        positions.extend(range(length, length + len(sequence)))
        cu_seqlens.append(len(ids))
        cu_seqlens_k.append(cu_seqlens_k[-1] + length + len(sequence))
        max_seqlen_k = max(max_seqlen_k, length + len(sequence))
    tokens = len(ids)
    padding = -tokens % PAD_MULTIPLE
    max_seqlen = max(max(map(len, sequences)), padding)
    if padding:
        if prefixes is not None:
            keys.extend(range(prefix_tokens + tokens, prefix_tokens + tokens + padding))
        ids.extend([0] * padding)
        positions.extend(range(padding))
        cu_seqlens.append(len(ids))
        cu_seqlens_k.append(cu_seqlens_k[-1] + padding)
    cu_seqlens_S1 = _device_copy(cu_seqlens, torch.int32, device)
    return Layout(
        ids_T=_device_copy(ids, torch.long, device),
        positions_T=_device_copy(positions, torch.long, device),
        cu_seqlens_S1=cu_seqlens_S1,
        max_seqlen=max_seqlen,
        cu_seqlens_k_S1=(
            cu_seqlens_S1 if prefixes is None else _device_copy(cu_seqlens_k, torch.int32, device)
        ),
        max_seqlen_k=max(max_seqlen_k, padding),
        keys_X=None if prefixes is None else _device_copy(keys, torch.long, device),
        tokens=tokens,
    )
