"""The recipe, step by step: schedule, order, update, resuming, and what is left afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_examples import random_examples
from small_training import EXAMPLES, SEVEN, SMALL

from personaspace import interrupt
from personaspace.errors import Interrupted, UserError
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.models.load import load_model
from personaspace.study.recipe import PUBLISHED_TARGETS, Recipe
from personaspace.study.schedule import total_steps
from personaspace.study.spec import Experiment
from personaspace.training.checkpoints import Checkpoints
from personaspace.training.trainer import (
    StepLog,
    Trainer,
    batch_indices,
    learning_rate,
)

# The recipe


def test_default_recipe_is_the_published_one() -> None:
    wanted = {
        "rank": 32,
        "alpha": 64,
        "dropout": 0.05,
        "targets": "auto",  # where a model has them: SEVEN
        "rank_stabilised": False,
        "learning_rate": 1e-4,
        "schedule": "linear",
        "warmup": 0.03,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "batch_size": 16,
        "epochs": 1,
        "max_steps": None,
        "max_tokens": 2048,
    }
    ours_alone = {"checkpoint_every", "doses", "doses_in", "implementation", "row_tokens"}
    assert Experiment().training.model_dump(exclude=ours_alone) == wanted
    assert Experiment().coupling.recipe.model_dump(exclude=ours_alone) == {
        **wanted,
        "rank_stabilised": True,
        "learning_rate": 5e-6,
        "schedule": "cosine",
        "warmup": 0.05,
        "weight_decay": 0.0,
        "epochs": 20,
        "max_tokens": 1024,
    }


@pytest.mark.parametrize("stabilised", [False, True])
def test_peft_gets_the_recipe(stabilised: bool) -> None:
    from peft import PeftType, TaskType

    config = lora.lora_config(Recipe(rank_stabilised=stabilised), PUBLISHED_TARGETS)
    assert (config.peft_type, config.task_type) == (PeftType.LORA, TaskType.CAUSAL_LM)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (32, 64, 0.05)
    assert sorted(config.target_modules or []) == sorted(SEVEN)
    assert config.use_rslora is stabilised
    assert (config.bias, config.use_dora, config.modules_to_save) == ("none", False, None)
    assert config.init_lora_weights is True


@pytest.mark.parametrize(
    "recipe, examples, steps, warmup",
    [
        (Experiment().training, 6000, 375, 12),
        (Experiment().coupling.recipe, 600, 760, 38),
        (Recipe(max_steps=100), 6000, 100, 3),
        (Recipe(schedule="constant"), 33, 3, 1),
    ],
)
def test_steps_and_learning_rate(recipe: Recipe, examples: int, steps: int, warmup: int) -> None:
    from transformers import (
        get_constant_schedule_with_warmup,
        get_cosine_schedule_with_warmup,
        get_linear_schedule_with_warmup,
    )

    assert total_steps(recipe, examples) == steps
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = {
        "linear": lambda: get_linear_schedule_with_warmup(optimiser, warmup, steps),
        "cosine": lambda: get_cosine_schedule_with_warmup(optimiser, warmup, steps),
        "constant": lambda: get_constant_schedule_with_warmup(optimiser, warmup),
    }[recipe.schedule]()
    wanted = [recipe.learning_rate * theirs.lr_lambdas[0](step) for step in range(steps)]
    rates = [learning_rate(recipe, step, steps) for step in range(steps)]
    assert rates == pytest.approx(wanted, rel=1e-12, abs=0)
    assert rates[0] == 0 and rates[warmup] == recipe.learning_rate == max(rates)
    assert rates[warmup - 1] < recipe.learning_rate


def test_the_last_batch_of_an_epoch_is_smaller() -> None:
    recipe = Experiment().coupling.recipe
    sizes = [len(batch_indices(recipe, 600, 1, step)) for step in range(76)]
    assert sizes == ([16] * 37 + [8]) * 2


def test_each_epoch_is_another_permutation() -> None:
    recipe = Recipe(epochs=3)

    def epoch(seed: int, number: int) -> list[int]:
        steps = range(7 * number, 7 * number + 7)
        return [i for step in steps for i in batch_indices(recipe, 100, seed, step)]

    orders = [epoch(seed, number) for seed in (1, 2) for number in range(3)]
    for order in orders:
        assert sorted(order) == list(range(100))
        assert order != sorted(order)
    assert len({tuple(order) for order in orders}) == 6
    assert epoch(1, 2) == orders[2]


# The update


def trained(
    model: Any, recipe: Recipe, examples: list[Example], seed: int = 7, over: Path | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[StepLog]]:
    """Adapter before and after training, by parameter name, and the log."""
    with lora.trainable(model, recipe, over=over, seed=3, field="training") as peft_model:
        trainer = Trainer(peft_model, examples, recipe, seed)
        before = {n: p.detach().clone() for n, p in trainer.parameters.items()}
        log = trainer.run()
        return before, {n: p.detach().clone() for n, p in trainer.parameters.items()}, log


def padded(examples: list[Example]) -> dict[str, torch.Tensor]:
    """A batch as everyone makes it: padding at the right, labels of -100 without loss."""
    width = max(len(example.ids) for example in examples)
    batch = {
        "input_ids": torch.zeros(len(examples), width, dtype=torch.long),
        "attention_mask": torch.zeros(len(examples), width, dtype=torch.long),
        "labels": torch.full((len(examples), width), -100),
    }
    for number, made in enumerate(examples):
        length = len(made.ids)
        batch["input_ids"][number, :length] = torch.tensor(made.ids)
        batch["attention_mask"][number, :length] = 1
        labels = [i if on else -100 for i, on in zip(made.ids, made.loss, strict=True)]
        batch["labels"][number, :length] = torch.tensor(labels)
    return batch


def plain_loop(
    folder: Path, recipe: Recipe, start: dict[str, torch.Tensor], batches: list[list[Example]]
) -> tuple[dict[str, torch.Tensor], list[tuple[float, float]]]:
    """AdamW (Loshchilov & Hutter 2019) and clipping written out, on Hugging Face's own loss."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules=SEVEN, task_type="CAUSAL_LM")
    )
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert set(weights) == set(start)
    shape = get_linear_schedule_with_warmup(
        torch.optim.SGD(weights.values(), lr=1.0), math.ceil(0.2 * len(batches)), len(batches)
    ).lr_lambdas[0]
    first = {n: torch.zeros_like(p) for n, p in weights.items()}
    second = {n: torch.zeros_like(p) for n, p in weights.items()}
    seen = []
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(start[name])
    for step, batch in enumerate(batches):
        loss = model(**padded(batch)).loss
        loss.backward()
        slopes = {n: p.grad for n, p in weights.items() if p.grad is not None}
        assert len(slopes) == len(weights)
        norm = math.sqrt(sum(float(slope.square().sum()) for slope in slopes.values()))
        shrink = 1.0 if recipe.clip_norm is None else min(1.0, recipe.clip_norm / (norm + 1e-6))
        rate = recipe.learning_rate * shape(step)
        with torch.no_grad():
            for name, parameter in weights.items():
                slope = slopes[name] * shrink
                first[name] = 0.9 * first[name] + 0.1 * slope
                second[name] = 0.999 * second[name] + 0.001 * slope**2
                mean = first[name] / (1 - 0.9 ** (step + 1))
                spread = (second[name] / (1 - 0.999 ** (step + 1))).sqrt()
                parameter.mul_(1 - rate * recipe.weight_decay)
                parameter.sub_(rate * mean / (spread + 1e-8))
                parameter.grad = None
        seen.append((float(loss.detach()), norm))
    return {n: p.detach() for n, p in weights.items()}, seen


