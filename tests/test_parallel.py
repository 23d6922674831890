"""A step's examples shared out to several processes: the same update as in one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_examples import random_examples
from small_training import SMALL
from test_training import same_update, trained

from personaspace import interrupt
from personaspace.errors import Interrupted, UserError
from personaspace.models.chat import Example
from personaspace.models.team import Team, gpus, shares
from personaspace.study.inputs import Model
from personaspace.training import data_parallel
from personaspace.training.checkpoints import Checkpoints
from personaspace.training.trainer import StepLog

pytestmark = pytest.mark.slow

#: 9 examples in fours: the last step of an epoch has one, so that a process has none.
EXAMPLES = random_examples(9)
PLAIN = SMALL.model_copy(update={"dropout": 0.0})

Adapter = dict[str, torch.Tensor]


def job(folder: Path, checkpoint: Path | None = None, **recipe: Any) -> data_parallel.Job:
    return data_parallel.Job(
        model=Model(name=str(folder), dtype="float32"),
        examples=EXAMPLES,
        recipe=PLAIN.model_copy(update=recipe),
        over=None,
        adapter_seed=3,
        run_seed=7,
        field="training",
        checkpoint=checkpoint,
    )


def led(
    made: data_parallel.Job,
    model: Any,
    save: Callable[[int, Callable[[Path], None]], None] = lambda step, write: None,
    advance: Callable[[StepLog], None] | None = None,
) -> tuple[Adapter, list[StepLog]]:
    """The adapter and log of a run in two processes."""
    with (
        data_parallel.leading(made, ["", ""]) as team,
        data_parallel.adapter(made, model) as peft_model,
    ):
        trainer = data_parallel.trainer(made, peft_model, team)
        log = trainer.run(Checkpoints(load=lambda: made.checkpoint, save=save), advance)
        return {n: p.detach().clone() for n, p in trainer.parameters.items()}, log


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, loaded: Any) -> tuple[Adapter, list[StepLog]]:
    return led(job(tiny_model), loaded.model)


def test_two_processes_make_the_update_of_one(
    undisturbed: tuple[Adapter, list[StepLog]], loaded: Any
) -> None:
    before, alone, log = trained(loaded.model, PLAIN, EXAMPLES)
    together, shared_log = undisturbed
    assert same_update(together, alone, before, 1e-4)
    assert [e.loss for e in shared_log] == pytest.approx([e.loss for e in log], rel=1e-5)
    norms = [entry.gradient_norm for entry in log]
    assert [e.gradient_norm for e in shared_log] == pytest.approx(norms, rel=1e-4)
    assert [e.tokens for e in shared_log] == [e.tokens for e in log]
    # The margin is telling: one example less is another update.
    other = trained(loaded.model, PLAIN, EXAMPLES[:-1])[1]
    assert not same_update(other, alone, before, 1e-2)


@pytest.mark.long
def test_all_stop_at_the_same_step_and_go_on_bit_for_bit(
    tiny_model: Path, loaded: Any, tmp_path: Path, undisturbed: tuple[Adapter, list[StepLog]]
) -> None:
    saved = []

    def save(step: int, write: Callable[[Path], None]) -> None:
        saved.append(step)
        write(tmp_path)

    def stop_after_two(entry: StepLog) -> None:
        if entry.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with interrupt.caught():
        with pytest.raises(Interrupted):
            led(job(tiny_model), loaded.model, save, stop_after_two)
        interrupt.reset()
    assert not multiprocessing.active_children()
    # All learn of it in the next step.
    assert saved == [3]
    adapter, log = led(job(tiny_model, checkpoint=tmp_path), loaded.model)
    wanted, wanted_log = undisturbed
    assert log == wanted_log
    assert all(torch.equal(adapter[name], wanted[name]) for name in wanted)


@pytest.mark.long
def test_a_killed_process_is_named(tiny_model: Path, loaded: Any) -> None:
    def kill_the_other(entry: StepLog) -> None:
        (other,) = multiprocessing.active_children()
        other.kill()

    with pytest.raises(RuntimeError, match=r"process 1 of the training .* exit code -9"):
        led(job(tiny_model), loaded.model, advance=kill_the_other)
    assert not multiprocessing.active_children()


def test_a_mistake_that_another_process_meets_is_the_users(tmp_path: Path, loaded: Any) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        led(job(tmp_path), loaded.model)
    assert not multiprocessing.active_children()


def test_shares_hold_each_example_once_and_weigh_alike() -> None:
    lengths = [len(example.ids) for example in random_examples(50, seed=5)]
    for processes in (1, 2, 3, 7):
        found = shares(lengths, processes)
        assert sorted(index for share in found for index in share) == list(range(50))
        tokens = [sum(lengths[index] for index in share) for share in found]
        assert max(tokens) - min(tokens) <= max(lengths)
    assert shares([5, 9], 3) == [[1], [0], []]


def test_each_process_drops_out_by_itself() -> None:
    class Alone(Team):
        """No others to talk to."""

        def meet(self) -> None:
            pass

        def add_up(self, tensors: Any) -> None:
            pass

    class Recorder:
        def backward(self, batch: list[Example], loss_tokens: int, seed: int) -> torch.Tensor:
            seeds.append(seed)
            return torch.zeros((), dtype=torch.float64)

    seeds: list[int] = []
    weight = torch.nn.Parameter(torch.zeros(2))
    for rank in (0, 1):
        team = Alone(rank, 2, lambda: None)
        team.begin = lambda parameters: None  # type: ignore[method-assign]
        shared = data_parallel.SharedStep(Recorder(), team, [weight])  # type: ignore[arg-type]
        shared.backward(EXAMPLES[:4], 10, 1)
        shared.backward(EXAMPLES[:4], 10, 2)
    assert len(set(seeds)) == 4


def test_devices_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus(4) == []  # no GPU: the stage trains in one process
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,5")
    assert gpus(2) == ["GPU-a", "GPU-b"]
    assert gpus(8) == ["GPU-a", "GPU-b", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus(2) == ["0", "1"]
