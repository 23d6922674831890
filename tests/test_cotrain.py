"""The measurement of conditions trained together: each is trained as alone.

The kernels for segments are compared with those for one adapter, on a GPU or by Triton's
interpreter: `TRITON_INTERPRET=1 pytest tests/test_cotrain.py`, where triton is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from made_examples import random_examples

from personaspace.fastlora.memory import MemoryPlan
from personaspace.fastlora.training import PackedStep
from personaspace.models import lora
from personaspace.study.recipe import Recipe
from personaspace.training.trainer import Trainer

RECIPE = Recipe(rank=16, alpha=32, dropout=0.2, learning_rate=5e-3, batch_size=4, max_steps=4)
SEEDS = (3, 11, 12)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    importlib.import_module("benchmarks.cotrain")
    return importlib.import_module("benchmarks.cotrain_trainer")


def kicked(tensor: torch.Tensor) -> None:
    """B as if it had been trained, so that every gradient is something; drawn on the CPU."""
    drawn = torch.empty(tensor.shape).normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    tensor.copy_(drawn)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_condition_is_trained_as_alone(
    loaded: Any, bench: Any, rows: int, dtype: torch.dtype
) -> None:
    if dtype == torch.float64 and loaded.model.device.type == "cuda":
        pytest.skip("kernels add up in float32")
    model = loaded.model.to(dtype)
    try:
        made = [bench.Condition(random_examples(16, seed=seed), seed) for seed in SEEDS]
        trainer = bench.TogetherTrainer(model, RECIPE, made, rows)
        for _, shared in trainer.decoder.places():
            for each in trainer.bank.view(trainer.bank.values_CP, shared.b):
                kicked(each)
        first = trainer.gradients(0), trainer.bank.grads_CP.clone()
        for step in range(trainer.steps):
            trainer.step(step)
        together = torch.stack(trainer.losses, 1)
        assert together[:, 0].tolist() == pytest.approx(first[0].tolist())
        for number, condition in enumerate(made):
            apart, gradients, after = alone(model, condition, trainer.decoder, rows)
            assert together[number].tolist() == pytest.approx(apart, rel=1e-5)
            near = first[1][number]
            assert float((near - gradients).norm() / gradients.norm()) < 1e-5
            assert torch.allclose(trainer.bank.values_CP[number], after, atol=2e-4, rtol=1e-3)
        # Seeds, examples and so losses are of each condition.
        assert len({round(loss, 4) for loss in together[:, -1].tolist()}) == len(SEEDS)
    finally:
        loaded.model.to(torch.float32)


def alone(
    model: Any, condition: Any, decoder: Any, rows: int
) -> tuple[list[float], torch.Tensor, torch.Tensor]:
    """Losses, first gradients and trained adapter, laid out as those of the bank are."""

    def flat(peft_model: Any, of: str) -> torch.Tensor:
        tensors = dict(peft_model.named_parameters())
        found = []
        for layer in range(len(decoder.layers)):
            for group in (
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                ("self_attn.o_proj",),
                ("mlp.gate_proj", "mlp.up_proj"),
                ("mlp.down_proj",),
            ):
                for half in ("lora_A", "lora_B"):
                    for name in group:
                        key = f"base_model.model.model.layers.{layer}.{name}.{half}.default.weight"
                        tensor = tensors[key]
                        value = tensor.grad if of == "grad" else tensor.detach()
                        assert value is not None
                        found.append(value.float().flatten())
        return torch.cat(found)

    with lora.trainable(model, RECIPE, over=None, seed=condition.seed, field="t") as peft_model:
        base: Any = peft_model.get_base_model()
        for layer in base.get_decoder().layers:
            kick(layer)
        peft_model.train()
        engine: Any = _Cut(PackedStep(peft_model, MemoryPlan(10_000, 0)), rows)
        trainer = Trainer(peft_model, condition.examples, RECIPE, condition.seed, engine)
        grads: list[torch.Tensor] = []
        backward = engine.backward

        def watched(*given: Any) -> torch.Tensor:
            loss: torch.Tensor = backward(*given)
            if not grads:
                grads.append(flat(peft_model, "grad").clone())
            return loss

        engine.backward = watched
        log = trainer.run()
        return [entry.loss for entry in log], grads[0], flat(peft_model, "values")


def kick(layer: Any) -> None:
    """The same numbers as `kicked` gives the bank, product by product."""
    attention, mlp = layer.self_attn, layer.mlp
    for group in (
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    ):
        weights = [module.lora_B["default"].weight for module in group]
        drawn = torch.empty(sum(map(len, weights)), weights[0].shape[1])
        kicked(drawn)
        with torch.no_grad():
            for weight, part in zip(weights, drawn.split(list(map(len, weights))), strict=True):
                weight.copy_(part)


class _Cut:
    """An engine whose step is cut into rows as those of conditions together are."""

    def __init__(self, step: PackedStep, rows: int) -> None:
        self.step, self.rows = step, rows

    def backward(self, batch: Any, loss_tokens: int, seed: int) -> torch.Tensor:
        from personaspace.fastlora.training import dropout_seeds

        each = -(-len(batch) // self.rows)
        device = self.step.device
        seeds = dropout_seeds(seed, self.rows, self.step.layers).to(device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        self.step.decoder.refresh()
        for number in range(self.rows):
            layout, keep, targets = self.step._row(batch[number * each : (number + 1) * each])
            loss = self.step.decoder.loss(layout, keep, targets, seeds[number]) / loss_tokens
            loss.backward()
            total += loss.detach()
        return total


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None
    or not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="needs triton, and a GPU or its interpreter",
)
@pytest.mark.parametrize("modules", [1, 3])
def test_kernels_for_segments_are_those_for_one_adapter(bench: Any, modules: int) -> None:
    kernels = importlib.import_module("benchmarks.cotrain_kernels")
    loops = importlib.import_module("benchmarks.cotrain_loops")
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    torch.manual_seed(0)
    x = torch.randn(2 * 70, 48, device=device)
    down = torch.randn(2, modules, 16, 48, device=device)
    found = [loops._tried(ops, x, down) for ops in (kernels, loops.looped(x, 16))]
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5
