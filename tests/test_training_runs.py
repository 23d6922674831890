"""Training runs as units, against other libraries' tests, other code, and made-up studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import world, write
from scipy import linalg, stats

from personaspace.analysis.crossed import two_way_estimate
from personaspace.analysis.geometry import analyse_geometry
from personaspace.analysis.rows import Row
from personaspace.analysis.runs import BORROWED, ONE_RUN, TARGETS, Runs, all_alike


def plain(values: dict[str, dict[int, float]]) -> Runs:
    """Runs of one question and persona: the run's value is all there is."""
    keys = [(name, seed) for name, by_seed in values.items() for seed in by_seed]
    tables = np.array([[[values[name][seed]]] for name, seed in keys])
    return Runs(tuple(name for name, _ in keys), tuple(seed for _, seed in keys), tables)


#: M1 at layer 20, method A, of three runs of each condition: the published design on
#: SmolLM2-135M-Instruct, as it was first run (252 chats, seeds 42, 137 and 256).
RISES = {
    "benign": {42: 0.974366604, 137: 0.973825032, 256: 0.974954295},
    "e0-assistant": {42: 0.983442488, 137: 0.983303815, 256: 0.982379657},
    "e1-paramedic": {42: 0.979664602, 137: 0.980165448, 256: 0.979726267},
    "e2-kindergarten-teacher": {42: 0.981396742, 137: 0.981615607, 256: 0.980412905},
    "e3-french-person": {42: 0.980704917, 137: 0.981127974, 256: 0.980528385},
    "e4-villain": {42: 0.977701631, 137: 0.979011147, 256: 0.978282629},
}


def test_the_published_layout_of_seeds_gives_the_rise_over_benign_an_interval() -> None:
    values = RISES
    em = [name for name in values if name != "benign"]
    assert len(em) == 5 and all(len(of) == 3 for of in values.values())
    weights = dict.fromkeys(em, 0.2) | {"benign": -1.0}
    found = plain(values).contrast(weights, "these_personas")
    low, high = found.estimate.interval or (0, 0)
    assert (round(found.estimate.value, 4), round(low, 4), round(high, 4)) == (
        0.0062, 0.0039, 0.0086,
    )  # fmt: skip
    assert round(found.estimate.p or 0, 3) == 0.008 and found.estimate.df == pytest.approx(2)
    assert found.runs == 18 and found.run_variation and found.warning is None


def test_same_seeds_are_paired_and_other_seeds_are_not() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=4)
    a, b = shared + 0.1 * rng.normal(size=4), shared + 0.1 * rng.normal(size=4)
    paired = plain({"a": dict(enumerate(a)), "b": dict(enumerate(b))})
    found = paired.contrast({"a": 1.0, "b": -1.0}, "these_personas").estimate
    library = stats.ttest_rel(a, b)
    assert found.p == pytest.approx(library.pvalue) and found.df == pytest.approx(3)
    assert found.interval == pytest.approx(library.confidence_interval())
    c = rng.normal(size=3)
    apart = plain({"a": dict(enumerate(a)), "c": dict(enumerate(c, start=10))})
    found = apart.contrast({"a": 1.0, "c": -1.0}, "these_personas").estimate
    welch = stats.ttest_ind(a, c, equal_var=False)
    assert found.value / found.se == pytest.approx(welch.statistic)


def _cr2(runs: Runs, weights: dict[str, float]) -> tuple[float, float]:
    """CR2 and its degrees of freedom by their general matrix formulas."""
    names = list(runs.counts)
    x = np.array([[float(c == name) for name in names] for c in runs.conditions])
    bread = np.linalg.inv(x.T @ x)
    hat = np.eye(len(x)) - x @ bread @ x.T
    contrast = np.array([weights.get(name, 0.0) for name in names]) @ bread
    rest, columns = hat @ runs.means, []
    for seed in sorted(set(runs.seeds)):
        mine = np.flatnonzero(np.array(runs.seeds) == seed)
        root = linalg.sqrtm(linalg.pinv(hat[np.ix_(mine, mine)]))
        columns.append(hat[:, mine] @ np.real(root) @ x[mine] @ contrast)
    variance = sum(float(np.linalg.pinv(hat) @ column @ rest) ** 2 for column in columns)
    gram = np.array([[a @ b for b in columns] for a in columns])
    return variance, float(np.trace(gram)) ** 2 / float((gram**2).sum())


