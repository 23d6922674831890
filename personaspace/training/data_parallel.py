"""Data-parallel training: one process a GPU, each with the base model and a share of every step.

Only the adapter trains, so what the processes exchange is its gradient: summed once a step, before
clipping. The base model is not cut up: it must fit a GPU, as it does alone. All start from the
same adapter, take the same optimiser steps and stop at the same step; the process that runs the
stage leads, and alone writes checkpoints and the result.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from personaspace import interrupt
from personaspace.children import LOOK, Child, ChildGoneError, telling
from personaspace.errors import Interrupted
from personaspace.logs import quiet_libraries
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.models.load import load_model
from personaspace.seeds import derive_seed
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe
from personaspace.training.checkpoints import Checkpoints
from personaspace.training.trainer import StepEngine, Trainer, step_engine

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

#: Seconds that a process may take to leave by itself.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Job:
    """What every process of a run is told.

    Attributes:
        model: The base model.
        examples: All of the run's examples.
        recipe: Hyper-parameters.
        over: Adapter that stays applied, frozen.
        adapter_seed: Seeds the new adapter.
        run_seed: Seeds order and dropout.
        field: Where the recipe stands in the spec.
        checkpoint: Folder of the checkpoint to go on from.
        until: Stop after so many steps of the schedule; None: at its end.
    """

    model: Model
    examples: Sequence[Example]
    recipe: Recipe
    over: Path | None
    adapter_seed: int
    run_seed: int
    field: str
    checkpoint: Path | None
    until: int | None = None


def shares(lengths: Sequence[int], processes: int) -> list[list[int]]:
    """Indices of each process's examples: the longest first, to whoever has the fewest tokens.

    Graham's (1969) longest-processing-time rule: within 4/3 of the best split.
    """
    found: list[list[int]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = tokens.index(min(tokens))
        found[lightest].append(index)
        tokens[lightest] += lengths[index]
    return [sorted(members) for members in found]


class GoneError(RuntimeError):
    """Another process of the team is gone; why, it may have told the leader."""


class Team:
    """One process's place among those that train together.

    Args:
        rank: This process, from 0, which leads.
        processes: How many there are.
        assemble: Called once, before the first exchange: sets up `torch.distributed`.
    """

    def __init__(self, rank: int, processes: int, assemble: Callable[[], None]) -> None:
        self.rank = rank
        self.processes = processes
        self._assemble: Callable[[], None] | None = assemble
        self._stop = False

    def asked(self) -> bool:
        """Whether the leader was asked to stop, as all learnt in the last step."""
        return self._stop

    def begin(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Wait for all to be ready, the first time; then all have the leader's parameters."""
        if self._assemble is None:
            return
        self._assemble()
        self._assemble = None
        with _all_here(), torch.no_grad():
            for parameter in parameters:
                dist.broadcast(parameter.data, 0)

    def meet(self) -> None:
        """Wait until all are here, and learn whether the leader was asked to stop.

        Raises:
            GoneError: One of them is gone.
        """
        flag = torch.tensor([int(self.rank == 0 and interrupt.asked())])
        with _all_here():
            dist.all_reduce(flag)
        self._stop = bool(flag)

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors of one type and device by their sums over the team, in one exchange."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _all_here():
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def _all_here() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL
        raise GoneError(str(error)) from error


