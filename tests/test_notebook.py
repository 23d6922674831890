"""The notebook of results runs from start to end, by a real kernel, on the small finished study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import Finished
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "use-your-results.ipynb"


@pytest.mark.long
@pytest.mark.slow
def test_the_notebook_goes_from_a_store_to_a_figure(
    finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE", str(finished_study.store))
    monkeypatch.setenv("STUDY", str(finished_study.spec))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "hero.pdf").stat().st_size > 1000
    shown = " ".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    assert "e0-assistant" in shown and "Figure" in shown and "adapter_model.safetensors" in shown
