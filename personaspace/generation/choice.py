"""Which engine draws answers on this machine."""

from __future__ import annotations

import importlib.util
from typing import Literal

from personaspace.extras import command_for

EngineName = Literal["transformers", "vllm"]


def engine_here(wanted: Literal["auto", "transformers", "vllm"]) -> EngineName:
    """What `generation.engine` comes to: vLLM on a GPU where it is installed."""
    if wanted != "auto":
        return wanted
    present = importlib.util.find_spec("vllm") is not None
    return "vllm" if present and _on_gpu() else "transformers"


def slow(wanted: Literal["auto", "transformers", "vllm"]) -> str | None:
    """What to tell who has a GPU and gets the slow engine without having asked for it."""
    if wanted != "auto" or engine_here(wanted) == "vllm" or not _on_gpu():
        return None
    how = command_for("vllm")
    return (
        "generation.engine: vLLM is not installed, so transformers draws the answers; on a GPU "
        "this takes many times as long, and no forecast counts it" + (f" ({how})" if how else "")
    )


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
