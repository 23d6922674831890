"""Whether fastlora is the way to compute a model, and what speaks against it, as codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch

from personaspace.fastlora import attention, functional
from personaspace.fastlora.architectures import Windows, head_size, traits_of, windows_of
from personaspace.fastlora.decoder import PROJECTIONS, groups
from personaspace.fastlora.linear import alike

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Kinds of rotary positions whose angles depend on a token's position alone. (Those of others
#: change with the longest text of a batch.)
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
#: Kinds of decoder layers.
_LAYERS = {"full_attention", "sliding_attention"}


class ObstacleCode(StrEnum):
    """What speaks against fastlora for a model, where it is."""

    DTYPE = "dtype"
    ARCHITECTURE = "architecture"
    ADAPTERS = "adapters"
    RANK = "rank"
    NO_GPU = "no_gpu"
    ATTENTION = "attention"
    COMPILER = "compiler"
    SHARDED = "sharded"

    @property
    def of_machine(self) -> bool:
        """Whether another machine may not have it."""
        return self in (self.NO_GPU, self.ATTENTION, self.COMPILER)


@dataclass(frozen=True)
class Obstacle:
    """Why fastlora should not, or cannot, compute a model.

    Attributes:
        code: For programs.
        text: For people: a clause without a full stop.
    """

    code: ObstacleCode
    text: str


@dataclass(frozen=True)
class PlannedAdapter:
    """A LoRA adapter that is to be put on a model.

    Attributes:
        rank: Its rank.
        targets: Names of modules, or the last parts of names, as PEFT's `target_modules`.
        trained: Whether it trains; else it stays frozen below the one that does.
    """

    rank: int
    targets: Sequence[str]
    trained: bool


def obstacle(model: PreTrainedModel) -> Obstacle | None:
    """Why fastlora is not the way to compute this model where it is; None if it is.

    fastlora is for 16-bit models of some architectures on a GPU, where it is the faster way.

    Args:
        model: Causal LM, its adapters in place (for a PEFT model: `get_base_model()`).
    """
    return (
        _of_dtype(model.dtype)
        or computation_obstacle(model)
        or _of_ranks(_trained_ranks(model))
        or _of_machine(model.device)
        or _of_windows(model.config)
    )


def computation_obstacle(model: PreTrainedModel) -> Obstacle | None:
    """Why fastlora cannot compute this model as it stands, adapters included; None if it can."""
    config: Any = model.config
    return _of_config(config, type(model).__name__) or _of_sharding(model) or _of_adapters(model)


def foreseen_obstacle(
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    adapters: Sequence[PlannedAdapter] = (),
) -> Obstacle | None:
    """What `obstacle` will say of a model that is not loaded yet.

    Args:
        config: Its transformers configuration.
        dtype: Of its weights.
        device: Where it is to lie.
        adapters: What is to be put on it, from the lowest.
    """
    trained = {adapter.rank for adapter in adapters if adapter.trained}
    return (
        _of_dtype(dtype)
        or _of_config(config, getattr(config, "model_type", "") or type(config).__name__)
        or _of_planned(int(config.num_hidden_layers), adapters)
        or _of_ranks(trained)
        or _of_machine(device)
        or _of_windows(config)
    )


def _of_dtype(dtype: torch.dtype) -> Obstacle | None:
    if dtype.itemsize == 2:
        return None
    name = str(dtype).removeprefix("torch.")
    return Obstacle(ObstacleCode.DTYPE, f"the model is in {name}, not in 16 bits")


def _of_config(config: Any, name: str) -> Obstacle | None:
    traits = traits_of(config)
    if traits is None:
        return _architecture(f"architecture {name} is not known to it")
    if (gate := getattr(config, "hidden_act", "silu")) not in ("silu", "swish"):
        return _architecture(f"its gate is {gate}, and only SiLU is computed")
    if getattr(config, "attention_dropout", None):
        return _architecture("it has no dropout inside attention (attention_dropout)")
    kinds = set(getattr(config, "layer_types", None) or ())
    known = _LAYERS if traits.windows is not Windows.NONE else {"full_attention"}
    if traits.windows is not Windows.ALL and (odd := sorted(kinds - known)):
        return _architecture(f"it has no layers of {odd[0]} for {name}")
    return _of_positions(config) or _of_heads(config)


def _of_positions(config: Any) -> Obstacle | None:
    rope: Any = getattr(config, "rope_parameters", None) or {}
    if (kind := rope.get("rope_type", "default")) not in ROPE_TYPES:
        return _architecture(
            f"its rotary positions are of type {kind}, and only "
            f"{', '.join(ROPE_TYPES[:-1])} and {ROPE_TYPES[-1]} are computed"
        )
    partial = rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
    if partial not in (None, 1, 1.0):
        return _architecture("its rotary positions turn a part of each head")
    return None


def _of_heads(config: Any) -> Obstacle | None:
    if not hasattr(config, "num_attention_heads"):  # little is known of a model not at hand
        return None
    if (size := head_size(config)) % 8 or size > 256:
        return _architecture(f"its heads have a size of {size}, no multiple of 8 up to 256")
    return None


def _architecture(text: str) -> Obstacle:
    return Obstacle(ObstacleCode.ARCHITECTURE, text)


def _of_sharding(model: PreTrainedModel) -> Obstacle | None:
    # A distributed tensor, told by what no other tensor has.
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        return Obstacle(ObstacleCode.SHARDED, "the model is spread over several GPUs")
    places = {parameter.device for parameter in model.parameters()}
    if len(places) > 1:  # a device_map, whose hooks between layers it would not run
        named = " and ".join(sorted(map(str, places)))
        return Obstacle(ObstacleCode.SHARDED, f"the model's layers lie on {named}")
    return None


def _of_adapters(model: PreTrainedModel) -> Obstacle | None:
    decoder: Any = model.get_decoder()
    for name, module in decoder.named_modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.is_floating_point():
            return Obstacle(ObstacleCode.DTYPE, f"the weights of {name} are quantised")
        if hasattr(module, "lora_A") and (
            ".".join(name.split(".")[-2:]) not in PROJECTIONS or module.lora_variant
        ):
            return _adapters(f"it has no LoRA of this kind on {name}")
    if not all(alike(group) for layer in decoder.layers for group in groups(layer)):
        return _unlike()
    head: Any = model.get_output_embeddings()
    if hasattr(head, "lora_A") or getattr(head, "bias", None) is not None:
        return _adapters("it has no LoRA and no bias on the output layer")
    return None


def _of_planned(layers: int, adapters: Sequence[PlannedAdapter]) -> Obstacle | None:
    names = {
        f"model.layers.{layer}.{projection}"
        for layer in range(layers)
        for projection in PROJECTIONS
    }
    for adapter in adapters:
        for target in adapter.targets:
            if not any(_named(name, target) for name in names):
                return _adapters(f"it has no LoRA on {target}")
    for layer in range(layers):
        for group in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            held = {
                tuple(any(_named(name, target) for target in a.targets) for a in adapters)
                for name in names
                if name.startswith(f"model.layers.{layer}.") and name.endswith(group)
            }
            if len({each for each in held if any(each)}) > 1:
                return _unlike()
    return None


def _named(name: str, target: str) -> bool:
    """PEFT's rule for `target_modules`: the whole name, or its last parts."""
    return f".{name}".endswith(f".{target}")


