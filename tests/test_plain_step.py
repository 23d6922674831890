"""Training by the model's own forward pass fits itself to a GPU's memory."""

from __future__ import annotations

import copy
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from made_examples import random_examples
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from personaspace.errors import UserError
from personaspace.fastlora import Costs, MemoryPlan, bins, memory
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.study.recipe import Recipe
from personaspace.training import plain
from personaspace.training.packing import PackedRow
from personaspace.training.plain import PlainStep

RECIPE = Recipe(rank=4, alpha=8, dropout=0.3)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_layers_that_recompute_change_nothing(loaded: Any) -> None:
    """Not even what dropout drops; and the model is as before afterwards."""
    examples = random_examples(6)
    with lora.trainable(loaded.model, RECIPE, over=None, seed=3, field="t") as model:
        model.train()
        step = PlainStep(model, 90)
        wanted = step.backward(examples, 20, 5)
        expected = gradients(model)
        assert len(step.layers) == 4
        step.plan = MemoryPlan(90, 3)
        counted = []
        first: Any = step.layers[0]
        handle = first.self_attn.q_proj.register_forward_pre_hook(lambda *_: counted.append(1))
        loss = step.backward(examples, 20, 5)
        handle.remove()
        assert len(counted) == 2 * len(bins([len(e.ids) for e in examples], 90))
        assert loss.equal(wanted)
        found = gradients(model)
        assert set(found) == set(expected) and all(found[n].equal(expected[n]) for n in found)
        assert not any(layer.gradient_checkpointing for layer in step.layers)


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [0, 2])
def test_a_step_that_is_out_of_memory_takes_less(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, recomputed: int
) -> None:
    monkeypatch.setattr(memory, "SHORTEST_ROW", 16)
    examples = random_examples(8)
    rows: list[int] = []
    real = plain.row_loss

    def narrow(model: Any, row: PackedRow, positions: bool = True) -> torch.Tensor:
        rows.append(row.ids_BT.shape[1])
        computed = real(model, row, positions)
        if rows[-1] > 70 or sum(layer.gradient_checkpointing for layer in step.layers) < recomputed:
            raise torch.OutOfMemoryError("no more")
        return computed

    recipe = RECIPE.model_copy(update={"dropout": 0.0})
    with lora.trainable(loaded.model, recipe, over=None, seed=3, field="t") as model:
        whole = PlainStep(model, 400).backward(examples, 30, 5)
        expected = gradients(model)
        step = PlainStep(model, 200, longest=30)
        monkeypatch.setattr(plain, "row_loss", narrow)
        loss = step.backward(examples, 30, 5)
        assert float(loss) == pytest.approx(float(whole), rel=1e-5)
        found = gradients(model)
        assert all(torch.allclose(found[n], expected[n], atol=1e-6, rtol=1e-4) for n in expected)
        assert 30 <= step.plan.row_tokens <= 94 and step.plan.checkpointed >= recomputed
        # What was found out is not tried again.
        tried = len(rows)
        step.backward(examples, 30, 6)
        lengths = [len(e.ids) for e in examples]
        assert len(rows) - tried == len(bins(lengths, step.plan.row_tokens))


@pytest.mark.slow  # collects garbage at each attempt
def test_a_gpu_too_small_for_the_longest_example_says_so(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(plain, "row_loss", never)
    with lora.trainable(loaded.model, RECIPE, over=None, seed=3, field="t") as model:
        step = PlainStep(model, 2000, longest=1800)
        with pytest.raises(UserError, match="rows of 1800 tokens, with all 4 layers recomputed"):
            step.backward(random_examples(3), 8, 5)


def test_costs_are_those_of_a_layer_where_memory_grows_by_the_token(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lora.trainable(loaded.model, RECIPE, over=None, seed=3, field="t") as model:
        step = PlainStep(model, 400)
        moments = 8 * sum(p.numel() for p in step.trained)
        true = Costs(layers=4, kept=9000, edge=256, working=20_000, fixed=777)

        def peak(examples: Any, recomputed: int) -> int:
            return true.step(sum(len(e.ids) for e in examples), recomputed)

        monkeypatch.setattr(step, "_peak", peak)
        (example,) = random_examples(1)
        found = step.costs(example)
        assert found == Costs(4, 9000, 256, 20_000, 777 + moments)
        monkeypatch.setattr(step, "_peak", lambda examples, _: None if len(examples) > 1 else 5)
        assert step.costs(example) is None


class Live(TorchDispatchMode):
    """Bytes of the tensors that exist at once, at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.most: int = 0

    def _gone(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            each.untyped_storage()._cdata
            for each in tree_leaves((args, kwargs))
            if isinstance(each, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor) and each.untyped_storage()._cdata not in given:
                storage = each.untyped_storage()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return out


def text(length: int) -> Example:
    ids = tuple(3 + number % 300 for number in range(length))
    return Example(ids, tuple(place >= length // 2 for place in range(length)))


@pytest.mark.slow
def test_costs_foresee_what_longer_rows_take(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in tensors on the CPU, with its attention that keeps no product of all pairs."""
    monkeypatch.setattr(plain, "steady_attention", lambda _: nullcontext())
    with lora.trainable(loaded.model, RECIPE, over=None, seed=3, field="t") as model:
        model.train()
        step = PlainStep(model, 400)

        def peak(examples: Any, recomputed: int) -> int:
            tokens = sum(len(example.ids) for example in examples)
            live = Live()
            with live:
                step._attempt(examples, 1, MemoryPlan(tokens, recomputed))
            step.forget()
            return live.most

        monkeypatch.setattr(step, "_peak", peak)
        need = step.costs(text(50))
        assert need is not None
        moments = 8 * sum(p.numel() for p in step.trained)
        for recomputed, least, most in ((0, 0.85, 1.15), (2, 0.85, 1.6), (4, 0.8, 1.15)):
            foreseen = need.step(300, recomputed) - moments
            assert least < foreseen / peak([text(150), text(150)], recomputed) < most


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_rows_fit_its_memory(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    half = copy.deepcopy(loaded.model).to("cuda", torch.bfloat16)
    examples = [text(400) for _ in range(12)]
    with lora.trainable(half, RECIPE, over=None, seed=3, field="t") as model:
        model.train()
        need = PlainStep(model, 4096).costs(examples[0])
        assert need is not None and need.step(400, 4) < need.step(400, 0)
        room = need.step(1700, 0)
        monkeypatch.setattr(plain, "free_bytes", lambda _: int(room / memory.USABLE))
        step = PlainStep.planned(model, examples, 4096)
        assert 1400 <= step.plan.row_tokens <= 2000 and step.plan.checkpointed == 0
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step.backward(examples, 100, 5)
        assert torch.cuda.max_memory_allocated() - before <= room / memory.USABLE


def test_rows_of_another_length_draw_other_dropout_masks_and_change_nothing_else(
    loaded: Any,
) -> None:
    """What docs/gpu.md and `row_tokens` say: a step's masks go by how its rows are filled."""
    examples = random_examples(8)
    for dropout in (0.0, 0.3):
        recipe = RECIPE.model_copy(update={"dropout": dropout})
        with lora.trainable(loaded.model, recipe, over=None, seed=3, field="t") as model:
            model.train()
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.05)
            one = PlainStep(model, 400).backward(examples, 30, 5)
            again = PlainStep(model, 400).backward(examples, 30, 5)
            model.zero_grad()
            other = PlainStep(model, 60, longest=30).backward(examples, 30, 5)
            model.zero_grad()
        assert one.equal(again)
        assert (abs(float(one - other)) < 1e-5 * float(one)) == (dropout == 0.0)
