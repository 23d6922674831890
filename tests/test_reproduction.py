"""The table of published figures: every line agrees, and the page is what the command writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reproduction() -> ModuleType:
    import sys

    path = ROOT / "benchmarks" / "reproduction.py"
    spec = importlib.util.spec_from_file_location("reproduction", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduction"] = module
    spec.loader.exec_module(module)
    return module


def test_every_published_figure_is_met(reproduction: ModuleType) -> None:
    lines = reproduction.table()
    assert [line.what for line in lines if line.verdict == "NOT EQUAL"] == []
    assert sum(line.verdict == "equal" for line in lines) == 22
    assert sum(line.verdict == "within Monte-Carlo error" for line in lines) == 5


def test_the_page_is_not_stale(reproduction: ModuleType) -> None:
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert page == reproduction.page()
