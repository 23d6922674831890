"""Tiny models of many families, through what computes, against transformers one text at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_families import FAMILIES, Family, build
from torch.nn.functional import cross_entropy

from personaspace.activations.extract import Passage, hidden_states
from personaspace.errors import UserError
from personaspace.fastlora import loss_places
from personaspace.generation.base import Prompt, Sampling
from personaspace.generation.transformers_engine import TransformersEngine
from personaspace.models import lora, preflight
from personaspace.models.architecture import Rows, rows_of
from personaspace.models.chat import Example
from personaspace.models.load import load_model
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe
from personaspace.training.trainer import PlainStep

#: What is refused before anything runs.
REFUSED = {"gpt2", "bloom"}
NAMES = [f"{number}-{family.kind}" for number, family in enumerate(FAMILIES)]
#: Longer than the windows of tiny models.
TEXTS = [tuple(range(3 + 7 * n, 3 + 7 * n + length)) for n, length in enumerate((19, 40, 27))]


@pytest.fixture(scope="module", params=FAMILIES, ids=NAMES)
def family(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def model(family: Family, loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build(family, tmp_path_factory.mktemp("family"), loaded.tokenizer)
    spec = Model(name=str(folder), dtype="float32")
    if family.kind in REFUSED:
        with pytest.raises(UserError, match=r"^model\.name: "):
            preflight.described(spec)
        pytest.skip("refused")
    preflight.described(spec)
    return load_model(spec)


def alone(model: Any, ids: tuple[int, ...]) -> Any:
    return model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)


def test_hidden_states(model: Any) -> None:
    passages = [Passage(ids[:-6], ids[-6:]) for ids in TEXTS]
    states = hidden_states(model, passages, [0, 2])
    with torch.no_grad():
        for number, passage in enumerate(passages):
            seen = alone(model, passage.prompt + passage.answer).hidden_states
            for slot, layer in enumerate((0, 2)):
                wanted = seen[layer + 1][0]
                stop = len(passage.prompt)
                for got, right in (
                    (states.last_NLH[number, slot], wanted[stop - 1]),
                    (states.mean_NLH[number, slot], wanted[stop:].mean(dim=0)),
                ):
                    scale = right.abs().max()
                    assert (torch.from_numpy(got) - right).abs().max() < 2e-5 * scale


def test_gradients_of_a_step(model: Any) -> None:
    examples = [Example(ids, (False,) * (len(ids) - 8) + (True,) * 8) for ids in TEXTS]
    recipe = Recipe(rank=2, alpha=4, dropout=0.0)
    with lora.trainable(model, recipe, over=None, seed=1, field="training") as adapted:
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
        trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
        assert not any("vision" in name for name in trained)
        loss = PlainStep(adapted, 4096).backward(examples, 24, seed=0)
        packed = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
        adapted.zero_grad()
        total = torch.zeros(())
        for example in examples:
            keep, targets = loss_places([example])
            logits = adapted(input_ids=torch.tensor([example.ids]), use_cache=False).logits
            total = total + cross_entropy(
                logits[0, keep].float(), torch.tensor(targets), reduction="sum"
            )
        (total / 24).backward()
        assert abs(float(loss) - float(total) / 24) < 1e-5 * float(loss)
        largest = max(float(g.abs().max()) for g in packed.values())
        for name, gradient in packed.items():
            own = trained[name].grad
            assert own is not None
            assert (gradient - own).abs().max() < 1e-4 * largest, name
        if rows_of(model) is not Rows.SINGLE:
            assert len(packed) == len(trained)


def test_greedy_answers(model: Any, loaded: Any) -> None:
    engine = TransformersEngine(model, loaded.tokenizer, [2], batch_size=16)
    prompts = [Prompt(str(n), ids) for n, ids in enumerate(TEXTS)]
    found = engine.generate(prompts, Sampling(8))
    with torch.no_grad():
        for (answer,), ids in zip(found, TEXTS, strict=True):
            said = list(ids)
            for _ in range(8):
                logits = alone(model, tuple(said)).logits[0, -1]
                best = logits.topk(2)
                token = int(best.indices[0])
                place = len(said) - len(ids)
                if token != (answer.token_ids[place] if place < len(answer.token_ids) else 2):
                    assert best.values[0] - best.values[1] < 1e-4  # a tie
                    break
                if token == 2:
                    break
                said.append(token)
