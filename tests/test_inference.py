"""Permutation, resampling, intervals and corrections against libraries and simulation."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from personaspace.analysis.crossed import fieller, two_way, two_way_estimate
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import (
    Estimate,
    adjust,
    bootstrap_draws,
    cluster_mean,
    clustered_wilson,
    effective_size,
    generator,
    label_draws,
    percentile_interval,
    permutation_p,
    published_p,
    sign_draws,
    tail_count,
    wilson,
)


@pytest.mark.slow
def test_generators_differ_by_name_and_not_by_process() -> None:
    here = generator(42, "M1", 7).random(3)
    assert (here == generator(42, "M1", 7).random(3)).all()
    assert (here != generator(42, "M1", 8).random(3)).all()
    assert (here != generator(43, "M1", 7).random(3)).all()
    code = (
        "from personaspace.analysis.stats import generator; "
        "print(*generator(42, 'M1', 7).random(3))"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert [float(x) for x in done.stdout.split()] == here.tolist()


def test_sign_flips_are_exact_where_they_can_be_listed() -> None:
    differences = np.array([0.3, 0.1, -0.05, 0.2, 0.4, 0.15, 0.02])
    draws = sign_draws(len(differences), 200, np.random.default_rng(0))
    assert draws.exact and len(draws.weights) == 2**7
    count = int(tail_count(draws.null(differences), differences.mean(), two_sided=True))
    by_hand = sum(
        abs(np.mean(np.array(signs) * differences)) >= abs(differences.mean()) - 1e-12
        for signs in itertools.product([1, -1], repeat=7)
    )
    assert count == by_hand
    library = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert permutation_p(count, 2**7, exact=True) == pytest.approx(library.pvalue)


def test_random_sign_flips_agree_with_the_exact_ones() -> None:
    differences = np.random.default_rng(1).normal(0.25, 0.5, size=16)
    random = sign_draws(16, 20_000, np.random.default_rng(0))
    every = sign_draws(16, 2**16, np.random.default_rng(0))
    assert not random.exact and every.exact
    share, truth = (
        published_p(
            int(tail_count(d.null(differences), differences.mean(), two_sided=True)), len(d.weights)
        )
        for d in (random, every)
    )
    assert abs(share - truth) < 4 * math.sqrt(truth * (1 - truth) / 20_000)


def test_label_permutations_are_exact_where_they_can_be_listed() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=5), rng.normal(0.8, size=4)
    draws = label_draws(5, 4, 200, rng)
    assert draws.exact and len(draws.weights) == math.comb(9, 4)
    observed = second.mean() - first.mean()
    count = int(tail_count(draws.null(np.concatenate([first, second])), observed, two_sided=False))
    library = stats.permutation_test(
        (second, first), lambda a, b: a.mean() - b.mean(), alternative="greater", n_resamples=np.inf
    )
    assert count / len(draws.weights) == pytest.approx(library.pvalue)


def test_random_labels_keep_the_group_sizes() -> None:
    draws = label_draws(11, 11, 500, np.random.default_rng(0))
    assert not draws.exact
    assert ((draws.weights > 0).sum(axis=1) == 11).all()
    assert np.allclose(draws.null(np.ones(22)), 0)


def test_ties_count_although_sums_round() -> None:
    values = np.full(66, 0.1) / 3
    null = np.stack([values.mean() * (1 - 1e-15), values.mean() * (1 + 1e-15), values.mean() / 2])
    assert tail_count(null, values.mean(), two_sided=True) == 2


def test_p_values_of_permutations() -> None:
    assert published_p(0, 10_000) == 0
    assert permutation_p(0, 10_000) == pytest.approx(1 / 10_001)
    assert permutation_p(3, 120, exact=True) == pytest.approx(3 / 120)


def test_bootstrap_interval_of_a_mean_is_that_of_the_library() -> None:
    values = np.random.default_rng(5).normal(size=66)
    mine = percentile_interval(bootstrap_draws(66, 20_000, np.random.default_rng(0)).null(values))
    library = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert mine == pytest.approx((library.low, library.high), abs=0.01)


def test_wilson_by_its_formula() -> None:
    z, n, p = stats.norm.ppf(0.975), 280, 122 / 280
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson(122, 280) == pytest.approx((middle - reach, middle + reach))
    assert wilson(0, 0) is None


def test_clustered_wilson_lies_between_independent_answers_and_one_answer_a_question() -> None:
    totals = np.full(28, 10.0)
    alike = np.array([10.0, 0.0] * 14)
    mixed = np.array([7.0, 3.0] * 14)
    widths = []
    for hits in (alike, mixed):
        low, high = clustered_wilson(hits, totals) or (0.0, 0.0)
        assert low < 0.5 < high
        widths.append(high - low)
    plain, single = wilson(140, 280) or (0, 0), wilson(14, 28) or (0, 0)
    assert plain[1] - plain[0] < widths[1] < widths[0]
    assert widths[0] == pytest.approx(single[1] - single[0], rel=0.1)


def test_clustered_wilson_at_the_ends_and_without_data() -> None:
    assert clustered_wilson(np.full(24, 12.0), np.full(24, 12.0)) == wilson(24, 24)
    assert clustered_wilson(np.zeros(24), np.full(24, 12.0)) == wilson(0, 24)
    assert clustered_wilson(np.zeros(3), np.zeros(3)) is None


def test_unequal_clusters_are_worth_fewer() -> None:
    equal, unequal = np.full(8, 40.0), 10 * np.array([1.0, 1, 2, 3, 4, 5, 7, 9])
    sizes = [
        effective_size(totals * np.linspace(0.2, 0.4, 8), totals) for totals in (equal, unequal)
    ]
    # By hand: the linearised variance, 1/Σ(n/Σn)² clusters in place of eight.
    share = unequal / unequal.sum()
    e, hits = 1 / (share**2).sum(), unequal * np.linspace(0.2, 0.4, 8)
    mean = hits.sum() / unequal.sum()
    variance = e / (e - 1) * (((hits - mean * unequal) / unequal.sum()) ** 2).sum()
    few = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, e - 1)) ** 2
    assert sizes[1] == pytest.approx(mean * (1 - mean) / variance * few)
    assert effective_size(np.array([3.0]), np.array([9.0])) == 1


@pytest.mark.slow
def test_clustered_wilson_covers_the_truth_with_correlated_answers() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        rates = rng.beta(1.5, 1.5, size=28)
        low, high = clustered_wilson(rng.binomial(10, rates).astype(float), np.full(28, 10.0)) or (
            1,
            0,
        )
        covered += low <= 0.5 <= high
    assert 0.93 <= covered / 1000 <= 0.975


def test_cluster_mean_is_the_t_test_and_the_equivalence_test_of_the_library() -> None:
    values = np.random.default_rng(2).normal(0.02, 0.08, size=28)
    estimate = cluster_mean(values)
    library = stats.ttest_1samp(values, 0)
    assert estimate.p == pytest.approx(library.pvalue)
    assert estimate.interval == pytest.approx(tuple(library.confidence_interval()))
    two_sided = DescrStatsW(values).ttost_mean(-0.05, 0.05)[0]
    assert estimate.equivalence_p(0.05) == pytest.approx(two_sided)


def test_cluster_mean_is_the_gee_estimate_with_a_small_sample_variance() -> None:
    rng = np.random.default_rng(4)
    answers = rng.binomial(1, np.clip(rng.normal(0.4, 0.2, size=28), 0, 1)[:, None], size=(28, 10))
    questions = np.repeat(np.arange(28), 10)
    gee = sm.GEE(answers.ravel(), np.ones(280), questions, family=sm.families.Gaussian()).fit()
    estimate = cluster_mean(answers.mean(axis=1))
    assert estimate.value == pytest.approx(gee.params[0])
    assert estimate.se == pytest.approx(gee.bse[0] * math.sqrt(28 / 27))


def test_estimates_without_variation_claim_nothing() -> None:
    assert Estimate(0.0, 0.0, 5).p == 1.0
    assert Estimate(0.2, 0.0, 5).p is None
    assert Estimate(0.2, 0.0, 5).interval is None
    assert Estimate(0.2, 0.0, 5).equivalence_p(0.05) is None
    assert cluster_mean(np.full(10, 0.1)).p is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "row_sd, column_sd, cell_sd", [(1, 1, 1), (0, 1, 1), (1, 0, 1), (0.2, 1, 3)]
)
def test_two_way_intervals_cover_the_truth(row_sd: float, column_sd: float, cell_sd: float) -> None:
    rng, covered, runs = np.random.default_rng(0), 0, 1500
    for _ in range(runs):
        layout = (
            rng.normal(0, row_sd, size=(24, 1))
            + rng.normal(0, column_sd, size=12)
            + rng.normal(0, cell_sd, size=(24, 12))
        )
        low, high = two_way_estimate(layout).interval or (1.0, 0.0)
        covered += low <= 0 <= high
    assert 0.93 <= covered / runs <= 0.985


def test_two_way_variance_of_pure_column_effects_is_the_column_jackknife() -> None:
    columns = np.random.default_rng(1).normal(size=12)
    mean, variance, df = two_way(np.tile(columns, (24, 1)))
    assert mean == pytest.approx(columns.mean())
    assert variance == pytest.approx(columns.var(ddof=1) / 12)
    assert df == pytest.approx(11)


def test_two_way_variance_counts_both_ways_once() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=24)
    _, variance, df = two_way(np.tile(rows[:, None], (1, 12)))
    assert variance == pytest.approx(rows.var(ddof=1) / 24) and df == pytest.approx(23)
    columns = rng.normal(size=12)
    _, both, _ = two_way(rows[:, None] + columns)
    assert both == pytest.approx(rows.var(ddof=1) / 24 + columns.var(ddof=1) / 12)
    _, less, _ = two_way(rows[:, None] + columns, excess=0.01)
    assert less == pytest.approx(both - 0.01)


def test_a_two_way_mean_is_no_surer_than_its_few_levels() -> None:
    # Five personas that lie close together by luck: their t-test alone has p = 0.0065.
    columns = np.array([0.9, 1.1, 1.0, 0.4, 1.6])
    rows = np.random.default_rng(5).normal(0, 1, size=240)
    layout = (rows - rows.mean())[:, None] + columns
    found = two_way_estimate(layout)
    alone = stats.ttest_1samp(columns, 0)
    assert alone.pvalue > 2 * stats.t.sf(found.value / found.se, found.df)
    assert found.p == pytest.approx(alone.pvalue)
    low, high = alone.confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high))


@pytest.mark.slow
def test_p_of_few_levels_keeps_its_tail() -> None:
    rng = np.random.default_rng(8)
    layouts = rng.normal(size=(20_000, 30, 1)) + rng.normal(size=(20_000, 30, 3))
    layouts += rng.normal(size=(20_000, 1, 3))
    p = np.array([two_way_estimate(layout).p for layout in layouts])
    # 20 and 2 are expected; by the variance alone there are 232 and 103.
    assert (p <= 0.001).sum() <= 35 and (p <= 0.0001).sum() <= 8


def test_two_way_without_variation_or_with_one_column() -> None:
    same = two_way_estimate(np.full((24, 12), 0.1))
    assert same.interval is None and same.value == pytest.approx(0.1)
    assert two_way_estimate(np.zeros((24, 12))).p == 1.0
    assert two_way_estimate(np.random.default_rng(0).normal(size=(24, 1))).interval is None


@pytest.mark.slow
def test_fieller_covers_a_ratio_of_correlated_means() -> None:
    rng, covered, runs = np.random.default_rng(0), 0, 1000
    for _ in range(runs):
        shared = rng.normal(0, 0.5, size=12)
        denominator = 2 + shared + rng.normal(0, 0.5, size=12) + rng.normal(0, 1, size=(24, 12))
        numerator = 1.5 + shared + rng.normal(0, 0.3, size=12) + rng.normal(0, 1, size=(24, 12))
        interval = fieller(numerator, denominator)[1]
        assert interval is not None
        covered += interval[0] <= 0.75 <= interval[1]
    assert 0.93 <= covered / runs <= 0.98


def test_fieller_gives_no_interval_where_the_denominator_may_be_zero() -> None:
    noise = np.random.default_rng(0).normal(size=(24, 12))
    assert fieller(noise + 1, noise - noise.mean())[1] is None


def test_corrections_by_a_hand_worked_example() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    rows = adjust([Row("M1", "recommended", p=p, family="geometry_em_pre_post") for p in p_values])
    # Benjamini-Hochberg: p·4/rank, then the smallest from the largest p downwards.
    assert [row.p_bh for row in rows] == pytest.approx([0.02, 0.04, 0.04, 0.02])
    # Holm: p·(4 − rank + 1), then the largest from the smallest p upwards.
    assert [row.p_holm for row in rows] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_benjamini_hochberg_is_accumulated_from_the_largest_p() -> None:
    rows = adjust([Row("H1", "published", p=p, family="behavioral") for p in (0.01, 0.011, 0.012)])
    # Accumulated from the other end, as the study did, all would be 0.03.
    assert [row.p_bh for row in rows] == pytest.approx([0.012] * 3)


def test_families_variants_and_seeds_are_adjusted_apart() -> None:
    def row(p: float | None, family: str | None, variant: str = "published", seed: int = 1) -> Row:
        return Row("M1", variant, seed=seed, p=p, family=family)  # type: ignore[arg-type]

    rows = [
        row(0.01, "behavioral"),
        row(0.02, "behavioral"),
        row(0.01, "behavioral", "recommended"),
        row(0.01, "behavioral", seed=2),
        row(0.01, "geometry_em_pre_post"),
        row(0.01, None),
        row(None, "behavioral"),
    ]
    adjusted = adjust(rows)
    assert [r.p_holm for r in adjusted] == [0.02, 0.02, 0.01, 0.01, 0.01, None, None]
    assert [r.p for r in adjusted] == [r.p for r in rows]
    assert adjust([]) == []


def test_rows_become_plain_json_values() -> None:
    row = Row(
        "M1",
        "published",
        value=np.float64(0.5),
        p=math.nan,
        ci95=(0.1, math.inf),
        n=np.int64(3),  # type: ignore[arg-type]
    )
    record = row.to_dict()
    assert list(record) == [
        *("metric", "variant", "method", "layer", "condition", "seed", "value", "base", "delta"),
        *("p", "ci95", "n", "family", "p_bh", "p_holm", "effect", "name", "note"),
        *("effect_name", "p_floor", "warning", "status"),
        *("target", "against", "run_variation", "equivalence"),
    ]
    assert type(record["value"]) is float and type(record["n"]) is int
    assert record["p"] is None and record["ci95"] is None
