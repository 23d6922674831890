"""The tests of mean vectors: common displacement, spread of conditions, layer of convergence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from personaspace.analysis.geometry.axis import Positions
from personaspace.analysis.geometry.cells import Cell, Roles
from personaspace.analysis.geometry.compare import Pseudo, leave_one_out_personas
from personaspace.analysis.geometry.convergence import (
    bounds,
    convergence_layer,
    convergence_rows,
    spread_interval,
    spread_row,
)
from personaspace.analysis.geometry.convergence_runs import convergence_over_runs, layer_bounds
from personaspace.analysis.geometry.displacement import common_displacement
from personaspace.analysis.geometry.grams import Grams
from personaspace.analysis.geometry.quadratic import ZeroMean, zero_mean_test
from personaspace.analysis.geometry.tables import Kept, Table
from personaspace.analysis.jackknife import jackknife_excess
from personaspace.analysis.runs import Runs

Vectors = NDArray[np.float64]


def of_layout(layout_PQH: Vectors) -> ZeroMean:
    square = float((layout_PQH**2).sum(axis=2).mean())
    return zero_mean_test(layout_PQH.mean(axis=1), layout_PQH.mean(axis=0), square)


def test_one_dimension_without_question_effects_is_the_t_test() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.4, 1, size=12)
    found = of_layout(np.repeat(values[:, None, None], 8, axis=1))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)
    assert found.excess == pytest.approx(values.mean() ** 2 - values.var(ddof=1) / 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "hidden, persona, question, cell",
    [(1, 1, 0, 1), (3, 1, 1, 1), (40, 1, 0, 2), (40, 0.5, 2, 1), (200, 1, 1, 1)],
)
def test_rejects_as_often_as_it_says(
    hidden: int, persona: float, question: float, cell: float
) -> None:
    rng, rejected, runs = np.random.default_rng(hidden), 0, 400
    for _ in range(runs):
        layout = persona * rng.normal(size=(12, 1, hidden))
        layout = layout + question * rng.normal(size=(1, 16, hidden))
        layout = layout + cell * rng.normal(size=(12, 16, hidden))
        rejected += (of_layout(layout).p or 1.0) <= 0.05
    assert 0.02 <= rejected / runs <= 0.085


def test_finds_a_mean_and_its_length() -> None:
    rng, excess = np.random.default_rng(1), []
    mean = np.full(20, 0.5)
    for _ in range(200):
        layout = mean + rng.normal(size=(12, 1, 20)) + rng.normal(size=(12, 16, 20))
        found = of_layout(layout)
        excess.append(found.excess)
        assert (found.p or 1.0) < 0.05
    assert np.mean(excess) == pytest.approx(mean @ mean, rel=0.05)


def test_nothing_to_test_without_variation_or_with_one_persona() -> None:
    assert of_layout(np.ones((4, 5, 3))).p is None
    assert of_layout(np.zeros((4, 5, 3))).p is None
    assert of_layout(np.random.default_rng(0).normal(size=(1, 5, 3))).p is None


def cell_of(base: Vectors, mine: Vectors) -> Cell:
    states = np.stack([base, mine]).astype(np.float32)
    names = tuple(f"p{i}" for i in range(states.shape[1]))
    valid = np.ones(states.shape[1:3], dtype=bool)
    means = states.astype(np.float64).mean(axis=2)
    return Cell("a", 3, 1, ("base", "mine"), names, states, valid, means)


def test_displacement_is_measured_in_distances_of_personas() -> None:
    rng = np.random.default_rng(2)
    base = 5 + rng.normal(size=(40, 1, 60)) + 0.5 * rng.normal(size=(40, 12, 60))
    direction = rng.normal(size=60)
    direction *= np.sqrt(60) / np.linalg.norm(direction)
    noise = 0.2 * rng.normal(size=(40, 1, 60)) + 0.5 * rng.normal(size=(40, 12, 60))
    cell = cell_of(base, base + 0.7 * direction + noise)
    found = common_displacement(Grams.of(cell), "mine")
    assert found.size == pytest.approx(0.7, abs=0.03)
    assert found.p is not None and found.p < 1e-6
    still = common_displacement(Grams.of(cell_of(base, base + noise)), "mine")
    assert (still.size or 0) < 0.1 and (still.p or 0) > 0.01


def test_grams_are_inner_products_of_means_without_a_question() -> None:
    rng = np.random.default_rng(3)
    base, mine = 3 + rng.normal(size=(2, 4, 6, 10))
    cell = cell_of(base, mine)
    whole, without = Grams.of(cell).leave_one_out("mine", "base")
    vectors = np.concatenate([mine, base])
    means = vectors.mean(axis=1)
    assert whole == pytest.approx(means @ means.T, abs=1e-5)
    for question in range(6):
        left = np.delete(vectors, question, axis=1).mean(axis=1)
        assert without[question] == pytest.approx(left @ left.T, abs=1e-4)


def positions(
    layer: int, places: list[float], rng: np.random.Generator, noise: float = 0.02
) -> Positions:
    """EM conditions at these places, base at 0; personas differ, the same in all conditions."""
    persona, question = 0.05 * rng.normal(size=(1, 11)), 0.02 * rng.normal(size=(24, 1))
    values = [
        place + persona + question + noise * rng.normal(size=(1, 11)) + noise * rng.normal(
            size=(24, 11)
        )
        for place in places
    ]  # fmt: skip
    base = persona + question + noise * rng.normal(size=(24, 11))
    return Positions(layer, np.stack(values), base)


def test_layers_are_judged_by_what_the_data_show() -> None:
    rng = np.random.default_rng(4)
    apart = bounds(positions(0, [0.3, 0.5, 0.7], rng))
    assert apart.shown_apart and not apart.converged and not apart.shown_converged
    together = bounds(positions(0, [0.5, 0.5, 0.5], rng, noise=0.002))
    assert together.shown_converged and together.converged and not together.shown_apart
    unclear = bounds(positions(0, [0.48, 0.5, 0.52], rng, noise=0.15))
    assert not unclear.shown_apart and not unclear.shown_converged


def test_the_layer_of_convergence_lies_in_its_interval() -> None:
    rng, inside = np.random.default_rng(5), 0
    for _ in range(40):
        layers = [
            positions(layer, [0.5 - s / 2, 0.5, 0.5 + s / 2], rng, noise=0.01)
            for layer, s in ((7, 0.3), (14, 0.15), (20, 0.01), (21, 0.0), (27, 0.005))
        ]
        value, first, last = convergence_layer(layers)
        assert value is not None and first is not None and last is not None
        assert first <= value <= last
        inside += first <= 20 <= last
    assert inside >= 37


def test_a_layer_that_diverges_again_does_not_count() -> None:
    rng = np.random.default_rng(6)
    spreads = ((7, 0.0), (14, 0.4), (20, 0.0))
    layers = [positions(n, [0.5 - s, 0.5 + s], rng, noise=0.002) for n, s in spreads]
    assert convergence_layer(layers) == (20, 20, 20)
    assert convergence_layer(layers[:2]) == (None, None, None)
    row = convergence_rows(layers[:2], "a", 42, 1)[-1]
    assert row.value is None and row.ci95 is None and "no convergence" in (row.note or "")
    assert convergence_rows([], "a", 42, 1) == []


@pytest.mark.slow
def test_the_spread_of_conditions_has_a_test_and_a_cautious_interval() -> None:
    rng, rejected, covered, runs = np.random.default_rng(7), 0, 0, 200
    for _ in range(runs):
        at = positions(20, [0.5, 0.5, 0.5, 0.5], rng)
        rejected += (spread_row(at, "a", 42, 1).p or 1) <= 0.05
        low, high = spread_interval(at.values, 1) or (1, 0)
        covered += low == 0.0 < high
    assert rejected <= 20 and covered >= 180
    row = spread_row(positions(7, [0.3, 0.5], rng), "a", 42, 1)
    assert (row.p or 1) < 0.01 and row.value == pytest.approx(0.2, abs=0.05)
    assert row.effect == pytest.approx(0.5, abs=0.15)


@pytest.mark.slow
def test_jackknife_excess_is_what_it_counts_twice() -> None:
    rng, personas = np.random.default_rng(8), 8
    upper = np.triu_indices(personas, 1)
    means, variances, excesses = [], [], []
    for _ in range(3000):
        own = 0.3 * rng.normal(size=personas)
        pairs = np.zeros((personas, personas))
        pairs[upper] = rng.normal(size=len(upper[0]))
        pairs = pairs + pairs.T + own[:, None] + own
        pseudo = leave_one_out_personas(pairs[None])[0]
        means.append(pairs[upper].mean())
        variances.append(pseudo.var(ddof=1) / personas)
        excesses.append(jackknife_excess(pairs))
    truth = float(np.var(means))
    assert np.mean(variances) > 1.2 * truth
    assert np.mean(variances) - np.mean(excesses) == pytest.approx(truth, rel=0.08)
    assert jackknife_excess(np.ones((3, 3))) == 0.0


def _positions(rng: np.random.Generator, spread: float) -> tuple[np.ndarray, Runs]:
    """Changes of three conditions with three seeds each, `[C, S]`, questions without noise."""
    means = 1.0 + spread * np.array([-0.5, 0.0, 0.5])[:, None] + 0.02 * rng.normal(size=(3, 3))
    names = tuple(np.repeat(["a", "b", "c"], 3).tolist())
    tables = np.repeat(np.repeat(means.reshape(9, 1, 1), 4, axis=1), 5, axis=2)
    return means, Runs(names, (1, 2, 3) * 3, tables)


@pytest.mark.parametrize("spread", [0.0, 0.09, 0.6])
def test_convergence_over_runs_is_the_paired_t_of_every_pair(spread: float) -> None:
    means, runs = _positions(np.random.default_rng(7), spread)
    upper, lower, worst = [], [], []
    for one, other in itertools.permutations(range(3), 2):
        values = means[one] - means[other] - 0.1 * means.mean(axis=0)  # a seed each
        se = values.std(ddof=1) / np.sqrt(3)
        worst.append(values.mean())
        upper.append(values.mean() + stats.t.ppf(0.975, 2) * se)
        lower.append(values.mean() - stats.t.ppf(1 - 0.025 / 3, 2) * se)
    found = layer_bounds(runs, ("a", "b", "c"), "these_personas")
    assert (found.converged, found.shown_converged, found.shown_apart) == (
        max(worst) <= 0, max(upper) <= 0, max(lower) > 0
    )  # fmt: skip


def test_convergence_over_runs_has_a_row_for_each_claim() -> None:
    rng, kept = np.random.default_rng(8), Kept()
    for layer, spread in ((3, 0.8), (7, 0.0)):
        _, runs = _positions(rng, spread)
        used = np.ones(4, dtype=bool)
        kept.tables["a", layer, "M2", "split_half"] = [
            Table(name, seed, used, tuple("pqrst"), Pseudo(table), Pseudo(table), 0.0)
            for name, seed, table in zip(runs.conditions, runs.seeds, runs.tables, strict=True)
        ]
    roles = Roles("base", "a", None, "p")
    rows = convergence_over_runs(kept, roles)
    assert [(row.target, row.value, row.n, row.seed) for row in rows] == [
        ("these_personas", 7.0, 9, None), ("new_personas", 7.0, 9, None)
    ]  # fmt: skip
    assert rows[0].ci95 is not None and rows[0].ci95[0] == 7.0 and rows[0].run_variation
    one = {key: [t for t in tables if t.seed == 1] for key, tables in kept.tables.items()}
    assert convergence_over_runs(Kept(one), roles) == []
