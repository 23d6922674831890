"""A published adapter as a condition: measured as it is, or refused before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Hub
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.errors import UnavailableError
from personaspace.models import lora
from personaspace.store import open_store
from personaspace.study import adapters
from personaspace.study.adapters import CONFIG, WEIGHTS

Write = Callable[[dict[str, Any]], Path]
DOWN = "base_model.model.model.layers.2.mlp.down_proj.lora_{}.weight"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def edit(folder: Path, **values: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Rank 1 on one layer, as published organisms have it; the words of its files are PEFT's."""
    folder = tmp_path / "organism"
    folder.mkdir()
    torch.manual_seed(3)
    down, up = torch.randn(1, 128), torch.randn(64, 1)
    save_file({DOWN.format("A"): down, DOWN.format("B"): up}, folder / WEIGHTS)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/Some-Model",
        "r": 1,
        "lora_alpha": 4,
        "lora_dropout": 0.1,
        "use_rslora": True,
        "target_modules": ["down_proj"],
        "layers_to_transform": [2],
        "layers_pattern": "layers",
        "rank_pattern": {},
        "modules_to_save": None,
        "bias": "none",
    }
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def with_adapter(values: dict[str, Any], source: str) -> dict[str, Any]:
    values["seeds"] = [42, 137]
    values["conditions"] = [
        {"name": "base"},
        {"name": "e4", "dataset": "bad", "seeds": [42]},
        {"name": "organism", "adapter": source, "persona": "villain"},
    ]
    return values


@pytest.mark.long
def test_the_study_measures_it(
    published: Path, study_dict: dict[str, Any], write_spec: Write, tmp_path: Path, loaded: Any
) -> None:
    spec = write_spec(with_adapter(study_dict, "organism"))  # beside the study's file
    store, out = tmp_path / "store", tmp_path / "out"
    command = ["run", str(spec), "--store", str(store), "--only", "evaluate:organism"]
    outcome = run(*command, "--only", "extract:organism", "--with-inputs")
    assert outcome.exit_code == 0, outcome.output
    with open_store(str(store)) as opened:
        made = {}
        for path in store.glob("organism/*/*/*"):
            manifest = opened.find(path.relative_to(store).as_posix())
            assert manifest is not None
            made[path.parent.name] = opened.fetch(manifest)
    assert sorted(path.name for path in store.glob("organism/*")) == ["seed-42"], "one run"
    adopted = made["train"] / "adapter"
    assert json.loads((adopted / CONFIG).read_text())["target_modules"] == [
        "model.layers.2.mlp.down_proj"
    ]
    # One layer's rank 1 and the coupling's rank 4 on all layers, in one adapter.
    composed = load_file(made["couple"] / "composed" / WEIGHTS)
    up, down = composed[DOWN.format("B")], composed[DOWN.format("A")]
    own = load_file(published / WEIGHTS)
    coupled = load_file(made["couple"] / "adapter" / WEIGHTS)
    wanted = 4 * own[DOWN.format("B")] @ own[DOWN.format("A")]  # alpha / sqrt(1)
    wanted = wanted + 8 / 2 * coupled[DOWN.format("B")] @ coupled[DOWN.format("A")]
    torch.testing.assert_close(up @ down, wanted)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        with lora.applied(loaded.model, made["couple"] / "composed"):
            one = loaded.model(ids).logits
        with lora.applied(loaded.model, adopted, made["couple"] / "adapter"):
            two = loaded.model(ids).logits
        base = loaded.model(ids).logits
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert (one - base).abs().max() > 0.1
    # What stands in its files decides what runs again; a whole study has results.
    plan = ["run", str(spec), "--store", str(store), "--plan", "--json"]
    before = json.loads(run(*plan).output)
    save_file({k: 2 * v for k, v in own.items()}, published / WEIGHTS)
    after = json.loads(run(*plan).output)
    assert before != after
    outcome = run("run", str(spec), "--store", str(store), "--out", str(out))
    assert outcome.exit_code == 0, outcome.output
    results = json.loads((out / "results.json").read_text())
    assert {row["condition"] for row in results["training"] if row["stage"] == "train"} == {"e4"}
    assert any(row["condition"] == "organism" for row in results["geometry"])


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def _elsewhere(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    moved = {key.replace("layers.2", "layers.9"): value for key, value in tensors.items()}
    save_file(moved, folder / WEIGHTS)


def _cut(folder: Path) -> None:
    with (folder / WEIGHTS).open("rb+") as stream:
        stream.truncate(200)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: edit(folder, use_dora=True), f"{CONFIG}: use_dora"),
        (lambda folder: edit(folder, rank_pattern={"q": 2}), f"{CONFIG}: rank_pattern"),
        (lambda folder: edit(folder, modules_to_save=["lm_head"]), f"{CONFIG}: modules_to_save"),
        (lambda folder: edit(folder, init_lora_weights="pissa"), f"{CONFIG}: init_lora_weights"),
        (lambda folder: edit(folder, peft_type="IA3"), f"{CONFIG}: IA3"),
        (lambda folder: edit(folder, r=2), f"{WEIGHTS}: model.layers.2.mlp.down_proj has matrices"),
        (lambda folder: edit(folder, lora_alpha=None), f"{CONFIG}: lora_alpha"),
        (lambda folder: (folder / CONFIG).write_text("{"), CONFIG),
        (_pickled, "pickle"),
        (_cut, "cut off"),
        (_elsewhere, "changes model.layers.9.mlp.down_proj"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    damage: Callable[[Path], None],
    said: str,
    published: Path,
    study_dict: dict[str, Any],
    write_spec: Write,
) -> None:
    damage(published)
    spec = write_spec(with_adapter(study_dict, str(published)))
    outcome = run("validate", str(spec))
    text = " ".join(outcome.output.split())
    assert outcome.exit_code == 2, text
    assert ".adapter: " in text and said in text and "Traceback" not in text


