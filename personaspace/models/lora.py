"""LoRA adapters: making, applying, stacking and composing them, without ever merging to disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from personaspace.errors import UserError
from personaspace.models import architecture
from personaspace.models.targets import check_target, chosen_targets
from personaspace.study.adapters import CONFIG, WEIGHTS, AdapterError, Published, unsupported
from personaspace.study.recipe import Recipe, named

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

TRAINED = "default"
FROZEN = "first"


def lora_config(recipe: Recipe, targets: Sequence[str]) -> LoraConfig:
    """The recipe's adapter shape as PEFT wants it, on these layers (`targets_of`)."""
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(targets),
        use_rslora=recipe.rank_stabilised,
        bias="none",
        task_type="CAUSAL_LM",
    )


def targets_of(model: PreTrainedModel, recipe: Recipe, field: str) -> list[str]:
    """The layers that get an adapter, as PEFT's `target_modules`.

    Where a name stands for layers of the decoder and for others (those of a vision tower, or ones
    that can have no adapter), the decoder's are named one by one.

    Args:
        field: Where the recipe stands in the spec.

    Raises:
        UserError: A target is no linear layer, or none there.
    """
    modules = dict(model.named_modules())
    within, _ = architecture.linears(model)
    adaptable = architecture.adaptable(model)
    chosen: list[str] = []
    for target in chosen_targets(recipe, adaptable, field):
        check_target(target, within, adaptable, field)
        found = {name: module for name, module in modules.items() if named(name, target)}
        inner = [name for name in adaptable if named(name, target)]
        beside = any(isinstance(m, torch.nn.Linear) and n not in inner for n, m in found.items())
        if inner and beside:
            chosen += inner
            continue
        if not target or not found:
            raise UserError(f"{field}.targets: the model has no module {target!r}")
        if not all(isinstance(module, torch.nn.Linear) for module in found.values()):
            raise UserError(f"{field}.targets: {target!r} is not a linear layer")
        chosen.append(target)
    return chosen


@contextmanager
def trainable(
    model: PreTrainedModel, recipe: Recipe, *, over: Path | None, seed: int, field: str
) -> Iterator[PeftModel]:
    """A fresh adapter to train on the base model; on leaving, the base model is as before.

    Args:
        over: An adapter folder that stays applied, frozen and without dropout, below the new one.
        seed: Seeds the new adapter's random half.
        field: Where the recipe stands in the spec, for messages.
    """
    from peft import PeftModel, get_peft_model

    shape = lora_config(recipe, targets_of(model, recipe, field))
    torch.manual_seed(seed)
    peft_model: Any
    if over is None:
        peft_model = get_peft_model(model, shape)
    else:
        peft_model = PeftModel.from_pretrained(
            model, str(over), adapter_name=FROZEN, config=_frozen_config(over)
        )
        torch.manual_seed(seed)
        peft_model.add_adapter(TRAINED, shape)
        peft_model.base_model.set_adapter([FROZEN, TRAINED])
    for name, parameter in peft_model.named_parameters():
        parameter.requires_grad_(f".{TRAINED}." in name)
    try:
        yield peft_model
    finally:
        peft_model.unload()
        model.requires_grad_(False)
        model.eval()


def _frozen_config(folder: Path) -> LoraConfig:
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(str(folder))
    assert isinstance(config, LoraConfig)
    # Left in place, dropout would perturb the frozen adapter whenever the model is in train mode.
    config.lora_dropout = 0.0
    config.inference_mode = True
    return config


@contextmanager
def applied(model: PreTrainedModel, *folders: Path) -> Iterator[torch.nn.Module]:
    """The base model with adapters active, in evaluation mode; on leaving it is as before."""
    from peft import PeftModel

    if not folders:
        yield model
        return
    names = [f"adapter{index}" for index in range(len(folders))]
    peft_model: Any = PeftModel.from_pretrained(model, str(folders[0]), adapter_name=names[0])
    try:
        for name, folder in zip(names[1:], folders[1:], strict=True):
            peft_model.load_adapter(str(folder), adapter_name=name)
        peft_model.base_model.set_adapter(names)
        peft_model.requires_grad_(False)
        peft_model.eval()
        # The causal LM itself, whose linear layers now carry the adapters.
        yield model
    finally:
        peft_model.unload()


