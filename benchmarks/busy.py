"""In which share of the time the GPU computes: asked of its driver, and traced kernel by kernel."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import Any, Self

import torch

#: Seconds between two questions to the driver, which averages over about as long itself.
ASK_EVERY = 0.2
#: Steps traced of each window, and windows of a run.
ACTIVE = 8
WINDOWS = 4
#: Names of the libraries' matrix products.
PRODUCTS = re.compile("nvjet|gemm|cutlass|xmma", re.IGNORECASE)


class Driver:
    """Reads, while it is open, how much of the time some kernel ran (NVML's `utilization.gpu`)."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while not self._ended.wait(ASK_EVERY):
            self.read.append(torch.cuda.utilization())

    def __enter__(self) -> Self:
        if torch.cuda.is_available():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def share(self) -> float:
        """Mean so far; NaN where nothing was read."""
        return sum(self.read) / len(self.read) / 100 if self.read else float("nan")


class Windows:
    """Traces some steps' kernels, in windows spread over a run.

    Args:
        steps: Of the run; too few for the windows: nothing is traced.

    Attributes:
        found: Of each window seconds from its first kernel to its last, in which some kernel ran,
            and of kernels by kind.
    """

    def __init__(self, steps: int) -> None:
        self.found: list[dict[str, float]] = []
        self._profiler: Any = None
        wait = steps // WINDOWS - ACTIVE - 2
        if torch.cuda.is_available() and wait > 0:
            self._profiler = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CUDA],
                schedule=torch.profiler.schedule(
                    wait=wait, warmup=2, active=ACTIVE, repeat=WINDOWS
                ),
                on_trace_ready=self._collect,
            )

    def __enter__(self) -> Self:
        if self._profiler is not None:
            self._profiler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._profiler is not None:
            self._profiler.stop()

    def step(self) -> None:
        """To be called after every step."""
        if self._profiler is not None:
            self._profiler.step()

    def _collect(self, profiler: Any) -> None:
        kernels = [
            (event.time_range.start, event.time_range.end, event.name)
            for event in profiler.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
            and not event.name.startswith(("Mem", "ProfilerStep"))
        ]
        if kernels:
            self.found.append(summed(kernels))


def summed(kernels: Iterable[tuple[float, float, str]]) -> dict[str, float]:
    """Seconds of a window's kernels, given as start and end in microseconds and name."""
    ordered = sorted(kernels)
    products = union = 0.0
    until = ordered[0][0]
    for start, end, name in ordered:
        union += max(0.0, end - max(start, until))
        until = max(until, end)
        products += end - start if PRODUCTS.search(name) else 0.0
    span = until - ordered[0][0]
    return {
        "kernels": float(len(ordered)),
        "seconds": span / 1e6,
        "some kernel, s": union / 1e6,
        "matrix products, s": products / 1e6,
        "share": union / span,
    }
