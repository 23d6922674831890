"""Processes that work on one model together, one a GPU of one machine: how they start and meet.

The process that runs a stage leads; the others begin as its children, and what ends them is told.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from personaspace import interrupt
from personaspace.children import LOOK, Child, ChildGoneError, telling
from personaspace.errors import Interrupted
from personaspace.logs import quiet_libraries

#: Seconds that a process may take to leave by itself.
_PATIENCE = 30.0


#: What gloo's errors, which have no type of their own, say of where they come from.
_GLOO = "gloo/transport"


class GoneError(RuntimeError):
    """Another process of the team is gone; why, it may have told the leader."""


class Team:
    """One process's place among those that work together.

    Args:
        rank: This process, from 0, which leads.
        processes: How many there are.
        assemble: Called once, before the first exchange: sets up `torch.distributed`.
    """

    def __init__(self, rank: int, processes: int, assemble: Callable[[], None]) -> None:
        self.rank = rank
        self.processes = processes
        self._assemble: Callable[[], None] | None = assemble
        self._agreed = False
        self._stop = False

    @property
    def device(self) -> torch.device:
        """What this process computes on: the first GPU that it sees, if it sees one."""
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

    def mesh(self) -> DeviceMesh:
        """All processes in a row, as `torch.distributed` has them; they must be assembled."""
        with _all_here():
            return init_device_mesh(self.device.type, (self.processes,))

    def asked(self) -> bool:
        """Whether the leader was asked to stop, as all learnt in the last step."""
        return self._stop

    def assemble(self) -> None:
        """Wait for all to be there, the first time."""
        if self._assemble is not None:
            self._assemble()
            self._assemble = None

    def begin(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Wait for all to be ready, the first time; then all have the leader's parameters."""
        if self._agreed:
            return
        self.assemble()
        self.meet()
        with _all_here(), torch.no_grad():
            for parameter in parameters:
                dist.broadcast(parameter.data, 0)
        self._agreed = True

    def meet(self) -> None:
        """Wait until all are here, and learn whether the leader was asked to stop.

        Raises:
            GoneError: One of them is gone.
        """
        flag = torch.tensor([int(self.rank == 0 and interrupt.asked())])
        with _all_here():
            dist.all_reduce(flag)
        self._stop = bool(flag)

    def most(self, number: int) -> int:
        """The largest of all processes' numbers.

        Raises:
            GoneError: One of them is gone.
        """
        found = torch.tensor([number])
        with _all_here():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Where others' exchanges than these run: a process that is gone is told as here.

        Raises:
            GoneError: One of them is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or _GLOO in str(error):
                raise GoneError(str(error)) from error
            raise

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


def shares(lengths: Sequence[int], processes: int) -> list[list[int]]:
    """Indices of each process's texts: the longest first, to whoever has the fewest tokens.

    Graham's (1969) longest-processing-time rule: within 4/3 of the best split.
    """
    found: list[list[int]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = tokens.index(min(tokens))
        found[lightest].append(index)
        tokens[lightest] += lengths[index]
    return [sorted(members) for members in found]


def gpus(asked: int) -> list[str]:
    """Devices of a run that asks for so many GPUs, by their place: as many as there are.

    Without a GPU, none; the leader's own is the first.
    """
    if not torch.cuda.is_available():
        return []
    visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    names = visible or [str(index) for index in range(torch.cuda.device_count())]
    return names[: min(asked, torch.cuda.device_count())]


@contextmanager
def leading(
    follow: Callable[..., None], told: Any, devices: Sequence[str], work: str
) -> Iterator[Team | None]:
    """Start the others; on leaving they have ended.

    Args:
        follow: What each of the others does, at a module's top level: called with `told` and its
            `Team`, which it must assemble.
        told: What each of them is told, as it is.
        devices: For each process what it sees of CUDA ("" for nothing), the leader's first.
        work: What they do, for messages: "process 1 of the training".

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
                while other.receive(LOOK) is None:  # until it is ready
                    interrupt.check()
            _join(meeting, 0, len(devices))

        try:
            for rank, device in enumerate(devices[1:], start=1):
                args = (follow, told, rank, len(devices), meeting)
                with _visible(device):
                    others.append(Child(_following, args, f"process {rank} of {work}"))
            yield Team(0, len(devices), assemble)
        except (GoneError, ChildGoneError) as error:
            # A signal to the whole group ends those that are not yet ready to ignore it.
            if interrupt.asked():
                _abort()
                interrupt.check()
            if isinstance(error, ChildGoneError):
                raise
            # Its own way down would wait for a gathering that never ends.
            _abort()
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


def _abort() -> None:
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    if abort is not None and dist.is_initialized() and torch.cuda.is_available():
        abort()


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


def _following(
    pipe: Connection,
    follow: Callable[..., None],
    told: Any,
    rank: int,
    processes: int,
    meeting: Path,
) -> None:
    """A follower's whole life."""

    def assemble() -> None:
        pipe.send(("ready",))
        _join(meeting, rank, processes)

    # A pod's SIGTERM reaches all: the leader says at which step to stop.
    with telling(pipe, signal.SIG_IGN):
        quiet_libraries()
        try:
            follow(told, Team(rank, processes, assemble))
        except GoneError:
            return  # NCCL's own way down can wait for those that are gone
        except Interrupted:
            pass
        dist.destroy_process_group()
