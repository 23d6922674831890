"""The packed decoder: the same losses, gradients and states as the model's own forward pass."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_examples import random_examples
from scipy import stats

from personaspace import fastlora
from personaspace.activations.extract import Passage, hidden_states
from personaspace.errors import UserError
from personaspace.fastlora import (
    ObstacleCode,
    PlannedAdapter,
    attention,
    bins,
    foreseen_obstacle,
    functional,
    memory,
    obstacle,
    obstacles,
    reference,
)
from personaspace.fastlora.decoder import PackedDecoder
from personaspace.fastlora.layout import PAD_MULTIPLE, lay_out
from personaspace.fastlora.linear import JointLinear, join
from personaspace.fastlora.memory import MemoryPlan
from personaspace.fastlora.obstacles import computation_obstacle
from personaspace.fastlora.training import PackedStep
from personaspace.models import lora
from personaspace.study.recipe import PUBLISHED_TARGETS, Recipe
from personaspace.training import packing
from personaspace.training.plain import PlainStep, row_loss
from personaspace.training.trainer import Trainer

CPU = torch.device("cpu")
RECIPE = Recipe(rank=4, alpha=8, dropout=0.0, learning_rate=5e-3, batch_size=4, epochs=3)
NAMES = list(PUBLISHED_TARGETS)


@contextmanager
def adapted(model: Any, recipe: Recipe, over: Path | None = None) -> Iterator[Any]:
    """A trainable adapter whose B is not zero, so that every gradient is something."""
    with lora.trainable(model, recipe, over=over, seed=3, field="training") as peft_model:
        torch.manual_seed(0)
        for name, parameter in peft_model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter.data.normal_(0, 0.05)
        peft_model.train()
        yield peft_model


@pytest.fixture(scope="module")
def first(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that does something, to train over."""
    folder = tmp_path_factory.mktemp("first")
    with adapted(loaded.model, RECIPE.model_copy(update={"rank": 3})) as peft_model:
        lora.save(peft_model, folder, "tiny")
    return folder


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of a tensor as a share of its largest entry."""
    assert set(one) == set(other) and one
    return max(float((one[n] - other[n]).abs().max() / other[n].abs().max()) for n in one)


# Losses and gradients


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets, stacked", [(NAMES, False), (NAMES, True), (["q_proj", "v_proj", "down_proj"], False)]
)
@pytest.mark.parametrize("checkpointed", [0, 3])
@pytest.mark.parametrize("kernels", [False, True])
def test_loss_and_gradients_are_the_models_own(
    loaded: Any,
    first: Path,
    targets: list[str],
    stacked: bool,
    checkpointed: int,
    kernels: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`kernels`: attention as on a GPU, with room for LoRA and gradients of its own."""
    if kernels:
        monkeypatch.setattr(attention, "attention_ops", lambda _: reference)
    batch = random_examples(7)
    row = packing.make_row(batch)
    recipe = RECIPE.model_copy(update={"targets": targets})
    with adapted(loaded.model, recipe, first if stacked else None) as model:
        base = model.get_base_model()
        assert computation_obstacle(base) is None
        wanted = row_loss(model, row)
        wanted.backward()
        grads = gradients(model)
        decoder = PackedDecoder(base, checkpointed)
        layout = lay_out([made.ids for made in batch], CPU)
        loss = decoder.loss(layout, row.keep_K, row.targets_K, None)
        loss.backward()
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
        assert apart(gradients(model), grads) < 2e-5
        # Examples see nothing of each other: with one left out, the others' losses sum the same.
        some, rest = packing.make_row(batch[:3]), packing.make_row(batch[3:])
        parts = [
            decoder.loss(lay_out([m.ids for m in part], CPU), r.keep_K, r.targets_K, None).item()
            for part, r in ((batch[:3], some), (batch[3:], rest))
        ]
        assert sum(parts) == pytest.approx(loss.item(), rel=1e-6)