def same_update(
    one: dict[str, torch.Tensor],
    other: dict[str, torch.Tensor],
    start: dict[str, torch.Tensor],
    tolerance: float,
) -> bool:
    """Whether two runs moved the adapter alike, relative to how far they moved it."""
    moved = math.sqrt(sum(float((one[n] - start[n]).double().square().sum()) for n in one))
    apart = math.sqrt(sum(float((one[n] - other[n]).double().square().sum()) for n in one))
    assert moved > 0
    return apart < tolerance * moved


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [None, 0.3])
def test_steps_are_those_of_a_plain_loop(
    loaded: Any, tiny_model: Path, clip_norm: float | None
) -> None:
    recipe = SMALL.model_copy(
        update={
            "dropout": 0.0,
            "batch_size": 16,
            "epochs": 2,
            "warmup": 0.2,
            "weight_decay": 0.3,
            "clip_norm": clip_norm,
            "row_tokens": 120,
        }
    )
    examples = random_examples(40)
    before, after, log = trained(loaded.model, recipe, examples)
    order = [batch_indices(recipe, 40, 7, step) for step in range(6)]
    assert [len(batch) for batch in order] == [16, 16, 8, 16, 16, 8]
    batches = [[examples[i] for i in batch] for batch in order]
    wanted, seen = plain_loop(tiny_model, recipe, before, batches)
    assert [entry.loss for entry in log] == pytest.approx([s[0] for s in seen], rel=1e-4)
    assert [entry.gradient_norm for entry in log] == pytest.approx([s[1] for s in seen], rel=1e-3)
    # Clipped in every step that counts, or else the two cases would be one.
    assert min(s[1] for s in seen) > 0.3
    assert [entry.loss_tokens for entry in log] == [sum(e.loss_tokens for e in b) for b in batches]
    assert [entry.tokens for entry in log] == [sum(len(e.ids) for e in b) for b in batches]
    assert [entry.step for entry in log] == [1, 2, 3, 4, 5, 6]
    assert same_update(after, wanted, before, 1e-3)
    # The margin is telling: without weight decay the update is another one.
    undecayed = recipe.model_copy(update={"weight_decay": 0.0})
    assert not same_update(after, trained(loaded.model, undecayed, examples)[1], before, 1e-3)


