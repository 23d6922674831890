"""Which engine draws answers on this machine."""

from __future__ import annotations

import importlib.util
from typing import Literal

EngineName = Literal["transformers", "vllm"]


def engine_here(wanted: Literal["auto", "transformers", "vllm"]) -> EngineName:
    """What `generation.engine` comes to: vLLM on a GPU where it is installed."""
    if wanted != "auto":
        return wanted
    return "vllm" if _on_gpu() and _installed() else "transformers"


def slow(wanted: Literal["auto", "transformers", "vllm"]) -> str | None:
    """What to tell who has a GPU and gets the slow engine without having asked for it."""
    if wanted != "auto" or not _on_gpu() or _installed():
        return None
    return (
        "generation.engine: vLLM is not installed, so transformers draws the answers; on a GPU "
        "this takes many times as long, and no forecast counts it (pip install 'personaspace[gpu]')"
    )


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _installed() -> bool:
    return importlib.util.find_spec("vllm") is not None