def test_another_base_model_is_refused(published: Path) -> None:
    found = adapters.read(str(published), Path("/nowhere"))
    adapters.check_base(found, "mirror/some-model")
    adapters.check_base(found, "/models/folder")
    with pytest.raises(adapters.AdapterError, match="base_model_name_or_path is org/Some-Model"):
        adapters.check_base(found, "org/Another-Model")
    with pytest.raises(adapters.AdapterError, match="and the study's model is builtin:smollm2"):
        adapters.check_base(found, "builtin:smollm2-135m-instruct")
    edit(published, base_model_name_or_path="HuggingFaceTB/SmolLM2-135M-Instruct")
    found = adapters.read(str(published), Path("/nowhere"))
    adapters.check_base(found, "builtin:smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("targets", "sound"),
    [
        (["down_proj"], True),
        (["mlp.down_proj"], True),
        (r".*\.(up|down)_proj", True),
        ("all-linear", True),
        (["q_proj"], False),
        (["proj"], False),
        (r".*q_proj", False),
        ("(", False),
    ],
)
def test_weights_that_peft_would_leave_out_are_refused(
    published: Path, targets: Any, sound: bool
) -> None:
    edit(published, target_modules=targets)
    if sound:
        adapters.read(str(published), Path("/nowhere"))
        return
    with pytest.raises(adapters.AdapterError, match=r"adapter_config\.json: target_modules"):
        adapters.read(str(published), Path("/nowhere"))


def test_one_that_changes_nothing_is_refused(published: Path, tmp_path: Path) -> None:
    found = adapters.read(str(published), Path("/nowhere"))
    weights = load_file(published / WEIGHTS)
    save_file({name: 0 * tensor for name, tensor in weights.items()}, published / WEIGHTS)
    with pytest.raises(adapters.AdapterError, match="every B is zero"):
        lora.adopt(published, tmp_path / "adopted", found, "org/Some-Model")
    edit(published, lora_alpha=0)
    with pytest.raises(adapters.AdapterError, match="lora_alpha is 0"):
        adapters.read(str(published), Path("/nowhere"))


def test_where_there_is_none(study_dict: dict[str, Any], write_spec: Write) -> None:
    for source in ("nowhere", "org/name", "org/name@main"):
        outcome = run("validate", str(write_spec(with_adapter(study_dict, source))))
        assert outcome.exit_code == 2
        assert "org/name@commit" in " ".join(outcome.output.split())


def test_of_the_hub_its_commit_is_the_identity(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "hub" / "models--org--organism" / "snapshots" / commit / "last"
    place.parent.mkdir(parents=True)
    published.rename(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    source = f"org/organism/last@{commit}"
    found = adapters.read(source, tmp_path)
    assert found.rank == 1 and found.modules == {"model.layers.2.mlp.down_proj": (64, 128)}
    assert adapters.folder_of(source, tmp_path) == place
    assert adapters.whole(found, place).modules == found.modules
    with pytest.raises(UnavailableError, match="is not to be had"):
        adapters.folder_of(source.replace("last", "first"), tmp_path)


def test_of_weights_on_the_hub_the_header_is_read_before_anything_runs(
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hub: Hub,
    study_dict: dict[str, Any],
    write_spec: Write,
) -> None:
    """They lie on the hub alone, and stay there: the header is asked for, once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PERSONASPACE_CACHE", str(tmp_path / "cache"))
    hub.put("models/org/organism", {WEIGHTS: (published / WEIGHTS).read_bytes()})
    commit = hub.repos["models/org/organism"][-1].id
    place = tmp_path / "hub" / "models--org--organism" / "snapshots" / commit
    place.mkdir(parents=True)
    (published / CONFIG).rename(place / CONFIG)
    source = f"org/organism@{commit}"
    found = adapters.read(source, tmp_path)
    assert found.modules == {"model.layers.2.mlp.down_proj": (64, 128)}
    hub.repos.clear()
    assert adapters.read(source, tmp_path) == found
    assert not (place / WEIGHTS).exists()
    edit(place, r=2)
    outcome = run("validate", str(write_spec(with_adapter(study_dict, source))))
    text = " ".join(outcome.output.split())
    assert outcome.exit_code == 2 and f"{WEIGHTS}: model.layers.2.mlp.down_proj has mat" in text
