"""A Llama-like decoder over packed tokens: no padding, no mask, kernels fused around the GEMMs.

`PackedDecoder` reads a transformers model (with LoRA adapters of PEFT, if any) and computes what
its own forward pass does, on sequences laid end to end. Training and extraction on GPUs use it;
elsewhere, and for architectures it does not know, the model's own code runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personaspace.fastlora import attention, functional
from personaspace.fastlora.decoder import PackedDecoder, supports

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["PackedDecoder", "obstacle", "supports"]


def obstacle(model: PreTrainedModel) -> str | None:
    """Why the packed decoder does not compute this model where it is; None if it does.

    It is for 16-bit models on a GPU, where it is the faster way.
    """
    if model.dtype.itemsize != 2:
        return f"model.dtype is {str(model.dtype).removeprefix('torch.')}"
    if not attention.available(model.device):
        return "there is no GPU, or it or PyTorch has no attention over packed sequences"
    if not supports(model):
        return f"architecture {type(model).__name__} is not known to it"
    ranks = {
        adapter.weight.shape[0]
        for module in model.modules()
        for adapter in getattr(module, "lora_A", {}).values()
        if adapter.weight.requires_grad
    }
    if not functional.compiled(0):
        return "Triton, or the C compiler that it needs, is not there"
    odd = [rank for rank in sorted(ranks) if not functional.compiled(rank)]
    return f"there are no kernels for rank {odd[0]}" if odd else None
