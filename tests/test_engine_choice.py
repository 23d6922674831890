"""Which engine draws answers, and what is told where it is the slow one on a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from personaspace.generation import choice
from personaspace.pipeline import executor, local
from personaspace.store import open_store
from personaspace.study.load import load_study


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU and no vLLM, as far as the choice looks."""
    found = importlib.util.find_spec
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "vllm" else found(name)
    )


@pytest.mark.usefixtures("machine")
def test_a_gpu_without_vllm_is_told_of() -> None:
    told = choice.slow("auto")
    assert choice.engine_here("auto") == "transformers"
    assert told is not None and told.startswith("generation.engine: vLLM is not installed")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("wanted", ["transformers", "vllm"])
def test_who_names_an_engine_gets_it_without_a_word(wanted: choice.EngineName) -> None:
    assert choice.engine_here(wanted) == wanted
    assert choice.slow(wanted) is None


def test_a_processor_has_one_engine_and_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choice.engine_here("auto") == "transformers"
    assert choice.slow("auto") is None


@pytest.mark.slow
@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("only", "told"), [("extract", True), ("train", False)])
def test_a_run_says_so_before_it_starts(
    study_dict: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    only: str,
    told: bool,
) -> None:
    """Where stages are to draw answers, and only there."""
    study_dict["generation"] = {"engine": "auto"}
    spec = tmp_path / "study.yaml"
    spec.write_text(yaml.safe_dump(study_dict), encoding="utf-8")
    monkeypatch.setattr(executor, "run_here", lambda *_: executor.Summary())
    with open_store(str(tmp_path / "store")) as store:
        local.run_study(load_study(spec), store, only=[only])
    assert ("vLLM is not installed" in capsys.readouterr().err) is told
