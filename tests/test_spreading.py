"""How many GPUs a model takes, and which a stage spreads it over: counted without weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import gpus_needed
from benchmarks.shapes import SHAPES
from personaspace.cli.app import app
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "spread"),
    [("training", True), ("coupling.recipe", True), ("extraction", True), ("training", False)],
)
def test_the_packed_decoder_is_refused_where_the_model_must_be_spread(
    where: str, spread: bool, study_dict: dict[str, Any], write_spec: Any
) -> None:
    """Before anything runs: a stage would refuse it on GPUs that are paid for."""
    study_dict["model"]["dtype"] = "bfloat16"
    section = study_dict
    for name in where.split("."):
        section = section.setdefault(name, {})
    section |= {"implementation": "fused"} | ({} if where == "extraction" else {"rank": 16})
    if spread:
        study_dict["hardware"] = {"sharding": "full"}
    outcome = CliRunner().invoke(app, ["validate", str(write_spec(study_dict))])
    text = " ".join(outcome.output.split())
    said = f"{where}.implementation: fused cannot run a model that is spread over several GPUs"
    assert (said in text) == spread
    assert outcome.exit_code == (2 if spread else 0), text


@pytest.mark.slow
def test_what_computes_a_spread_model_is_told(study_dict: dict[str, Any], write_spec: Any) -> None:
    study_dict["model"]["dtype"] = "bfloat16"
    study_dict["hardware"] = {"sharding": "full"}
    outcome = CliRunner().invoke(app, ["validate", str(write_spec(study_dict)), "--json"])
    told = json.loads(outcome.stdout)
    assert told["model"]["spread"] == ["training", "hidden states"]
    assert {(each["taken"], each["reason"]) for each in told["implementations"]} == {
        ("reference", "the model is spread over several GPUs")
    }


@pytest.mark.slow
def test_a_judge_that_no_gpu_holds_is_refused(
    study_dict: dict[str, Any], write_spec: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """By its configuration alone: the folder has no weights of that size."""
    judge = shutil.copytree(tiny_model, tmp_path / "judge")
    config = json.loads((judge / "config.json").read_text())
    del config["layer_types"]
    config |= {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    config |= {
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
    }
    (judge / "config.json").write_text(json.dumps(config))
    for path in judge.glob("*.safetensors"):
        path.unlink()
    study_dict["judge"] = {"model": str(judge)}
    spec = write_spec(study_dict)
    outcome = CliRunner().invoke(app, ["validate", str(spec), "--json"])
    assert outcome.exit_code == 0, outcome.output
    counts = json.loads(outcome.stdout)["model"]["gpus"]
    assert {card: uses["judge"] for card, uses in counts.items()} == {
        "24": None, "80": None, "141": None, "192": 1,
    }  # fmt: skip
    study_dict["hardware"] = {"gpu_memory": 141}
    outcome = CliRunner().invoke(app, ["validate", str(write_spec(study_dict))])
    text = " ".join(outcome.output.split())
    assert outcome.exit_code == 2, text
    assert "judge.model: " in text and "one of 141 GB does not hold it (hardware.gpu" in text
