"""Massive dimensions: found, told, taken out; and inner products that they do not drown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from personaspace.activations.files import write_activations
from personaspace.analysis.geometry import analyse_geometry, collapse
from personaspace.analysis.geometry.cells import Cell
from personaspace.analysis.geometry.dimensions import (
    anisotropy,
    dimension_rows,
    massive,
    transformed,
    transforms,
)
from personaspace.analysis.geometry.grams import Grams
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import AnalysisInfo, StudyCondition
from personaspace.cli.app import app
from personaspace.report.dimension_tables import dimensions_table, robustness_table

CONDITIONS = ("base", "benign", "e0-assistant", "e1")
PERSONAS = ("assistant", "b", "c", "d")
LARGE = {3: 60_000.0, 17: -40_000.0}


def states(large: dict[int, float]) -> np.ndarray:
    """`[C, P, Q, H]` as float16 holds them: some dimensions nearly the same for every text."""
    rng = np.random.default_rng(5)
    shape = (4, 4, 12, 24)
    found = 1 + rng.normal(size=(4, 4, 1, 24)) + rng.normal(size=shape)
    for dimension, size in large.items():
        found[..., dimension] = size * (1 + 0.002 * rng.normal(size=shape[:3]))
    return found.astype(np.float16).astype(np.float32)


def cell_of(values: np.ndarray) -> Cell:
    valid = np.ones(values.shape[1:3], dtype=bool)
    return Cell("a", 0, 1, CONDITIONS, PERSONAS, values, valid, values.mean(axis=2, dtype=float))


@pytest.mark.parametrize("large", [{}, LARGE])
def test_what_changes_without_a_question_is_right_beside_huge_dimensions(
    large: dict[int, float],
) -> None:
    values = states(large)
    whole, without = Grams.of(cell_of(values)).leave_one_out("e1", "base")
    exact = np.concatenate([values[3], values[0]]).astype(np.float64)
    for question in (0, 7):
        vectors = np.delete(exact, question, axis=1).mean(axis=1)
        want = collapse.pair_measures(vectors @ vectors.T, False)
        found = collapse.pair_measures(without[question], False)
        before = collapse.pair_measures(whole, False)
        for name, values_PP in want.items():
            change = values_PP - before[name]
            assert np.abs(found[name] - values_PP).max() < 1e-4 * np.abs(change).max()


def test_large_dimensions_are_found_and_their_share_is_told() -> None:
    cell = cell_of(states(LARGE))
    assert massive(cell).tolist() == [3, 17] and transforms(cell) == ("without_massive", "scaled")
    row = dimension_rows(cell)[2]
    mean = cell.states[2].astype(float).mean(axis=(0, 1))
    assert (row.condition, row.massive, row.massive_count) == ("e0-assistant", [3, 17], 2)
    assert row.top1_share == pytest.approx(mean[3] ** 2 / (mean @ mean), rel=1e-4)
    assert row.top3_share > row.massive_share > row.top1_share > 0.6
    plain = cell_of(states({}))
    assert massive(plain).tolist() == [] and transforms(plain) == ("scaled",)
    assert dimension_rows(plain)[0].massive_share == 0


def test_anisotropy_and_norms_by_their_definitions() -> None:
    cell = cell_of(states({}))
    single = cell.states[1].reshape(-1, 24).astype(float)
    units = single / np.linalg.norm(single, axis=1, keepdims=True)
    cosines = units @ units.T
    want = cosines[~np.eye(len(single), dtype=bool)].mean()
    row = dimension_rows(cell)[1]
    assert row.anisotropy == pytest.approx(want, abs=1e-6)
    norms = np.linalg.norm(single, axis=1)
    assert row.largest_norm == pytest.approx(norms.max() / np.median(norms), rel=1e-6)
    long = cell.states.copy()
    long[1, 0, 0] *= 10
    assert dimension_rows(cell_of(long))[1].norm_outliers == pytest.approx(
        np.mean(np.abs(np.log2(np.linalg.norm(long[1].reshape(-1, 24), axis=1) / np.median(norms)))
                > 1), abs=0.02
    )  # fmt: skip
    assert np.isnan(anisotropy(units[:1]))


def test_what_is_taken_out_and_scaled() -> None:
    cell = cell_of(states(LARGE))
    less = transformed(cell, "without_massive")
    assert less.states.shape[-1] == 22 and not len(massive(less))
    assert less.means == pytest.approx(np.delete(cell.means, [3, 17], axis=2))
    scaled = transformed(cell, "scaled")
    assert scaled.states[0].std(axis=(0, 1)) == pytest.approx(1, abs=1e-3)
    assert scaled.means == pytest.approx(scaled.states.mean(axis=2, dtype=float), rel=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, values = tmp_path_factory.mktemp("states"), states(LARGE)
    for place, name in enumerate(CONDITIONS):
        write_activations(
            path / f"{name}.seed-1.a.safetensors",
            values[place][:, :, None],
            np.ones((4, 12), dtype=bool),
            personas=PERSONAS,
            questions=[f"Q{i}?" for i in range(12)],
            layers=[0],
            condition=name,
            seed=1,
            method="a",
        )
    return path


@pytest.mark.slow
def test_the_main_estimates_come_as_they_are_and_changed(folder: Path) -> None:
    draws: dict[str, Any] = {"permutations": 20, "bootstrap": 10}
    found = analyse_geometry(sorted(folder.iterdir()), robust_at=("a", 0), **draws)
    plain = analyse_geometry(sorted(folder.iterdir()), **draws)
    assert found.rows == plain.rows and not plain.robustness
    names = {(row.transform, row.name) for row in found.robustness if row.metric != "shape"}
    shapes = {row.transform for row in found.robustness if row.name == "cka"}
    assert "without_massive" in shapes  # beside 60,000, noise is all there is
    measures = {name for _, name in names}
    assert len(names) == 3 * len(measures)
    assert {"displacement", "lda_delta", "em_mean_benign_share"} < measures
    as_is = {(r.name, r.condition): r for r in found.robustness if r.transform == "as_is"}
    for row in plain.rows:
        if row.target == "these_personas" and (row.name, row.condition) in as_is:
            mine = as_is[str(row.name), row.condition]
            assert (mine.value, mine.p, mine.ci95) == (row.value, row.p, row.ci95)
    results = Results(
        study="s",
        conditions=[StudyCondition(name=name) for name in CONDITIONS],
        layers=[0],
        methods=["a"],
        analysis=AnalysisInfo(method="a", layer=0),
        dimensions=found.dimensions,
        robustness=found.robustness,
    )
    table, other = dimensions_table(results), robustness_table(results)
    assert table is not None and len(table.rows) == 4 and "3, 17" in table.note
    told = {(row.name, row.condition) for row in found.robustness}
    assert other is not None and len(other.rows) == len(told)
    assert all(cell.text for row in other.rows for cell in row)


def test_the_command_prints_them(folder: Path) -> None:
    done = CliRunner().invoke(app, ["diagnostics", str(folder), "--json"])
    assert done.exit_code == 0 and [row["massive"] for row in json.loads(done.stdout)] == 4 * [
        [3, 17]
    ]
    assert "17" in CliRunner().invoke(app, ["diagnostics", str(folder)]).stdout
    assert CliRunner().invoke(app, ["diagnostics", str(folder / "none")]).exit_code == 2
