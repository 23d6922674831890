"""The notebooks under `examples` run from start to end, by a real kernel, on small studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import Finished
from hub_server import Hub
from hub_server import hub as hub
from nbclient import NotebookClient
from typer.testing import CliRunner

from personaspace.cli.app import app

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = [pytest.mark.long, pytest.mark.slow]


def shown_by(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a notebook in a folder; what its cells gave."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook: Any = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(folder)}}).execute()
    return " ".join(str(cell.get("outputs", "")) for cell in notebook.cells)


def test_the_notebook_goes_from_a_store_to_a_figure(
    finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE", str(finished_study.store))
    monkeypatch.setenv("STUDY", str(finished_study.spec))
    shown = shown_by("use-your-results", tmp_path, monkeypatch)
    assert (tmp_path / "hero.pdf").stat().st_size > 1000
    assert "e0-assistant" in shown and "Figure" in shown and "adapter_model.safetensors" in shown


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_published_study_is_read_by_its_address(
    hub: Hub, finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = "adapters,activations,answers,results"
    command = ["publish", str(finished_study.spec), "lab/tiny", "--include", kinds]
    done = CliRunner().invoke(app, [*command, "--store", str(finished_study.store)])
    assert done.exit_code == 0, done.output
    monkeypatch.setenv("ADDRESS", "hf://lab/tiny")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    shown = shown_by("published-study", tmp_path, monkeypatch)
    assert "results of tiny" in shown and "adapter_model.safetensors" in shown
    assert "(5, 3, " in shown, "vectors of five personas at three layers"


def test_power_is_known_before_a_run(
    finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY", str(finished_study.spec))
    shown = shown_by("power-before-you-run", tmp_path, monkeypatch)
    assert "H1" in shown and "M1" in shown and "seeds" in shown


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own-personas", ("ci95_low", "bad-as-tutor", "gardener", "coupling.source")),
        ("roles", ("ci95_low", "miller", "oracle", "moved")),
        ("steering", ("advice", "shift", "p_matched")),
    ],
)
def test_a_study_in_a_notebook_runs(
    name: str,
    said: tuple[str, ...],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL", str(tiny_model))
    shown = shown_by(name, tmp_path, monkeypatch)
    for word in said:
        assert word in shown, (word, shown[:3000])