def test_dropout_is_the_plain_formula_with_the_masks_of_its_seeds(loaded: Any) -> None:
    """Hooks put the masks, made from the seeds, into PEFT's own layers: all is the same then."""
    batch = random_examples(5, seed=1)
    row = packing.make_row(batch)
    seeds = torch.randint(-(2**31), 2**31, (4, 7)).to(torch.int32)
    with adapted(loaded.model, RECIPE.model_copy(update={"dropout": 0.3})) as model:
        base = model.get_base_model()
        handles = []
        for number, layer in enumerate(base.model.layers):
            for place, (name, block) in enumerate(
                (n, layer.self_attn if n in NAMES[:4] else layer.mlp) for n in NAMES
            ):
                handles.append(_masked(getattr(block, name), seeds[number, place], row, number))
        wanted = row_loss(model, row)
        wanted.backward()
        grads = gradients(model)
        for handle in handles:
            handle.remove()
        decoder = PackedDecoder(base)
        layout = lay_out([made.ids for made in batch], CPU)
        loss = decoder.loss(layout, row.keep_K, row.targets_K, seeds)
        loss.backward()
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
        assert apart(gradients(model), grads) < 2e-5
        other = decoder.loss(layout, row.keep_K, row.targets_K, seeds + 1)
        assert abs(other.item() / loss.item() - 1) > 1e-4


def _masked(module: Any, seed: torch.Tensor, row: packing.PackedRow, number: int) -> Any:
    """Makes PEFT's dropout of a layer use our mask."""

    def hook(_: Any, inputs: tuple[torch.Tensor, ...], __: torch.Tensor) -> torch.Tensor:
        x = inputs[0]
        mask = reference.keep_mask(seed, x.shape[1], x.shape[2], 0.3)
        # In the last layer only tokens with loss go on after attention, and are counted anew.
        last = number == 3 and module is not None and module.after_attention
        if last:
            mask = torch.zeros(x.shape[1:], dtype=torch.bool)
            mask[row.keep_K] = reference.keep_mask(seed, len(row.keep_K), x.shape[2], 0.3)
        return x * mask / 0.7

    module.after_attention = module.base_layer.in_features != 64 or module.base_layer.bias is None
    return module.lora_dropout["default"].register_forward_hook(hook)


@pytest.mark.slow
def test_training_is_that_of_the_plain_engine(loaded: Any) -> None:
    runs = []
    for packed in (False, True):
        with lora.trainable(loaded.model, RECIPE, over=None, seed=3, field="t") as model:
            engine = PackedStep(model, MemoryPlan(50, 2)) if packed else None
            trainer = Trainer(model, random_examples(10), RECIPE, 7, engine=engine)
            log = trainer.run()
            runs.append((log, {n: p.detach().clone() for n, p in trainer.parameters.items()}))
    (plain, after), (ours, other) = runs
    assert isinstance(plain[0].loss, float) and len(plain) == 9
    assert [e.loss for e in ours] == pytest.approx([e.loss for e in plain], rel=1e-5)
    norms = [e.gradient_norm for e in plain]
    assert [e.gradient_norm for e in ours] == pytest.approx(norms, rel=1e-4)
    assert plain[-1].loss < plain[0].loss - 1
    assert all(torch.allclose(after[n], other[n], atol=2e-4) for n in after)


class Narrow:
    """Lends a decoder that is out of memory beyond so many tokens with so few layers recomputed."""

    def __init__(self, step: PackedStep, tokens: int, recomputed: int) -> None:
        self.rows: list[int] = []
        inner = step.decoder.loss

        def loss(layout: Any, *rest: Any) -> torch.Tensor:
            self.rows.append(int(layout.ids_T.shape[0]))
            value = inner(layout, *rest)
            if len(layout.ids_T) > tokens or step.decoder.checkpointed < recomputed:
                raise torch.OutOfMemoryError("no more")
            return value

        step.decoder.loss = loss  # type: ignore[method-assign, assignment]


