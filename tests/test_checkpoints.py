"""Checkpoints: written by a thread while training goes on, each the state after its step."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import EXAMPLES, SMALL
from test_training import Kept

from personaspace import interrupt
from personaspace.errors import Interrupted, UserError
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.training import checkpoints
from personaspace.training.checkpoints import Checkpoints, Snapshot
from personaspace.training.plain import PlainStep
from personaspace.training.trainer import StepLog, Trainer

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]
EVERY_SECOND = SMALL.model_copy(update={"checkpoint_every": 2})
#: Longer than anything here takes; reached only by what is broken.
PATIENCE = 60.0


class Watched(PlainStep):
    """Notes what is trained as each step found it, in the GPU's own order of work."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, SMALL.row_tokens or 0)
        self.found: list[dict[str, torch.Tensor]] = []

    def backward(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor:
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.found.append({name: p.detach().clone() for name, p in trained.items()})
        return super().backward(batch, loss_tokens, seed)


def run(
    base: Any,
    save: Callable[[int, Callable[[Path], None]], None],
    advance: Callable[[StepLog], None] | None = None,
    behind: int = 0,
) -> tuple[Trainer, Watched]:
    """Six steps, checkpoints at the second and fourth; losses are read `behind` steps late."""
    with lora.trainable(base, EVERY_SECOND, over=None, seed=3, field="training") as model:
        engine = Watched(model)
        trainer = Trainer(model, EXAMPLES, EVERY_SECOND, 7, engine=engine)
        trainer.behind = behind
        trainer.run(Checkpoints(load=lambda: None, save=save), advance)
        return trainer, engine


@pytest.mark.slow
@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("device", DEVICES)
def test_steps_go_on_and_the_checkpoint_is_of_its_step(
    loaded: Any, tmp_path: Path, device: str, behind: int
) -> None:
    base = copy.deepcopy(loaded.model).to(device)
    told = {step: threading.Event() for step in range(1, 7)}
    in_time: list[bool] = []
    written = Kept(tmp_path)

    def save(step: int, write: Callable[[Path], None]) -> None:
        in_time.append(told[step + 2].wait(PATIENCE))
        written.save(step, write)

    trainer, engine = run(base, save, lambda entry: told[entry.step].set(), behind)
    assert in_time == [True, True]
    for step in (2, 4):
        tensors, log = checkpoints.read(tmp_path / str(step))
        assert [StepLog(**entry) for entry in log] == trainer.log[:step]
        # The next step found what the checkpoint holds, and later ones something else.
        for name, parameter in engine.found[step].items():
            kept = tensors[f"parameter:{name}"]
            assert kept.equal(parameter.cpu())
            assert not kept.equal(trainer.parameters[name].detach().cpu())
            assert float(tensors[f"step:{name}"]) == step


@pytest.mark.slow
def test_one_is_written_at_a_time(loaded: Any) -> None:
    begun: list[int] = []
    ended: list[int] = []
    last_told = threading.Event()
    seen_at_the_fourth: list[list[int]] = []

    def save(step: int, write: Callable[[Path], None]) -> None:
        begun.append(step)
        if step == 2:
            # The run comes to the fourth step's checkpoint and no further.
            assert not last_told.wait(1.0)
        else:
            seen_at_the_fourth.append(list(ended))
        ended.append(step)

    def advance(entry: StepLog) -> None:
        if entry.step == 5:
            last_told.set()

    run(loaded.model, save, advance)
    assert begun == ended == [2, 4] and seen_at_the_fourth == [[2]]


@pytest.mark.slow
@pytest.mark.parametrize("bad", [2, 4])
def test_a_checkpoint_that_cannot_be_written_ends_the_run(loaded: Any, bad: int) -> None:
    told: list[int] = []
    failed = threading.Event()

    def save(step: int, write: Callable[[Path], None]) -> None:
        if step == bad:
            failed.set()
            raise UserError("no space left in store")

    def advance(entry: StepLog) -> None:
        told.append(entry.step)
        if entry.step > bad:
            assert failed.wait(PATIENCE)

    with pytest.raises(UserError, match=r"^no space left in store$"):
        run(loaded.model, save, advance)
    assert len(told) <= bad + 2


def test_asked_to_stop_while_one_is_written(loaded: Any, tmp_path: Path) -> None:
    stopping = threading.Event()
    written = Kept(tmp_path)

    def save(step: int, write: Callable[[Path], None]) -> None:
        if step == 2:
            assert stopping.wait(PATIENCE)
        written.save(step, write)

    def advance(entry: StepLog) -> None:
        if entry.step == 3:
            interrupt._asked.set()
            stopping.set()

    with pytest.raises(Interrupted):
        run(loaded.model, save, advance)
    assert written.saved == [2, 3]
    assert len(checkpoints.read(tmp_path / "3")[1]) == 3


def test_asked_to_stop_where_one_was_just_written(loaded: Any) -> None:
    saved: list[int] = []

    def advance(entry: StepLog) -> None:
        if entry.step == 2:
            interrupt._asked.set()

    with pytest.raises(Interrupted):
        run(loaded.model, lambda step, write: saved.append(step), advance)
    assert saved == [2], "and not once more"


def test_an_error_of_the_run_waits_for_the_checkpoint_under_way(loaded: Any) -> None:
    ended = threading.Event()
    raised = threading.Event()

    def save(step: int, write: Callable[[Path], None]) -> None:
        assert raised.wait(PATIENCE)
        ended.set()

    def advance(entry: StepLog) -> None:
        if entry.step == 3:
            raised.set()
            raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        run(loaded.model, save, advance)
    assert ended.is_set()


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_snapshot_keeps_what_was(tmp_path: Path, device: str) -> None:
    large = torch.randn(512, 512, device=device)
    tensors = {
        "a": torch.arange(5, dtype=torch.int64, device=device),
        "b": large,
        "c": torch.tensor(3.5, device=device),
        "d": torch.randn(3, 7, dtype=torch.bfloat16, device=device).t(),
        "e": torch.empty(0, device=device),
    }
    wanted = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
    taken = Snapshot(4, tensors)
    for tensor in tensors.values():
        tensor.zero_()
    taken.write(tmp_path, [{"step": 4}])
    found, log = checkpoints.read(tmp_path)
    assert log == [{"step": 4}] and set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and found[name].equal(tensor), name
