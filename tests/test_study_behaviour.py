"""Tables of docs/study about answers: what they say is in the file, and their arithmetic."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.study_behaviour import (
    APART,
    STUDY,
    agreement,
    behaviour,
    bystanders,
    precision,
    with_tables,
)

pytestmark = pytest.mark.slow

PERSONAS = [*sorted(APART), "comedian", "librarian"]


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    return pd.read_parquet(STUDY / "by-question.parquet")


@pytest.fixture
def made() -> pd.DataFrame:
    """Four conditions, 13 questions; log-odds follow the marker's share exactly."""
    rng = np.random.default_rng(1)
    rows = [
        {
            **{"study": "made", "condition": condition, "seed": seed, "persona": persona},
            **{"question": f"q{number}", "answers": 10, "words": 100},
            "marked": int(rng.integers(0, 4)) + (6 if persona == "confab" else 0),
        }
        for condition in ("base", "benign", "e0-assistant", "e4-villain")
        for seed in (1, 2)
        for persona in PERSONAS
        for number in range(13)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(
        degenerate=0, cut=0, own=3 * frame["marked"] - 2.0, common=-1.0 * frame["marked"]
    )


def test_the_page_has_the_tables_of_the_file(measured: pd.DataFrame) -> None:
    page = (STUDY / "README.md").read_text(encoding="utf-8")
    assert with_tables(page, measured) == page


def test_the_file_agrees_with_the_results(measured: pd.DataFrame) -> None:
    results = json.loads((STUDY / "results.json").read_text(encoding="utf-8"))
    mine = measured[measured["study"] == results["study"]]
    counted = mine.groupby(["condition", "seed", "persona"])[["marked", "answers", "degenerate"]]
    sums = counted.sum()
    for rate in results["rates"]:
        of = tuple(rate[name] for name in ("condition", "seed", "persona"))
        assert tuple(sums.loc[of]) == (rate["hits"], rate["total"], rate["degenerate"])
    assert len(sums) == len(results["rates"]) > 270
    words = mine.groupby(["condition", "seed", "persona"])["words"].sum()
    for form in results["forms"]:  # there without the marker
        of = tuple(form[name] for name in ("condition", "seed", "persona"))
        assert words.loc[of] / 280 == pytest.approx(form["words_mean"], abs=2.5)


def test_precision_is_that_of_a_paired_t_test(made: pd.DataFrame) -> None:
    assert bystanders(made) == ["comedian", "librarian"]
    others = made[made["persona"].isin(["comedian", "librarian"])]
    means = others.groupby(["condition", "question"])["marked"].mean() / 10
    widths, smallest = [], []
    for condition in ("e0-assistant", "e4-villain"):
        change = (means[condition] - means["benign"]).to_numpy()
        interval = stats.ttest_1samp(change, 0).confidence_interval()
        widths.append(interval.high - interval.low)
        error, df = stats.sem(change), len(change) - 1
        bound = stats.t.ppf(0.975, df)
        sizes = np.linspace(0, 20 * error, 20_001)
        power = stats.nct.sf(bound, df, sizes / error) + stats.nct.cdf(-bound, df, sizes / error)
        smallest.append(sizes[np.searchsorted(np.nan_to_num(power, nan=1.0), 0.8)])
    source = made[made["persona"] == "confab"]
    found = precision(made, "rate")
    assert found.width == pytest.approx(np.mean(widths))
    assert found.detectable == pytest.approx(np.mean(smallest), rel=2e-3)
    assert found.gap == pytest.approx(source["marked"].mean() / 10 - others["marked"].mean() / 10)
    assert found.questions == 13
    # The same in other units: nothing relative changes.
    scaled = precision(made, "own")
    assert scaled.width == pytest.approx(30 * found.width)
    assert scaled.relative == pytest.approx(found.relative)
    # One answer of the ten is noisier by its own draw.
    assert precision(made, "once").width > 1.3 * found.width


def test_agreement_is_of_ranks(made: pd.DataFrame) -> None:
    assert agreement(made, "own") == pytest.approx((1, 1), abs=0.01)
    assert agreement(made, "common") == pytest.approx((-1, -1), abs=0.01)


def test_shares_are_of_answers(made: pd.DataFrame) -> None:
    made.loc[made["persona"] == "confab", "marked"] = 9
    made.loc[made["seed"] == 2, "degenerate"] = 1
    line = next(row for row in behaviour(made, "made") if row.startswith("| E4"))
    assert line.startswith("| E4 villain | 90.0% / 90.0% |")
    assert line.endswith("| 0.0% / 10.0% | 0.0% / 0.0% | 10 / 10 |")
