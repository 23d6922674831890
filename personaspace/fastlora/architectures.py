"""What the architectures that fastlora computes have beyond Llama's decoder layer.

All of them are seven projections, a gate of SiLU and root-mean-square norms. What differs is read
from here, from the configuration, and from the layers themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class QkNorm(StrEnum):
    """How queries and keys are normalised before they are turned."""

    NONE = "none"
    HEAD = "head"  # each head by itself, one weight for all heads
    WHOLE = "whole"  # all heads together


class Windows(StrEnum):
    """Which layers look back no further than `sliding_window`, if it is set."""

    NONE = "none"
    ALL = "all"
    TYPED = "typed"  # those that `layer_types` says


@dataclass(frozen=True)
class Traits:
    """How an architecture differs from Llama's.

    Attributes:
        qk_norm: Norm of queries and keys.
        norms_after: Norms stand after attention and the gated layers, not before.
        late: A norm's weight is applied before its output is rounded, not after.
        windows: Layers with a window.
        scaled: Embeddings, what is added to the residual stream, and logits have factors.
    """

    qk_norm: QkNorm = QkNorm.NONE
    norms_after: bool = False
    late: bool = False
    windows: Windows = Windows.NONE
    scaled: bool = False


#: By `model_type`.
ARCHITECTURES = {
    "llama": Traits(),
    "qwen2": Traits(windows=Windows.TYPED),
    "qwen3": Traits(qk_norm=QkNorm.HEAD, windows=Windows.TYPED),
    "mistral": Traits(windows=Windows.ALL),
    "ministral": Traits(windows=Windows.TYPED),
    "smollm3": Traits(windows=Windows.TYPED),
    "granite": Traits(scaled=True),
    "olmo2": Traits(qk_norm=QkNorm.WHOLE, norms_after=True, late=True),
}


def traits_of(config: Any) -> Traits | None:
    """Those of a model by its transformers configuration; None: not known."""
    return ARCHITECTURES.get(getattr(config, "model_type", ""))


def windows_of(config: Any) -> list[int]:
    """How many keys a query of each layer sees, itself counted; 0: all before it."""
    traits, layers = ARCHITECTURES[config.model_type], int(config.num_hidden_layers)
    window = getattr(config, "sliding_window", None) or 0
    if traits.windows is Windows.NONE or not window:
        return [0] * layers
    if traits.windows is Windows.ALL:
        return [window] * layers
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    return [window if kind == "sliding_attention" else 0 for kind in kinds]


def head_size(config: Any) -> int:
    """Numbers in a query of one head."""
    stated = getattr(config, "head_dim", None)
    return int(stated or config.hidden_size // config.num_attention_heads)
