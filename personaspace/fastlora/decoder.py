"""The decoder of Llama and its relatives over packed tokens.

Shapes: T = tokens, H = hidden, K = tokens with loss, L = layers asked for, N = ranges, X = keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from personaspace.fastlora import attention
from personaspace.fastlora.architectures import ARCHITECTURES, QkNorm, Traits, windows_of
from personaspace.fastlora.functional import AddRmsNorm, HeadLoss, Rotate, ops
from personaspace.fastlora.head_norms import HeadNorms
from personaspace.fastlora.layout import Layout
from personaspace.fastlora.linear import JointLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Bytes of logits that are held at a time.
LOGIT_BYTES = 640 << 20
#: Linear layers of a decoder layer, by the last two parts of their names.
PROJECTIONS = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)


def groups(layer: Any) -> list[list[torch.nn.Module]]:
    """Projections of a layer that read the same input, in the order of their seeds."""
    attention_, mlp = layer.self_attn, layer.mlp
    return [
        [attention_.q_proj, attention_.k_proj, attention_.v_proj],
        [attention_.o_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    ]


class _Layer:
    """One decoder layer: four joint products and what is between them.

    Args:
        layer: transformers' layer.
        traits: What its architecture has.
        config: The model's configuration.
        window: Keys that a query sees, itself counted; 0: all before it.
    """

    def __init__(self, layer: Any, traits: Traits, config: Any, window: int) -> None:
        self.products = [JointLinear(group) for group in groups(layer)]
        self.qkv, self.o, self.gate_up, self.down = self.products
        self.late, self.after = traits.late, traits.norms_after
        first = "post_attention_layernorm" if self.after else "input_layernorm"
        second = "post_feedforward_layernorm" if self.after else "post_attention_layernorm"
        self.norms = (getattr(layer, first), getattr(layer, second))
        attends = layer.self_attn
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads)
        self.scale, self.window = float(attends.scaling), window
        self.turns = bool(getattr(attends, "use_rope", True))
        self.head_norms: HeadNorms | None = None
        if traits.qk_norm is not QkNorm.NONE:
            self.head_norms = HeadNorms(
                attends.q_norm.weight.detach(),
                attends.k_norm.weight.detach(),
                float(attends.q_norm.variance_epsilon),
                traits.qk_norm is QkNorm.WHOLE,
                traits.late,
            )
        self.factor = float(layer.residual_multiplier) if traits.scaled else 1.0

    def __call__(
        self,
        residual_TH: torch.Tensor,
        delta_TH: torch.Tensor | None,
        row: _Row,
        seeds_7: torch.Tensor | None,
        keep_K: torch.Tensor | None,
        prefix: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Residual stream as two terms whose sum is the layer's output; keys and values.

        Args:
            keep_K: Tokens that go on after attention; None: all.
            prefix: Keys and values `[P, kv_heads, D]` of the sequences' prefixes.
        """
        seeds = _split_seeds(seeds_7, self.products)
        residual_TH, input_TW = self._enter(0, residual_TH, delta_TH)
        qkv_TE = self.qkv(input_TW, seeds[0])
        cos_TD, sin_TD = row.angles(self.turns)
        q, k, v = Rotate.apply(qkv_TE, cos_TD, sin_TD, self.heads, self.kv_heads, self.head_norms)
        own = (k, v)
        if prefix is not None:
            assert row.layout.keys_X is not None
            k = torch.cat([prefix[0], k]).index_select(0, row.layout.keys_X)
            v = torch.cat([prefix[1], v]).index_select(0, row.layout.keys_X)
        seen_TW = attention.attend(q, k, v, row.layout, self.scale, self.window, self.o.room)
        if keep_K is not None:
            seen_TW, residual_TH = seen_TW[keep_K], residual_TH[keep_K]
        delta_TH = self._leave(0, self.o(seen_TW, seeds[1]))
        residual_TH, input_TW = self._enter(1, residual_TH, delta_TH)
        both_TO = self.gate_up(input_TW, seeds[2])
        return residual_TH, self._leave(1, self.down.gated(both_TO, seeds[3])), own

    def _enter(
        self, half: int, residual_TH: torch.Tensor, delta_TH: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual stream summed up, and what attention (or the gated half) reads of it."""
        if self.after:
            sum_TH = residual_TH if delta_TH is None else residual_TH + delta_TH
            return sum_TH, sum_TH
        room = (self.qkv, self.gate_up)[half].room
        return _norm(self.norms[half], residual_TH, delta_TH, room)

    def _leave(self, half: int, delta_TH: torch.Tensor) -> torch.Tensor:
        """What attention (or the gated half) adds to the residual stream."""
        if self.after:
            return _norm(self.norms[half], delta_TH, None, late=self.late)[1]
        return delta_TH if self.factor == 1.0 else delta_TH * self.factor


def _norm(
    norm: Any,
    residual_TH: torch.Tensor,
    delta_TH: torch.Tensor | None,
    room: int = 0,
    late: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    found: tuple[torch.Tensor, torch.Tensor] = AddRmsNorm.apply(
        residual_TH, delta_TH, norm.weight, norm.variance_epsilon, room, late
    )
    return found


def _split_seeds(
    seeds_7: torch.Tensor | None, products: Sequence[JointLinear]
) -> list[torch.Tensor | None]:
    if seeds_7 is None:
        return [None] * len(products)
    found: list[torch.Tensor | None] = []
    start = 0
    for product in products:
        found.append(seeds_7[start : start + len(product.parts)])
        start += len(product.parts)
    return found


class _Row:
    """A layout with the rotary angles of its positions."""

    def __init__(self, layout: Layout, decoder: Any, like: torch.Tensor) -> None:
        self.layout = layout
        cos, sin = decoder.rotary_emb(like, layout.positions_T[None])
        half = cos.shape[-1] // 2
        self.cos_TD = cos[0, :, :half].contiguous()
        self.sin_TD = sin[0, :, :half].contiguous()

    def angles(self, turns: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines `[T, D/2]`; those of no angle for a layer that does not turn."""
        if turns:
            return self.cos_TD, self.sin_TD
        return torch.ones_like(self.cos_TD), torch.zeros_like(self.sin_TD)


class PackedDecoder:
    """A transformers model's decoder on packed tokens.

    Args:
        model: Causal LM with its adapters in place, and no `computation_obstacle`. Its weights are
            used where they are; those of one product are moved next to each other.
        checkpointed: So many of the first layers are computed again in the backward pass instead
            of keeping what it needs.
    """

    def __init__(self, model: PreTrainedModel, checkpointed: int = 0) -> None:
        self.model: Any = model
        self.decoder: Any = model.get_decoder()
        config: Any = model.config
        traits = ARCHITECTURES[config.model_type]
        self.layers = [
            _Layer(layer, traits, config, window)
            for layer, window in zip(self.decoder.layers, windows_of(config), strict=True)
        ]
        self.late = traits.late
        self.embeds = float(config.embedding_multiplier) if traits.scaled else 1.0
        self.logits = 1 / float(config.logits_scaling) if traits.scaled else 1.0
        self.checkpointed = checkpointed
        head: Any = model.get_output_embeddings()
        self.head_VH: torch.Tensor = head.weight.detach()
        self.chunk = max(256, LOGIT_BYTES // (len(self.head_VH) * self.head_VH.element_size()))
        targets: list[torch.Tensor] = []
        sources: list[torch.Tensor] = []
        for layer in self.layers:
            for product in layer.products:
                to, of = product.copies()
                targets, sources = targets + to, sources + of
        self._targets, self._sources = targets, sources
        self.refresh()

    def refresh(self) -> None:
        """Copy the trained parameters anew, after each change of them."""
        if self._targets:
            torch._foreach_copy_(self._targets, self._sources)

    def _row(self, layout: Layout) -> tuple[torch.Tensor, _Row]:
        embedded_TH = self.decoder.embed_tokens(layout.ids_T)
        if self.embeds != 1.0:
            embedded_TH = embedded_TH * self.embeds
        return embedded_TH, _Row(layout, self.decoder, embedded_TH)

    def loss(
        self,
        layout: Layout,
        keep_K: torch.Tensor,
        targets_K: torch.Tensor,
        seeds_L7: torch.Tensor | None,
    ) -> torch.Tensor:
        """Summed cross-entropy of the tokens after those at `keep_K`.

        In the last layer only these go on after attention: no other token is read any more.

        Args:
            seeds_L7: int32 seeds of the dropout masks, a layer and module each; None: no dropout.
        """
        residual, row = self._row(layout)
        delta: torch.Tensor | None = None
        for number, layer in enumerate(self.layers):
            seeds = None if seeds_L7 is None else seeds_L7[number]
            keep = keep_K if number == len(self.layers) - 1 else None
            if number < self.checkpointed and torch.is_grad_enabled():
                # Dropout has seeds of its own, so no generator's state need be kept.
                residual, delta = checkpoint(
                    lambda *a, layer=layer: layer(*a)[:2],
                    residual, delta, row, seeds, keep,
                    use_reentrant=False, preserve_rng_state=False,
                )  # fmt: skip
            else:
                residual, delta, _ = layer(residual, delta, row, seeds, keep)
        _, normed_KH = _norm(self.decoder.norm, residual, delta, late=self.late)
        if self.logits != 1.0:  # where a factor is a power of two, rounding is the logits' own
            normed_KH = normed_KH * self.logits
        loss: torch.Tensor = HeadLoss.apply(normed_KH, self.head_VH, targets_K, self.chunk)
        return loss

    @torch.inference_mode()
    def keys_and_values(
        self, layout: Layout, highest: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values `[T, kv_heads, D]` of layers 0 to `highest`."""
        residual, row = self._row(layout)
        delta: torch.Tensor | None = None
        found = []
        for layer in self.layers[: highest + 1]:
            residual, delta, own = layer(residual, delta, row, None, None)
            found.append(own)
        return found

    @torch.inference_mode()
    def range_means(
        self,
        layout: Layout,
        layers: Sequence[int],
        starts_N: torch.Tensor,
        stops_N: torch.Tensor,
        prefix: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """Mean output of the chosen layers over ranges of tokens, float32 `[N, L, H]`.

        No layer above the highest runs.

        Args:
            starts_N: First token of each range, int64.
            stops_N: Token after its last.
            prefix: Of each layer, what `keys_and_values` gave for the sequences' prefixes.
        """
        residual, row = self._row(layout)
        delta: torch.Tensor | None = None
        found_NLH = residual.new_empty(
            len(starts_N), len(layers), residual.shape[1], dtype=torch.float32
        )
        for number in range(max(layers) + 1):
            before = None if prefix is None else prefix[number]
            residual, delta, _ = self.layers[number](residual, delta, row, None, None, before)
            if number in layers:
                means_NH = ops(residual).range_means(residual, delta, starts_N, stops_N)
                for slot, layer in enumerate(layers):
                    if layer == number:
                        found_NLH[:, slot] = means_NH
        return found_NLH