@pytest.mark.slow
def test_many_rows_a_step_are_one_batch(loaded: Any) -> None:
    recipe = SMALL.model_copy(update={"dropout": 0.0, "batch_size": 16, "epochs": 2})
    examples = random_examples(24, seed=3)
    runs = {
        row_tokens: trained(
            loaded.model, recipe.model_copy(update={"row_tokens": row_tokens}), examples
        )
        for row_tokens in (1, 70, 100_000)
    }
    before, whole, log = runs[100_000]
    for row_tokens in (1, 70):
        assert same_update(whole, runs[row_tokens][1], before, 1e-3)
        losses = [entry.loss for entry in runs[row_tokens][2]]
        assert losses == pytest.approx([entry.loss for entry in log], rel=1e-5)
    # A batch of half the size is another run.
    halves = recipe.model_copy(update={"batch_size": 8, "max_steps": 4})
    assert not same_update(whole, trained(loaded.model, halves, examples)[1], before, 1e-1)


@pytest.mark.slow
def test_dropout_follows_the_seed(loaded: Any) -> None:
    losses: list[list[float]] = []
    for seed, dropout in ((7, 0.4), (7, 0.4), (7, 0.0)):
        torch.manual_seed(len(losses))  # whatever ran before must not matter
        recipe = SMALL.model_copy(update={"dropout": dropout, "max_steps": 3, "warmup": 0.0})
        losses.append([entry.loss for entry in trained(loaded.model, recipe, EXAMPLES, seed)[2]])
    assert losses[0] == losses[1] != losses[2]
    # The first step differs by order alone: an untrained adapter is zero, dropped out or not.
    assert losses[0][0] == losses[2][0] and losses[0][2] != losses[2][2]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e30, 1e20])
def test_a_loss_that_is_no_number(loaded: Any, rate: float) -> None:
    recipe = SMALL.model_copy(update={"learning_rate": rate, "warmup": 0.0})
    with pytest.raises(UserError, match=r"^step \d: the .* is (nan|inf); lower learning_rate$"):
        trained(loaded.model, recipe, EXAMPLES)


