"""The page of a judge's calibration is what its script writes: every world, of one run."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "calibration-judge.md"


def test_the_page_is_whole_and_written_by_no_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    judge = importlib.import_module("calibration_judge")
    text = PAGE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0].strip("| ") == " | ".join(judge.HEADS)
    assert [line.split("|")[1].strip() for line in lines[2:]] == [w.name for w in judge.WORLDS]
    studies = re.search(r"--studies (\d+)", text)
    assert studies is not None
    today = judge.page("\n".join(lines), int(studies[1]))
    day = r"\d{4}-\d{2}-\d{2}"
    assert re.sub(day, "", text) == re.sub(day, "", today)


def test_a_line_is_counted_again_from_its_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    judge = importlib.import_module("calibration_judge")
    world = judge.WORLDS[0]
    rows = [judge.study(world, judge.generator(14, world.name, n))[1] for n in range(20)]
    held = sum(low <= 0.03 <= high for low, high in (row.ci95 for row in rows))
    assert judge.coverage(world, 20)[4].startswith(f"{100 * held / 20:.1f} ± ")