class SharedStep:
    """This process's share of a step, and the sum of all shares' gradients; see `StepEngine`.

    Args:
        engine: Computes the share.
        team: Whose sum.
        parameters: The adapter's.
    """

    def __init__(
        self, engine: StepEngine, team: Team, parameters: Sequence[torch.nn.Parameter]
    ) -> None:
        self.engine = engine
        self.team = team
        self.parameters = list(parameters)

    def backward(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor:
        """See `StepEngine.backward`; gradients and loss are those of the whole batch."""
        team = self.team
        team.begin(self.parameters)
        members = shares([len(example.ids) for example in batch], team.processes)[team.rank]
        total = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        if members:
            own = derive_seed(seed, "process", team.rank)
            total = self.engine.backward([batch[index] for index in members], loss_tokens, own)
        grads = []
        for parameter in self.parameters:
            if parameter.grad is None:  # no example fell to this process
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
        # Before the GPUs wait for each other: one that is gone would be waited for in vain.
        team.meet()
        team.add_up(grads)
        team.add_up([total])
        return total


def gpus(asked: int) -> list[str]:
    """Devices of a run that asks for so many GPUs, by their place: as many as there are.

    Without a GPU, none; the leader's own is the first.
    """
    if not torch.cuda.is_available():
        return []
    visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    names = visible or [str(index) for index in range(torch.cuda.device_count())]
    return names[: min(asked, torch.cuda.device_count())]


def trainer(job: Job, model: PeftModel, team: Team | None) -> Trainer:
    """The run's trainer in one process: alone, or as one of a team."""
    engine = step_engine(model, job.examples, job.recipe, job.field)
    made = Trainer(model, job.examples, job.recipe, job.run_seed, engine, job.until)
    if team is not None:
        made.engine = SharedStep(made.engine, team, list(made.parameters.values()))
        made.asked = team.asked
    return made


def adapter(job: Job, base: PreTrainedModel) -> AbstractContextManager[PeftModel]:
    """The run's fresh adapter on the base model."""
    return lora.trainable(base, job.recipe, over=job.over, seed=job.adapter_seed, field=job.field)


@contextmanager
def leading(job: Job, devices: Sequence[str]) -> Iterator[Team | None]:
    """Start the others, which load the model meanwhile; on leaving they have ended.

    Args:
        job: What to train.
        devices: For each process what it sees of CUDA ("" for nothing), the leader's first.

    Yields:
        The leader's place; None for a single device.

    Raises:
        UserError: What one of the others raised as such.
        RuntimeError: One of them failed or died.
    """
    if len(devices) < 2:
        yield None
        return
    others: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="personaspace-") as scratch:
        meeting = Path(scratch) / "meeting"

        def assemble() -> None:
            for other in others:
                while other.receive(LOOK) is None:  # until its model is loaded
                    interrupt.check()
            _join(meeting, 0, len(devices))

        try:
            for rank, device in enumerate(devices[1:], start=1):
                args = (job, rank, len(devices), meeting)
                with _visible(device):
                    others.append(Child(_follow, args, f"process {rank} of the training"))
            yield Team(0, len(devices), assemble)
        except GoneError as error:
            raise _cause(others) or error from None
        finally:
            patience = 0.0  # not in a team yet, they would wait for it
            if dist.is_initialized():
                patience = _PATIENCE
                dist.destroy_process_group()
            for other in others:
                other.end(patience)


def _cause(others: Sequence[Child]) -> Exception | None:
    """Why one of the others is gone, if it can be told."""
    left, until = list(others), time.monotonic() + _PATIENCE
    while left and time.monotonic() < until:
        for other in list(left):
            try:
                other.receive(LOOK)
            except ChildGoneError as error:
                if error.exit_code != 0:
                    return error
                left.remove(other)  # it left because another one is gone
            except Exception as error:
                return error
    return None


@contextmanager
def _visible(device: str) -> Iterator[None]:
    """What a process started now sees of CUDA: that device alone, so that it takes no other."""
    former = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        yield
    finally:
        if former is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = former


def _join(meeting: Path, rank: int, processes: int) -> None:
    # All are on one machine, and a pod's host name need not resolve.
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=processes
    )


def _follow(pipe: Connection, job: Job, rank: int, processes: int, meeting: Path) -> None:
    """A follower's whole life."""

    def assemble() -> None:
        pipe.send(("ready",))
        _join(meeting, rank, processes)

    # A pod's SIGTERM reaches all: the leader says at which step to stop.
    with telling(pipe, signal.SIG_IGN):
        quiet_libraries()
        try:
            with adapter(job, load_model(job.model)) as model:
                # The leader alone writes checkpoints.
                checkpoints = Checkpoints(load=lambda: job.checkpoint, save=None)
                trainer(job, model, Team(rank, processes, assemble)).run(checkpoints)
        except GoneError:
            return  # NCCL's own way down can wait for those that are gone
        except Interrupted:
            pass
        dist.destroy_process_group()
