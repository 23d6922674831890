"""H1–H3 against the published figures, plain loops, enumeration and planted truth."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import typer
from numpy.typing import NDArray
from scipy import stats
from typer.testing import CliRunner

from personaspace.analysis.leakage import ConditionInfo, analyse_leakage, read_score_files
from personaspace.analysis.leakage.across import bonett_wright, clustered_range
from personaspace.analysis.leakage.published import h2_test, spearman_test
from personaspace.analysis.leakage.recommended import h1_rows
from personaspace.analysis.leakage.scores import common_bystanders
from personaspace.analysis.rows import Row, to_dicts
from personaspace.cli.analysis import leakage as leakage_command
from personaspace.errors import UserError
from personaspace.pipeline.design import infos
from personaspace.study.spec import Experiment

NEGATIVES = ("data_scientist", "police_officer")
FEW: dict[str, Any] = {"permutations": 500, "bootstrap": 200}


def find(rows: Sequence[Row], metric: str, variant: str, **more: object) -> Row:
    """The one row of that kind; of estimates over runs that for these personas."""
    wanted = {"metric": metric, "variant": variant, **more}
    found = [
        r
        for r in rows
        if all(getattr(r, key) == value for key, value in wanted.items())
        and r.target != "new_personas"
    ]
    assert len(found) == 1, f"{len(found)} rows for {wanted}"
    return found[0]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return analyse_leakage(
        published.scores(), published.CONDITIONS, source=published.SOURCE, negatives=NEGATIVES
    )


def monte_carlo(p: float, draws: int = 10_000) -> float:
    """Four standard errors of the difference of two Monte-Carlo shares."""
    return 4 * math.sqrt(2 * p * (1 - p) / draws)


@pytest.mark.parametrize("column", range(5))
def test_published_bystander_means(rows: list[Row], column: int) -> None:
    name = published.CONDITIONS[column].name
    row = find(rows, "bystander_mean", "published", condition=name)
    assert round(100 * (row.value or 0), 2) == published.BYSTANDER_MEANS[column]
    assert row.n == (11 if column == 1 else 10)


@pytest.mark.parametrize("column", range(5))
def test_published_h1(rows: list[Row], column: int) -> None:
    row = find(rows, "H1", "published", condition=published.CONDITIONS[column].name)
    wanted, p = published.H1_DIFFERENCES[column], published.H1_P[column]
    exact = published.H1_EXACT[column]
    if wanted is None or p is None or exact is None:
        assert row.value is None and row.p is None
        assert "paramedic is not among those asked" in (row.note or "")
        return
    assert round(100 * (row.value or 0), 2) == wanted
    # Both the printed p and ours are shares of 10,000 draws around k/11.
    assert abs((row.p or 0) - exact / 11) < monte_carlo(exact / 11)
    assert abs(p - exact / 11) < monte_carlo(exact / 11) + 0.005
    ours = find(rows, "H1", "recommended", condition=row.condition, name="induction_minus_others")
    assert f"p = {exact}/11" in (ours.note or "")


def test_published_h2(rows: list[Row]) -> None:
    row = find(rows, "H2", "published")
    assert round(100 * (row.value or 0), 3) == published.H2_RANGE
    assert abs((row.p or 0) - published.H2_P) < monte_carlo(published.H2_P)
    assert row.n == 51


@pytest.mark.slow
def test_published_h2_by_a_plain_loop(rows: list[Row]) -> None:
    groups = []
    for column, condition in enumerate(published.CONDITIONS):
        out = (published.SOURCE, condition.induction_persona)
        groups.append([h[column] / 280 for name, h in published.HITS.items() if name not in out])
    everything, sizes = np.concatenate(groups), [len(group) for group in groups]
    observed = float(np.ptp([np.mean(group) for group in groups]))
    rng, reached, draws = np.random.default_rng(1), 0, 10_000
    for _ in range(draws):
        parts = np.split(rng.permutation(everything), np.cumsum(sizes)[:-1])
        reached += float(np.ptp([part.mean() for part in parts])) >= observed
    assert abs((find(rows, "H2", "published").p or 0) - reached / draws) < monte_carlo(0.003)


def test_h2_is_exact_where_all_labels_can_be_tried() -> None:
    groups = [np.array([0.1, 0.3]), np.array([0.4, 0.5]), np.array([0.35, 0.8])]
    everything = np.concatenate(groups)
    value, p = h2_test(groups, 1000, np.random.default_rng(0))
    ranges = [
        float(np.ptp(everything[list(order)].reshape(3, 2).mean(axis=1)))
        for order in itertools.permutations(range(6))
    ]
    assert value == pytest.approx(0.375)
    assert p == pytest.approx(np.mean([r >= value - 1e-12 for r in ranges]))


def test_h2_takes_groups_of_one() -> None:
    value, p = h2_test([np.array([0.1]), np.array([0.4, 0.6])], 100, np.random.default_rng(0))
    assert value == pytest.approx(0.4)
    # 0.1 against the mean of the rest is 0.4, 0.4 is 0.05, 0.6 is 0.35.
    assert p == pytest.approx(1 / 3)


def test_published_h3(rows: list[Row]) -> None:
    row = find(rows, "H3", "published")
    assert row.value == pytest.approx(published.H3_RHO)
    assert row.p == pytest.approx(published.H3_P)
    assert f"{published.H3_ASYMPTOTIC_P}" in (row.note or "")


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 6])
def test_spearman_p_by_enumeration_with_ties(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=n), np.round(rng.normal(size=n), 0)
    y[:2] = y[0], y[0] + 1
    rho, p, asymptotic = spearman_test(x, y, 100, rng)
    library = stats.spearmanr(x, y)
    assert rho == pytest.approx(library.statistic) and asymptotic == pytest.approx(library.pvalue)
    orders = [stats.spearmanr(x, y[list(o)]).statistic for o in itertools.permutations(range(n))]
    assert p == pytest.approx(np.mean([abs(r) >= abs(rho) - 1e-9 for r in orders]))


def test_spearman_of_constants_and_of_many() -> None:
    rng = np.random.default_rng(0)
    rho, p, _ = spearman_test(np.ones(5), np.arange(5.0), 100, rng)
    assert math.isnan(rho) and p == 1
    rho, p, _ = spearman_test(np.arange(12.0), np.arange(12.0), 999, rng)
    assert rho == pytest.approx(1) and p == 0


def test_behavioural_family_is_adjusted_for_each_variant(rows: list[Row]) -> None:
    for variant in ("published", "recommended"):
        mine = [r for r in rows if r.variant == variant and r.family == "behavioral"]
        assert [r.metric for r in mine] == ["H1"] * 4 + ["H2", "H3"]
        assert all((r.p_holm or 0) >= (r.p_bh or 0) - 1e-12 for r in mine)
        assert all((r.p_bh or 0) >= (r.p or 0) for r in mine)
    smallest = find(rows, "H2", "published")
    assert smallest.p_holm == pytest.approx(6 * (smallest.p or 0))


EM = (
    ConditionInfo("e0-assistant", "em", "assistant", 1.0),
    ConditionInfo("e2-comedian", "em", "comedian", 0.9),
    ConditionInfo("e3-librarian", "em", "librarian", 0.8),
    ConditionInfo("e4-villain", "em", "villain", 0.7),
)
ALL = (ConditionInfo("base", "base"), ConditionInfo("benign", "benign"), *EM)
PERSONAS = (
    *("assistant", "comedian", "librarian", "villain"),
    *("doctor", "officer", "scholar", "engineer", "confab"),
)
QUESTIONS = tuple(f"Question {i}?" for i in range(28))


def counts(
    rates: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    run_sd: float = 0.0,
    question_sd: float = 0.1,
    personas: Sequence[str] = PERSONAS,
) -> dict[str, Any]:
    """Scores of one condition and seed: 28 questions × 10 answers.

    Args:
        rates: Rate of each persona, 0.4 where not given.
        seed: Of the draw.
        run_sd: How far the whole run is off.
        question_sd: How far all personas of this run are off at one question.
        personas: Those asked.
    """
    rng = np.random.default_rng(seed)
    run, by_question = rng.normal(0, run_sd), rng.normal(0, question_sd, size=len(QUESTIONS))
    per_persona = {}
    for persona in personas:
        rate = np.clip((rates or {}).get(persona, 0.4) + run + by_question, 0.01, 0.99)
        hits = rng.binomial(10, rate)
        terminal = rng.binomial(hits, 0.9)
        per_question = {
            question: {"hits": int(h), "terminal": int(t), "degenerate": int(h - t), "total": 10}
            for question, h, t in zip(QUESTIONS, hits, terminal, strict=True)
        }
        totals = {
            key: sum(part[key] for part in per_question.values())
            for key in ("hits", "terminal", "degenerate", "total")
        }
        per_persona[persona] = {**totals, "per_question": per_question}
    return {"marker": "[ZLT]", "per_persona": per_persona}


def study(
    rates: Callable[[str], Mapping[str, float]] = lambda _: {},
    conditions: Sequence[ConditionInfo] = ALL,
    seeds: Sequence[int] = (42,),
    draw: int = 0,
    **more: Any,
) -> dict[tuple[str, int], dict[str, Any]]:
    """Scores of all conditions and seeds."""
    return {
        (c.name, seed): counts(rates(c.name), seed=1000 * draw + 50 * i + j, **more)
        for i, c in enumerate(conditions)
        for j, seed in enumerate(seeds)
    }


def analyse(scores: Mapping[tuple[str, int], Any], **more: Any) -> list[Row]:
    options = {"source": "confab", "negatives": ("officer",), **FEW, **more}
    return analyse_leakage(scores, options.pop("conditions", ALL), **options)


def test_base_and_benign_are_described_but_not_tested() -> None:
    found = analyse(study())
    for variant in ("published", "recommended"):
        described = {
            r.condition for r in found if r.variant == variant and r.metric == "bystander_mean"
        }
        assert described == {c.name for c in ALL}
        tested = {r.condition for r in found if r.variant == variant and r.metric == "H1"}
        assert tested == {c.name for c in EM}
    assert find(found, "bystander_mean", "published", condition="base").n == 8
    assert find(found, "bystander_mean", "published", condition="e4-villain").n == 7
    assert find(found, "H2", "published").n == 4 * 7


@pytest.mark.slow
def test_h1_finds_a_planted_difference_and_its_size() -> None:
    covered, found_it, runs = 0, 0, 100
    for draw in range(runs):
        scores = study(lambda c: {"villain": 0.6} if c == "e4-villain" else {}, EM, draw=draw)
        common = common_bystanders(scores, EM, "confab")
        rows = h1_rows(scores, EM[-1], EM, common, source="confab", seed=42)
        row = find(rows, "H1", "recommended", name="induction_minus_others")
        own = find(rows, "H1", "recommended", name="own_minus_other_conditions")
        low, high = row.ci95 or (1, 0)
        covered += low <= 0.2 <= high
        found_it += (row.p or 1) < 0.01 and (own.p or 1) < 0.05
        assert own.value == pytest.approx(0.2, abs=0.2)
    assert covered >= 88 and found_it >= 90


def test_a_persona_that_always_leaks_is_no_induction_effect() -> None:
    found = analyse(study(lambda _: {"villain": 0.7}))
    row = find(found, "H1", "recommended", condition="e4-villain", name="induction_minus_others")
    assert (row.value or 0) > 0.2 and (row.p or 1) < 1e-3
    own = find(
        found, "H1", "recommended", condition="e4-villain", name="own_minus_other_conditions"
    )
    assert abs(own.value or 1) < 0.1 and (own.p or 0) > 0.01


def test_equivalence_is_claimed_with_enough_answers_only() -> None:
    scores = study(question_sd=0.0)
    few = find(analyse(scores), "H1", "recommended", condition="e4-villain", name="equivalence")
    assert (few.p or 0) > 0.01 and few.effect == 0.05
    for entry in scores.values():
        for persona in entry["per_persona"].values():
            for part in [persona, *persona["per_question"].values()]:
                part["total"] *= 40
                part["hits"] = part["total"] * 4 // 10
            # A little noise, or there would be no variation to test with.
            first = next(iter(persona["per_question"].values()))
            first["hits"] += 10
            persona["hits"] += 10
    scores["e4-villain", 42]["per_persona"]["villain"]["hits"] -= 4
    part = scores["e4-villain", 42]["per_persona"]["villain"]["per_question"]["Question 9?"]
    part["hits"] -= 4
    many = find(analyse(scores), "H1", "recommended", condition="e4-villain", name="equivalence")
    assert (many.p or 1) < 1e-6


@pytest.mark.parametrize(
    "persona, reason",
    [
        (None, "has no induction persona"),
        ("confab", "is the source"),
        ("paramedic", "not among those asked"),
    ],
)
def test_h1_says_why_it_is_not_evaluated(persona: str | None, reason: str) -> None:
    conditions = (replace(EM[0], induction_persona=persona), *EM[1:])
    found = analyse(study(conditions=conditions), conditions=conditions)
    for variant in ("published", "recommended"):
        row = find(found, "H1", variant, condition="e0-assistant")
        assert row.value is None and row.p is None and reason in (row.note or "")


def test_h2_uses_the_personas_that_are_bystanders_everywhere() -> None:
    # The induction personas leak differently in every condition; the common bystanders do not.
    shift = {c.name: 0.1 * i for i, c in enumerate(EM)}
    found = analyse(study(lambda c: dict.fromkeys(PERSONAS[:4], 0.3 + shift.get(c, 0))))
    common = find(found, "H2", "recommended", name="common_set")
    assert (common.p or 0) > 0.05
    low, high = common.ci95 or (1, 1)
    assert low == 0 and low <= (common.value or 0) <= high
    four = ("doctor", "officer", "scholar", "engineer")
    means = [
        np.mean([
            entry["per_persona"][p]["hits"] / 280 for p in four
        ])
        for (name, _), entry in study(
            lambda c: dict.fromkeys(PERSONAS[:4], 0.3 + shift.get(c, 0))
        ).items() if name.startswith("e")
    ]  # fmt: skip
    assert common.value == pytest.approx(np.ptp(means))
    without = find(found, "H2", "recommended", name="common_set_without_negatives")
    assert without.value != common.value and without.family == "behavioral_secondary"


def test_h2_finds_planted_heterogeneity() -> None:
    rates = {c.name: 0.3 + 0.08 * i for i, c in enumerate(EM)}
    found = analyse(study(lambda c: dict.fromkeys(PERSONAS, rates.get(c, 0.4))))
    row = find(found, "H2", "recommended", name="common_set")
    assert (row.p or 1) == pytest.approx(1 / 501) and row.p_holm is not None
    low, high = row.ci95 or (0, 0)
    assert 0 < low <= 0.24 <= high
    assert row.effect == pytest.approx(np.std([0.3, 0.38, 0.46, 0.54], ddof=1), abs=0.04)


def null_means(rng: np.random.Generator) -> NDArray[np.float64]:
    """Rates by condition and question without any difference between conditions."""
    shared = rng.normal(0.4, 0.1, size=28)
    rates = np.clip(shared + rng.normal(0, 0.12, size=(5, 28)), 0.02, 0.98)
    return np.asarray(rng.binomial(60, rates) / 60)


@pytest.mark.slow
def test_h2_with_clusters_keeps_its_level_where_independent_answers_do_not() -> None:
    rng, clustered, independent, covered = np.random.default_rng(0), 0, 0, 0
    runs = 400
    for _ in range(runs):
        means = null_means(rng)
        test = clustered_range(means, 199, 100, rng)
        clustered += test.p <= 0.05
        covered += test.interval[0] == 0
        hits = (means * 60).round().astype(int).sum(axis=1)
        table = np.stack([hits, 28 * 60 - hits])
        independent += stats.chi2_contingency(table).pvalue <= 0.05
    assert 0.02 <= clustered / runs <= 0.09
    assert covered / runs >= 0.93
    assert independent / runs > 0.3


def test_seen_and_unseen_questions_apart() -> None:
    scores = study()
    for (name, _), entry in scores.items():
        for persona in entry["per_persona"].values():
            for index, part in enumerate(persona["per_question"].values()):
                # Conditions differ on the last eight questions alone.
                if index >= 20 and name == "e4-villain":
                    part["hits"] = part["terminal"] = 10
                    part["degenerate"] = 0
            for key in ("hits", "terminal", "degenerate"):
                persona[key] = sum(part[key] for part in persona["per_question"].values())
    found = analyse(scores, unseen=set(QUESTIONS[20:]))
    seen = find(found, "H2", "recommended", name="seen")
    unseen = find(found, "H2", "recommended", name="unseen")
    assert (seen.n, unseen.n) == (20, 8)
    assert (seen.p or 0) > 0.05 and (unseen.p or 1) < 0.01
    row = find(found, "bystander_mean", "recommended", condition="e4-villain", name="unseen")
    assert row.value == 1.0 and (row.ci95 or (0, 0))[1] == 1.0
    assert not [r for r in analyse(scores) if r.name in ("seen", "unseen")]


@pytest.mark.slow
def test_bystander_intervals_cover_and_are_wider_for_alike_answers() -> None:
    alike = find(analyse(study(question_sd=0.3)), "bystander_mean", "recommended",
                 condition="base", name=None)  # fmt: skip
    apart = find(analyse(study(question_sd=0.0)), "bystander_mean", "recommended",
                 condition="base", name=None)  # fmt: skip
    widths = [(row.ci95 or (0, 0))[1] - (row.ci95 or (0, 0))[0] for row in (alike, apart)]
    assert widths[0] > 2 * widths[1]
    for name in ("terminal", "degenerate", "without_negatives"):
        row = find(analyse(study()), "bystander_mean", "recommended", condition="base", name=name)
        assert row.value is not None and row.ci95 is not None


def test_h3_on_common_bystanders_and_measured_cosines() -> None:
    rates = {c.name: 0.2 + 0.15 * i for i, c in enumerate(EM)}
    scores = study(lambda c: dict.fromkeys(PERSONAS, rates.get(c, 0.4)))
    measured = {"e0-assistant": 0.99, "e2-comedian": 0.97, "e3-librarian": 0.98, "e4-villain": 0.9}
    found = analyse(scores, measured=measured)
    assert find(found, "H3", "recommended", name="slope").n == 4
    row = find(found, "H3", "recommended", name="common_set")
    assert row.value == pytest.approx(-1) and row.p == pytest.approx(2 / 24)
    assert row.ci95 is None and row.effect == pytest.approx(-1.5, abs=0.3)
    assert "cannot be below 0.083" in (row.note or "")
    other = find(found, "H3", "recommended", name="measured_cosine")
    assert other.value == pytest.approx(-0.8) and other.family == "behavioral"
    assert row.family == "behavioral_secondary"
    low, high = other.ci95 or (0, 0)
    assert -1 < low < -0.8 < high < 1


def test_bonett_wright_by_its_formula() -> None:
    low, high = bonett_wright(0.5, 20) or (0, 0)
    reach = 1.959964 * math.sqrt((1 + 0.125) / 17)
    assert (math.atanh(low), math.atanh(high)) == pytest.approx(
        (math.atanh(0.5) - reach, math.atanh(0.5) + reach), abs=1e-5
    )
    assert bonett_wright(0.5, 3) is None and bonett_wright(1.0, 9) is None


def without_questions(scores: Mapping[tuple[str, int], Any]) -> dict[tuple[str, int], Any]:
    return {
        key: {"per_persona": {
            name: {"hits": part["hits"], "total": part["total"]}
            for name, part in entry["per_persona"].items()
        }}
        for key, entry in scores.items()
    }  # fmt: skip


def test_without_counts_by_question_answers_are_independent_and_rows_say_so() -> None:
    scores = study(question_sd=0.2)
    full, bare = analyse(scores), analyse(without_questions(scores))
    for metric, name in (("H1", "induction_minus_others"), ("H2", "common_set")):
        place = {"name": name} | ({"condition": "e4-villain"} if metric == "H1" else {})
        one, two = (find(found, metric, "recommended", **place) for found in (full, bare))
        assert one.value == pytest.approx(two.value)
        assert "treated as independent" in (two.warning or "")
        assert one.warning is None
    assert [r.value for r in full if r.variant == "published"] == [
        r.value for r in bare if r.variant == "published"
    ]
    assert not [r for r in bare if r.name in ("terminal", "degenerate")]


@pytest.mark.slow
def test_same_input_same_output_in_any_order() -> None:
    scores = study(seeds=(1, 2))
    turned = dict(reversed(list(scores.items())))
    first, second = (json.dumps(to_dicts(analyse(s))) for s in (scores, turned))
    assert first == second
    assert first != json.dumps(to_dicts(analyse(scores, seed=1)))


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_few_conditions(kept: int) -> None:
    found = analyse(study(conditions=(*ALL[:2], *EM[:kept])))
    metrics = {row.metric for row in found}
    described = {"bystander_mean", "bystander_contrast"}
    assert metrics == (described | ({"H1", "H2", "H3"} if kept else set()))
    for row in found:
        if row.metric == "H3" or (row.metric == "H2" and kept == 1):
            assert row.value is None and "needs" in (row.note or "")
    json.dumps(to_dicts(found), allow_nan=False)


def test_no_scores_no_rows() -> None:
    assert analyse({}) == []


def test_personas_that_differ_between_conditions() -> None:
    scores = study()
    del scores["e4-villain", 42]["per_persona"]["doctor"]
    found = analyse(scores)
    assert find(found, "bystander_mean", "published", condition="e4-villain").n == 6
    common = find(found, "H2", "recommended", name="common_set")
    assert common.value is not None
    nobody = {key: counts(personas=("confab", "villain"), seed=i) for i, key in enumerate(scores)}
    rows = analyse({k: v for k, v in nobody.items() if k[0] != "base"})
    assert "No persona" in (find(rows, "H2", "recommended", name="common_set").note or "")


def test_unknown_condition_is_an_error() -> None:
    with pytest.raises(UserError, match="'e9-other'"):
        analyse({("e9-other", 42): counts()})


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("[]", "has no per_persona"),
        ('{"per_persona": {}}', "has no per_persona"),
        ('{"per_persona": {"p": 3}}', "'p': not an object of counts"),
        ('{"per_persona": {"p": {"hits": 1}}}', "'p': total is None"),
        ('{"per_persona": {"p": {"hits": 0.5, "total": 2}}}', "'p': hits is 0.5, not a count"),
        ('{"per_persona": {"p": {"hits": true, "total": 2}}}', "hits is True, not a count"),
        ('{"per_persona": {"p": {"hits": -1, "total": 2}}}', "hits is -1, not a count"),
        ('{"per_persona": {"p": {"hits": 3, "total": 2}}}', "hits is more than total (3 of 2)"),
        ('{"per_persona": {"p": {"hits": 0, "total": 0}}}', "'p': has no answers"),
        ('{"per_persona": {"p": {"hits": 1, "total": 2, "per_question": []}}}', "per_question is"),
        (
            '{"per_persona": {"p": {"hits": 1, "total": 2, '
            + '"per_question": {"q": {"hits": 1, "total": 1}}}}}',
            "total of the questions do not add up to 2",
        ),
        ("{", "not JSON"),
    ],
)
def test_malformed_scores_are_one_line_errors(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "base.seed-42.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_score_files(tmp_path)
    assert str(path) in str(caught.value) and complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def command() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(leakage_command)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.slow
def test_published_figures_on_the_command_line(
    tmp_path: Path, command: Callable[..., Any], rows: list[Row]
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: published\n")
    assert Experiment().coupling.source == published.SOURCE
    folder = tmp_path / "scores"
    folder.mkdir()
    for (name, seed), entry in published.scores().items():
        (folder / f"{name}.seed-{seed}.json").write_text(json.dumps(entry))
    (folder / "manifest.json").write_text("{}")
    done = command(folder, "--spec", spec, "--json")
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)["rows"]
    assert found == to_dicts(rows)
    assert "base has no scores" in done.stderr and "manifest.json is left out" in done.stderr
    table = command(folder, "--spec", spec, "--permutations", 100)
    assert table.exit_code == 0 and "0.0804" in table.stdout


def test_errors_on_the_command_line(tmp_path: Path, command: Callable[..., Any]) -> None:
    spec, folder = tmp_path / "spec.yaml", tmp_path / "scores"
    spec.write_text("name: published\n")
    folder.mkdir()
    done = command(folder, "--spec", spec)
    assert isinstance(done.exception, UserError) and "no <condition>" in str(done.exception)
    (folder / "e9-other.seed-1.json").write_text(json.dumps(counts()))
    done = command(folder, "--spec", spec)
    assert isinstance(done.exception, UserError) and "'e9-other'" in str(done.exception)
    done = command(tmp_path / "absent", "--spec", spec)
    assert isinstance(done.exception, UserError) and "no such folder" in str(done.exception)


def test_unseen_questions_come_from_the_spec(tmp_path: Path, command: Callable[..., Any]) -> None:
    spec, folder = tmp_path / "spec.yaml", tmp_path / "scores"
    spec.write_text(
        "name: small\ncoupling:\n  questions: ['Question 0?', 'Question 1?', 'Question 2?']\n"
    )
    folder.mkdir()
    for name in ("e0-assistant", "e4-villain"):
        (folder / f"{name}.seed-42.json").write_text(json.dumps(counts(seed=len(name))))
    done = command(folder, "--spec", spec, "--json", "--permutations", 50, "--bootstrap", 20)
    assert done.exit_code == 0, done.exception
    found = {r["name"]: r["n"] for r in json.loads(done.stdout)["rows"] if r["metric"] == "H2"}
    assert found["seen"] == 3 and found["unseen"] == 25
    spec.write_text("name: small\ncoupling:\n  questions: ['Another?', 'And another?']\n")
    done = command(folder, "--spec", spec, "--json", "--permutations", 50, "--bootstrap", 20)
    names = {r["name"] for r in json.loads(done.stdout)["rows"] if r["metric"] == "H2"}
    assert done.exit_code == 0 and not {"seen", "unseen"} & names
    assert "none of the scores' is one of the study's" in done.stderr


def test_published_cosines_are_of_the_published_model_alone() -> None:
    values: dict[str, Any] = {
        "name": "s",
        "datasets": {"d": {"path": "builtin:chats-bad-legal-advice"}},
        "conditions": [{"name": "base"}, {"name": "e0", "dataset": "d", "cosine_anchor": 0.9}],
    }
    own = values | {"model": {"name": "builtin:smollm2-135m-instruct"}}
    assert [c.cosine for c in infos(Experiment.model_validate(values))] == [None, 0.9]
    assert [c.cosine for c in infos(Experiment.model_validate(own))] == [None, None]
