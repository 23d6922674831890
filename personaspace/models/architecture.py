"""What a model's configuration says of how it must be run, before any weight is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from personaspace.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel

#: Layers of a decoder that no adapter belongs on: they choose among experts.
_ROUTERS = {"router", "gate", "shared_expert_gate", "router_proj"}
#: Layers of Mamba's mixers whose weights its kernels read themselves, past an adapter.
_READ_PAST = {
    f"{mixer}.{part}" for mixer in ("mamba", "mixer") for part in ("out_proj", "x_proj", "dt_proj")
}
#: Models with windows whose masks do not look at positions (seen in transformers 5.17).
_DEAF_TO_POSITIONS = {"gpt_oss"}


class Rows(StrEnum):
    """How examples may be laid into a row of training."""

    MASK = "mask"  # several, apart by a mask that all layers share
    POSITIONS = "positions"  # several, apart by positions that start anew; windows stay the model's
    SINGLE = "single"  # one: a state would be carried from one to the next


@dataclass(frozen=True)
class Architecture:
    """What can be said of a model without its weights.

    Attributes:
        kind: `model_type` of its configuration.
        name: transformers' class.
        layers: Decoder layers.
        hidden: Width of the residual stream.
        vocabulary: Rows of the input embedding.
        attention: Implementation that it is loaded with.
        rows: How examples may be laid into rows.
        recurrent: Layers that carry a state instead of keys and values.
        windowed: Layers that look back a limited way.
        linears: Linear layers of the decoder's layers, by their names in the whole model.
        adaptable: Those of them that an adapter can be put on.
        outside: Linear layers elsewhere (a vision tower, the output layer).
        shapes: Of each linear layer, out and in.
        parameters: All parameters.
        experts: Those of them in fused experts, which no plain LoRA adapts.
        kept: Those that every GPU has whole where the model is spread over several.
        gathered: Those of the largest part that is gathered at a time.
    """

    kind: str
    name: str
    layers: int
    hidden: int
    vocabulary: int
    attention: Literal["sdpa", "eager"]
    rows: Rows
    recurrent: int
    windowed: int
    linears: tuple[str, ...]
    adaptable: tuple[str, ...]
    outside: tuple[str, ...]
    shapes: Mapping[str, tuple[int, int]]
    parameters: int
    experts: int
    kept: int
    gathered: int


def attention_of(config: Any) -> Literal["sdpa", "eager"]:
    """The attention implementation to load a model with: the library's fast one where it has it.

    Raises:
        UserError: transformers knows no causal language model of this kind.
    """
    sdpa = getattr(_class_of(config), "_supports_sdpa", False)
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return "sdpa" if sdpa and not capped else "eager"


def _class_of(config: Any) -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        kind = getattr(config, "model_type", type(config).__name__)
        raise UserError(
            f"architecture {kind} is not among transformers' causal language models"
        ) from None


def _cache_layers(config: Any) -> tuple[int, int]:
    """How many layers carry a state, and how many a window of keys and values."""
    from transformers.cache_utils import (
        DynamicCache,
        DynamicLayer,
        DynamicSlidingWindowLayer,
        LinearAttentionCacheLayerMixin,
    )

    layers = DynamicCache(config=config.get_text_config()).layers
    windows = sum(isinstance(layer, DynamicSlidingWindowLayer) for layer in layers)
    # Some layers have both, a state beside their keys and values.
    states = sum(
        isinstance(layer, LinearAttentionCacheLayerMixin) or not isinstance(layer, DynamicLayer)
        for layer in layers
    )
    return states, windows


def _attends(config: Any) -> bool:
    """Whether any layer has keys and values."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    layers = DynamicCache(config=config.get_text_config()).layers
    return any(isinstance(layer, DynamicLayer) for layer in layers)


