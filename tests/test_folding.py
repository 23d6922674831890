"""Adapters folded into fused weights are PEFT's merged ones, and come out without a trace."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from personaspace.errors import UserError
from personaspace.generation.folding import FoldedAdapter
from personaspace.models import lora
from personaspace.study.recipe import Recipe

PARTS = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


class Fused(torch.nn.Module):
    """Layers' weights one above the other, as vLLM keeps them."""

    def __init__(self, layers: list[torch.nn.Linear]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
        self.weight.requires_grad_(False)
        self.output_sizes = [layer.out_features for layer in layers]


def fuse(model: Any) -> Any:
    """A copy of the model with the layers fused that vLLM fuses."""
    fused = copy.deepcopy(model)
    for module in list(fused.modules()):
        for name, parts in PARTS.items():
            if all(hasattr(module, part) for part in parts):
                setattr(module, name, Fused([getattr(module, part) for part in parts]))
                for part in parts:
                    delattr(module, part)
    fused.packed_modules_mapping = PARTS
    return fused


def make(loaded: Any, folder: Path, recipe: Recipe, seed: int) -> Path:
    with lora.trainable(loaded.model, recipe, over=None, seed=seed, field="r") as wrapped:
        torch.manual_seed(seed)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1)
        lora.save(wrapped, folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def folders(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    some = Recipe(rank=3, alpha=5, rank_stabilised=True, targets=["q_proj", "down_proj"])
    made = {
        "all": make(loaded, root / "all", Recipe(rank=4, alpha=8), 1),
        "some": make(loaded, root / "some", some, 2),
    }
    lora.compose([made["all"], made["all"]], root / "twice")
    return made | {"twice": root / "twice"}


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def merged(loaded: Any, folder: Path) -> dict[str, torch.Tensor]:
    """PEFT's own merge, fused afterwards."""
    from peft import PeftModel

    wrapped: Any = PeftModel.from_pretrained(copy.deepcopy(loaded.model), str(folder))
    return weights_of(fuse(wrapped.merge_and_unload()))


@pytest.mark.parametrize("name", ["all", "some", "twice"])
def test_folded_weights_are_those_of_a_merge(
    loaded: Any, folders: dict[str, Path], name: str
) -> None:
    model = fuse(loaded.model)
    before = weights_of(model)
    folded = FoldedAdapter(model)
    folded.fold(folders[name])
    wanted, found = merged(loaded, folders[name]), weights_of(model)
    assert wanted.keys() == found.keys()
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-5, atol=1e-7)
    changed = [key for key in found if not torch.equal(found[key], before[key])]
    layers = loaded.model.config.num_hidden_layers
    assert len(changed) == (2 if name == "some" else 4) * layers
    folded.fold(None)
    assert all(torch.equal(value, before[key]) for key, value in weights_of(model).items())


def test_one_adapter_after_another_starts_from_the_unchanged_weights(
    loaded: Any, folders: dict[str, Path]
) -> None:
    model = fuse(loaded.model).bfloat16()
    folded = FoldedAdapter(model)
    for name in ("twice", "some", "all"):
        folded.fold(folders[name])
    fresh = fuse(loaded.model).bfloat16()
    FoldedAdapter(fresh).fold(folders["all"])
    for key, value in weights_of(fresh).items():
        assert torch.equal(weights_of(model)[key], value), key


def test_low_precision_weights_are_rounded_once(loaded: Any, folders: dict[str, Path]) -> None:
    model = fuse(loaded.model).bfloat16()
    layer = model.model.layers[1].self_attn
    q = loaded.model.config.hidden_size
    base = layer.qkv_proj.weight[:q].float()
    FoldedAdapter(model).fold(folders["all"])
    tensors = load_file(folders["all"] / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    update = 2 * tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
    exact = base.double() + update.double()
    # The nearest bfloat16, up to ties that float32 sums may turn.
    step = 2.0 ** (exact.abs().log2().floor() - 7)
    assert ((layer.qkv_proj.weight[:q].double() - exact).abs() <= 0.5001 * step).all()


def test_what_does_not_fit_is_refused_and_changes_nothing(
    loaded: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = fuse(loaded.model)
    before = weights_of(model)
    folded = FoldedAdapter(model)
    head = Recipe(rank=2, alpha=2, targets=["q_proj", "lm_head"])
    with pytest.raises(UserError, match="lm_head"):
        folded.fold(make(loaded, tmp_path / "head", head, 3))
    del model.model.layers[3]
    model.packed_modules_mapping = PARTS
    with pytest.raises(UserError, match=r"layers\.3\."):
        FoldedAdapter(model).fold(folders["all"])
    empty = tmp_path / "empty"
    shutil.copytree(folders["all"], empty)
    from safetensors.torch import save_file

    save_file({}, empty / "adapter_model.safetensors")
    assert json.loads((empty / "adapter_config.json").read_text())["r"] == 4
    with pytest.raises(UserError, match="no LoRA weights"):
        folded.fold(empty)
    after = weights_of(model)
    assert all(torch.equal(after[key], before[key]) for key in after)
