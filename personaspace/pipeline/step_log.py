"""Telling of a training's steps: progress for people, numbers for experiment trackers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from personaspace.models.footprint import GIB
from personaspace.pipeline.context import Context
from personaspace.pipeline.states import Measured

if TYPE_CHECKING:
    from personaspace.training.trainer import StepLog


def teller(context: Context) -> Callable[[StepLog], None]:
    """Tells progress and trackers of a step."""
    import torch

    clock = time.monotonic()

    def tell(entry: StepLog) -> None:
        nonlocal clock
        took, clock = time.monotonic() - clock, time.monotonic()
        measured = Measured(
            loss=entry.loss,
            learning_rate=entry.learning_rate,
            gradient_norm=entry.gradient_norm,
            tokens_per_second=entry.tokens / max(took, 1e-9),
            gpu_memory=torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else None,
        )
        context.progress.measure(measured)  # first: a line about the step tells its numbers
        context.progress.advance(1, f"loss {entry.loss:.3f}", entry.loss)
        memory = measured.gpu_memory
        numbers = {
            "loss": measured.loss,
            "learning_rate": measured.learning_rate,
            "gradient_norm": measured.gradient_norm,
            "tokens_per_second": measured.tokens_per_second,
            "gpu_memory_gib": None if memory is None else memory / GIB,
        }
        stage = context.node.stage
        context.track.log({f"{stage}/{name}": value for name, value in numbers.items()}, entry.step)

    return tell
