"""The comparison with other trainers goes on where one of them fails."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_MEMORY = "OutOfMemoryError: CUDA out of memory"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, as from the repository's folder."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.peers")


@pytest.mark.parametrize(
    ("kind", "package"),
    [("trl packed", "trl"), ("liger in plain recipe", "liger_kernel.transformers")],
)
def test_a_peer_that_is_not_installed_has_a_row_that_says_so(
    peers: Any, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package.split(".")[0], None)
    row = peers.tried(kind, "Qwen2.5-7B", 1, 1)
    assert row["what"] == kind
    assert row["failed"].startswith("ModuleNotFoundError: ")
    assert package.split(".")[0] in row["failed"]
    assert "\n" not in row["failed"]


def test_rows_get_shorter_until_memory_suffices(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def apart(_: Any, kind: str, shape: str, rows: int, __: int) -> dict[str, Any]:
        asked.append(rows)
        return (
            {"what": kind, "failed": WITHOUT_MEMORY} if rows < 2 else {"what": kind, "rows": rows}
        )

    monkeypatch.setattr(peers, "apart", apart)
    assert peers.best("trl packed", "Qwen2.5-7B", (1, 2, 4), 1) == {"what": "trl packed", "rows": 2}
    assert asked == [1, 2]


def test_a_peer_that_fails_is_not_tried_again(peers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def apart(_: Any, kind: str, shape: str, rows: int, __: int) -> dict[str, Any]:
        asked.append(rows)
        return {"what": kind, "failed": "RuntimeError: no driver"}

    monkeypatch.setattr(peers, "apart", apart)
    assert (
        peers.best("trl packed", "Qwen2.5-7B", (1, 2, 4), 1)["failed"] == "RuntimeError: no driver"
    )
    assert asked == [1]