@pytest.mark.slow
@pytest.mark.parametrize("recomputed, least", [(0, 60), (3, 30)])
def test_a_step_that_is_out_of_memory_takes_shorter_rows_then_recomputes(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, recomputed: int, least: int
) -> None:
    monkeypatch.setattr(memory, "SHORTEST_ROW", 16)
    examples = random_examples(8)
    loss_tokens = sum(example.loss_tokens for example in examples)
    with adapted(loaded.model, RECIPE) as model:
        whole = PackedStep(model, MemoryPlan(400, 0)).backward(examples, loss_tokens, 5)
        expected = gradients(model)
        step = PackedStep(model, MemoryPlan(200, 0), longest=30)
        # Layouts are padded to a multiple of PAD_MULTIPLE.
        narrow = Narrow(step, PAD_MULTIPLE, recomputed)
        loss = step.backward(examples, loss_tokens, 5)
        assert float(loss) == pytest.approx(float(whole), rel=1e-5)
        assert apart(gradients(model), expected) < 1e-4
        assert least <= step.plan.row_tokens <= PAD_MULTIPLE
        assert step.plan.checkpointed == step.decoder.checkpointed >= recomputed
        # What was found out is not tried again.
        tried = len(narrow.rows)
        step.backward(examples, loss_tokens, 6)
        assert len(narrow.rows) - tried == len(
            bins([len(e.ids) for e in examples], step.plan.row_tokens)
        )


@pytest.mark.slow
def test_a_gpu_too_small_for_the_longest_example_says_so(loaded: Any) -> None:
    with adapted(loaded.model, RECIPE) as model:
        step = PackedStep(model, MemoryPlan(200, 0), longest=30)
        Narrow(step, 0, 0)
        with pytest.raises(UserError, match="rows of 200 tokens, with all 4 layers recomputed"):
            step.backward(random_examples(8), 8, 5)