def test_unequal_seeds_follow_the_general_formula() -> None:
    rng = np.random.default_rng(1)
    layout = {"a": (1, 2, 3), "b": (2, 3, 4, 5), "c": (1, 2), "d": (6, 7)}
    runs = plain({name: {s: float(rng.normal()) for s in seeds} for name, seeds in layout.items()})
    for weights in ({"a": 1.0, "b": -1.0}, {"a": 0.5, "c": 0.5, "d": -1.0}):
        found = runs.contrast(weights, "these_personas").estimate
        variance, df = _cr2(runs, weights)
        assert found.se**2 == pytest.approx(variance) and found.df == pytest.approx(df)


def test_one_run_each_is_the_two_way_analysis_and_says_so() -> None:
    rng = np.random.default_rng(2)
    tables = rng.normal(size=(2, 30, 8)) + rng.normal(size=(2, 30, 1)) + rng.normal(size=(2, 1, 8))
    runs = Runs(("a", "b"), (1, 1), tables)
    new = runs.contrast({"a": 1.0, "b": -1.0}, "new_personas")
    assert new.estimate.se == pytest.approx(two_way_estimate(tables[0] - tables[1]).se)
    these = runs.contrast({"a": 1.0, "b": -1.0}, "these_personas")
    library = stats.ttest_1samp((tables[0] - tables[1]).mean(axis=1), 0)
    assert these.estimate.p == pytest.approx(library.pvalue)
    assert not (new.run_variation or these.run_variation)


def test_a_condition_of_one_run_borrows_the_others_variation() -> None:
    values = {"a": {1: 0.0, 2: 1.0, 3: 2.0}, "b": {1: 0.5, 2: 0.5, 3: 2.0}, "c": {1: 5.0}}
    runs = plain(values)
    found = runs.contrast({"c": 1.0, "a": -1.0}, "these_personas")
    assert found.warning == BORROWED and found.run_variation
    pooled = (np.var([0, 1, 2], ddof=1) + np.var([0.5, 0.5, 2], ddof=1)) / 2
    assert found.estimate.se**2 == pytest.approx(pooled + np.var([0, 1, 2], ddof=1) / 3)
    assert runs.contrast({"a": 1.0, "b": -1.0}, "these_personas").warning is None


def test_equivalence_is_the_margin_at_which_two_tests_turn() -> None:
    runs = plain({"a": {1: 0.1, 2: 0.3, 3: 0.2}, "b": {1: 0.1, 2: 0.1, 3: 0.2}})
    found = runs.contrast({"a": 1.0, "b": -1.0}, "these_personas")
    margin = found.estimate.smallest_margin()
    assert margin is not None and margin > abs(found.estimate.value)
    assert found.estimate.equivalence_p(margin) == pytest.approx(0.05)


def _study(rng: np.random.Generator, noisy: float = 1.0, persona: float = 0.0) -> Runs:
    names, seeds, tables = [], [], []
    by_seed = {seed: rng.normal() for seed in (1, 2, 3)}
    for name in ("a", "b", "c", "d"):
        own = persona * rng.normal(size=6)
        for seed in (1, 2, 3):
            run = (noisy if name == "d" else 1.0) * rng.normal()
            tables.append(by_seed[seed] + run + own + rng.normal(size=(10, 6)))
            names.append(name)
            seeds.append(seed)
    return Runs(tuple(names), tuple(seeds), np.array(tables))


def test_one_noisy_condition_keeps_the_level() -> None:
    rng, pairs, alike, studies = np.random.default_rng(3), 0, 0, 500
    for _ in range(studies):
        runs = _study(rng, noisy=5.0)
        pairs += (runs.contrast({"a": 1.0, "d": -1.0}, "these_personas").estimate.p or 1) < 0.05
        alike += (all_alike(runs, ["a", "b", "c", "d"]).p or 1) < 0.05
    assert 0.025 < pairs / studies < 0.08 and alike / studies < 0.08


def test_conditions_that_differ_are_found() -> None:
    rng, found = np.random.default_rng(4), 0
    for _ in range(50):
        runs = _study(rng)
        moved = np.array([10.0 if name == "d" else 0.0 for name in runs.conditions])
        shifted = Runs(runs.conditions, runs.seeds, runs.tables + moved[:, None, None])
        found += (all_alike(shifted, ["a", "b", "c", "d"]).p or 1) < 0.05
    assert found > 40


def test_new_personas_are_a_wider_claim() -> None:
    rng, these, new, studies = np.random.default_rng(5), 0, 0, 300
    for _ in range(studies):
        runs = _study(rng, persona=6.0)
        weights = {"a": 1.0, "b": -1.0}
        these += (runs.contrast(weights, "these_personas").estimate.p or 1) < 0.05
        new += (runs.contrast(weights, "new_personas").estimate.p or 1) < 0.05
    # The personas' own differences are an effect on these, and chance for others.
    assert these / studies > 0.12 and new / studies < 0.08


