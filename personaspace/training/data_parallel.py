"""Data-parallel training: one process a GPU, each with the base model and a share of every step.

Only the adapter trains, so what the processes exchange is its gradient: summed once a step, before
clipping. The base model is not cut up: it must fit a GPU, as it does alone. All start from the
same adapter, take the same optimiser steps and stop at the same step; the process that runs the
stage leads, and alone writes checkpoints and the result.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from personaspace import interrupt
from personaspace.errors import Interrupted, UserError
from personaspace.logs import quiet_libraries
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.models.load import load_model
from personaspace.seeds import derive_seed
from personaspace.study.spec import Model, Recipe
from personaspace.training.checkpoints import Checkpoints
from personaspace.training.trainer import StepEngine, Trainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

#: Seconds between looks at whether another process is still there.
_LOOK = 0.2
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
    """

    model: Model
    examples: Sequence[Example]
    recipe: Recipe
    over: Path | None
    adapter_seed: int
    run_seed: int
    field: str
    checkpoint: Path | None


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
    made = Trainer(model, job.examples, job.recipe, job.run_seed)
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
    context = multiprocessing.get_context("spawn")
    others: list[_Other] = []
    with tempfile.TemporaryDirectory(prefix="personaspace-") as scratch:
        meeting = Path(scratch) / "meeting"

        def assemble() -> None:
            for other in others:
                other.await_ready()
            _join(meeting, 0, len(devices))

        try:
            for rank, device in enumerate(devices[1:], start=1):
                ours, theirs = context.Pipe(duplex=False)
                args = (theirs, job, rank, len(devices), meeting)
                process = context.Process(target=_follow, args=args, daemon=True)
                with _visible(device):
                    process.start()
                theirs.close()
                others.append(_Other(rank, process, ours))
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


class _Other:
    """A follower, as the leader sees it."""

    def __init__(self, rank: int, process: BaseProcess, pipe: Connection) -> None:
        self.rank = rank
        self.process = process
        self.pipe = pipe

    def await_ready(self) -> None:
        """Wait until its model is loaded."""
        while True:
            interrupt.check()
            said = self.hear(_LOOK)
            if said == ("ready", ""):
                return
            if said is not None:
                raise _error(*said)

    def hear(self, seconds: float) -> tuple[str, str] | None:
        """What it says within so many seconds; its death counts as said."""
        try:
            if self.pipe.poll(seconds):
                said: tuple[str, str] = self.pipe.recv()
                return said
        except (EOFError, OSError):
            self.process.join(_PATIENCE)
        if self.process.exitcode:
            return "failure", (
                f"process {self.rank} of the training ended with exit code "
                f"{self.process.exitcode} (negative: killed by that signal, 9 mostly for want of "
                "memory)"
            )
        return None

    def end(self, patience: float) -> None:
        """It leaves by itself within so many seconds, or is made to."""
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _error(kind: str, text: str) -> Exception:
    return UserError(text) if kind == "mistake" else RuntimeError(text)


def _cause(others: Sequence[_Other]) -> Exception | None:
    """Why one of the others is gone, if it can be told."""
    for _ in range(int(_PATIENCE / _LOOK / max(1, len(others)))):
        for other in others:
            said = other.hear(_LOOK)
            if said is not None and said[0] != "ready":
                return _error(*said)
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
    # A terminal's Ctrl-C and a pod's SIGTERM reach all: the leader says at which step to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def assemble() -> None:
        pipe.send(("ready", ""))
        _join(meeting, rank, processes)

    code = 1
    try:
        quiet_libraries()
        with adapter(job, load_model(job.model)) as model:
            # The leader alone writes checkpoints.
            checkpoints = Checkpoints(load=lambda: job.checkpoint, save=None)
            trainer(job, model, Team(rank, processes, assemble)).run(checkpoints)
        dist.destroy_process_group()
        return
    except Interrupted:
        dist.destroy_process_group()
        return
    except (GoneError, BrokenPipeError):
        code = 0
    except UserError as error:
        _tell(pipe, "mistake", str(error))
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        _tell(pipe, "failure", f"process {rank} of the training: {type(error).__name__}: {text}")
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)  # NCCL's own way down can wait for those that are gone


def _tell(pipe: Connection, kind: str, text: str) -> None:
    with suppress(OSError):
        pipe.send((kind, text))
