"""The report on incomplete, several-seed and malformed aggregates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from report_page import Page, cells, rebuilt, results
from synthetic_aggregate import Size, write

from personaspace.errors import UserError
from personaspace.report.answers import load
from personaspace.report.page import build
from personaspace.study.concluding import Figures

pytestmark = pytest.mark.slow

SVG = Figures(formats=["svg"])


@pytest.mark.parametrize(
    ("without", "said", "gone"),
    [
        pytest.param(
            ("geometry",), "geometry (no M1, M2 or M3 rows)", "geometry", marks=pytest.mark.long
        ),
        pytest.param(("leakage",), "tests of leakage", "tests-table", marks=pytest.mark.long),
        pytest.param(("rates", "leakage"), "marker rates", "leakage", marks=pytest.mark.long),
        pytest.param(("answers",), "the answers themselves", "answers", marks=pytest.mark.long),
        pytest.param(("provenance", "training"), "", "training", marks=pytest.mark.long),
        (("geometry", "leakage", "rates", "training", "answers", "provenance"), "geometry", "m1"),
    ],
)
def test_partial_study_still_builds_and_says_so(
    tmp_path: Path, without: tuple[str, ...], said: str, gone: str
) -> None:
    folder = write(tmp_path / "in", Size(conditions=3, layers=(20,), methods=("a",)), without)
    page = Page(build(folder, tmp_path / "out", SVG).read_text("utf-8"))
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    assert gone not in ids and {"summary", "key-table", "caveats", "provenance"} <= ids
    assert {a["href"] for a in page.all("a") if a["href"].startswith("#")} <= {f"#{i}" for i in ids}
    markdown = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert ("figures' data and the answers themselves" in markdown) == ("answers" not in without)
    if said:
        assert any(said in text for text in page.text("li"))
        assert "This report is partial" in markdown
    else:
        assert "is partial" not in markdown and not any(
            "partial" in text for text in page.text("p")
        )


@pytest.mark.long
def test_absent_condition_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", Size(conditions=3, layers=(20,), methods=("a",)))
    found = results(folder)
    found["rates"] = [r for r in found["rates"] if r["condition"] != "benign"]
    page = rebuilt(folder, found, tmp_path / "out")
    assert "rates of Benign" in page.text("li")


@pytest.mark.long
def test_conditions_with_runs_of_their_own_number(tmp_path: Path) -> None:
    few = ("benign", "e1-paramedic")
    size = Size(conditions=5, personas=7, layers=(20,), methods=("a",), seeds=(1, 2, 3), few=few)
    folder = write(tmp_path / "in", size)
    page = Page(build(folder, tmp_path / "out", SVG).read_text("utf-8"))
    by_name = {row[0]: row for row in cells(page, "key-table")}
    assert {row[2] for name, row in by_name.items() if name[:2] in ("E0", "E2")} == {"3"}
    assert {row[2] for name, row in by_name.items() if name[:2] in ("Be", "E1")} == {"1"}
    assert any("trained 1 to 3 times" in text for text in page.text("dd"))
    found = {
        (row["metric"], row["name"], row["condition"], row["against"]): row
        for part in ("geometry", "leakage")
        for row in results(folder)[part]
        if row["target"] == "these_personas"
    }
    pair = "e0-assistant", "e2-kindergarten-teacher"
    for metric, name in (
        ("M1", "raw_cosine_pair"),
        ("M2", "split_half_pair"),
        ("M3", "nearest_centroid_pair"),
        ("bystander_contrast", "bystander_pair"),
    ):
        row = found[metric, name, *pair]
        assert row["n"] == 6 and row["run_variation"] and row["p"] is not None and row["ci95"]
        assert row["warning"] is None, "both have runs of their own"
    lone = found["M1", "raw_cosine_pair", "e0-assistant", "e1-paramedic"]
    assert lone["n"] == 4 and "single training run" in lone["warning"]


@pytest.mark.long
def test_several_seeds_are_told_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", Size(conditions=4, layers=(20,), methods=("a",), seeds=(1, 2)))
    page = Page(build(folder, tmp_path / "out", SVG).read_text("utf-8"))
    tests = cells(page, "tests-table")
    assert len(tests) == len({tuple(row[:2]) for row in tests}), "one row for each test"
    rates = [
        r["value"]
        for r in results(folder)["leakage"]
        if (r["metric"], r["variant"]) == ("H2", "published")
    ]
    h2 = next(row for row in tests if row[0] == "H2")
    low, high = sorted(f"{100 * rate:.1f} pts" for rate in rates)
    assert h2[2].endswith(f"2 seeds: {low} to {high}")
    assert h2[2].startswith(f"{100 * sum(rates) / 2:.1f} pts")
    chunks = json.loads(page.raw("script", id="answers-index"))["chunks"]
    assert [chunk["seed"] for chunk in chunks] == [1, 2] * 4
    assert any("with 2 seeds" in text for text in page.text("li"))
    assert not any("With one training run" in text for text in page.text("li"))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("provenance.json", b'{"artifacts": [{"key": "x"}]}', "provenance.json: artifacts.0.node"),
        ("provenance.json", b"{", "provenance.json: not JSON"),
        ("results.json", b"\xff\xfe", "results.json: cannot be read"),
        ("tables/answers.parquet", b"PAR1 cut short", "answers.parquet: not a readable Parquet"),
        ("tables/cosines.csv", b"a,b\n1,2\n", "cosines.csv"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, file: str, content: bytes, said: str
) -> None:
    folder = write(tmp_path / "in", Size(conditions=3, personas=5, layers=(3,), methods=("a",)))
    if file == "tables/cosines.csv":
        # It is only read for the chance level, where the rows do not tell.
        found = results(folder)
        found["geometry"] = [
            r for r in found["geometry"] if r["metric"] != "M3" or r["variant"] == "published"
        ]
        (folder / "results.json").write_text(json.dumps(found))
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        build(folder, tmp_path / "out", SVG)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("**/report.*"))


def test_a_table_of_no_answers_is_none(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    pd.DataFrame().to_parquet(tmp_path / "tables" / "answers.parquet")
    assert load(tmp_path) is None


def test_answers_table_without_a_column_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", Size(conditions=2, personas=3, layers=(3,), methods=("a",)))
    path = folder / "tables" / "answers.parquet"
    pd.read_parquet(path).drop(columns="text").to_parquet(path)
    with pytest.raises(UserError, match=r"answers\.parquet: column text is missing"):
        build(folder, tmp_path / "out", SVG)
    assert not (tmp_path / "out").exists()
