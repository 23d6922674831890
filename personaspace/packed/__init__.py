"""A Llama-like decoder over packed tokens: no padding, no mask, kernels fused around the GEMMs.

`PackedDecoder` reads a transformers model (with LoRA adapters of PEFT, if any) and computes what
its own forward pass does, on sequences laid end to end. Training and extraction on GPUs use it;
elsewhere, and for architectures it does not know, the model's own code runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personaspace.packed import attention
from personaspace.packed.decoder import PackedDecoder, supports

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PackedDecoder", "fast", "supports"]


def fast(model: PreTrainedModel) -> bool:
    """Whether the packed decoder computes this model, and is the faster way where the model is."""
    half = model.dtype.itemsize == 2
    return half and attention.available(model.device) and supports(model)
