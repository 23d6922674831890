"""A run's state between steps: copied off the GPU as it goes on, and written by a thread meanwhile.

Writing a checkpoint of a 7B model's adapter takes a second or two, sending it to a bucket more;
the next steps do not wait for it. What is written is the state as it was after its step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from personaspace.training import STEPS

STATE = "state.safetensors"
#: What the names of trained parameters begin with.
PARAMETER = "parameter:"
#: Tensors begin at multiples of so many bytes.
_ALIGNED = 16


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its state between steps.

    Attributes:
        load: Folder of the latest checkpoint, or None.
        save: Called with the step's number and a function that writes into a folder; by a thread
            of its own, while steps go on, and never twice at once. None: nothing is kept.
        also: Steps after which it is called, whatever `checkpoint_every` says.
    """

    load: Callable[[], Path | None]
    save: Callable[[int, Callable[[Path], None]], None] | None
    also: frozenset[int] = frozenset()


class Snapshot:
    """Tensors as they are now, on the host.

    Those of a GPU are copied in its own order of work, so steps started later change nothing here;
    the host waits for them only in `write`.

    Args:
        step: After which they were taken, from 1.
        tensors: On one device.
    """

    def __init__(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        self.step = step
        self._copied: Any = None
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        sizes = [-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in tensors.values()]
        # One piece: the allocator of pinned memory rounds every piece up to a power of two.
        flat = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=on_gpu)
        self._tensors: dict[str, torch.Tensor] = {}
        for (name, tensor), part in zip(tensors.items(), flat.split(sizes), strict=True):
            copy = part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            copy.copy_(tensor.detach(), non_blocking=True)
            self._tensors[name] = copy
        if on_gpu:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def write(self, folder: Path, log: Sequence[Mapping[str, Any]]) -> None:
        """Write tensors and the log so far."""
        if self._copied is not None:
            self._copied.synchronize()
        save_file(self._tensors, folder / STATE)
        (folder / STEPS).write_text(json.dumps(log), encoding="utf-8")


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    """The trained parameters of a checkpoint, by name."""
    with safe_open(folder / STATE, "pt") as state:
        names = [name for name in state.keys() if name.startswith(PARAMETER)]  # noqa: SIM118
        return {name.removeprefix(PARAMETER): state.get_tensor(name) for name in names}


def read(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Tensors and log of a checkpoint."""
    return load_file(folder / STATE), json.loads((folder / STEPS).read_text(encoding="utf-8"))


class Saver:
    """Has checkpoints written one after the other, by a thread.

    Args:
        checkpoints: None: nothing is kept.
        latest: Step whose state is there already.
    """

    def __init__(
        self, checkpoints: Checkpoints | None, latest: int, thread: ThreadPoolExecutor
    ) -> None:
        self._save = None if checkpoints is None else checkpoints.save
        self._latest = latest
        self._thread = thread
        self._writing: Future[None] | None = None

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self._save is not None

    def save(self, taken: Snapshot, log: Sequence[Mapping[str, Any]]) -> None:
        """Begin to write one; waits for the one before.

        Raises:
            Exception: Whatever writing the one before raised.
        """
        self.wait()
        if self._save is None or taken.step == self._latest:
            return
        self._latest = taken.step
        self._writing = self._thread.submit(
            self._save, taken.step, lambda folder: taken.write(folder, log)
        )

    def check(self) -> None:
        """Raise what writing the latest raised, if it has ended."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Until the latest is written. Raises what writing it raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


@contextmanager
def saving(checkpoints: Checkpoints | None, latest: int) -> Iterator[Saver]:
    """For the time of a run; on leaving, nothing is being written any more.

    Args:
        checkpoints: None: nothing is kept.
        latest: Step that the run begins after.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="checkpoint") as thread:
        saver = Saver(checkpoints, latest, thread)
        yield saver
        saver.wait()
