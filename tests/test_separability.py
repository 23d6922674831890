"""M3: nearest centroids, discriminant analysis and the components that it works on."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from planted import STUDY, world, write
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from personaspace.analysis.geometry.cells import Cell, group_files, read_cell
from personaspace.analysis.geometry.separability import (
    Design,
    components,
    fit_lda,
    nearest_centroid,
    shrinkage_lda,
)

Vectors = NDArray[np.float64]


def cosine(a: Vectors, b: Vectors) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def cell_of(folder: Path, valid: dict[str, NDArray[np.bool_]] | None = None, **size: Any) -> Cell:
    paths = write(folder, world(**size), valid=valid)
    return read_cell(group_files(paths, "base")[0], 0)


def some_valid(personas: int, questions: int, seed: int = 0) -> dict[str, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return {name: rng.random((personas, questions)) > 0.1 for name in STUDY}


def test_nearest_centroid_equals_a_plain_loop(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, some_valid(5, 13), personas=5, questions=13, noise=1.5)
    folds = Design.make(cell.valid, 10, 0).folds
    assert sorted(np.bincount(folds)) == [2, 2, 3, 3, 3]
    states = cell.states_of("e0-assistant").astype(np.float64)
    predicted = nearest_centroid(cell.states_of("e0-assistant"), cell.valid, folds)
    for p, q in itertools.product(range(5), range(13)):
        if not cell.valid[p, q]:
            assert predicted[p, q] == -1
            continue
        centroids = [states[k][cell.valid[k] & (folds != folds[q])].mean(axis=0) for k in range(5)]
        assert predicted[p, q] == np.argmax([cosine(states[p, q], c) for c in centroids])


def test_lda_scores_are_those_of_the_library_for_the_same_covariance() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 15)
    rows = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=(4, 6))[labels]
    weights, offsets = fit_lda(rows, labels)
    means = np.stack([rows[labels == k].mean(axis=0) for k in range(4)])

    class Given:
        """The shrunk pooled covariance, as an estimator."""

        def fit(self, _: Vectors) -> Given:
            from sklearn.covariance import ledoit_wolf

            self.covariance_ = ledoit_wolf(rows - means[labels], assume_centered=True)[0]
            return self

    model = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=Given(), priors=np.full(4, 0.25)
    ).fit(rows, labels)
    mine = rows @ weights + offsets
    library = model.decision_function(rows)
    assert mine - mine[:, :1] == pytest.approx(library - library[:, :1], abs=1e-8)


def test_lda_uses_directions_that_nearest_centroids_drown_in_noise() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(0, 0.1, size=(4, 30, 8)).astype(np.float32)
    states[:, :, 0] += 3
    states[:, :, 1] += np.arange(4)[:, None] * 0.5
    states[:, :, 2:4] += rng.normal(0, 3, size=(4, 30, 2))
    valid = np.ones((4, 30), dtype=bool)
    folds = np.arange(30) % 5
    right = np.arange(4)[:, None]
    assert (shrinkage_lda(states, valid, folds) == right).mean() > 0.85
    assert (nearest_centroid(states, valid, folds) == right).mean() < 0.7


@pytest.mark.slow
def test_components_are_those_of_differences_between_personas(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, personas=4, questions=12, hidden=400)
    projected = components(cell, 0)
    within = (cell.states - cell.states.mean(axis=1, keepdims=True)).astype(np.float64)
    kept = projected - projected.mean(axis=1, keepdims=True)
    # No 64 directions hold more; the library's decomposition of the same rows says how much.
    squares = np.linalg.svd(within.reshape(-1, 400), compute_uv=False)[:64] ** 2
    assert (kept.astype(np.float64) ** 2).sum() == pytest.approx(squares.sum(), rel=1e-4)
    small = cell_of(tmp_path, personas=4, questions=12, hidden=20)
    assert components(small, 0) is small.states
