"""How many GPUs a model takes, and which a stage spreads it over: counted without weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import gpus_needed
from benchmarks.shapes import SHAPES
from personaspace.errors import UserError
from personaspace.generation.memory import ModelMemory
from personaspace.generation.vllm_settings import EngineSettings
from personaspace.models import architecture, sharding
from personaspace.models.footprint import Footprint, Use
from personaspace.pipeline import spreading
from personaspace.pipeline.spreading import Machine
from personaspace.study.hardware import Hardware

GB = 10**9


@pytest.mark.slow
def test_the_pages_table_is_what_is_counted() -> None:
    page = gpus_needed.PAGE.read_text(encoding="utf-8")
    shown = page.partition(gpus_needed.BEGIN)[2].partition(gpus_needed.END)[0]
    assert shown == gpus_needed.table(), "run python -m benchmarks.gpus_needed --write"


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["Llama-3.3-70B", "Gemma-2-27B"])
@pytest.mark.parametrize("ranks", [2, 8])
def test_each_rank_holds_its_rows_and_what_is_not_spread(shape: str, ranks: int) -> None:
    """Tensor by tensor, as `sharded` cuts them, against the formula that plans."""
    from transformers import AutoConfig

    kind, sizes = SHAPES[shape]
    made = sharding.skeleton(AutoConfig.for_model(kind, **sizes), torch.bfloat16)
    inner = {id(p) for part in architecture.spread(made) for p in part.parameters()}
    held = 0
    for parameter in made.parameters():
        size = parameter.shape[0]
        rows = sharding.Rows.of(size, 0, ranks)
        share = rows.stop - rows.start if id(parameter) in inner else size
        held += 2 * share * (parameter.numel() // size)
    found = gpus_needed.taken(shape)
    assert held == pytest.approx(found.held(ranks) - 2 * found.gathered, rel=1e-6)
    assert found.held(1) == 2 * sum(p.numel() for p in made.parameters())
    # Gemma's embeddings are its output layer, and stay whole.
    assert (found.kept > GB) == (shape == "Gemma-2-27B")


LARGE = Footprint(70 * GB, GB // 5, 140 * GB, GB, 2 * GB, 144 * GB, 4 * GB, 0.85)


def devices(hardware: dict[str, Any], machine: Machine, wanted: int = 1) -> list[str]:
    return spreading.devices(Hardware(**hardware), Use.TRAINING, lambda: LARGE, machine, wanted)


def test_a_stage_spreads_a_model_over_as_many_gpus_as_memory_needs() -> None:
    eight = Machine([str(n) for n in range(8)], 80 * GB)
    assert devices({}, eight) == ["0", "1", "2", "3"]  # two hold 70 of 80 GB, and 12 more is needed
    assert devices({"gpus": 8}, eight) == eight.gpus
    assert devices({}, eight, wanted=5) == ["0", "1", "2", "3", "4"]
    assert devices({"sharding": "none"}, eight) == []
    assert devices({}, Machine(["0", "1"], 192 * GB)) == []  # one holds it
    assert devices({"sharding": "full"}, Machine(["0", "1"], 192 * GB)) == ["0", "1"]
    assert devices({}, Machine([], 0)) == []
    assert devices({"sharding": "full", "gpus": 3}, Machine([], 0)) == ["", "", ""]


@pytest.mark.parametrize(
    ("hardware", "machine", "said"),
    [
        ({}, Machine(["0", "1"], 80 * GB), "80 GB for training: 4 GPUs are needed, and 2 are here"),
        ({}, Machine(["0"], 10 * GB), "16 GPUs of 10 GB do not hold it for training"),
        ({"sharding": "full"}, Machine(["0"], 80 * GB), "full: 2 GPUs are needed, and 1 are here"),
    ],
)
def test_too_few_gpus_are_told_before_anything_is_loaded(
    hardware: dict[str, Any], machine: Machine, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        devices(hardware, machine)


def test_vllm_on_several_gpus_has_a_part_on_each_and_folds_nothing() -> None:
    settings = EngineSettings("nowhere", tensor_parallel_size=2)
    options = settings.options(on_cpu=False)
    assert options["tensor_parallel_size"] == 2
    assert not settings.folds(on_cpu=False) and EngineSettings("nowhere").folds(on_cpu=False)
    with pytest.raises(UserError, match="cannot fold adapters"):
        EngineSettings("nowhere", adapters="fold", tensor_parallel_size=2).options(on_cpu=False)
    assert ModelMemory(141, 10, 2048).part(2) == ModelMemory(71, 5, 2048)
