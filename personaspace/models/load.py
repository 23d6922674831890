"""Loading the base model and its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personaspace.errors import UserError
from personaspace.study.base_model import local_folder
from personaspace.study.inputs import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(model: Model, field: str = "model.name") -> PreTrainedTokenizerBase:
    """The model's tokenizer, checked to have a chat template.

    Args:
        model: Which.
        field: Where it is named in the spec, for messages.

    Raises:
        UserError: Not to be had, or without a chat template.
    """
    from transformers import AutoTokenizer

    folder = local_folder(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder or model.name), revision=None if folder else model.revision
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{field}: {model.name}: {str(error).splitlines()[0]}") from None
    if not tokenizer.chat_template:
        raise UserError(f"{field}: {model.name} has no chat template")
    return tokenizer


def device_and_attention() -> tuple[str, str]:
    """Device to run on, and attention implementation for it."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu"), "sdpa"


def load_model(model: Model, field: str = "model.name") -> PreTrainedModel:
    """The base model in evaluation mode, gradients off, on the GPU if there is one.

    Args:
        model: Which.
        field: Where it is named in the spec, for messages.

    Raises:
        UserError: Not to be had.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = local_folder(model)
    device, attention = device_and_attention()
    options: dict[str, Any] = {} if folder else {"revision": model.revision}
    if device != "cpu":
        # Each tensor goes from the mapped file straight to the GPU; no copy in host memory.
        options["device_map"] = {"": device}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            str(folder or model.name),
            dtype=getattr(torch, model.dtype),
            attn_implementation=attention,
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{field}: {model.name}: {str(error).splitlines()[0]}") from None
    loaded.eval()
    loaded.requires_grad_(False)
    return loaded
