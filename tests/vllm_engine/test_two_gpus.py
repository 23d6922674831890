"""A model that two GPUs hold together answers as one that a single GPU holds.

Needs two GPUs and vLLM: `python -m pytest -s tests/vllm_engine/test_two_gpus.py`. In float16, in
which sums over two cards round differently from sums on one; the model is random, so that its
choices are close calls, and the agreements are printed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_vllm_engine import AGREEMENT, DRAWN, GREEDY, World, agree, ids

from personaspace.generation.engine_process import EngineProcess
from personaspace.generation.vllm_settings import EngineSettings

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def settings(world: World, gpus: int) -> EngineSettings:
    return EngineSettings(
        str(world.model_folder),
        dtype="float16",
        max_model_len=448,
        max_lora_rank=20,
        kv_cache_bytes=256 << 20,
        enforce_eager=True,
        tensor_parallel_size=gpus,
        adapters="request",
    )


def answers(world: World, gpus: int) -> dict[str, Any]:
    """Greedy answers of the base model and with each adapter, and drawn ones."""
    engine = EngineProcess(settings(world, gpus), world.tokenizer, [world.end])
    try:
        found = {"base": ids(engine.generate(world.prompts, GREEDY))}
        for rank, folder in world.adapters.items():
            found[f"rank {rank}"] = ids(engine.generate(world.prompts, GREEDY, adapter=folder))
        once = replace(DRAWN, samples=1)
        found["drawn"] = ids(engine.generate(world.prompts, once))
    finally:
        engine.close()
    return found


def test_two_gpus_answer_as_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    one, two = (answers(world, gpus) for gpus in (1, 2))
    for name, expected in one.items():
        assert agree(f"{name}, two GPUs and one", two[name], expected) >= AGREEMENT
    assert agree("transformers", two["base"], world.reference) >= AGREEMENT
    assert agree("rank 8 and base", two["rank 8"], two["base"]) < 0.5
    assert tiny.agreement(two["rank 8"], two["rank 20"])[0] < 0.5
