"""Telling of a training's steps: progress for people, numbers for experiment trackers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from personaspace.models.footprint import GIB
from personaspace.pipeline.context import Context

if TYPE_CHECKING:
    from personaspace.training.trainer import StepLog


def teller(context: Context) -> Callable[[StepLog], None]:
    """Tells progress and trackers of a step."""
    import torch

    clock = time.monotonic()

    def tell(entry: StepLog) -> None:
        nonlocal clock
        context.progress.advance(1, f"loss {entry.loss:.3f}", entry.loss)
        if not context.spec.tracking:
            return
        took, clock = time.monotonic() - clock, time.monotonic()
        on_gpu = torch.cuda.is_initialized()
        context.track.log(
            {
                f"{context.node.stage}/loss": entry.loss,
                f"{context.node.stage}/learning_rate": entry.learning_rate,
                f"{context.node.stage}/gradient_norm": entry.gradient_norm,
                f"{context.node.stage}/tokens_per_second": entry.tokens / max(took, 1e-9),
                f"{context.node.stage}/gpu_memory_gib": (
                    torch.cuda.max_memory_reserved() / GIB if on_gpu else None
                ),
            },
            entry.step,
        )

    return tell
