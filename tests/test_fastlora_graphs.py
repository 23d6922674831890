"""Steps at fixed shapes, as CUDA graphs record them: the same losses and gradients.

Recording itself needs a GPU; the tests that do are skipped without one.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from made_examples import random_examples

from personaspace.fastlora.graphs import GraphedStep, StepInputs, fitting, roomy
from personaspace.fastlora.layout import PAD_MULTIPLE
from personaspace.fastlora.memory import MemoryPlan
from personaspace.fastlora.training import PackedStep, dropout_seeds
from personaspace.models import lora
from personaspace.study.recipe import Recipe
from personaspace.training.trainer import Trainer

RECIPE = Recipe(rank=4, alpha=8, dropout=0.3, learning_rate=5e-3, batch_size=8, epochs=4)


def grads(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("count", [7, 8])
def test_room_to_spare_changes_no_loss_and_no_gradient(loaded: Any, count: int) -> None:
    batch = random_examples(count)
    loss_tokens = sum(made.loss_tokens for made in batch)
    tokens = sum(len(made.ids) for made in batch)
    with lora.trainable(loaded.model, RECIPE, over=None, seed=3, field="t") as model:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                torch.nn.init.normal_(parameter, 0, 0.05)
        model.train()
        step = PackedStep(model, MemoryPlan(10 * tokens, 0))
        wanted = step.backward(batch, loss_tokens, seed=11)
        exact = grads(model)
        size = -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE
        for inputs in (
            StepInputs(size + 2 * PAD_MULTIPLE, loss_tokens + 9, 8, step.layers, step.device),
            StepInputs(size, loss_tokens, count, step.layers, step.device),
        ):
            # Whatever a step before left behind is gone.
            inputs.load(random_examples(3, seed=5), 17, dropout_seeds(2, 1, step.layers)[0])
            inputs.load(batch, loss_tokens, dropout_seeds(11, 1, step.layers)[0])
            loss = inputs.loss(step.decoder)
            loss.backward()
            assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
            found = grads(model)
            assert set(found) == set(exact)
            for name in exact:
                assert torch.allclose(found[name], exact[name], atol=1e-6, rtol=1e-4), name


def test_a_graph_serves_what_fills_most_of_it() -> None:
    sizes = [(2048, 128), (1280, 128), (1280, 64)]
    assert fitting(sizes, 1200, 60) == 2
    assert fitting(sizes, 1200, 100) == 1
    assert fitting(sizes, 1200, 200) is None
    assert fitting(sizes, 1300, 60) is None, "a quarter of the larger one would be padding"
    assert fitting(sizes, 1600, 60) == 0
    assert fitting([], 1, 1) is None
    assert roomy(1000, PAD_MULTIPLE) == 1152 and roomy(1, 64) == 64


def test_only_small_models_are_recorded(loaded: Any) -> None:
    with lora.trainable(loaded.model, RECIPE, over=None, seed=3, field="t") as model:
        rows = MemoryPlan(4096, 0)
        assert GraphedStep(PackedStep(model, rows), model, 8).most == 2048, "half a row"
        assert GraphedStep(PackedStep(model, MemoryPlan(4096, 1)), model, 8).most == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="recording needs a GPU")
def test_recorded_training_is_that_of_the_packed_steps(loaded: Any) -> None:
    recipe = RECIPE.model_copy(update={"rank": 16})
    half = copy.deepcopy(loaded.model).to("cuda", torch.bfloat16)
    logs = []
    for recorded in (False, True):
        with lora.trainable(half, recipe, over=None, seed=3, field="t") as model:
            engine: Any = PackedStep(model, MemoryPlan(4096, 0))
            if recorded:
                engine = GraphedStep(engine, model, recipe.batch_size)
            trainer = Trainer(model, random_examples(20), recipe, 7, engine=engine)
            logs.append([entry.loss for entry in trainer.run()])
            if recorded:
                assert 1 <= len(engine._graphs) < len(logs[0])
    assert logs[1] == pytest.approx(logs[0], rel=2e-3)
    assert logs[0][-1] < logs[0][0]