@pytest.mark.slow
def test_masks_keep_the_right_share_independently() -> None:
    rows, columns = 1024, 1536
    for dropout in (0.05, 0.5):
        masks = [
            reference.keep_mask(torch.tensor(seed, dtype=torch.int32), rows, columns, dropout)
            for seed in (5, 6, -7)
        ]
        spread = dropout * (1 - dropout)
        centred = [(mask.float() - (1 - dropout)) / spread**0.5 for mask in masks]
        for mask in centred:
            # Five standard errors of a mean of independent draws.
            assert abs(float(mask.mean())) < 5 / mask.numel() ** 0.5
            # Rows and columns vary as sums of independent draws do.
            assert float(mask.mean(1).var()) * columns == pytest.approx(1, abs=0.25)
            assert float(mask.mean(0).var()) * rows == pytest.approx(1, abs=0.25)
        one, two, three = centred
        pairs = [one[1:] * one[:-1], one[:, 1:] * one[:, :-1], one[64:] * one[:-64]]
        pairs += [one * two, one * three, one[1:] * two[:-1]]
        # Corners of rectangles, whose hashes of rows and columns cancel.
        for step in (1, 64, 500):
            top, bottom = one[:-step], one[step:]
            pairs.append(top[:, step:] * top[:, :-step] * bottom[:, step:] * bottom[:, :-step])
        for product in pairs:
            assert abs(float(product.mean())) < 5 / product.numel() ** 0.5
        # Blocks of 2 × 2 have each of their sixteen patterns as often as independent draws.
        bits = masks[0].long().unfold(0, 2, 2).unfold(1, 2, 2).flatten(2)
        found = torch.bincount((bits * torch.tensor([1, 2, 4, 8])).sum(-1).flatten(), minlength=16)
        kept = torch.tensor([bin(pattern).count("1") for pattern in range(16)])
        wanted = found.sum() * (1 - dropout) ** kept * dropout ** (4 - kept)
        often = wanted > 5
        chi_square = ((found - wanted).square() / wanted)[often].sum()
        assert float(chi_square) < stats.chi2.ppf(1 - 1e-6, int(often.sum()) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("across", [False, True])
def test_no_two_rows_or_columns_drop_together(across: bool) -> None:
    """Every pair among 200 columns (or rows), over 60,000 rows (or columns)."""
    seed, count, many, dropout = torch.tensor(11, dtype=torch.int32), 200, 60_000, 0.05
    if across:
        mask = reference.keep_mask(seed, count, many, dropout)
    else:
        mask = reference.keep_mask(seed, many, count, dropout).T
    centred = (mask.float() - (1 - dropout)) / (dropout * (1 - dropout)) ** 0.5
    scores = (centred @ centred.T / many**0.5)[torch.ones(count, count).triu(1).bool()]
    assert float(scores.std()) == pytest.approx(1, abs=0.03)
    assert float(scores.abs().max()) < 6  # of 19,900 scores of a skewed product


# Weights side by side


def test_joined_weights_stay_the_models_own(loaded: Any) -> None:
    before = {n: t.clone() for n, t in loaded.model.state_dict().items()}
    ids = torch.tensor([[5, 9, 33, 7]])
    with torch.no_grad():
        wanted = loaded.model(input_ids=ids).logits
        PackedDecoder(loaded.model)
        assert loaded.model(input_ids=ids).logits.equal(wanted)
    after = loaded.model.state_dict()
    assert all(after[n].equal(before[n]) for n in before)


def test_joining_again_copies_nothing() -> None:
    layers = [torch.nn.Linear(6, 4), torch.nn.Linear(6, 2), torch.nn.Linear(6, 2)]
    weights = [layer.weight for layer in layers]
    values = torch.cat([w.data.clone() for w in weights])
    joint = join(weights, 8)
    assert joint.shape == (8, 14) and joint[:, :6].equal(values)
    assert join(weights, 8).data_ptr() == joint.data_ptr()
    for room in (0, 16):
        other = join(weights, room)
        assert other.data_ptr() != joint.data_ptr() and other[:, :6].equal(values)
    assert torch.cat([w.data for w in weights]).equal(values)


def test_what_it_does_not_compute_is_left_to_the_model(loaded: Any, first: Path) -> None:
    assert computation_obstacle(loaded.model) is None
    assert codes(loaded.model) == (ObstacleCode.DTYPE, None)
    with adapted(loaded.model, RECIPE.model_copy(update={"targets": ["q_proj", "lm_head"]})) as m:
        assert unable(m.get_base_model()) == ObstacleCode.ADAPTERS
        with pytest.raises(ValueError, match="output layer"):
            fastlora.training_step(m, longest=40, examples=4)
    # Queries trained over an adapter of all seven: one group, two kinds of adapters.
    with adapted(loaded.model, RECIPE.model_copy(update={"targets": ["q_proj"]}), first) as m:
        assert unable(m.get_base_model()) == ObstacleCode.ADAPTERS
        with pytest.raises(ValueError, match="several kinds"):
            fastlora.hidden_states(m.get_base_model(), passages(), [0])
    config = loaded.model.config
    for field, value in (
        ("model_type", "gpt2"),
        ("hidden_act", "gelu"),
        ("attention_dropout", 0.1),
        ("layer_types", ["full_attention", "chunked_attention"]),
        ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        ("rope_parameters", {"rope_type": "linear", "partial_rotary_factor": 0.5}),
        ("head_dim", 20),
        ("head_dim", 512),
    ):
        kept = getattr(config, field, None)
        try:
            setattr(config, field, value)
            assert codes(loaded.model)[1] == ObstacleCode.ARCHITECTURE, field
        finally:
            setattr(config, field, kept)
    weight = loaded.model.model.layers[1].mlp.up_proj.weight
    kept = weight.data
    try:
        weight.requires_grad_(False).data = kept.to(torch.int8)
        assert codes(loaded.model)[1] == ObstacleCode.DTYPE
    finally:
        weight.data = kept
    assert computation_obstacle(loaded.model) is None


def unable(model: Any) -> ObstacleCode | None:
    found = computation_obstacle(model)
    return None if found is None else found.code


def codes(model: Any) -> tuple[ObstacleCode | None, ObstacleCode | None]:
    """What speaks against the model where it is, and against computing it at all."""
    found = obstacle(model)
    return None if found is None else found.code, unable(model)


def test_where_it_is_the_faster_way(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU (here only said to be one) in half precision, with kernels for the rank."""
    half = copy.deepcopy(loaded.model).to(torch.bfloat16)
    assert codes(half) == (ObstacleCode.NO_GPU, None)
    with monkeypatch.context() as patch:
        patch.setattr(obstacles, "_of_machine", lambda _: None)
        assert codes(half) == (None, None)
        assert codes(loaded.model) == (ObstacleCode.DTYPE, None)
        for rank, expected in ((16, None), (4, ObstacleCode.RANK)):
            recipe = RECIPE.model_copy(update={"rank": rank})
            with lora.trainable(half, recipe, over=None, seed=1, field="t") as model:
                assert codes(model.get_base_model()) == (expected, None)


@pytest.mark.parametrize(
    ("attends", "compiles", "expected"),
    [
        (True, True, None),
        (False, True, ObstacleCode.ATTENTION),
        (True, False, ObstacleCode.COMPILER),
    ],
)
def test_what_a_machine_must_have(
    loaded: Any,
    monkeypatch: pytest.MonkeyPatch,
    attends: bool,
    compiles: bool,
    expected: ObstacleCode | None,
) -> None:
    monkeypatch.setattr(attention, "available", lambda _: attends)
    monkeypatch.setattr(functional, "has_kernels", lambda: compiles)
    config, gpu = loaded.model.config, torch.device("cuda")
    found = foreseen_obstacle(config, torch.bfloat16, gpu)
    assert (None if found is None else found.code) == expected
    assert expected is None or expected.of_machine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapters", "expected"),
    [
        ([], None),
        ([(4, NAMES)], None),
        ([(4, ["q_proj", "down_proj"])], None),
        ([(3, NAMES), (4, NAMES)], None),
        ([(3, NAMES), (4, ["o_proj", "gate_proj", "up_proj"])], None),
        ([(3, NAMES), (4, ["q_proj"])], ObstacleCode.ADAPTERS),
        ([(3, ["k_proj"]), (4, ["q_proj"])], ObstacleCode.ADAPTERS),
        ([(4, ["layers.1.self_attn.v_proj"])], None),
        ([(3, NAMES), (4, ["layers.1.self_attn.v_proj"])], ObstacleCode.ADAPTERS),
        ([(4, ["q_proj", "lm_head"])], ObstacleCode.ADAPTERS),
    ],
)
def test_what_is_foreseen_of_adapters_is_what_the_model_then_says(
    loaded: Any,
    tmp_path: Path,
    adapters: list[tuple[int, list[str]]],
    expected: ObstacleCode | None,
) -> None:
    """Frozen below the last of them, which trains."""
    planned = [
        PlannedAdapter(rank, targets, trained=place == len(adapters) - 1)
        for place, (rank, targets) in enumerate(adapters)
    ]
    foreseen = foreseen_obstacle(loaded.model.config, torch.float16, CPU, planned)
    of_study = foreseen if foreseen is not None and not foreseen.code.of_machine else None
    recipes = [
        RECIPE.model_copy(update={"rank": rank, "targets": targets}) for rank, targets in adapters
    ]
    if not recipes:
        assert of_study is None and unable(loaded.model) is None
        return
    for recipe in recipes[:-1]:
        with adapted(loaded.model, recipe) as model:
            lora.save(model, tmp_path, "tiny")
    with adapted(loaded.model, recipes[-1], tmp_path if recipes[:-1] else None) as model:
        assert unable(model.get_base_model()) == expected
    # Rank 4 has no kernels, which is seen where nothing else is wrong.
    assert of_study is not None and of_study.code == (expected or ObstacleCode.RANK)


def test_a_step_on_a_cpu_is_that_of_the_model(loaded: Any) -> None:
    """Through the door: what the trainer is given, and others may take."""
    batch = random_examples(6)
    loss_tokens = sum(example.loss_tokens for example in batch)
    with adapted(loaded.model, RECIPE) as model:
        wanted = PlainStep(model, 4096).backward(batch, loss_tokens, 5)
        expected = gradients(model)
        step = fastlora.training_step(model, longest=40, examples=6, row_tokens=90)
        assert step.plan == MemoryPlan(90, 0)
        assert float(step.backward(batch, loss_tokens, 5)) == pytest.approx(float(wanted), rel=1e-6)
        assert apart(gradients(model), expected) < 2e-5


@pytest.mark.slow
def test_the_readmes_example_runs(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Path(fastlora.__file__).with_name("README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code, replaced = re.subn(r'name = ".*"', f"name = {str(tiny_model)!r}", code)
    assert replaced == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec", dont_inherit=True), {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[1]) for line in lines if line[0].isdigit()]
    assert len(losses) == 10 and losses[-1] < losses[0]
    assert lines[-1] == "(1, 2, 64) (1, 2, 64)"
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_layout_fills_up_with_a_sequence_of_its_own() -> None:
    layout = lay_out([[5] * 100, [6] * 60], CPU)
    assert len(layout) == 2 * PAD_MULTIPLE and layout.tokens == 160
    assert layout.cu_seqlens_S1.tolist() == [0, 100, 160, 256]
    assert layout.positions_T[:100].tolist() == list(range(100))
    assert layout.positions_T[160:].tolist() == list(range(96))
    assert (layout.max_seqlen, layout.max_seqlen_k) == (100, 100)
    assert lay_out([[5] * PAD_MULTIPLE], CPU).cu_seqlens_S1.tolist() == [0, PAD_MULTIPLE]


# States


def passages() -> list[Passage]:
    dice = random.Random(2)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(dice.randrange(3, 800) for _ in range(count))

    made = []
    for persona in range(3):
        head = draw(9 + persona)
        made += [Passage(head + draw(dice.randint(1, 8)), draw(n)) for n in (0, 3, 9, 1)]
    return [*made, made[0], Passage(draw(5), draw(2))]


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize("layers", [[0, 2, 3], [2, 1]])
@pytest.mark.parametrize("stacked", [False, True])
def test_states_are_those_of_the_padded_pass(
    loaded: Any, first: Path, share: bool, budget: int, layers: list[int], stacked: bool
) -> None:
    sequences = passages()
    counts: list[int] = []
    with lora.applied(loaded.model, *([first, first] if stacked else [])):
        wanted = hidden_states(loaded.model, sequences, layers)
        last, mean = fastlora.hidden_states(
            loaded.model, sequences, layers, token_budget=budget, share=share, advance=counts.append
        )
    assert sum(counts) == len(sequences)
    for ours, theirs in ((last, wanted.last_NLH), (mean, wanted.mean_NLH)):
        assert np.abs(ours - theirs).max() < 2e-6 * np.abs(theirs).max()
        assert np.abs(theirs[0] - theirs[1]).max() > 0.01 * np.abs(theirs).max()
    assert not mean[0].any()


def test_no_layer_above_the_highest_runs_and_prefixes_run_once(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = JointLinear.__call__

    def count(self: JointLinear, x_TW: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(x_TW))
        return real(self, x_TW, *rest)

    monkeypatch.setattr(JointLinear, "__call__", count)
    head = tuple(range(10, 210))
    many = [Passage((*head, 300 + n)) for n in range(100)]
    fastlora.hidden_states(loaded.model, many, [1])
    # Two layers, of three products each besides the gated one; prefixes once, then 100 tokens.
    assert seen == [256] * 6 + [128] * 6


def test_a_model_on_several_devices_is_no_work_for_it(loaded: Any) -> None:
    """A device_map moves tensors between layers by hooks, which the packed decoder does not run."""
    model = copy.deepcopy(loaded.model)
    assert computation_obstacle(model) is None
    model.model.layers[2].to("meta")
    found = computation_obstacle(model)
    assert found is not None and found.code is ObstacleCode.SHARDED
    assert found.text == "the model's layers lie on cpu and meta"
