"""Power before the study, against simulation and closed forms; and its command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.libqsturng import qsturng
from statsmodels.stats.power import TTestPower
from typer.testing import CliRunner

from personaspace.analysis.leakage.across import clustered_range
from personaspace.analysis.power import (
    Assumptions,
    Design,
    Endpoint,
    Finding,
    Plan,
    between,
    over_runs,
)
from personaspace.analysis.power.plan import plan
from personaspace.analysis.power.sizes import IMPOSSIBLE, NEVER, points
from personaspace.analysis.power.solve import order_power, range_detectable, t_detectable
from personaspace.analysis.themes import by_theme
from personaspace.cli.app import app

STUDY = Design(
    em=5,
    benign=True,
    personas=12,
    bystanders=7,
    questions=28,
    unseen=8,
    samples=10,
    extraction_personas=12,
    extraction_questions=240,
    seeds=1,
    cosines=(1.0, 0.9457, 0.9060, 0.8696, 0.7828),
)
GUESS = Assumptions()


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_runs, "DRAWS", 300)
    monkeypatch.setattr(between, "DRAWS", 100)
    monkeypatch.setattr(between, "PERMUTATIONS", 99)


def find(made: Plan, metric: str, name: str) -> Finding:
    return next(f for f in made.findings if (f.metric, f.name) == (metric, name))


@pytest.mark.parametrize("n, alpha", [(12, 0.05), (28, 0.01), (4, 0.05)])
def test_t_detectable_is_the_library_s(n: int, alpha: float) -> None:
    found = t_detectable(1 / math.sqrt(n), n - 1, alpha, 0.8)
    assert found == pytest.approx(TTestPower().solve_power(None, n, alpha, 0.8), rel=1e-3)
    assert t_detectable(1.0, 0, alpha, 0.8) is None


@pytest.mark.slow
def test_range_detectable_by_simulation() -> None:
    noise, groups, size, rng = 0.01, 4, 20, np.random.default_rng(0)
    found = range_detectable(noise, groups, groups * (size - 1), 0.05, 0.8)
    assert found is not None
    means = np.linspace(0, found, groups)
    drawn = means[:, None] + math.sqrt(noise * size) * rng.normal(size=(600, groups, size))
    # Tukey's test of the range, by another library's quantile.
    bound = qsturng(0.95, groups, groups * (size - 1))
    deviations = np.sqrt(drawn.var(axis=2, ddof=1).mean(axis=1) / size)
    rejected = np.ptp(drawn.mean(axis=2), axis=1) > bound * deviations
    assert rejected.mean() == pytest.approx(0.8, abs=0.06)


@pytest.mark.slow
def test_h1_is_detected_as_often_as_promised() -> None:
    effect = (find(plan(STUDY, GUESS), "H1", "induction_minus_others").effect or 0) / 100
    rng, rejected, runs = np.random.default_rng(1), 0, 400
    for _ in range(runs):
        own = rng.binomial(10, GUESS.rate + effect, size=28) / 10
        others = rng.binomial(10, GUESS.rate, size=(10, 28)).mean(axis=0) / 10
        rejected += stats.ttest_1samp(own - others, 0).pvalue <= 0.05
    assert rejected / runs == pytest.approx(0.8, abs=0.07)


@pytest.mark.slow
def test_five_conditions_have_a_floor_that_six_do_not() -> None:
    made = plan(STUDY, GUESS)
    ranks = find(made, "H3", "common_set")
    assert ranks.floor == pytest.approx(2 / 120)
    # One order in 60 must be hit exactly; after Holm's correction it is out of reach.
    assert ranks.effect is not None and ranks.corrected is None
    assert any("after Holm" in warning and "6 conditions" in warning for warning in made.warnings)
    four = plan(replace(STUDY, em=4, cosines=STUDY.cosines[:4]), GUESS)
    assert find(four, "H3", "common_set").effect is None
    assert any("H3 cannot reach p ≤ 0.05 with 4" in warning for warning in four.warnings)
    six = plan(replace(STUDY, em=6, cosines=(*STUDY.cosines, 0.7)), GUESS)
    assert find(six, "H3", "common_set").corrected is not None
    assert find(made, "H1", "published").floor == pytest.approx(1 / 11)


@pytest.mark.slow
def test_exact_rank_power_by_brute_force() -> None:
    rng, x = np.random.default_rng(2), np.array(STUDY.cosines)
    found = order_power(STUDY.cosines, 0.5, 0.04, 0.05, np.random.default_rng(3))
    hits = 0
    for _ in range(1500):
        rho = stats.spearmanr(x, 0.5 * x + 0.04 * rng.normal(size=5)).statistic
        hits += abs(rho) > 1 - 1e-9  # of 120 orders only the two extreme ones are below 5 %
    assert found == pytest.approx(hits / 1500, abs=0.05)


@pytest.mark.slow
def test_more_data_detects_less() -> None:
    made = plan(STUDY, GUESS)
    for larger in (replace(STUDY, questions=56), replace(STUDY, samples=40)):
        more = plan(larger, GUESS)
        for metric, name in (("H1", "induction_minus_others"), ("H2", "common_set")):
            assert (find(more, metric, name).effect or 9) < (find(made, metric, name).effect or 0)
        before, after = (find(p, "H1", "equivalence").effect or 0 for p in (made, more))
        assert after >= before
    seeds = plan(replace(STUDY, seeds=3), GUESS)
    assert (find(seeds, "H3", "slope").effect or 99) < (find(made, "H3", "slope").effect or 0)
    assert not any("One seed" in warning for warning in seeds.warnings)
    assert find(seeds, "H3", "within_seeds").floor == pytest.approx(1 / 10_001)
    assert find(seeds, "H2", "between_runs").effect is not None


def test_degenerate_designs_have_an_answer() -> None:
    tiny = replace(
        STUDY, em=1, benign=False, personas=2, bystanders=0, questions=1, samples=1, cosines=(),
        extraction_personas=1, extraction_questions=1,
    )  # fmt: skip
    made = plan(tiny, GUESS)
    assert {finding.metric for finding in made.findings} <= {"M1", "M2", "M3", "H1"}
    assert any("No benign" in warning for warning in made.warnings)
    none = plan(replace(tiny, em=0), GUESS)
    assert all(f.effect is None or math.isfinite(f.effect) for f in none.findings)


@pytest.mark.slow
def test_the_command_reads_a_spec_and_prints_json(tmp_path: Path) -> None:
    spec = Path(__file__).parents[1] / "examples" / "demo.yaml"
    done = CliRunner().invoke(app, ["power", str(spec), "--json", "--rate", "0.3"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["study"] == "demo" and found["assumptions"]["rate"] == 0.3
    assert found["design"]["em"] == 2 and found["design"]["benign"] is True
    wanted = {"metric", "name", "what", "unit", "effect", "corrected", "found", "floor", "note"}
    assert wanted == set(found["tests"][0]) and found["drawn"] == {"t_tests": 1000, "ranges": 500}
    shown = CliRunner().invoke(app, ["power", str(spec)])
    assert shown.exit_code == 0 and "H1 induction_minus_others" in shown.stdout
    assert "Found again: how often a test finds this effect" in shown.stdout
    assert "smallest effect found in 80" in " ".join(shown.stdout.split())
    # A note that several tests have is told once, below the table.
    told = [line.split(". ", 1) for line in shown.stdout.splitlines() if line[:1].isdigit()]
    notes = {test["note"] for test in found["tests"]} - {""}
    assert [number for number, _ in told] == [str(n + 1) for n in range(len(notes))]
    assert len({text for _, text in told}) == len(told) < len(found["tests"])
    assert "e+0" not in shown.stdout


@pytest.mark.parametrize(
    "option, message",
    [
        (["--rate", "1.5"], "--rate: 1.5 is not between 0 and 1"),
        (["--run-sd", "-1"], "--run-sd: -1 is not a number from 0"),
        (["--run-sd", "inf"], "--run-sd: inf is not a number from 0"),
    ],
)
def test_a_senseless_assumption_is_one_line(
    option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = Path(__file__).parents[1] / "examples" / "demo.yaml"
    done = CliRunner().invoke(app, ["power", str(spec), *option])
    assert done.exit_code == 2
    assert message in done.output and len(done.output.strip().splitlines()) == 1


@pytest.mark.slow
def test_more_runs_of_two_conditions_are_counted_as_they_are() -> None:
    three, one = (42, 137, 256), (42,)
    made = plan(replace(STUDY, em_seeds=(three, one, one, one, three), benign_seeds=one), GUESS)
    pairs = [f for f in made.findings if f.name == "bystander_pair"]
    assert [f.what.rpartition(", ")[2] for f in pairs] == ["3/3 runs", "1/1 runs"]
    ours, theirs = (f.effect or 0 for f in pairs)
    # The paired t-test over three seeds, by the library: questions and answers are the rest.
    run = GUESS.run_sd**2 + GUESS.persona_run_sd**2 / 9 + 0.25 / 10 / 28 / 9
    sd = math.sqrt(2 * (run + 3 * GUESS.question_sd**2 / 28))
    paired = sd * TTestPower().solve_power(None, 3, 0.05, 0.8)
    assert ours == pytest.approx(100 * paired, rel=0.12) and theirs > ours
    h2 = find(made, "H2", "between_runs")
    assert "2 conditions" in h2.note and "3 with one run each" in h2.note


@pytest.mark.slow
def test_what_cannot_reject_says_so() -> None:
    # All that a study of rates could differ by is 100 points.
    wild = plan(replace(STUDY, seeds=2), replace(GUESS, run_sd=0.3))
    pair = find(wild, "leakage", "bystander_pair")
    assert pair.effect is None and IMPOSSIBLE in pair.note
    published = find(wild, "H1", "published")
    assert published.effect is None and published.floor == 1 / 11 and NEVER in published.note


@pytest.mark.slow
def test_the_primary_endpoint_leads_and_is_not_corrected() -> None:
    ask = Endpoint("a less b", True, {"em-1": 1.0, "em-5": -1.0})
    first = plan(replace(STUDY, seeds=3, primary=ask), GUESS).findings[0]
    assert (first.metric, first.unit, first.corrected) == ("primary", "points", None)
    alone = plan(replace(STUDY, seeds=3, primary=replace(ask, in_answers=False)), GUESS)
    assert alone.findings[0].unit == "sd of runs"
    assert alone.findings[0].effect == pytest.approx(
        math.sqrt(2) * TTestPower().solve_power(None, 3, 0.05, 0.8), rel=0.12
    )


def test_no_shared_bystander_is_named_and_nothing_promised() -> None:
    made = plan(replace(STUDY, bystanders=0), GUESS)
    assert any("No persona is a bystander in every condition" in w for w in made.warnings)
    assert not [f for f in made.findings if f.metric in ("H2", "H3")]


def test_themes_are_the_samples_and_theirs_is_what_questions_have_of_their_own() -> None:
    themed = replace(STUDY, themes=(4,) * 7)
    assert (themed.clusters, themed.widened, STUDY.clusters) == (7, 1.0, 28)
    assert replace(STUDY, themes=(1, 2, 3, 5, 7, 10)).widened > 1.2
    assert STUDY.lasting(GUESS) == pytest.approx(GUESS.question_sd**2 / 28)
    # Seven themes of four: their mean has the variance of seven values, or of 28.
    assert themed.lasting(GUESS) == pytest.approx(GUESS.question_sd**2 / 7)
    alone = replace(GUESS, theme_share=0.0)
    assert themed.lasting(alone) == pytest.approx(GUESS.question_sd**2 / 28)
    world, rng = over_runs.answers(themed, GUESS, runs_vary=False), np.random.default_rng(5)
    drawn = [world.rates(rng, {}) for _ in range(200)]
    assert drawn[0].tables.shape == (6, 7, 1)
    cell = 0.25 / 10 / 7 / 28
    means = np.array([runs.means for runs in drawn])
    assert means.var() == pytest.approx(themed.lasting(GUESS) + cell, rel=0.15)


@pytest.mark.slow
def test_themes_detect_less_and_few_of_them_are_named() -> None:
    before = plan(STUDY, GUESS)
    after = plan(replace(STUDY, themes=(4,) * 7, extraction_themes=8), GUESS)
    for metric, name in (
        ("H1", "induction_minus_others"), ("H2", "common_set"), ("leakage", "bystander_pair")
    ):  # fmt: skip
        assert (find(after, metric, name).effect or 0) > (find(before, metric, name).effect or 99)
    # H1 over seven themes of answers alone, by the library.
    se = math.sqrt(0.25 / 10 * (1 + 1 / 10) / 28)
    want = 100 * se * math.sqrt(7) * TTestPower().solve_power(None, 7, 0.05, 0.8)
    assert find(after, "H1", "induction_minus_others").effect == pytest.approx(want, rel=0.1)
    assert any("7 themes of questions are few" in warning for warning in after.warnings)


def test_the_command_reads_the_themes_of_questions(tmp_path: Path) -> None:
    from personaspace.pipeline.design import design_of
    from personaspace.study.validate import load_spec

    asked = "".join(f"- {{question: 'Q {n}?', theme: t{n % 3}}}\n" for n in range(7))
    (tmp_path / "asked.yaml").write_text(asked + "- Q alone?\n")
    spec = load_spec(Path(__file__).parents[1] / "examples" / "demo.yaml")
    evaluation = spec.evaluation.model_copy(
        update={"questions": "asked.yaml", "unseen_questions": None, "limit": None}
    )
    made = design_of(spec.model_copy(update={"evaluation": evaluation}), tmp_path)
    assert sorted(made.themes) == [1, 2, 2, 3] and made.questions == 8


def _rates(effect: float, rng: np.random.Generator, runs: int) -> np.ndarray:
    """Counts of the induction persona and ten others, `[run, persona, question]`."""
    own = GUESS.persona_run_sd * rng.normal(size=(runs, 11, 1))
    shared = GUESS.run_sd * rng.normal(size=(runs, 1, 1))
    own[:, 0] += effect
    lasting = GUESS.question_sd * rng.normal(size=28)
    return rng.binomial(10, np.clip(GUESS.rate + shared + own + lasting, 0, 1)) / 10


@pytest.mark.slow
def test_an_effect_near_the_end_of_rates_is_found_as_often_as_said() -> None:
    """With two runs H1 needs so much that answers hardly scatter any more; t by the library."""
    h1 = find(plan(replace(STUDY, seeds=2), GUESS), "H1", "induction_minus_others")
    assert h1.effect is not None and h1.found is not None and h1.effect > 30
    rng, found, studies = np.random.default_rng(3), 0, 600
    for _ in range(studies):
        rates = _rates(h1.effect / 100, rng, 2)
        contrast = (rates[:, 0] - rates[:, 1:].mean(axis=1)).mean(axis=1)
        found += stats.ttest_1samp(contrast, 0).pvalue <= 0.05
    # Questions may widen the interval of the two runs, but hardly ever do.
    assert found / studies == pytest.approx(h1.found, abs=0.07)
    assert found / studies == pytest.approx(0.8, abs=0.08)


@pytest.mark.slow
def test_the_test_of_h1_is_planned_and_not_only_what_stands_beside_it() -> None:
    made = plan(replace(STUDY, seeds=3), GUESS)
    main, beside = (
        find(made, "H1", name) for name in ("own_minus_other_conditions", "induction_minus_others")
    )
    # A difference of one condition and the mean of four others: a quarter more variance.
    assert (main.effect or 0) / (beside.effect or 1) == pytest.approx(math.sqrt(1.25), abs=0.12)
    assert "The test of H1" in main.note
    alone = plan(replace(STUDY, em=1, cosines=(1.0,)), GUESS)
    assert next(f.name for f in alone.findings if f.metric == "H1") == "induction_minus_others"


def test_a_power_that_is_not_the_wanted_one_is_said() -> None:
    sizes: dict[str, float | None] = {"effect": 20.0, "corrected": None, "found": 0.92}
    said = points("H2", "between_runs", "range", sizes, "A note.", GUESS)
    assert said.note == "It is found in 92 % of studies. A note."
    near = points("H2", "between_runs", "range", sizes | {"found": 0.81}, "A note.", GUESS)
    assert near.note == "A note."


def test_settled_finds_the_size_with_the_wanted_power() -> None:
    asked: list[float] = []

    def power_at(size: float) -> float:
        asked.append(size)
        return float(stats.norm.cdf((size - 0.3) / 0.1))

    truth = 0.3 + 0.1 * float(stats.norm.ppf(0.8))
    for start in (0.1, 0.38, 0.9):
        asked.clear()
        assert between.settled(power_at, start, 0.8) == pytest.approx(truth, abs=0.03)
        assert len(asked) <= between.SIZES
    assert between.settled(lambda size: 0.5 * size, 0.4, 0.8) is None
    assert between.settled(power_at, None, 0.8) is None


@pytest.mark.slow
def test_h2_of_one_run_is_found_as_often_as_said() -> None:
    """Themes of unequal sizes: the permutation itself, on counts drawn apart."""
    themed = replace(STUDY, themes=(1, 2, 3, 5, 7, 10))
    h2 = find(plan(themed, GUESS), "H2", "common_set")
    assert h2.effect is not None and h2.found is not None
    rng, found, studies = np.random.default_rng(4), 0, 300
    places = np.repeat(np.arange(6), themed.themes)
    steps = h2.effect / 100 * np.linspace(-0.5, 0.5, 5)
    for _ in range(studies):
        lasting = GUESS.question_sd * rng.normal(size=(5, 6))[:, places]
        rates = GUESS.rate + steps[:, None] + lasting
        means = rng.binomial(70, np.clip(rates, 0, 1)) / 70
        test = clustered_range(by_theme(means, places), 199, 1, rng)
        found += test.p <= 0.05
    assert found / studies == pytest.approx(0.8, abs=0.1)


def test_few_questions_have_a_floor_in_h2() -> None:
    """Two conditions in six questions: of 64 ways to name them the two whole ones are extreme."""
    two = replace(STUDY, em=2, cosines=(), questions=6)
    h2 = find(plan(two, GUESS), "H2", "common_set")
    assert h2.floor == pytest.approx(2 / 64) and h2.effect is not None and h2.corrected is None
    h2 = find(plan(replace(two, questions=4), GUESS), "H2", "common_set")
    assert h2.floor == pytest.approx(2 / 16) and h2.effect is None and NEVER in h2.note
