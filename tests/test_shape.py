"""Shape of persona space: by textbooks, what changes nothing, and two halves of one condition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import world, write
from scipy.linalg import orthogonal_procrustes, subspace_angles
from scipy.spatial import procrustes
from scipy.spatial.distance import cdist, pdist
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.gaussian_process.kernels import DotProduct

from personaspace.analysis.geometry import analyse_geometry, shape, transfer
from personaspace.analysis.geometry.cells import Cell, Roles
from personaspace.analysis.geometry.halves import Design, group_sums, pseudo
from personaspace.analysis.geometry.separability import Design as Folds
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import AnalysisInfo, StudyCondition
from personaspace.report.shape_tables import section

Vectors = NDArray[np.float64]
ROLES = Roles("base", None, "benign", "assistant")
CONDITIONS = ("base", "benign", "e1")


def cell_of(vectors_CPH: Vectors, noise: float, seed: int = 0, questions: int = 24) -> Cell:
    """Persona vectors, questions that move all alike, and noise."""
    rng = np.random.default_rng(seed)
    conditions, personas, hidden = vectors_CPH.shape
    states = vectors_CPH[:, :, None] + rng.normal(size=(questions, hidden))
    states = states + noise * rng.normal(size=(conditions, personas, questions, hidden))
    values = states.astype(np.float32)
    names = tuple(f"p{index}" for index in range(personas))
    valid = np.ones((personas, questions), dtype=bool)
    means = values.mean(axis=2, dtype=np.float64)
    return Cell("a", 0, 1, CONDITIONS[:conditions], names, values, valid, means)


def drawn(seed: int = 0, personas: int = 6, hidden: int = 20) -> Vectors:
    """Base, something near it, and something else."""
    rng = np.random.default_rng(seed)
    base = 3 + rng.normal(size=(personas, hidden))
    return np.stack([base, base + 0.4 * rng.normal(size=base.shape), rng.normal(size=base.shape)])


def found(cell: Cell) -> dict[str, dict[str, float]]:
    design = Design.make(cell.valid.shape[1], 3)
    assert design is not None
    measured = shape.measured(cell, design)
    return {name: {m: v.mean for m, v in mine.items()} for name, mine in measured.items()}


def test_without_noise_every_measure_is_that_of_its_textbook() -> None:
    vectors = drawn()
    base, values = vectors[0], found(cell_of(vectors, 0.0))
    kernel = DotProduct(sigma_0=0)
    for place, name in ((1, "benign"), (2, "e1")):
        mine, got = vectors[place], values[name]
        # Kornblith et al. 2019, equation 3: HSIC of two centred kernels.
        centre = np.eye(6) - 1 / 6
        k, m = (centre @ kernel(x) @ centre for x in (base, mine))
        want = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
        assert got["cka"] == pytest.approx(want, abs=1e-4)
        want = np.corrcoef(pdist(base, "sqeuclidean"), pdist(mine, "sqeuclidean"))[0, 1]
        assert got["rsa"] == pytest.approx(want, abs=1e-4)
        assert got["procrustes"] == pytest.approx(procrustes(base, mine)[2], abs=1e-4)
        a, b = ((x - x.mean(axis=0)).T for x in (base, mine))
        angles = subspace_angles(a @ np.eye(6)[:, :5], b @ np.eye(6)[:, :5])
        assert got["subspace_overlap"] == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-4)
    for place, name in enumerate(CONDITIONS):
        variances = PCA().fit(vectors[place]).explained_variance_
        want = variances.sum() ** 2 / (variances**2).sum()
        assert values[name]["participation_ratio"] == pytest.approx(want, rel=1e-4)


def test_procrustes_is_what_the_best_rotation_leaves() -> None:
    base, _, mine = drawn(3)
    a, b = (x - x.mean(axis=0) for x in (base, mine))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    turn, scale = orthogonal_procrustes(a, b)
    left = np.linalg.norm(scale * a @ turn - b) ** 2
    assert found(cell_of(drawn(3), 0.0))["e1"]["procrustes"] == pytest.approx(left, abs=1e-4)


@settings(max_examples=4)
@given(seed=st.integers(0, 1000), size=st.floats(0.1, 30), shift=st.floats(-50, 50))
def test_neither_place_nor_size_nor_turn_changes_the_shape(
    seed: int, size: float, shift: float
) -> None:
    cell = cell_of(drawn(seed), 0.3, seed)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(20, 20)))[0]
    before = found(cell)["benign"]
    for turned in (False, True):
        states, move = cell.states.copy(), turn if turned else np.eye(20)
        states[1] = size * states[1].astype(np.float64) @ move + shift
        after = found(replace(cell, states=states))["benign"]
        for name in {*before} - ({"subspace_overlap"} if turned else set()):
            assert after[name] == pytest.approx(before[name], abs=2e-3), name
        if turned:  # which does see a rotation
            assert after["subspace_overlap"] < before["subspace_overlap"] - 0.1


def test_two_halves_of_base_are_no_change_and_plain_values_are() -> None:
    vectors = drawn(5)[[0, 0, 0]]
    means: dict[str, list[float]] = {}
    plain = []
    for seed in range(16):
        cell = cell_of(vectors, 1.5, seed)
        for name, value in found(cell)["e1"].items():
            means.setdefault(name, []).append(value)
        plain.append(procrustes(cell.means[0], cell.means[2])[2])
    for name in ("cka", "rsa", "subspace_overlap"):
        spread = np.std(means[name]) / np.sqrt(len(means[name]))
        assert abs(np.mean(means[name]) - 1) < 4 * spread + 0.01, name
    assert abs(np.mean(means["procrustes"])) < 0.008 < 0.02 < np.mean(plain)


def test_a_mean_has_the_pseudo_values_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    values, sizes = rng.normal(size=9), np.full(9, 4.0)
    without = (values.sum() - values) / 8
    made = pseudo(np.concatenate([[values.mean()], without]), sizes)
    assert made is not None and made.values[:, 0] == pytest.approx(values)
    sizes = np.array([1.0, 1, 2, 2, 3, 4, 5, 6, 7])
    whole = sizes @ values / sizes.sum()
    without = (sizes @ values - sizes * values) / (sizes.sum() - sizes)
    made = pseudo(np.concatenate([[whole], without]), sizes)
    assert made is not None and made.mean == pytest.approx(whole)
    assert pseudo(np.array([1.0, np.nan]), sizes[:1]) is None


def test_questions_of_a_theme_stay_together_and_few_are_none() -> None:
    places = np.repeat(np.arange(30), 4)
    design = Design.make(120, 1, places)
    assert design is not None and design.group_Q.max() + 1 == 10
    assert all(len(set(design.group_Q[places == theme])) == 1 for theme in range(30))
    assert design.halves_MG.sum(axis=1).tolist() == [5] * len(design.halves_MG)
    assert Design.make(5, 1) is None


def test_missing_answers_take_the_personas_mean_of_the_group() -> None:
    cell = cell_of(drawn(), 0.5, questions=8)
    valid = cell.valid.copy()
    valid[0, 0], valid[1, 4:] = False, False
    states = np.where(valid[:, :, None], cell.states[0], 0)
    groups = np.repeat(np.arange(2), 4)
    sums, sizes = group_sums(states, valid, groups)
    centred = np.stack(
        [np.where(valid[:, q, None], states[:, q] - states[valid[:, q], q].mean(axis=0), np.nan)
         for q in range(8)], axis=1,
    )  # fmt: skip
    assert sizes.tolist() == [4, 4]
    assert sums[0, 0] == pytest.approx(4 * np.nanmean(centred[0, :4], axis=0), abs=1e-4)
    assert sums[1, 1] == pytest.approx(4 * np.nanmean(centred[1], axis=0), abs=1e-4)
    assert sums[3, 0] == pytest.approx(centred[3, :4].sum(axis=0), abs=1e-4)


def test_personas_that_differ_by_noise_alone_have_no_shape() -> None:
    vectors = np.zeros((3, 6, 20))
    assert found(cell_of(vectors, 1.0)) == {"base": {}, "benign": {}, "e1": {}}


def test_transfer_is_a_classifier_of_base_on_other_activations() -> None:
    cell = cell_of(drawn(2), 1.2, 4, questions=60)
    folds = Folds.make(cell.valid, 1, 0).folds
    predicted = transfer.predictions(cell.states, cell.valid, folds)
    labels = np.repeat(np.arange(6), 60)
    for index in (0, 2):
        agree = []
        for fold in range(5):
            test, flat = folds == fold, np.tile(folds == fold, 6)
            base, mine = (
                cell.states[i].reshape(-1, 20).astype(float)
                - cell.states[i][:, ~test].mean(axis=(0, 1))
                for i in (0, index)
            )
            mine = mine * np.linalg.norm(base[~flat]) / np.linalg.norm(mine[~flat])
            learnt, names = base[~flat], labels[~flat]
            centres = np.stack([learnt[names == label].mean(axis=0) for label in range(6)])
            within = LedoitWolf(assume_centered=True).fit(learnt - centres[names])
            apart = cdist(mine[flat], centres, "mahalanobis", VI=within.get_precision())
            agree.append(apart.argmin(axis=1).reshape(6, -1) == predicted[index][:, test])
        assert np.concatenate(agree, axis=1).all()
    moved = cell.states.copy()
    moved[2] = 7 * moved[2] + 100
    assert (transfer.predictions(moved, cell.valid, folds) == predicted).mean() > 0.995


@pytest.mark.slow
def test_personas_that_changed_places_are_told_apart_but_not_by_base(tmp_path: Path) -> None:
    made = world(personas=6, noise=0.3)
    made.states["e4-villain"] = made.states["base"][::-1].copy()
    result = analyse_geometry(write(tmp_path, made), permutations=20, bootstrap=10)
    by = {(r.metric, r.name, r.condition, r.target): r for r in result.rows}
    kept = by["M3", "lda", "e4-villain", "these_personas"]
    row = by["shape", "probe_transfer", "e4-villain", "these_personas"]
    assert kept.value == pytest.approx(1) and row.base == pytest.approx(1) and row.p is None
    assert (row.value or 0) < 0.1
    overlap = by["shape", "subspace_overlap", "e4-villain", "these_personas"]
    assert overlap.value == pytest.approx(1, abs=1e-3) and overlap.p is None
    added = by["shape", "cka_em_minus_benign", "e4-villain", "these_personas"]
    assert (added.family, added.p is None) == ("geometry_shape", False)
    assert ("shape", "cka", "e4-villain", "new_personas") not in by
    for name in ("subspace_overlap", "probe_transfer"):  # their tests are not calibrated
        row = by["shape", f"{name}_em_minus_benign", "e4-villain", "these_personas"]
        assert (row.p, row.family, row.equivalence) == (None, None, None) and row.ci95
    results = Results(
        study="s",
        conditions=[
            StudyCondition(name=n, kind=kind)
            for n, kind in (("base", "base"), ("benign", "benign"), ("e4-villain", "em"))
        ],
        layers=[0],
        methods=["a"],
        analysis=AnalysisInfo(method="a", layer=0),
        geometry=result.rows,
    )
    told = section(results)
    assert told is not None and len(told["table"].rows) == 3 and told["increments"] is not None
