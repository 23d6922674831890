"""What measures say of themselves, failed assumptions, and rows across seeds."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import published
import pytest
import statsmodels.api as sm
from planted import STUDY, world, write
from scipy import stats

from personaspace.analysis.caveats import failed_assumptions
from personaspace.analysis.geometry import analyse_geometry
from personaspace.analysis.leakage import analyse_leakage
from personaspace.analysis.leakage.trend import HINGES, slope_row, within_seeds_row
from personaspace.analysis.metrics import MEASURES, described, markdown, measure_of, measures_of
from personaspace.analysis.ranges import CUT, in_range
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import has_outlier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    paths = write(tmp_path_factory.mktemp("files"), world(STUDY, questions=8, hidden=16, layers=2))
    geometry = analyse_geometry(paths, permutations=50, bootstrap=50)
    leakage = analyse_leakage(published.scores(), published.CONDITIONS, source=published.SOURCE)
    return [*geometry.rows, *leakage]


def test_every_row_says_what_it_shows_and_cannot_show(rows: list[Row]) -> None:
    for row in rows:
        measure = measure_of(row.metric, row.variant, row.name)
        if row.value is None and row.note and not row.note.startswith("Shows"):
            continue
        assert (row.note or "").startswith(f"Shows {measure.shows}; cannot {measure.cannot}.")
        assert (row.effect_name is not None) == (row.effect is not None), row
        assert row.p is None or measure.null is not None, row


def test_measures_are_listed_once_in_whole_sentences(rows: list[Row]) -> None:
    listed = measures_of(rows)
    keys = [(m.metric, m.variant, m.name) for m in listed]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {(row.metric, row.variant, row.name) for row in rows}
    for measure in listed:
        assert re.fullmatch(r"Shows .+\.", measure.shows or "")
        assert re.fullmatch(r"Cannot .+\.", measure.cannot or "")


def test_the_page_of_metrics_is_not_stale() -> None:
    page = Path(__file__).parents[1] / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == markdown()


def test_an_unknown_measure_is_an_error_and_a_companion_is_not() -> None:
    with pytest.raises(KeyError, match="no measure M9"):
        measure_of("M9", "published", None)
    companion = measure_of("M1", "recommended", "spread_delta")
    assert companion.title.endswith("change from base")
    assert companion.shows == MEASURES["M1", "recommended", "spread"].shows
    reason = Row("H3", "recommended", name="common_set", note="There is no cosine.")
    assert described(reason) is reason


def test_failed_assumptions_are_gathered_with_their_places() -> None:
    warned = [
        Row("M1", "recommended", "a", layer, "benign", 42, name="spread", warning="It is odd.")
        for layer in range(5)
    ]
    fine = Row("M1", "recommended", "a", 9, "benign", 42, name="spread")
    found = failed_assumptions([*warned, fine])
    assert found == [
        "M1, variance between personas: It is odd. (benign layer 0 method A, benign layer 1 "
        "method A, benign layer 2 method A and 2 more)"
    ]


def test_outliers_are_found_as_by_grubbs() -> None:
    rng = np.random.default_rng(0)
    found = sum(has_outlier(rng.normal(size=12), level=0.05) for _ in range(2000))
    assert 0.035 <= found / 2000 <= 0.065
    assert has_outlier(np.array([0.0, 0.1, -0.1, 0.05, -0.05, 0.02, 50.0]))
    assert not has_outlier(np.zeros(5)) and not has_outlier(np.array([0.0, 9.0]))


def test_slope_is_the_regression_of_the_conditions() -> None:
    x = np.array([c.cosine for c in published.CONDITIONS], dtype=np.float64)
    y = np.array([0.46, 0.49, 0.50, 0.54, 0.52])
    row = slope_row(Row("H3", "recommended", name="slope"), x, y)
    fit = stats.linregress(x, y)
    assert row.value == pytest.approx(fit.slope) and row.effect == pytest.approx(fit.rvalue)
    robust = sm.OLS(y, sm.add_constant(x)).fit(cov_type="HC3", use_t=True)
    assert row.p == pytest.approx(robust.pvalues[1])
    assert row.ci95 == pytest.approx(tuple(robust.conf_int()[1]))
    assert row.warning is None
    hinged = slope_row(row, x, np.array([0.9, 0.50, 0.51, 0.52, 0.53]))
    assert hinged.warning == HINGES
    assert slope_row(row, np.ones(5), y).note == "The cosines do not vary."


def test_seeds_as_blocks_by_enumeration() -> None:
    rng = np.random.default_rng(1)
    blocks = [(np.arange(4.0), rng.normal(size=4)), (np.arange(3.0), rng.normal(size=3))]
    row = within_seeds_row(Row("H3", "recommended", name="within_seeds"), blocks, 10_000, rng)
    weights = np.array([3, 2]) / 5

    def statistic(orders: tuple[tuple[int, ...], tuple[int, ...]]) -> float:
        return float(
            sum(
                weight * stats.spearmanr(x, y[list(order)]).statistic
                for weight, (x, y), order in zip(weights, blocks, orders, strict=True)
            )
        )

    everything = [
        statistic(orders)
        for orders in itertools.product(
            itertools.permutations(range(4)), itertools.permutations(range(3))
        )
    ]
    observed = everything[0]
    assert row.value == pytest.approx(observed)
    share = np.mean([abs(value) >= abs(observed) - 1e-9 for value in everything])
    assert row.p == pytest.approx(share) and row.p_floor == pytest.approx(2 / 144)
    drawn = within_seeds_row(row, blocks, 100, rng)
    assert abs((drawn.p or 0) - share) < 0.25 and drawn.p_floor == pytest.approx(1 / 101)


def test_floors_of_exact_tests(rows: list[Row]) -> None:
    h3 = [r for r in rows if r.metric == "H3" and r.name in ("spearman", "common_set")]
    assert [row.p_floor for row in h3] == pytest.approx([2 / math.factorial(5)] * 2)
    h1 = next(r for r in rows if r.metric == "H1" and r.variant == "published" and r.value)
    assert h1.p_floor == pytest.approx(1 / 11) and (h1.p or 0) > (h1.p_floor or 1) / 2


def test_only_the_wanted_variant_is_computed(tmp_path: Path) -> None:
    paths = write(tmp_path, world(STUDY, questions=8, hidden=16))
    both = analyse_geometry(paths, permutations=50, bootstrap=50).rows
    for variant in ("published", "recommended"):
        found = analyse_geometry(paths, permutations=50, bootstrap=50, variants=(variant,)).rows
        assert found == [row for row in both if row.variant == variant] and found


def test_estimates_and_intervals_stay_where_the_truth_can_be() -> None:
    row = Row("M1", "recommended", "a", 20, "e0", value=1.0007, ci95=(0.9, 1.2), name="raw_cosine")
    cut = in_range(row)
    assert (cut.value, cut.ci95) == (1.0, (0.9, 1.0)) and cut.note == CUT
    inside = replace(row, value=0.99, ci95=(0.98, 0.995))
    assert in_range(inside) == inside
    assert in_range(replace(row, variant="published")).value == 1.0007, "as the study had it"
    pair = replace(
        row, name="raw_cosine_pair", value=0.5, ci95=(-3.0, 4.0), equivalence=3.5, note="x"
    )
    assert in_range(pair) == replace(pair, ci95=(-2.0, 2.0), equivalence=None)
    leak = replace(pair, metric="bystander_contrast", name="bystander_pair", ci95=(-1.01, 0.89))
    assert in_range(leak).ci95 == (-1.0, 0.89) and in_range(leak).equivalence is None
    free = replace(row, name="spread_delta", value=7.0, ci95=(5.0, 9.0))
    assert in_range(free) == free
