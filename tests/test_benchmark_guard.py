"""The benchmarks' guard: ratios of a run against those kept for the card."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import guard


def run_of(ours: float, peer: float = 10_000.0, card: str = "A card") -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {"what": "ours", "tokens/s": ours, "of ceiling": ours / 28_000},
        {"what": "ours", "tokens/s": ours - 500, "of ceiling": (ours - 500) / 28_000},
        {"what": "a peer", "tokens/s": peer, "of ceiling": peer / 28_000},
        {"what": "another", "failed": "out of memory"},
    ]
    return {"device": card, "date": "2026-11-29", "torch": "2.11.0", "rows": rows}


def guarded(folder: Path, run: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    path = folder / "run.json"
    path.write_text(json.dumps(run), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.guard", str(path), *more]
    command += ["--measured", str(folder / "measured.json")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_run_is_compared_with_its_own_kind_of_card(tmp_path: Path) -> None:
    assert guarded(tmp_path, run_of(20_000), "--keep").returncode == 0
    assert guarded(tmp_path, run_of(19_600)).returncode == 0  # scatter
    slower = guarded(tmp_path, run_of(18_000))
    assert slower.returncode == 1
    assert slower.stdout.count("SLOWER") == 2  # ceiling and peer
    assert guarded(tmp_path, run_of(18_000, card="Another")).returncode == 0
    # A faster peer is a lower ratio, though ours is as fast.
    beaten = guarded(tmp_path, run_of(20_000, peer=12_000))
    assert [line.split(":")[0] for line in beaten.stdout.splitlines() if "SLOWER" in line] == [
        "Qwen2.5-7B, times the fastest other"
    ]


def test_the_best_row_of_ours_counts_and_shapes_stand_apart() -> None:
    run = run_of(20_000)
    run["rows"].append({"what": "ours", "shape": "Qwen3-8B", "tokens/s": 5.0, "of ceiling": 0.7})
    assert guard.ratios(run) == {
        "Qwen2.5-7B, of ceiling": pytest.approx(20 / 28),
        "Qwen2.5-7B, times the fastest other": pytest.approx(2.0),
        "Qwen3-8B, of ceiling": 0.7,
    }


def test_what_is_kept_can_be_read() -> None:
    cards = json.loads(guard.MEASURED.read_text(encoding="utf-8"))
    assert all(entry["ratio"] > 0 for kept in cards.values() for entry in kept.values())
