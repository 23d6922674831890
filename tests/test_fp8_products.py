"""The experiment with frozen weights in FP8: the rounding that it says, and nothing else changed.

On a CPU the products are emulated; what `torch._scaled_mm` and the kernel do on a GPU is compared
with the emulation when the benchmark starts. The kernel, where triton is installed:
`TRITON_INTERPRET=1 pytest tests/test_fp8_products.py`.
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

from personaspace import fastlora
from personaspace.activations.extract import Passage
from personaspace.fastlora.linear import JointLinear
from personaspace.models import lora
from personaspace.study.recipe import Recipe

RECIPE = Recipe(rank=16, alpha=32, dropout=0.1)
KIND = torch.float8_e4m3fn


@pytest.fixture
def fp8(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    return importlib.import_module("benchmarks.fp8_products")


def test_each_row_is_rounded_to_float8_by_its_own_largest_number(fp8: Any) -> None:
    x = torch.tensor([[448.0, -1.0, 0.3], [4.48e-6, 1e-8, 0.0], [0.0, 0.0, 0.0], [1e-35, 0.0, 0.0]])
    made = fp8.quantise(x, fp8.How())
    assert made.values_PK.shape == (16, 3)  # filled up to what the products take
    assert made.scale_P1[:4, 0].tolist() == pytest.approx([1.0, 1e-8, 1.0, 1.0])
    # 0.3 lies between 0.28125 and 0.3125 of float8; what is far below a row's largest is lost.
    assert made.wide()[0].tolist() == [448.0, -1.0, 0.3125]
    assert made.wide()[1].tolist() == pytest.approx([4.48e-6, 1e-8, 0.0])
    assert not made.wide()[2:].any()


def test_products_are_those_of_the_rounded_matrices(fp8: Any) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(33, 64) * torch.rand(33, 1), torch.randn(48, 64), torch.randn(48)
    how = fp8.How()
    out = torch.full((48, 60), 7.0)
    found = fp8.product(
        fp8.quantise(x, how), fp8.quantise(weight, how), how, x.dtype, bias, out=out[:, :48]
    )

    def rounded(matrix: torch.Tensor) -> torch.Tensor:
        scale = matrix.double().abs().amax(1, keepdim=True) / 448
        return (matrix.double() / scale).float().to(KIND).double() * scale

    wanted = rounded(x) @ rounded(weight).T + bias
    assert torch.allclose(found[:33].double(), wanted, atol=1e-5, rtol=1e-5)
    assert found.data_ptr() == out.data_ptr() and (out[:, 48:] == 7.0).all()
    # Three bits after the first: each number is off by up to 1/16.
    error = fp8.relative(found[:33], x @ weight.T + bias)
    assert 0.02 < error < 0.05


def gradients(model: Any, examples: Any) -> tuple[float, dict[str, torch.Tensor]]:
    step = fastlora.training_step(
        model, longest=max(map(len, (e.ids for e in examples))), examples=8
    )
    loss = step.backward(examples, sum(e.loss_tokens for e in examples), seed=5)
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.item(), found


def test_gradients_of_adapters_are_near_those_of_exact_products(loaded: Any, fp8: Any) -> None:
    examples = random_examples(8)
    with lora.trainable(loaded.model, RECIPE, over=None, seed=3, field="t") as model:
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter.data.normal_(0, 0.05)
        model.train()
        former = JointLinear._product
        loss, exact = gradients(model, examples)
        with fp8.swapped(fp8.How()) as copies:
            near, found = gradients(model, examples)
        assert len(copies.made) == 4 * loaded.model.config.num_hidden_layers
        # As many bytes for both directions as in 16 bits, and a scale a row.
        for joint, held in copies.made.items():
            outputs = len(joint.weight_OW)
            rows = -(-outputs // 16) * 16 + -(-joint.features // 16) * 16
            assert held.bytes == 2 * outputs * joint.features + 4 * rows
        assert JointLinear._product is former
        again, same = gradients(model, examples)
    assert again == loss and all(torch.equal(same[name], exact[name]) for name in exact)
    assert near != loss and near == pytest.approx(loss, rel=0.02)
    assert set(found) == set(exact)
    errors = [fp8.relative(found[name], exact[name]) for name in exact]
    assert all(torch.isfinite(found[name]).all() for name in exact)
    assert 0.005 < sum(errors) / len(errors) < 0.15 and max(errors) < 0.4


def test_hidden_states_are_read_with_exact_products(loaded: Any, fp8: Any) -> None:
    texts = [Passage(tuple(example.ids), ()) for example in random_examples(3)]
    with lora.trainable(loaded.model, RECIPE, over=None, seed=3, field="t") as model:
        base: Any = model.eval().get_base_model()
        wanted, _ = fastlora.hidden_states(base, texts, layers=[0, 1])
        with fp8.swapped(fp8.How()) as copies:
            found, _ = fastlora.hidden_states(base, texts, layers=[0, 1])
    assert (found == wanted).all() and not copies.made


def test_a_run_has_a_rate_its_losses_and_what_the_copies_take(fp8: Any) -> None:
    bench = importlib.import_module("benchmarks.fp8")
    base = bench.common.random_model("Qwen2.5-7B")
    examples = bench.common.chats(16 * 4, base.model.config.vocab_size, 4)
    row, (losses, adapter) = bench.run(base, examples, "fp8", fp8.How(), 1)
    assert row["tokens/s"] > 0 and len(losses) == 4 and row["FP8 weights, GiB"] > 0
    assert all(torch.isfinite(tensor).all() for tensor in adapter.values())
    rows = bench.products(base, examples, fp8.How(), 1)
    assert [row["product"] for row in rows] == [n for n in bench.NAMES for _ in range(2)]
    assert all(0.01 < row["relative error"] < 0.06 for row in rows)


def test_a_study_in_fp8_is_compared_by_seed(fp8: Any) -> None:
    study = importlib.import_module("benchmarks.fp8_study")

    def rows(*values: float) -> list[dict[str, Any]]:
        same = dict.fromkeys(study.KEY, "x") | {"metric": "M1", "variant": "recommended"}
        made = [
            {**same, "seed": seed, "value": value, "layer": layer}
            for layer in (1, 2)
            for seed, value in enumerate(values)
        ]
        pooled = {**same, "seed": None, "value": 9.0, "layer": 1}
        return [*made, pooled, {**made[0], "metric": "H1"}, {**made[0], "layer": 3, "value": None}]

    exact = study.values(rows(1.0, 2.0, 4.0))
    (found,) = study.compare(exact, study.values(rows(1.5, 2.5, 4.5)))
    assert found["numbers"] == 2
    assert found["FP8 from bf16, same seed"] == pytest.approx(0.5)
    assert found["seed from seed, bf16"] == pytest.approx(2.0)  # of 1, 2 and 3
    assert found["ratio"] == pytest.approx(0.25)
    assert found["outside of all seeds"] == pytest.approx(1 / 3)


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None
    or not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="needs triton, and a GPU or its interpreter",
)
@pytest.mark.parametrize("columns", [48, 576, 9200])  # the last in two passes
def test_the_kernel_rounds_as_pytorch_does(fp8: Any, columns: int) -> None:
    kernels = importlib.import_module("benchmarks.fp8_kernels")
    torch.manual_seed(0)
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    x = torch.randn(7, columns + 8, device=device)[:, :columns]
    x[1] = 0
    found, wanted = fp8.Scaled(*kernels.quantise(x, 16)), fp8.quantise(x, fp8.How())
    assert torch.allclose(found.scale_P1, wanted.scale_P1)
    # The interpreter's own float8 is wrong where rounding up reaches the next power of two.
    differing = (found.values_PK.float() != wanted.values_PK.float()).float().mean()
    assert differing < (0.02 if device == "cpu" else 1e-3)
    assert not found.wide()[7:].any() and not found.wide()[1].any()
