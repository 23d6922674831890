"""The study under docs/study: what its page says is what its results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.publish_study import contrasts, table, title_of, with_part
from personaspace.analysis.results import Results

FOLDER = Path(__file__).parent.parent / "docs" / "study"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    return found


def test_the_page_has_the_numbers_of_the_results(results: dict[str, Any]) -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert with_part(page, "numbers", table(results)) == page
    rows = pd.read_parquet(FOLDER / "rows.parquet").to_dict("records")
    assert with_part(page, "contrasts", contrasts(results, rows)) == page
    assert "| E4 villain | 0.990 |" in page


def test_a_page_that_is_written_anew_keeps_its_title(tmp_path: Path) -> None:
    page = FOLDER / "report.md"
    assert title_of(page) == "SmolLM2-135M-Instruct, coupled on whole answers"
    assert title_of(tmp_path / "none.md") == ""


def test_results_are_a_study_of_the_published_design(results: dict[str, Any]) -> None:
    Results.read(FOLDER)
    assert results["seeds"] == [42, 137, 256] and len(results["conditions"]) == 7
    assert results["layers"] == list(range(30)) and results["methods"] == ["a", "b"]
    assert {rate["total"] for rate in results["rates"]} == {280}
    steps = {(row["stage"], row["steps"]) for row in results["training"]}
    assert steps == {("train", 375), ("couple", 760)}


def test_the_table_of_all_rows_agrees_with_the_results(results: dict[str, Any]) -> None:
    table = pd.read_parquet(FOLDER / "rows.parquet")
    keys = ["metric", "variant", "name", "method", "layer", "condition", "seed"]
    table = table[table["metric"].isin(["M1", "M2", "M3", "shape"]) & table["seed"].notna()]
    known = table.set_index(keys)["value"]
    checked = 0
    for row in results["geometry"]:
        # Estimates over seeds have no seed, and a target beside these keys.
        if row.get("layer") == 20 and row.get("condition") and row.get("seed") is not None:
            assert known.loc[tuple(row.get(key) for key in keys)] == pytest.approx(row["value"])
            checked += 1
    assert checked > 300
