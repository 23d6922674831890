"""Benchmarks whose pages the documentation shows still run with the library as it is."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", sorted(p.stem for p in BENCHMARKS.glob("*.py")))
def test_it_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python benchmarks/NAME.py` finds its neighbours, or as a module."""
    if name.endswith("_kernels"):
        pytest.importorskip("triton")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.slow
def test_a_planted_study_has_every_truth() -> None:
    told = subprocess.run(
        [sys.executable, "benchmarks/planted.py", "--runs", "1"],
        cwd=BENCHMARKS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    for truth in ("collapse increment", "layer of convergence", "leakage slope"):
        assert f"| {truth} |" in told.stdout