def save(
    peft_model: PeftModel,
    folder: Path,
    base_name: str,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the trained adapter as an ordinary PEFT folder (safetensors).

    Args:
        base_name: The base model's name as in the spec; a local path would differ by machine.
        weights: The adapter's parameters, by name; None: as they are in the model.
    """
    # PEFT would add the base model's own output layer where that is a target, and ask the hub
    # whether the vocabulary was changed.
    peft_model.save_pretrained(
        str(folder),
        selected_adapters=[TRAINED],
        save_embedding_layers=False,
        state_dict=None if weights is None else dict(weights),
    )
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    # PEFT keeps the target modules in a set, whose order changes from process to process.
    config["target_modules"] = sorted(config["target_modules"])
    _write_config(config, folder)


def _write_config(config: dict[str, Any], folder: Path) -> None:
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if found := unsupported(config):
        raise UserError(f"{folder}: only plain LoRA adapters compose, not {', '.join(found)}")
    return config, load_file(folder / WEIGHTS)


def scaling(config: dict[str, Any]) -> float:
    """Factor of B·A: alpha/r (Hu et al. 2021), or alpha/sqrt(r) if rank-stabilised."""
    rank = config["r"]
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def compose(folders: list[Path], out: Path) -> None:
    """One adapter whose update is the sum of the others', exact up to rounding.

    Σ sᵢBᵢAᵢ = [s₁B₁ s₂B₂ …]·[A₁; A₂; …], with rank Σrᵢ and scale 1. PEFT's own
    `add_weighted_adapter(combination_type="cat")` hands the first adapter's rank-stabilised flag
    on to the result, whose scale is then wrong by the root of the summed rank (huggingface/peft
    issue 3761), so the scales are folded in here and the flag is cleared.

    Raises:
        UserError: An adapter is no plain LoRA.
    """
    parts = [_read(folder) for folder in folders]
    names = sorted({name for _, weights in parts for name in weights})
    composed: dict[str, torch.Tensor] = {}
    for name in names:
        down = ".lora_A." in name
        like = next(weights[name] for _, weights in parts if name in weights)
        blocks = []
        for config, weights in parts:
            if name in weights:
                block = weights[name].float()
                blocks.append(block if down else block * scaling(config))
            else:  # one adapter changes a layer that another leaves alone
                rank = config["r"]
                blocks.append(torch.zeros((rank, like.shape[1]) if down else (len(like), rank)))
        composed[name] = torch.cat(blocks, dim=0 if down else 1).contiguous()
    rank = sum(config["r"] for config, _ in parts)
    config = {
        **parts[0][0],
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
        "target_modules": _targets(parts),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(composed, out / WEIGHTS, metadata={"format": "pt"})
    _write_config(config, out)


def _targets(parts: Sequence[tuple[dict[str, Any], dict[str, torch.Tensor]]]) -> list[str]:
    """Target modules of a composed adapter: by name where the parts change different layers."""
    lists = [list(config["target_modules"]) for config, _ in parts]
    if all(sorted(each) == sorted(lists[0]) for each in lists):
        return lists[0]
    return sorted({module_of(name) for _, weights in parts for name in weights})


def module_of(key: str) -> str:
    """Name in the model of the layer that a tensor of an adapter changes."""
    return key.removeprefix("base_model.model.").rpartition(".lora_")[0]


def adopt(folder: Path, out: Path, found: Published, base_name: str) -> None:
    """Write a published adapter as one that was trained here: its layers by name, no dropout.

    Args:
        found: What its headers say.
        base_name: The base model's name as in the spec.

    Raises:
        UserError: Its weights hold NaN or infinity, or change nothing.
    """
    config, weights = _read(folder)
    if not any(tensor.any() for name, tensor in weights.items() if ".lora_B." in name):
        raise AdapterError(
            f"{found.source}/{WEIGHTS}: every B is zero: it changes nothing of the base model"
        )
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{found.source}/{WEIGHTS}: {name} holds NaN or infinity")
    out.mkdir(parents=True, exist_ok=True)
    kept = ("peft_type", "task_type", "r", "lora_alpha", "use_rslora")
    plain = {name: config[name] for name in kept if name in config} | {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "inference_mode": True,
        "lora_dropout": 0.0,
        "target_modules": sorted(found.modules),
    }
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    _write_config(plain, out)
