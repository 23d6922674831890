"""What families have beyond Llama, in the packed decoder, against transformers one text at a time.

`test_families.py` compares each family's usual form; here are their windows, rotary positions,
factors and norms with weights that are not one. Without a GPU in float32; on one in bfloat16.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_families import (
    LAYERS,
    TEXTS,
    adapter,
    states_error,
    step_error,
    trainable,
)
from tiny_families import ALTERNATING, FACTORS, Family, config_of
from transformers import AutoModelForCausalLM

from personaspace import fastlora
from personaspace.activations.extract import Passage
from personaspace.fastlora import attention, foreseen_obstacle, memory, obstacles, reference
from personaspace.fastlora.architectures import windows_of
from personaspace.fastlora.obstacles import ObstacleCode, computation_obstacle
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.study.recipe import Recipe
from personaspace.training.plain import PlainStep
from personaspace.training.trainer import Trainer

pytestmark = pytest.mark.slow

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
#: Windows of 12 are shorter than all texts.
FORMS = {
    "qwen3": Family("qwen3", ""),
    "qwen3, biased": Family("qwen3", "", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3, windows above layer 0": Family(
        "qwen3", "", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}
    ),
    "qwen2, windows": Family(
        "qwen2", "", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}
    ),
    "mistral": Family("mistral", "", {"sliding_window": None}),
    "mistral, windows": Family("mistral", "", {"sliding_window": 12}),
    "ministral": Family("ministral", "", ALTERNATING),
    "llama3": Family("llama", "", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama, all biased, yarn": Family(
        "llama",
        "",
        {"rope_parameters": YARN, "attention_bias": True, "mlp_bias": True, "head_dim": 24},
    ),
    "smollm3": Family("smollm3", "", {"no_rope_layer_interval": 2}),
    "smollm3, windows": Family(
        "smollm3",
        "",
        {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 12},
    ),
    "granite": Family("granite", "", {**FACTORS, "logits_scaling": 7.0}),
    "olmo2": Family("olmo2", ""),
    "olmo2, a head": Family("olmo2", "", {"num_key_value_heads": 1, "attention_bias": True}),
}


def model_of(name: str, **sizes: Any) -> Any:
    """A random model whose norms and biases do something."""
    family = FORMS[name]
    family = Family(family.kind, "", {**family.config, **sizes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, 400), attn_implementation="sdpa")
    for kind, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.0 if kind.endswith("bias") else 1.0, 0.3)
    model.requires_grad_(False)
    return model.float().eval()


@pytest.mark.parametrize("name", ["qwen3", "mistral, windows", "smollm3, windows", "granite"])
def test_gradients_are_transformers_with_attentions_own_gradients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention as on a GPU, with room for LoRA and gradients of its own."""
    monkeypatch.setattr(attention, "attention_ops", lambda _: reference)
    with trainable(model_of(name), None) as adapted:
        step = fastlora.training_step(adapted, longest=40, examples=3, row_tokens=60)
        assert step_error(adapted, step) < 4e-6


@pytest.mark.parametrize("name", FORMS)
def test_gradients_and_states_are_transformers(name: str, tmp_path: Any) -> None:
    model = model_of(name)
    assert computation_obstacle(model) is None
    adapter(model, tmp_path, None)
    with trainable(model, tmp_path) as adapted:  # over a frozen one
        step = fastlora.training_step(adapted, longest=40, examples=3)
        assert step_error(adapted, step) < 4e-6
    # Texts that begin alike, so that a part of what a window sees comes from their prefix.
    with lora.applied(model, tmp_path):
        head = TEXTS[1][:15]
        passages = [Passage(ids[:-6], ids[-6:]) for ids in TEXTS]
        more = [Passage((*head, *ids[:9]), ids[9:13]) for ids in TEXTS]
        last, mean = fastlora.hidden_states(model, [*passages, *more], LAYERS)
        assert states_error(last[:3], mean[:3], model) < 2e-6
        apart, alone = fastlora.hidden_states(model, more, LAYERS, share=False)
        for found, wanted in ((last[3:], apart), (mean[3:], alone)):
            assert abs(found - wanted).max() < 2e-6 * abs(wanted).max()


def test_windows_are_where_the_models_have_them() -> None:
    windows = {name: windows_of(config_of(family, 400)) for name, family in FORMS.items()}
    assert windows.pop("mistral, windows") == [12, 12, 12]
    assert windows.pop("ministral") == [12, 0, 12]
    assert windows.pop("qwen3, windows above layer 0") == [0, 12, 12]
    assert windows.pop("qwen2, windows") == [0, 12, 12]
    assert windows.pop("smollm3, windows") == [0, 12, 0]
    assert all(each == [0, 0, 0] for each in windows.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "mistral, windows", "granite"])
