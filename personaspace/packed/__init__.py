"""A Llama-like decoder over packed tokens: no padding, no mask, kernels fused around the GEMMs.

`PackedDecoder` reads a transformers model (with LoRA adapters of PEFT, if any) and computes what
its own forward pass does, on sequences laid end to end. Training and extraction on GPUs use it;
elsewhere, and for architectures it does not know, the model's own code runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personaspace.packed import attention, functional
from personaspace.packed.decoder import PackedDecoder, supports

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PackedDecoder", "fast", "supports"]


def fast(model: PreTrainedModel) -> bool:
    """Whether the packed decoder computes this model, and is the faster way where the model is."""
    if model.dtype.itemsize != 2 or not attention.available(model.device):
        return False
    ranks = {
        adapter.weight.shape[0]
        for module in model.modules()
        for adapter in getattr(module, "lora_A", {}).values()
        if adapter.weight.requires_grad
    }
    return supports(model) and all(functional.compiled(rank) for rank in ranks or {0})