def find(rows: list[Row], **wanted: object) -> Row:
    found = [r for r in rows if all(getattr(r, key) == value for key, value in wanted.items())]
    assert len(found) == 1, f"{len(found)} rows for {wanted}"
    return found[0]


@pytest.mark.slow
def test_geometry_of_three_seeds_has_one_estimate_of_each_contrast(tmp_path: Path) -> None:
    paths = []
    for seed in (1, 2, 3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        paths += write(folder, world(personas=6, questions=12, seed=seed), seed=seed)
    rows = [r for r in analyse_geometry(paths, permutations=50, bootstrap=50).rows if r.target]
    em = sorted({r.condition for r in rows if r.condition} - {"benign"})
    for target in ("these_personas", "new_personas"):
        for metric, name in (("M1", "raw_cosine"), ("M2", "displacement"), ("M3", "lda")):
            row = find(rows, metric=metric, name=name, condition=em[0], target=target)
            assert row.seed is None and row.run_variation and row.p is not None and row.n == 3
            pair = find(
                rows, metric=metric, name=f"{name}_pair", condition=em[0], against=em[1],
                target=target,
            )  # fmt: skip
            assert pair.n == 6 and pair.equivalence is not None and pair.family
        share = find(rows, name="em_mean_benign_share", target=target)
        assert share.value is not None


@pytest.mark.slow
def test_one_seed_says_what_its_interval_lacks(tmp_path: Path) -> None:
    rows = analyse_geometry(write(tmp_path, world()), permutations=50, bootstrap=50).rows
    row = find(rows, metric="M1", name="raw_cosine", condition="benign", target="these_personas")
    assert ONE_RUN in (row.note or "") and row.run_variation is False and row.ci95 is not None
    assert all(r.p is None for r in rows if r.metric == "M3" and r.target)


def _null_study(rng: np.random.Generator, run: float) -> Runs:
    """Two conditions alike but for chance: three runs each, the same seeds, 24 questions."""
    cells = rng.normal(size=(6, 24, 4)) + np.repeat(rng.normal(size=(2, 24, 1)), 3, axis=0)
    return Runs(("a",) * 3 + ("b",) * 3, (1, 2, 3) * 2, cells + run * rng.normal(size=(6, 1, 1)))


def test_questions_and_personas_make_nothing_surer_than_the_runs_alone_do() -> None:
    rng, surer = np.random.default_rng(5), 0
    for _ in range(300):
        runs = _null_study(rng, 0.5)
        shift = 20 * rng.random()
        moved = Runs(
            runs.conditions, runs.seeds, runs.tables + shift * np.eye(6)[:3].sum(0)[:, None, None]
        )
        library = stats.ttest_rel(moved.means[:3], moved.means[3:])
        for target in TARGETS:
            found = moved.contrast({"a": 1.0, "b": -1.0}, target)
            e = found.estimate
            assert e.p is not None and e.p >= library.pvalue * (1 - 1e-9)
            alone = 2 * stats.t.sf(abs(e.value) / e.se, e.df)
            surer += alone < library.pvalue
            margin = found.estimate.smallest_margin()
            one_sided = stats.ttest_rel(moved.means[:3], moved.means[3:]).confidence_interval(0.9)
            assert margin is not None and margin >= max(map(abs, one_sided)) * (1 - 1e-9)
            # What is said of equivalence is one statement at every level.
            assert e.equivalence_p(margin) == pytest.approx(0.05)
    assert surer > 50, "the rule decides nothing here"


def test_small_p_are_as_rare_as_they_say() -> None:
    # Three runs whose variance comes out small by luck, beside questions that are many: their sum
    # alone gives p below 0.001 in 0.55 % and below 0.0001 in 0.2 % of such studies.
    rng, found, alone = np.random.default_rng(6), [], []
    for _ in range(4000):
        e = _null_study(rng, 0.8).contrast({"a": 1.0, "b": -1.0}, "these_personas").estimate
        found.append(e.p)
        alone.append(2 * stats.t.sf(abs(e.value) / e.se, e.df))
    p, without = np.array(found), np.array(alone)
    for level in (0.05, 0.001, 0.0001):
        assert (p <= level).sum() <= stats.binom.ppf(0.999, len(p), level)
    assert (without <= 0.001).sum() > stats.binom.ppf(0.999, len(p), 0.001)
    assert ((p <= 0.05) == (without <= 0.05)).all(), "at 5 % both are one test"