def _adapters(text: str) -> Obstacle:
    return Obstacle(ObstacleCode.ADAPTERS, text)


def _unlike() -> Obstacle:
    return _adapters("layers that read the same input have adapters of several kinds")


def _trained_ranks(model: PreTrainedModel) -> set[int]:
    return {
        int(adapter.weight.shape[0])
        for module in model.modules()
        for adapter in getattr(module, "lora_A", {}).values()
        if adapter.weight.requires_grad
    }


def _of_ranks(trained: Iterable[int]) -> Obstacle | None:
    odd = [rank for rank in sorted(trained) if rank not in functional.RANKS]
    if not odd:
        return None
    there = ", ".join(map(str, functional.RANKS))
    return Obstacle(ObstacleCode.RANK, f"there are no kernels for rank {odd[0]} (only {there})")


def _of_machine(device: torch.device) -> Obstacle | None:
    if device.type != "cuda":
        return Obstacle(ObstacleCode.NO_GPU, "there is no GPU")
    if not attention.available(device):
        return Obstacle(
            ObstacleCode.ATTENTION,
            "the GPU (before Ampere) or PyTorch (before 2.10) has no attention over packed "
            "sequences",
        )
    if not functional.has_kernels():
        return Obstacle(
            ObstacleCode.COMPILER, "Triton, or the C compiler that it needs, is not there"
        )
    return None


def _of_windows(config: Any) -> Obstacle | None:
    odd_scale = getattr(config, "attention_multiplier", None) is not None
    if (any(windows_of(config)) or odd_scale) and not attention.has_windows():
        return Obstacle(
            ObstacleCode.ATTENTION,
            "PyTorch (before 2.11) has no windows and no scale in attention over packed sequences",
        )
    return None