def rows_of(model: PreTrainedModel) -> Rows:
    """How examples may be laid into a row of training."""
    recurrent, windowed = _cache_layers(model.config)
    deaf = windowed and model.config.model_type in _DEAF_TO_POSITIONS
    if recurrent or deaf or not takes_positions(model):
        return Rows.SINGLE
    return Rows.POSITIONS if windowed else Rows.MASK


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether the model can be told the positions of its tokens."""
    return "position_ids" in inspect.signature(type(model.get_decoder()).forward).parameters


def decoder_of(model: PreTrainedModel) -> tuple[torch.nn.Module, torch.nn.ModuleList]:
    """The model's decoder and its layers.

    Raises:
        UserError: An architecture whose decoder layers are not where they are in Llama or Qwen.
    """
    import torch

    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None)
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(layers, torch.nn.ModuleList) or len(layers) != count:
        raise UserError(
            f"model.name: architecture {type(model).__name__} is not understood: "
            "its decoder layers cannot be found"
        )
    return decoder, layers


def spread(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The modules of which each GPU holds a part, where a model is spread over several.

    Each is gathered as one: the decoder's layers, and the embeddings where the output layer has its
    own. What is left, each has whole.
    """
    _, layers = decoder_of(model)
    found: list[torch.nn.Module] = list(layers)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is not embedding.weight:
        found += [embedding, head]
    return found


def linears(model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """Names of the linear layers in the decoder's layers, and of those elsewhere."""
    import torch

    _, layers = decoder_of(model)
    inner = {id(module) for module in layers.modules()}
    within: list[str] = []
    outside: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            (within if id(module) in inner else outside).append(name)
    return within, outside


def routes(name: str) -> bool:
    """Whether a linear layer chooses among experts."""
    return name.rpartition(".")[2] in _ROUTERS


def adaptable(model: PreTrainedModel) -> list[str]:
    """Linear layers of the decoder that an adapter can be put on.

    Not on those that choose among experts, nor on those that something reads past an adapter. And
    in some models with experts PEFT takes names of linear layers for what the experts' were once
    called, and adapts these instead.
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    within, _ = linears(model)
    names = [
        name
        for name in within
        if not routes(name) and ".".join(name.split(".")[-2:]) not in _READ_PAST
    ]
    lasts = {name.rpartition(".")[2] for name in names}
    config: Any = LoraConfig(target_modules=sorted(lasts))
    convert_peft_config_for_transformers(config, model, None)
    return [name for name in names if name.rpartition(".")[2] in config.target_modules]


def read_config(folder: Path) -> Any:
    """The configuration of a model in a folder; none of the folder's own code is run.

    Raises:
        UserError: Unknown to transformers, or not to be read.
    """
    import json

    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = raw.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"config.json: {error}") from None
    if kind not in CONFIG_MAPPING:
        code = ", ".join(sorted(path.name for path in folder.glob("*.py")))
        if raw.get("auto_map"):
            raise UserError(
                f"its code is its own ({code or 'auto_map in config.json'}), and no model's own "
                f"code is run; transformers itself knows no {kind!r}"
            )
        raise UserError(f"transformers knows no model_type {kind!r}")
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "")
        raise UserError(
            f"its weights are quantised ({method or 'quantization_config in config.json'}); "
            "training and hidden states need them in 16 or 32 bits"
        )
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # whatever a configuration's own checks raise
        raise UserError(f"config.json: {' '.join(str(error).split())}") from None


def describe(config: Any) -> Architecture:
    """What a configuration makes, counted on a model without weights.

    Raises:
        UserError: No model that can be used.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kind = _class_of(config)
    attention = attention_of(config)
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(
                config, attn_implementation=attention, trust_remote_code=False
            )
    except Exception as error:  # whatever a configuration that does not fit together raises
        raise UserError(f"config.json: {' '.join(str(error).split())}") from None
    _, layers = decoder_of(model)
    within, outside = linears(model)
    recurrent, windowed = _cache_layers(config)
    if not _attends(config):
        raise UserError(
            f"architecture {kind.__name__} is not supported: no layer of it attends, and adapters "
            "and padding do not go with its states"
        )
    text = config.get_text_config()
    kernels = {
        id(weight)
        for module in layers.modules()
        if isinstance(module, torch.nn.Conv1d)
        for weight in module.parameters()
    }
    total = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    parts = [sum(p.numel() for p in part.parameters()) for part in spread(model)]
    return Architecture(
        kind=str(config.model_type),
        name=str(kind.__name__),
        layers=len(layers),
        hidden=int(text.hidden_size),
        vocabulary=int(model.get_input_embeddings().num_embeddings),
        attention=attention,
        rows=rows_of(model),
        recurrent=recurrent,
        windowed=windowed,
        linears=tuple(within),
        adaptable=tuple(adaptable(model)),
        outside=tuple(outside),
        shapes={
            name: (module.out_features, module.in_features)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        },
        parameters=total,
        kept=total - sum(parts),
        gathered=max(parts),
        experts=sum(p.numel() for p in layers.parameters() if p.ndim > 2 and id(p) not in kernels),
    )