def test_a_gradient_that_is_no_number(loaded: Any) -> None:
    with lora.trainable(loaded.model, SMALL, over=None, seed=3, field="training") as model:
        trainer = Trainer(model, EXAMPLES, SMALL, 7)
        before = {n: p.detach().clone() for n, p in trainer.parameters.items()}
        # What an overflow in half precision does: the loss is fine, its slope is not.
        next(iter(trainer.parameters.values())).register_hook(lambda slope: slope + math.inf)
        with pytest.raises(UserError, match=r"^step 1: the gradient's norm is inf"):
            trainer.run()
        assert all(before[n].equal(p) for n, p in trainer.parameters.items())


# Stopping and going on


class Kept:
    """Checkpoints in a folder, the latest on top; keeps a record of what was saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[int] = []

    def load(self) -> Path | None:
        return self.folder / str(self.saved[-1]) if self.saved else None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        place = self.folder / str(step)
        place.mkdir(parents=True)
        write(place)
        assert {path.suffix for path in place.iterdir()} == {".json", ".safetensors"}
        self.saved.append(step)

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(load=self.load, save=self.save)


@pytest.fixture(scope="module")
def frozen(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter to train over."""
    folder = tmp_path_factory.mktemp("frozen")
    recipe = SMALL.model_copy(update={"rank": 3, "epochs": 1, "learning_rate": 0.02})
    with lora.trainable(loaded.model, recipe, over=None, seed=1, field="training") as model:
        Trainer(model, EXAMPLES, recipe, 1).run()
        lora.save(model, folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def undisturbed(loaded: Any, frozen: Path) -> dict[bool, Any]:
    """Final adapter and log of runs that nobody stopped, by whether over another adapter."""
    return {
        stacked: trained(loaded.model, SMALL, EXAMPLES, over=frozen if stacked else None)
        for stacked in (False, True)
    }


def resumed(
    model: Any, kept: Kept, seed: int, over: Path | None, recipe: Recipe = SMALL
) -> tuple[dict[str, torch.Tensor], list[StepLog], list[StepLog]]:
    """A new trainer on a new adapter, from the latest checkpoint; also what was told of it."""
    torch.manual_seed(seed)  # another state of the generator, as in another process
    told: list[StepLog] = []
    with lora.trainable(model, recipe, over=over, seed=seed, field="training") as peft_model:
        trainer = Trainer(peft_model, EXAMPLES, recipe, 7)
        log = trainer.run(kept.checkpoints(), told.append)
        return {n: p.detach().clone() for n, p in trainer.parameters.items()}, log, told


def assert_same_run(run: Any, wanted: Any) -> None:
    after, log, told = run
    _, final, whole = wanted
    assert log == whole == told
    assert set(after) == set(final)
    assert all(after[name].equal(final[name]) for name in final)


@pytest.mark.slow
@pytest.mark.parametrize("stop", range(1, 6))
@pytest.mark.parametrize("stacked", [False, True])
def test_stopped_after_any_step_and_resumed_bit_for_bit(
    loaded: Any,
    frozen: Path,
    undisturbed: dict[bool, Any],
    tmp_path: Path,
    stop: int,
    stacked: bool,
) -> None:
    over = frozen if stacked else None
    kept = Kept(tmp_path)

    def advance(entry: StepLog) -> None:
        if entry.step == stop:
            interrupt._asked.set()

    with (
        lora.trainable(loaded.model, SMALL, over=over, seed=3, field="training") as model,
        pytest.raises(Interrupted),
    ):
        Trainer(model, EXAMPLES, SMALL, 7).run(kept.checkpoints(), advance)
    assert kept.saved == [stop]
    interrupt.reset()
    run = resumed(loaded.model, kept, seed=99, over=over)
    assert_same_run(run, undisturbed[stacked])
    # The run did train, and dropout was at work in it.
    assert run[1][-1].loss < run[1][0].loss - 0.05


@pytest.mark.slow
def test_stopped_at_every_step(loaded: Any, undisturbed: dict[bool, Any], tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for step in range(1, 6):
        interrupt.reset()

        def advance(entry: StepLog, stop: int = step) -> None:
            if entry.step == stop:
                interrupt._asked.set()

        with (
            lora.trainable(loaded.model, SMALL, over=None, seed=step, field="t") as model,
            pytest.raises(Interrupted),
        ):
            if step == 1:  # the first start alone decides where training starts from
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        parameter.data.copy_(undisturbed[False][0][name])
            Trainer(model, EXAMPLES, SMALL, 7).run(kept.checkpoints(), advance)
    interrupt.reset()
    assert kept.saved == [1, 2, 3, 4, 5]
    assert_same_run(resumed(loaded.model, kept, seed=99, over=None), undisturbed[False])


@pytest.mark.slow
def test_killed_between_checkpoints(
    tiny_model: Path, loaded: Any, undisturbed: dict[bool, Any], tmp_path: Path
) -> None:
    recipe = SMALL.model_copy(update={"checkpoint_every": 2})
    kept = Kept(tmp_path)

    def advance(entry: StepLog) -> None:
        if entry.step == 5:
            raise KeyboardInterrupt

    with (
        lora.trainable(loaded.model, recipe, over=None, seed=3, field="training") as model,
        pytest.raises(KeyboardInterrupt),
    ):
        Trainer(model, EXAMPLES, recipe, 7).run(kept.checkpoints(), advance)
    assert kept.saved == [2, 4]
    fresh = load_model(loaded.spec)
    assert_same_run(resumed(fresh, kept, 99, None, recipe), undisturbed[False])
    assert kept.saved == [2, 4]  # a finished run is its artifact, not a checkpoint


@pytest.mark.slow
def test_reading_losses_a_step_late_changes_nothing(
    loaded: Any, undisturbed: dict[bool, Any], tmp_path: Path
) -> None:
    """As on a GPU, where the host does not wait for a step before it starts the next."""
    recipe = SMALL.model_copy(update={"checkpoint_every": 3})
    kept, told = Kept(tmp_path), []

    def advance(entry: StepLog) -> None:
        told.append(entry.step)
        if entry.step == 4:
            interrupt._asked.set()

    with (
        lora.trainable(loaded.model, recipe, over=None, seed=3, field="training") as model,
        pytest.raises(Interrupted),
    ):
        trainer = Trainer(model, EXAMPLES, recipe, 7)
        trainer.behind = 1
        # Step 5 was under way when step 4 was told, and is logged and kept as well.
        trainer.run(kept.checkpoints(), advance)
    assert told == [1, 2, 3, 4, 5] and kept.saved == [3, 5]
    assert json.loads((kept.folder / "3" / "log.json").read_text())[-1]["step"] == 3
    interrupt.reset()
    assert_same_run(resumed(loaded.model, kept, 99, None, recipe), undisturbed[False])


def test_asked_to_stop_before_the_first_step(loaded: Any, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    interrupt._asked.set()
    with (
        lora.trainable(loaded.model, SMALL, over=None, seed=3, field="training") as model,
        pytest.raises(Interrupted),
    ):
        Trainer(model, EXAMPLES, SMALL, 7).run(kept.checkpoints())
    assert kept.saved == []


# What is left


@pytest.fixture
def snapshot(loaded: Any) -> Iterator[Callable[[], bool]]:
    before = {n: t.clone() for n, t in loaded.model.state_dict().items()}

    def unchanged() -> bool:
        after = loaded.model.state_dict()
        return list(after) == list(before) and all(after[n].equal(before[n]) for n in before)

    yield unchanged


@pytest.mark.slow
@pytest.mark.parametrize("stacked", [False, True])
def test_the_base_model_is_as_before(
    loaded: Any, frozen: Path, snapshot: Callable[[], bool], stacked: bool
) -> None:
    trained(loaded.model, SMALL, EXAMPLES, over=frozen if stacked else None)
    assert snapshot()
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert all(parameter.grad is None for parameter in loaded.model.parameters())
    assert not any(module.training for module in loaded.model.modules())


def test_also_when_training_fails(loaded: Any, snapshot: Callable[[], bool]) -> None:
    recipe = SMALL.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(UserError):
        trained(loaded.model, recipe, EXAMPLES)
    assert snapshot()
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not any(module.training for module in loaded.model.modules())
