"""Studies side by side: estimates, what differs, and contrasts over training runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import (
    AnalysisInfo,
    ModelInfo,
    PersonaInfo,
    RateRow,
    StudyCondition,
)
from personaspace.analysis.rows import Row
from personaspace.cli.app import app
from personaspace.report.compare import INCREMENT, lines, read
from personaspace.report.tables import escape_markdown

KINDS = {"base": "base", "benign": "benign", "e0": "em", "e4": "em"}


def study(folder: Path, name: str, model: str, seeds: list[int], shift: float = 0.0) -> Path:
    rng = np.random.default_rng(len(seeds) + round(100 * shift))
    geometry = [
        Row("M1", "recommended", "a", 5, condition, seed, name="raw_cosine_delta",
            value=0.01 + shift * (condition != "benign") + 0.002 * rng.normal())
        for condition in ("benign", "e0", "e4") for seed in seeds
    ]  # fmt: skip
    rates = [
        RateRow(condition=condition, seed=seed, persona=persona, hits=hits, total=100)
        for condition in KINDS for seed in seeds
        for persona, hits in (("confab", 95), ("a", 20 + seed), ("b", 40))
    ]  # fmt: skip
    results = Results(
        study=name, model=ModelInfo(name=model), seeds=seeds, source="confab", layers=[5],
        methods=["a"], analysis=AnalysisInfo(method="a", layer=5), geometry=geometry, rates=rates,
        personas=[PersonaInfo(name=each) for each in ("confab", "a", "b")],
        evaluated_personas=["confab", "a", "b"],
        conditions=[StudyCondition(name=n, kind=k, seeds=[]) for n, k in KINDS.items()],
    )  # fmt: skip
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results.to_dict()))
    return folder


def value(found: Any, what: str, run: int) -> float:
    rows = found.results.geometry
    return float(next(r.value for r in rows if (r.condition, r.seed) == (what, run)))


def test_runs_of_two_models_are_compared_by_welch(tmp_path: Path) -> None:
    one = study(tmp_path / "one", "s", "org/small", [1, 2, 3], 0.02)
    two = study(tmp_path / "two", "s", "org/large", [1, 2, 3, 4])
    read_ = read([one, two])
    assert [each.label for each in read_] == ["s", "s (2)"]
    found = {(x.measure, x.what, x.against): x for x in lines(read_) if x.study == "s"}
    a, b = ([value(each, "e0", run) for run in each.results.seeds] for each in read_)
    line = found["raw_cosine", "e0", "s (2)"]
    want = stats.ttest_ind(a, b, equal_var=False)
    assert line.value == pytest.approx(np.mean(a) - np.mean(b))
    # Welch's t on the degrees of freedom of Bell & McCaffrey.
    free = (1 / 3 + 1 / 4) ** 2 / (1 / (9 * 2) + 1 / (16 * 3))
    assert line.p == pytest.approx(2 * stats.t.sf(abs(want.statistic), free))
    reach = stats.t.ppf(0.975, free) * line.value / want.statistic
    assert (line.low, line.high) == pytest.approx((line.value - reach, line.value + reach))
    assert (line.p_holm or 0) >= (line.p or 1)
    own = found["raw_cosine", "e0", None]
    assert own.value == pytest.approx(np.mean(a)) and own.p is None and own.low is not None
    added = found["raw_cosine", INCREMENT, "s (2)"]
    assert added.value == pytest.approx(0.02, abs=0.006) and added.runs == 21
    leak = found["bystander", "e0", None]
    assert leak.value == pytest.approx((0.22 + 0.40) / 2)
    assert ("bystander", "base", None) not in found


def test_runs_of_one_model_with_the_same_seeds_are_pairs(tmp_path: Path) -> None:
    shifts = {"x": 0.02, "y": 0.0}
    paths = [study(tmp_path / n, n, "org/m", [1, 2, 3], shift) for n, shift in shifts.items()]
    read_ = read(paths)
    line = next(x for x in lines(read_) if (x.what, x.against) == ("e0", "y"))
    a, b = ([value(each, "e0", run) for run in (1, 2, 3)] for each in read_)
    assert line.p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_one_run_each_has_no_interval_and_says_so(tmp_path: Path) -> None:
    paths = [study(tmp_path / name, name, "org/m", [1]) for name in ("x", "y")]
    found = lines(read(paths))
    assert found and all(x.low is None and x.p is None and "One run" in x.note for x in found)


@pytest.mark.slow  # draws
def test_the_command_writes_page_table_and_figure(tmp_path: Path) -> None:
    one = study(tmp_path / "one", "small study", "org/small", [1, 2, 3], 0.02)
    two = study(tmp_path / "two", "large study", "org/large", [1, 2, 3])
    for folder, epochs in ((one, 1), (two, 2)):
        spec = {"name": "s", "training": {"epochs": epochs}}
        data = [{"field": "datasets.bad", "sha256": "a" * epochs}]
        (folder / "provenance.json").write_text(json.dumps({"spec": spec, "data": data}))
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["compare", str(one), str(two), "--out", str(out)])
    assert done.exit_code == 0, done.output
    page = (out / "compare.md").read_text()
    assert "- training.epochs" in page and "- data of datasets.bad" in page
    assert "small study less large study" in page and "org/large" in page
    assert f"- large study: {escape_markdown(str(two))}, org/large, layer 5, method A, 4" in page
    assert "Not known" not in page, "both have a spec"
    # Shares are told in per cent, their differences in points.
    assert "marker | e0 | 31.0 % \\[29.8, 32.2\\] | 31.0 %" in page
    assert "| e0 | small study less large study | 0.0 pts \\[\u22121.1, 1.1\\]" in page
    assert "p = " not in page.replace("\u00a0", " ")
    (two / "provenance.json").unlink()
    done = CliRunner().invoke(app, ["compare", str(one), str(two)])
    assert "Not known: the spec and the data of large study, which" in done.stdout
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    assert len(pd.read_csv(out / "compare.csv")) > 10
    printed = CliRunner().invoke(app, ["compare", str(one), str(two), "--json"])
    assert json.loads(printed.stdout)["lines"][0]["measure"] == "raw_cosine"


def test_a_provenance_that_is_none_is_named_by_its_field(tmp_path: Path) -> None:
    paths = [study(tmp_path / name, name, "m", [1, 2]) for name in ("one", "two")]
    for content, said in (
        ({"data": [{"x": 1}]}, "provenance.json: data"),
        ({"data": 5}, "provenance.json: data"),
        ({"spec": [1]}, "provenance.json: spec"),
    ):
        (paths[1] / "provenance.json").write_text(json.dumps(content))
        done = CliRunner().invoke(app, ["compare", *map(str, paths)])
        assert done.exit_code == 2 and said in done.stderr, done.output
        assert len(done.stderr.strip().splitlines()) == 1


def test_studies_with_nothing_in_common_are_said_to_have_none(tmp_path: Path) -> None:
    one, two = (study(tmp_path / name, name, "m", [1, 2]) for name in ("one", "two"))
    found = json.loads((two / "results.json").read_text())
    (two / "results.json").write_text(json.dumps(found | {"geometry": [], "rates": []}))
    done = CliRunner().invoke(app, ["compare", str(one), str(two)])
    assert done.exit_code == 0 and "Nothing is compared between the studies" in done.stdout


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    one = study(tmp_path / "one", "s", "m", [1])
    (tmp_path / "bad").mkdir()
    for given, said in (
        ([one], "two studies or more"),
        ([one, one / "results.json"], "given twice"),
        ([one, tmp_path / "bad"], "results.json"),
    ):
        done = CliRunner().invoke(app, ["compare", *map(str, given)])
        assert done.exit_code == 2 and said in done.stderr, done.stderr