def test_loss_curves_are_those_of_the_plain_engine(name: str) -> None:
    examples = [Example(ids, (False,) * (len(ids) - 8) + (True,) * 8) for ids in TEXTS]
    recipe = Recipe(
        rank=4, alpha=8, dropout=0.0, learning_rate=3e-2, batch_size=3, epochs=10, row_tokens=60
    )
    model, curves = model_of(name), []
    for fused in (False, True):
        with lora.trainable(model, recipe, over=None, seed=3, field="t") as adapted:
            engine = (
                fastlora.training_step(adapted, longest=40, examples=3, row_tokens=60)
                if fused
                else PlainStep(adapted, 60)
            )
            log = Trainer(adapted, examples, recipe, 7, engine=engine).run()
            curves.append([entry.loss for entry in log])
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert len(curves[0]) == 10 and curves[0][-1] < curves[0][0] - 0.05


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (Family("gemma2", "", {"query_pre_attn_scalar": 8}), "architecture gemma2 is not known"),
        (Family("llama", "", {"hidden_act": "gelu"}), "its gate is gelu"),
        (Family("qwen3", "", {"attention_dropout": 0.1}), "dropout inside attention"),
        (
            Family("llama", "", {"rope_parameters": {**LLAMA3, "rope_type": "dynamic"}}),
            "of type dynamic",
        ),
        (Family("mistral", "", {"head_dim": 12}), "size of 12"),
        (Family("mistral", "", {"head_dim": 264}), "size of 264"),
    ],
)
def test_what_it_does_not_compute_is_named(family: Family, words: str) -> None:
    found = foreseen_obstacle(config_of(family, 400), torch.bfloat16, torch.device("cuda"))
    assert found is not None and found.code is ObstacleCode.ARCHITECTURE
    assert words in found.text


def test_windows_and_scales_need_pytorchs_attention_to_take_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(obstacles, "_of_machine", lambda _: None)
    monkeypatch.setattr(attention, "_varlen", lambda: (None, frozenset({"is_causal"})))
    gpu = torch.device("cuda")
    refused = {
        name
        for name, family in FORMS.items()
        if foreseen_obstacle(config_of(family, 400), torch.bfloat16, gpu) is not None
    }
    assert refused == {name for name in FORMS if "windows" in name} | {"ministral", "granite"}


def test_norms_of_queries_and_keys_keep_what_they_normalised() -> None:
    costs = {
        name: memory.costs(model_of(name).to(torch.bfloat16), 0).kept
        for name in ("qwen3", "mistral")
    }
    # Queries of four heads, keys and values of two, of 8 numbers of two bytes each.
    assert costs["qwen3"] - costs["mistral"] in range(2 * 8 * 8, 2 * 8 * 8 + 4)


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@GPU
@pytest.mark.parametrize("name", FORMS)
def test_on_a_gpu_gradients_and_states_are_those_of_float32(name: str) -> None:
    """Fused in bfloat16 is about as near to float32 as transformers' own code in bfloat16 is."""
    rounded = model_of(name, head_dim=32, hidden_size=128).to(torch.bfloat16)
    texts = [tuple(range(3 + 7 * n, 3 + 7 * n + length)) for n, length in enumerate((90, 140, 33))]
    right, plain, fused = (computed(rounded, kind, texts) for kind in ("float32", "plain", "fused"))
    losses = [abs(float(found["loss"] / right["loss"] - 1)) for found in (plain, fused)]
    names = [key for key in right if "lora" in key]
    assert names and all(float(right[key].norm()) for key in names)
    offs = [[off(found[key], right[key]) for key in names] for found in (plain, fused)]
    means, most = [sum(each) / len(each) for each in offs], [max(each) for each in offs]
    states = [[off(found[key], right[key]) for key in ("last", "mean")] for found in (plain, fused)]
    print(f"\n{name}, plain and fused: {losses=}, {means=}, {most=}, {states=}")
    assert losses[1] < max(5e-3, 2 * losses[0])
    assert means[1] < 1.2 * means[0] and most[1] < 1.5 * most[0]
    assert all(ours < 1.3 * theirs + 1e-4 for theirs, ours in zip(*states, strict=True))


def off(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found - right).norm() / right.norm())


def computed(rounded: Any, kind: str, texts: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Loss, gradients and states on the GPU, float64, of the same weights and adapter."""
    examples = [Example(ids, (False,) * (len(ids) - 20) + (True,) * 20) for ids in texts]
    passages = [Passage(ids[:-20], ids[-20:]) for ids in texts]
    recipe = Recipe(rank=16, alpha=32, dropout=0.0)
    model = copy.deepcopy(rounded).to("cuda")
    if kind == "float32":
        model = model.float()
    with lora.trainable(model, recipe, over=None, seed=3, field="t") as adapted:
        base: Any = adapted.get_base_model()
        torch.manual_seed(1)
        trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
        for name, parameter in trained.items():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape).to("cuda") * 0.05
        if kind == "fused":
            assert fastlora.obstacle(base) is None
            step: Any = fastlora.training_step(adapted, longest=140, examples=3)
            step.most = 0  # recorded steps have a test of their own
            loss = step.backward(examples, 60, 5)
            last, mean = map(torch.from_numpy, fastlora.hidden_states(base, passages, LAYERS))
        else:
            loss = PlainStep(adapted, 4096).backward(examples, 60, 5)
            last, mean = alone_states(adapted.eval(), passages)
        found = {name: p.grad for name, p in trained.items() if p.grad is not None}
        found |= {"loss": loss, "last": last, "mean": mean}
        return {name: tensor.double().cpu() for name, tensor in found.items()}


def alone_states(adapted: Any, passages: list[Passage]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both methods' states with transformers, a text at a time, on the host."""
    lasts, means = [], []
    for passage in passages:
        ids = torch.tensor([passage.prompt + passage.answer], device="cuda")
        with torch.no_grad():
            seen = adapted(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        chosen = torch.stack([seen[layer + 1][0].float().cpu() for layer in LAYERS])
        lasts.append(chosen[:, len(passage.prompt) - 1])
        means.append(chosen[:, len(passage.prompt) :].mean(1))
    return torch.stack(lasts), torch.stack(means)
