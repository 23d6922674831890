"""Decoding many rows at once with a transformers model: rows come and go, each with its own seed.

Shapes: R = rows in flight, V = vocabulary, C = columns of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
)

#: Columns by which a row cache grows.
_GROWTH = 128
#: Matrix kernels treat fewer rows than this differently, and the last bits with them.
MIN_ROWS = 16


def draw_tokens(
    scores_RV: torch.Tensor, uniform_R: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """`[R]` next tokens, each drawn with the row's own random number.

    A token is where the number falls in the cumulative distribution (inverse transform sampling),
    so an answer depends on its own seed and logits alone, never on which others share its batch.

    Args:
        scores_RV: Logits.
        uniform_R: A uniform number in [0, 1) for each row, float64.
        temperature: Divides the logits; 0 takes the most likely token.
        top_p: Nucleus mass kept (Holtzman et al. 2020), 1 keeps all.
    """
    if temperature == 0:
        return scores_RV.float().argmax(dim=-1)
    # float64: a cumulative sum of 150,000 float32 terms would be off by more than the
    # rounding of another batch size, and could then tip a draw.
    probabilities_RV = torch.softmax(scores_RV.double() / temperature, dim=-1)
    uniform_R1 = uniform_R[:, None]
    if top_p >= 1:
        return _place(probabilities_RV, uniform_R1)[:, 0]
    sorted_RV, order_RV = probabilities_RV.sort(dim=-1, descending=True, stable=True)
    before_RV = sorted_RV.cumsum(-1) - sorted_RV
    sorted_RV = sorted_RV.masked_fill(before_RV >= top_p, 0.0)
    return order_RV.gather(-1, _place(sorted_RV, uniform_R1))[:, 0]


def _place(weights_RV: torch.Tensor, uniform_R1: torch.Tensor) -> torch.Tensor:
    cumulative_RV = weights_RV.cumsum(-1)
    target_R1 = uniform_R1 * cumulative_RV[:, -1:]
    index_R1 = torch.searchsorted(cumulative_RV, target_R1, right=True)
    return index_R1.clamp_(max=weights_RV.shape[-1] - 1)


def uniforms(seeds: Sequence[int], count: int) -> torch.Tensor:
    """`[row, count]` uniform numbers in [0, 1), float64, each row from its own seed."""
    # Not torch's generator: it keeps 32 bits of its seed, so that two of 50,000 answers would
    # share all their numbers in one study of four.
    rows = [np.random.Generator(np.random.PCG64(seed)).random(count) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


class _RowLayer(DynamicLayer):
    """Keys and values `[R, heads, C, head size]` of rows that stand at different lengths."""

    def __init__(self, rows: RowCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows = rows

    def put(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """A prompt's keys and values `[heads, columns, head size]` into a row, from the left."""
        if not self.is_initialized:
            shape = (self._rows.count, keys.shape[0], 0, keys.shape[2])
            self.keys, self.values = keys.new_zeros(shape), values.new_zeros(shape)
            self.dtype, self.device = keys.dtype, keys.device
            self.is_initialized = True
        self._grow(keys.shape[1])
        assert self.keys is not None and self.values is not None
        self.keys[row, :, : keys.shape[1]] = keys
        self.values[row, :, : keys.shape[1]] = values

    def _grow(self, columns: int) -> None:
        assert self.keys is not None and self.values is not None
        more = columns - self.keys.shape[2]
        if more > 0:
            padding = (0, 0, 0, -(-more // _GROWTH) * _GROWTH)
            self.keys = torch.nn.functional.pad(self.keys, padding)
            self.values = torch.nn.functional.pad(self.values, padding)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One token a row, each at its row's own column."""
        at, longest = self._rows.columns_R, self._rows.longest
        self._grow(longest)
        assert self.keys is not None and self.values is not None
        row = torch.arange(len(at), device=at.device)
        self.keys[row, :, at] = key_states[:, :, 0]
        self.values[row, :, at] = value_states[:, :, 0]
        return self.keys[:, :, :longest], self.values[:, :, :longest]

    def get_seq_length(self) -> int:
        """As if all rows were as long as the longest: the mask tells them apart."""
        return self._rows.longest - 1

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Only keep these rows."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[indices], self.values[indices]


class RowCache(Cache):
    """A cache whose rows are filled and refilled one by one.

    Args:
        layers: Layers of the model, all with full attention.
        count: Rows.
        device: Where it lies.
    """

    def __init__(self, layers: int, count: int, device: torch.device) -> None:
        self.count = count
        self.columns_R = torch.zeros(count, dtype=torch.long, device=device)
        self.longest = 1
        super().__init__(layers=[_RowLayer(self) for _ in range(layers)])

    def put(self, row: int, source: DynamicCache, source_row: int) -> None:
        """Fill a row with a prompt's keys and values."""
        for layer, other in zip(self.layers, source.layers, strict=True):
            assert isinstance(layer, _RowLayer) and isinstance(other, DynamicLayer)
            assert other.keys is not None and other.values is not None
            layer.put(row, other.keys[source_row], other.values[source_row])


def can_refill(cache: DynamicCache) -> bool:
    """Whether a model whose plain cache this is can use a `RowCache`: full attention throughout."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def select_rows(cache: Cache, rows_R: torch.Tensor) -> None:
    """Only keep these rows of a cache, be it keys and values or states."""
    layer: Any
    for layer in cache.layers:
        # The former moves keys and values beside a state as well.
        stateful = isinstance(layer, LinearAttentionCacheLayerMixin)
        (layer.reorder_cache if stateful else layer.batch_select_indices)(rows_R)


@dataclass
class Flight:
    """Rows that are being answered, as tensors on the model's device.

    Attributes:
        cache: Keys and values of all but each row's newest token.
        mask_RC: Columns that a row attends to, the newest token's included.
        columns_R: Column of each row's newest token.
        positions_R: Its position in the text, padding not counted.
        newest_R: It.
        uniforms_RN: A random number for each token to come; greedy answers do not look at them.
        steps_R: Tokens drawn so far.
    """

    cache: Cache
    mask_RC: torch.Tensor
    columns_R: torch.Tensor
    positions_R: torch.Tensor
    newest_R: torch.Tensor
    uniforms_RN: torch.Tensor
    steps_R: torch.Tensor

    def step(self, model: Any, temperature: float, top_p: float) -> list[int]:
        """Each row's next token; rows that are done get one as well, and it means nothing."""
        longest = int(self.columns_R.max()) + 1
        if isinstance(self.cache, RowCache):
            self.cache.columns_R, self.cache.longest = self.columns_R, longest
        logits_RV = model(
            input_ids=self.newest_R[:, None],
            attention_mask=self.mask_RC[:, :longest],
            position_ids=self.positions_R[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        at_R1 = self.steps_R.clamp(max=self.uniforms_RN.shape[1] - 1)[:, None]
        numbers_R = self.uniforms_RN.gather(1, at_R1)[:, 0]
        self.newest_R = draw_tokens(logits_RV, numbers_R, temperature, top_p)
        self.steps_R = self.steps_R + 1
        self.positions_R = self.positions_R + 1
        self.columns_R = self.columns_R + 1
        if int(self.columns_R.max()) >= self.mask_RC.shape[1]:
            self.mask_RC = torch.nn.functional.pad(self.mask_RC, (0, _GROWTH))
        self.mask_RC.scatter_(1, self.columns_R[:, None], 1)
        drawn: list[int] = self.newest_R.tolist()
        return drawn

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        index = torch.tensor(rows, device=self.newest_R.device)
        select_rows(self.cache, index)
        for name in ("mask_RC", "columns_R", "positions_R", "newest_R", "uniforms_RN", "steps_R"):
            setattr(self, name, getattr(self, name)[index])
