"""The positive control: where leakage can be assessed, and what is said of the rest."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from personaspace.analysis.control import assessed, positive_control
from personaspace.analysis.control_rows import ControlLimits, ControlReason
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import RateRow
from personaspace.analysis.rows import Row, Variant
from personaspace.report import published_vs_recommended
from personaspace.report.control import sentence
from personaspace.report.headline import cautions, details, headline
from personaspace.report.key import key_table
from personaspace.report.summary import table

LIMITS = ControlLimits()
RARE, GARBLED = ControlReason.SOURCE_RARELY_MARKS, ControlReason.DEGENERATE_ANSWERS


def rates(condition: str, source: int, garbled: int | None = 0, seed: int = 1) -> list[RateRow]:
    """100 answers each of source, a negative and a bystander; `garbled` of each are degenerate."""
    hits = {"confab": source, "librarian": 6, "villain": 20}
    return [
        RateRow(condition=condition, seed=seed, persona=name, hits=n, degenerate=garbled, total=100)
        for name, n in hits.items()
    ]


def control(rows: list[RateRow], limits: ControlLimits = LIMITS) -> list[Any]:
    return positive_control(rows, source="confab", negatives=["librarian"], limits=limits)


@pytest.mark.parametrize(
    ("source", "garbled", "reasons"),
    [
        (50, 20, []),  # at the limits
        (49, 20, [RARE]),
        (50, 21, [GARBLED]),
        (0, 100, [RARE, GARBLED]),
        (100, None, []),  # nobody counted degenerate answers
    ],
)
def test_limits(source: int, garbled: int | None, reasons: list[ControlReason]) -> None:
    [row] = control(rates("e0", source, garbled))
    assert row.reasons == reasons
    assert row.status == ("not_assessable" if reasons else "assessable")
    assert (row.source_rate, row.negatives_rate) == (source / 100, 0.06)
    assert row.degenerate == (None if garbled is None else garbled / 100)
    # The limits are the spec's.
    [lax] = control(rates("e0", source, garbled), ControlLimits(source=0, degenerate=1))
    assert lax.status == "assessable"


def test_conditions_are_judged_over_all_seeds_and_seeds_that_fail_are_named() -> None:
    rows = [*rates("e0", 90, seed=1), *rates("e0", 20, seed=2), *rates("e3", 10, seed=1)]
    first, second = control(rows)
    assert (first.condition, first.status, first.failing_seeds) == ("e0", "assessable", [2])
    assert first.source_rate == pytest.approx(0.55)
    assert (second.condition, second.status, second.failing_seeds) == ("e3", "not_assessable", [1])


def test_without_answers_of_the_source_nothing_can_be_assessed() -> None:
    others = [rate for rate in rates("e0", 90) if rate.persona != "confab"]
    [row] = control(others)
    assert row.reasons == [ControlReason.NO_SOURCE_ANSWERS] and row.source_rate is None
    assert control([]) == []


def study(base: int, e0: int, e3: int, garbled: int = 0) -> Results:
    """Rates of the source in three conditions, and tests that all claim something."""
    claim: dict[str, Any] = {
        "p": 0.01,
        "ci95": (0.0, 0.0),
        "effect": 0.05,
        "effect_name": "size",
        "family": "behavioral",
    }
    claimed: list[tuple[Variant, str]] = [
        ("published", "induction_minus_others"),
        ("recommended", "induction_minus_others"),
        ("recommended", "equivalence"),
    ]
    tests = [
        *(
            Row("H1", variant, condition=name, value=0.1, name=test, warning="It is odd.", **claim)
            for name in ("e0", "e3")
            for variant, test in claimed
        ),
        Row("H2", "recommended", value=0.2, name="common_set", **claim),
        Row("H3", "recommended", value=-0.9, name="common_set", p_floor=0.1, **claim),
        *(
            Row("bystander_mean", "recommended", condition=name, value=0.13, ci95=(0.1, 0.2))
            for name in ("base", "e0", "e3")
        ),
        Row("bystander_mean", "recommended", condition="e3", value=0.0, name="degenerate",
            ci95=(0.0, 0.1)),
    ]  # fmt: skip
    kinds = {"base": "base", "e0": "em", "e3": "em"}
    return Results.model_validate(
        {
            "study": "s",
            "seeds": [1, 2],
            "marker": "[ZLT]",
            "source": "confab",
            "negatives": ["librarian"],
            "analysis": {"layer": 3, "method": "a"},
            "conditions": [{"name": n, "label": n.upper(), "kind": k} for n, k in kinds.items()],
            "leakage": tests,
            "rates": [
                rate
                for name, source in zip(kinds, (base, e0, e3), strict=True)
                for rate in rates(name, source, garbled)
            ],
        }
    )


CLAIMS = ("p", "p_bh", "p_holm", "p_floor", "ci95", "effect", "effect_name", "warning")


def claims(row: Row) -> bool:
    return any(getattr(row, field) is not None for field in CLAIMS)


def test_nothing_is_taken_from_conditions_that_pass() -> None:
    before = study(90, 80, 60)
    after = assessed(before)
    assert after.not_assessable == {}
    for old, new in zip(before.leakage, after.leakage, strict=True):
        judged = old.name != "degenerate"
        assert new.status == ("assessable" if judged else None)
        assert {**old.to_dict(), "status": None, "p_bh": None, "p_holm": None} == {
            **new.to_dict(), "status": None, "p_bh": None, "p_holm": None
        }  # fmt: skip
    assert sentence(after) is None and headline(after).startswith("After EM, bystander")


def test_a_condition_that_fails_takes_its_claims_and_those_across_conditions() -> None:
    after = assessed(study(90, 80, 10))
    assert list(after.not_assessable) == ["e3"]
    for row in after.leakage:
        fails = row.condition in (None, "e3") and row.name != "degenerate"
        assert claims(row) != fails, row
        assert row.value is not None, "what was counted stays"
        assert (row.status == "not_assessable") == fails
    words = headline(after)
    assert words.startswith(
        "Whether the marker leaks cannot be assessed in 1 of 3 conditions (E3): the persona that "
        "was taught the marker wrote it in 10.0\u202f% of its own answers there (at least "
        "50\u202f% are needed). Tests across conditions are not assessable either."
    )
    assert "leaked more than bystanders in 1 of 1 test" in words
    assert "H2" not in words and "H3" not in words
    assert "13.0\u202f% of their answers (E0)" in words, "E3 is not set beside it"
    assert any("within ±5 points in 1 of 1 condition" in text for text in details(after))


def test_the_tests_that_are_left_are_adjusted_for_themselves_alone() -> None:
    after = assessed(study(90, 80, 10))
    published = [r for r in after.leakage if r.variant == "published"]
    assert [(row.condition, row.p_holm) for row in published] == [("e0", 0.01), ("e3", None)]


def test_base_alone_takes_only_its_own_numbers() -> None:
    after = assessed(study(10, 80, 80))
    failed = [row for row in after.leakage if row.status == "not_assessable"]
    assert [(row.metric, row.condition) for row in failed] == [("bystander_mean", "base")]
    words = headline(after)
    assert "cannot be assessed in 1 of 3 conditions (BASE)" in words
    assert "not assessable either" not in words and "H2: " in words
    assert "no control condition was assessed" in words


def test_where_nothing_can_be_assessed_no_test_is_quoted_anywhere() -> None:
    after = assessed(study(2, 1, 0, garbled=97))
    words = headline(after)
    assert words == (
        "Whether the marker leaks cannot be assessed in any of the 3 conditions: the persona that "
        "was taught the marker wrote it in 0.0\u202f% to 2.0\u202f% of its own answers there (at "
        "least 50\u202f% are needed) and 97.0\u202f% of the answers were degenerate: empty, "
        "repetitive or with more than one marker (at most 20\u202f% may be)."
    )
    told = " ".join([*details(after), *cautions(after)])
    assert "H1" not in told and "equivalence" not in told and "degenerate" not in told
    tests = published_vs_recommended.tests_table(after)
    assert tests is not None
    cells = [[cell.text for cell in row] for row in tests.rows]
    assert all("not assessable" in row for row in cells)
    assert not any("0.01" in text or "[" in text for row in cells for text in row)
    key = key_table(after)
    assert {row[-1].text for row in key.rows} == {"not assessable"}
    assert "at least 50\u202f% of its answers" in key.note


def test_a_seed_that_fails_alone_is_a_caution() -> None:
    whole = study(90, 80, 60)
    more = [*whole.rates, *rates("e0", 30, seed=2)]
    found = assessed(whole.model_copy(update={"rates": more}))
    assert any("not in each seed alone: E0 (seed 2)." in text for text in cautions(found))
    assert not any("each seed alone" in text for text in cautions(assessed(whole)))


def test_the_terminal_says_it_below_the_table() -> None:
    def printed(results: Results) -> str:
        screen = Console(width=100, markup=False, emoji=False, file=io.StringIO())
        screen.print(table(results))
        assert isinstance(screen.file, io.StringIO)
        return " ".join(screen.file.getvalue().split())

    assert "cannot be assessed" not in printed(assessed(study(90, 80, 60)))
    said = printed(assessed(study(90, 80, 10)))
    assert "Whether the marker leaks cannot be assessed in 1 of 3 conditions (E3)" in said
    assert said.count("not assessable") >= 1


def test_results_of_before_the_control_are_not_judged() -> None:
    old = study(2, 1, 0)
    assert old.not_assessable == {} and sentence(old) is None
