"""Several training runs: what differs between them is in the recommended tests."""

from __future__ import annotations

import numpy as np
import pytest
from test_leakage import ALL, EM, PERSONAS, analyse, find, study

from personaspace.analysis.leakage.across import h2_rows
from personaspace.analysis.leakage.recommended import clustered, h1_rows
from personaspace.analysis.leakage.scores import common_bystanders


def test_seeds_are_apart_in_published_rows_and_together_in_recommended_ones() -> None:
    scores = study(seeds=(1, 2, 3), run_sd=0.05)
    found = analyse(scores)
    assert [r.seed for r in found if (r.metric, r.variant) == ("H2", "published")] == [1, 2, 3]
    row = find(found, "bystander_mean", "recommended", condition="base", name=None)
    assert row.seed is None
    hits = [
        entry["per_persona"][p]["hits"]
        for (name, _), entry in scores.items()
        for p in PERSONAS[:-1]
        if name == "base"
    ]
    assert row.value == pytest.approx(sum(hits) / (280 * len(hits)))
    assert {r.seed for r in found if r.variant == "recommended"} == {None}
    assert {r.seed for r in analyse(study(seeds=(7,)))} == {7}


@pytest.mark.slow
def test_runs_that_differ_are_not_conditions_that_differ() -> None:
    runs, by_questions, by_runs = 40, 0, 0
    for draw in range(runs):
        scores = study(conditions=EM, seeds=(1, 2, 3), run_sd=0.08, draw=draw)
        common = common_bystanders(scores, EM, "confab")
        found = h2_rows(
            scores, EM, common, negatives=(), unseen=None,
            permutations=200, bootstrap=20, seed=0, training_seed=None,
        )  # fmt: skip
        by_questions += (find(found, "H2", "recommended", name="common_set").p or 1) < 0.05
        between = find(found, "H2", "recommended", name="between_runs")
        by_runs += (between.p or 1) < 0.05
        assert between.n == 12
    assert by_questions > runs / 2 and by_runs <= 6


def test_runs_and_questions_are_both_samples() -> None:
    rng, covered, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        values = 0.03 * rng.normal(size=(3, 1)) + 0.03 * rng.normal(size=(1, 28))
        values = 0.1 + values + 0.1 * rng.normal(size=(3, 28))
        low, high = clustered(values).interval or (1, 0)
        covered += low <= 0.1 <= high
    assert 0.92 <= covered / runs <= 0.985
    one = clustered(values[:1])
    assert one.df == 27 and one.value == pytest.approx(values[0].mean())


def test_h1_of_several_runs_holds_their_variation() -> None:
    # The villain leaks more in one run and less in another: no induction effect.
    scores = study(seeds=(1, 2, 3), question_sd=0.0)
    for seed, extra in ((1, 60), (2, -60), (3, 0)):
        part = scores["e4-villain", seed]["per_persona"]["villain"]
        for counts in part["per_question"].values():
            counts["hits"] = int(np.clip(counts["hits"] + extra // 28, 0, 10))
        part["hits"] = sum(counts["hits"] for counts in part["per_question"].values())
    common = common_bystanders(scores, EM, "confab")
    rows = h1_rows(scores, EM[-1], EM, common, source="confab", seed=None)
    main = find(rows, "H1", "recommended", name="induction_minus_others")
    own = find(rows, "H1", "recommended", name="own_minus_other_conditions")
    for row in (main, own):
        low, high = row.ci95 or (0, 0)
        assert low < -0.2 and high > 0.2
    assert own.note is None and own.family == "behavioral", "the test of H1"
    assert main.family == "behavioral_secondary"
    assert "Of 4 personas that no condition was trained under" in (main.note or "")
    uneven = {key: entry for key, entry in scores.items() if key != ("e4-villain", 3)}
    rows = h1_rows(uneven, EM[-1], EM, common, source="confab", seed=None)
    own = find(rows, "H1", "recommended", name="own_minus_other_conditions")
    # Two runs of its own against three of the others: all of them count.
    assert own.run_variation and own.p is not None and own.p > 0.2


@pytest.mark.slow
def test_runs_lead_h2_and_seeds_are_blocks_of_h3() -> None:
    found = analyse(study(seeds=(1, 2, 3), run_sd=0.02))
    h2 = [row for row in found if row.metric == "H2" and row.variant == "recommended"]
    assert h2[0].name == "between_runs" and h2[0].family == "behavioral"
    assert [row.name for row in h2 if row.family == "behavioral"] == ["between_runs"]
    assert h2[0].p_floor is None and h2[0].effect is not None and h2[0].run_variation
    within = find(found, "H3", "recommended", name="within_seeds")
    assert within.n == 3 and within.p is not None
    one = analyse(study(seeds=(1,), conditions=ALL))
    assert not [row for row in one if row.name in ("within_seeds", "between_runs")]
