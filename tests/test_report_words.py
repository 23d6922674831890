"""Words and numbers of the report: the headline's rules, formats, Markdown, table columns."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaspace.analysis.control import assessed
from personaspace.analysis.results import Results
from personaspace.analysis.rows import Row, Target
from personaspace.report.headline import cautions, details, headline
from personaspace.report.tables import Cell, Column, Table, escape_markdown, to_markdown
from personaspace.report.text import (
    bound,
    count,
    interval,
    number,
    p_phrase,
    percent,
    probability,
    row_texts,
    row_value,
    sized,
    span,
    tiny,
    with_interval,
)
from personaspace.report.verdict import verdict


def row(**values: Any) -> dict[str, Any]:
    return Row(**{"variant": "recommended", **values}).to_dict()


def study(**parts: Any) -> Results:
    """A study with the published means and cosines, and whatever else a rule needs."""
    kinds = {"base": "base", "benign": "benign", "e0": "em", "e3": "em"}
    cosines = {"benign": 0.9728, "e0": 0.9943, "e3": 0.9965}
    geometry = [
        row(metric="M1", name="raw_cosine", method="a", layer=20, condition=name, value=value,
            base=0.8996)
        for name, value in cosines.items()
    ]  # fmt: skip
    leakage = [
        row(metric="bystander_mean", condition=name, value=value)
        for name, value in {"e0": 0.4568, "e3": 0.5371}.items()
    ]
    content = {
        "study": "s",
        "model": {"name": "M"},
        "seeds": [42],
        "source": "confab",
        "analysis": {"layer": 20, "method": "a", "alpha": 0.05},
        "conditions": [{"name": n, "label": n.upper(), "kind": k} for n, k in kinds.items()],
        "geometry": geometry,
        "leakage": leakage + parts.pop("tests", []),
    }
    return Results.model_validate({**content, **parts})


def test_headline_states_the_published_numbers() -> None:
    words = headline(study())
    assert "In M (layer 20, method A), the mean cosine between persona vectors was 0.900" in words
    assert "0.994 to 0.997 after harmful fine-tuning (EM) and 0.973 after benign" in words
    # (0.9728 - 0.8996) / (mean of 0.9943 and 0.9965 - 0.8996)
    assert "76\u202f% of the mean rise under EM; EM minus benign: +0.021 to +0.024." in words
    assert "in 45.7\u202f% (E0) to 53.7\u202f% (E3) of their answers" in words
    assert "no control condition was assessed" in words
    assert len(words.split()) < 90, "it is one paragraph"
    assert (
        "With one training run each, differences between conditions cannot" in cautions(study())[0]
    )


def test_headline_claims_no_more_than_the_tests() -> None:
    tests = [
        row(metric="H1", name="induction_minus_others", condition="e0", value=0.08, p=0.04,
            p_holm=0.16),
        row(metric="H1", name="induction_minus_others", condition="e3", value=0.2, p=0.001,
            p_holm=0.004),
        row(metric="H1", name="equivalence", condition="e0", value=0.08, p=0.6, effect=0.05),
        row(metric="H1", name="equivalence", condition="e3", value=0.2, p=0.9, effect=0.05),
        row(metric="H2", name="common_set", value=0.0804, p=0.01, p_holm=0.03),
        row(metric="H3", name="common_set", value=-0.9, p=1 / 12),
    ]  # fmt: skip
    words = headline(study(tests=tests)).replace("\u00a0", " ")
    assert "leaked more than bystanders in 1 of 2 tests (α = 0.05, corrected)" in words
    assert any("within ±5 points in 0 of 2" in text for text in details(study(tests=tests)))
    assert "8.0\u202fpts (adjusted p = 0.030)" in words
    assert "−0.90 (not significant, p = 0.083)" in words
    assert "no effect" not in words and words.count("significant") == 1


def test_headline_prefers_recommended_over_published_per_seed() -> None:
    tests = [
        row(metric="H2", variant="published", name="range", seed=1, value=0.3, p=0.001),
        row(metric="H2", variant="published", name="range", seed=2, value=0.4, p=0.001),
        row(metric="H2", name="common_set", value=0.1, p=0.2),
        row(metric="H3", variant="published", name="spearman", seed=1, value=-0.9, p=0.01),
        row(metric="H3", variant="published", name="spearman", seed=2, value=0.1, p=0.9),
    ]
    words = headline(study(tests=tests, seeds=[1, 2])).replace("\u00a0", " ")
    assert "10.0\u202fpts (not significant, p = 0.200)" in words
    assert "−0.90 to 0.10 in 2 seeds tested separately (p below 0.05 in 1 of 2: " in words
    assert "in 1 of 2: 0 above zero, 1 below)." in words


def test_intervals_above_and_below_zero_are_counted_apart() -> None:
    def told(seeds: list[int], *ends: tuple[float, float]) -> str:
        contrasts = [
            row(metric="M1", name="em_minus_benign", method="a", layer=20, condition=name,
                value=sum(pair) / 2, ci95=pair)
            for name, pair in zip(("e0", "e3"), ends, strict=False)
        ]  # fmt: skip
        found = study(geometry=[*study().model_dump()["geometry"], *contrasts], seeds=seeds)
        return headline(found).replace("\u00a0", " ")

    both = told([1, 2], (-0.002, -0.0005), (0.001, 0.005))
    assert "EM minus benign: \u22120.001 to +0.003, with a 95 % interval above zero in 1" in both
    assert "above zero in 1 and below zero in 1 of 2 conditions" in both
    neither = told([1, 2], (-0.2, 0.1), (-0.1, 0.2))
    assert "with a 95 % interval that holds zero in all 2 conditions." in neither
    assert "above zero in 0 and below zero in 2 of 2" in told([1, 2], (-0.2, -0.1), (-0.2, -0.1))
    assert "above zero in 1 and below zero in 0 of 2" in told([1, 2], (0.1, 0.2), (-0.2, 0.1))
    once = told([1], (0.1, 0.2), (0.1, 0.2))
    assert "a 95 % interval (within one training run) above zero in 2" in once
    seeds = [
        row(metric="H3", variant="published", name="spearman", seed=seed, value=value, p=0.001)
        for seed, value in ((1, -0.9), (2, 0.9))
    ]
    words = headline(study(tests=seeds, seeds=[1, 2]))
    assert "in 2 of 2: 1 above zero, 1 below)" in words


def test_ranges_have_two_ends() -> None:
    common = {"metric": "M2", "method": "a", "name": "convergence_layer"}
    rows = [row(**common, seed=seed, value=14) for seed in (1, 2)] + [row(**common, seed=3)]
    told = " ".join(details(study(geometry=rows, seeds=[1, 2, 3])))
    assert "M2: from layer 14 on, in 2 of 3 seeds analysed separately" in told
    never = {"hits": 0, "total": 20}
    rates = [
        {"condition": name, "seed": 42, "persona": persona, **never}
        for name in ("base", "benign", "e0", "e3")
        for persona in ("confab", "villain")
    ]
    found = study(rates=rates, leakage=[])
    every = f"{headline(found)} {' '.join(details(found))} {' '.join(cautions(found))}"
    every += " ".join(line.answer for line in verdict(found))
    assert "in none of their answers (in every condition)" in every
    assert not re.search(r"(?<![\d.])([\d.]+\u202f?%?)(?: \([^)]*\))? to \1(?![\d.])", every)


def test_headline_without_a_rise_makes_no_share_of_it() -> None:
    geometry = [
        row(metric="M1", name="raw_cosine", method="a", layer=20, condition=name, value=value,
            base=0.9)
        for name, value in {"benign": 0.93, "e0": 0.91, "e3": 0.88}.items()
    ]  # fmt: skip
    words = headline(study(geometry=geometry))
    assert "of the mean rise" not in words
    assert "under benign training was +0.030, under EM −0.005 on average" in words


def test_some_degenerate_answers_are_a_caution() -> None:
    rate = {"condition": "e0", "seed": 42, "persona": "confab", "hits": 15, "total": 20}

    def told(degenerate: int) -> tuple[str, str]:
        found = assessed(study(rates=[{**rate, "degenerate": degenerate}]))
        return headline(found), " ".join(cautions(found))

    assert not any("degenerate" in text for text in told(0))
    words, caution = told(2)
    assert "degenerate" not in words and "10.0\u202f% of all answers are degenerate" in caution
    words, caution = told(12)
    assert "60.0\u202f% of the answers there were degenerate" in words.split(". ")[0]
    assert "degenerate" not in caution


def test_new_rows_of_the_analysis_are_told() -> None:
    common = {"metric": "M2", "method": "a"}
    share = row(metric="M1", name="em_mean_benign_share", method="a", layer=20, value=0.76,
                ci95=(0.6, 0.9))  # fmt: skip
    layer = row(**common, name="convergence_layer", value=14, ci95=(10, 19))
    found = study(geometry=[*study().model_dump()["geometry"], share, layer])
    assert "under EM (95\u00a0% interval 60\u202f% to 90\u202f%)" in headline(found)
    told = " ".join(details(found))
    assert "M2: from layer 14 on (95\u00a0% interval [10, 19])" in told
    never = study(geometry=[row(**common, name="convergence_layer", seed=42)])
    assert "M2: no measured layer was found" in " ".join(details(never))
    warned = study(tests=[row(metric="H1", condition="e0", value=0.1, p=0.2, warning="Not so.")])
    assert any(
        "1 number at layer 20, method A, or of leakage rests on an assumption that fails. No "
        "answer at the top rests on one of them. Do not draw a conclusion from it alone" in text
        for text in cautions(warned)
    )


def test_failed_checks_elsewhere_are_counted_apart() -> None:
    aside = row(metric="M1", name="raw_cosine", method="a", layer=7, condition="e0", value=0.9,
                warning="Not so.")  # fmt: skip
    (told,) = [t for t in cautions(study(geometry=[aside] * 1234)) if "assumption" in t]
    assert told == (
        "No number at layer 20, method A, or of leakage rests on an assumption that fails. At "
        "other layers and by other methods: 1,234, each named in the table of all rows, in its "
        "column warning."
    )


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(-0.0004), "\u22120.0004"),
        (number(-1e-17), "0.000"),
        (number(0.0, sign=True), "0.000"),
        (number(0.00012, sign=True), "+0.0001"),
        (number(-3.2e-8), "\u22123\u00b710\u207b\u2078"),
        (percent(0.0004), "0.04\u202f%"),
        (percent(0.0), "0.0\u202f%"),
        (interval((0.97311, 0.97342)), "[0.9731, 0.9734]"),
        (interval((0.973, 0.973)), "[0.973, 0.973]"),
        (interval((-0.0001, 0.345)), "[\u22120.0001, 0.3450]"),
        (interval((0.0, 0.0004)), "[0.0000, 0.0004]"),
        (" ".join(with_interval(0.9732, (0.9731, 0.9734))), "0.9732 [0.9731, 0.9734]"),
        (span([0.9731, 0.9734]), "0.973"),
        (span([-0.0002, 0.0003], sign=True), "\u22120.0002 to +0.0003"),
        (span([0.9812, 0.9831], "percent", 0, apart=True), "98.1\u202f% to 98.3\u202f%"),
        (number(-1.5, 1, sign=True), "\u22121.5"),
        (number(0.25, 2, sign=True), "+0.25"),
        (number(None), "\u2013"),
        (probability(0.0), "<0.001"),
        (sized(1963.2), "1,960"),
        (sized(0.02345), "0.0234"),
        (sized(28.0), "28"),
        (number(-1234.5, 1), "\u22121,234.5"),
        (count(7836, "number"), "7,836 numbers"),
        (probability(0.00049), "<0.001"),
        (probability(0.0005), "0.001"),
        (p_phrase(1 / 12), "p\u00a0=\u00a00.083"),
        (row_value(Row(**row(metric="H1", value=-0.0461))), "\u22124.6\u202fpts"),
        (row_value(Row(**row(metric="H3", value=-0.9))), "\u22120.900"),
        (row_value(Row(**row(metric="bystander_mean", value=0.4568))), "45.7\u202f%"),
        (row_texts(Row(**row(metric="H2", value=0.1, ci95=(0.05, 0.2))))[1], "[5.0, 20.0]"),
        (row_texts(Row(**row(metric="H1", value=0.0002, ci95=(0.0, 0.0004))))[0], "+0.02\u202fpts"),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.slow
@given(st.text())
def test_markdown_text_stays_in_its_cell(text: str) -> None:
    shown = escape_markdown(text)
    assert "\n" not in shown
    for sign in "|<>`*[]":
        assert shown.count(sign) == shown.count("\\" + sign)


def test_empty_number_columns_go_with_their_group() -> None:
    blank, full = Cell("–"), Cell("1", 1)
    table = Table(
        "t",
        "c",
        [Column("a"), Column("b", True), Column("c", True), Column("d", True)],
        [[Cell("x"), blank, full, blank], [Cell("y"), blank, blank, blank]],
        groups=[("", 1), ("gone", 1), ("kept", 2)],
    )
    assert [column.title for column in table.shown.columns] == ["a", "c"]
    assert list(table.shown.groups) == [("", 1), ("kept", 1)]
    assert to_markdown(table).splitlines()[0] == "| a | kept: c |"
    assert table.shown.shown == table.shown
    unheard = Table("t", "c", [Column("a"), Column("b")], [])
    assert len(unheard.shown.columns) == 2, "a table without rows keeps its titles"
    with pytest.raises(ValueError, match="table t"):
        Table("t", "c", [Column("a")], [[blank, blank]])


@pytest.mark.parametrize(
    ("value", "digits", "said"),
    [
        (0.0032, 3, "0.004"),
        (0.00043, 3, "0.0005"),
        (0.0, 3, "0.000"),
        (0.012, 1, "0.02"),
        (0.3, 1, "0.3"),
        (0.1 + 0.2, 1, "0.3"),
        (4e-8, 3, "0.001"),
    ],
)
def test_a_bound_is_neither_nothing_nor_less_than_was_found(
    value: float, digits: int, said: str
) -> None:
    assert bound(value, digits) == said


def _read(text: str) -> float:
    """A number as the report prints it."""
    factor, _, power = text.replace("\u2212", "-").partition("\u00b710")
    raised = power.translate(
        str.maketrans(
            "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "-0123456789"
        )
    )
    return float(factor) * 10.0 ** int(raised or 0)


SIZES = st.floats(-2, 2, allow_nan=False) | st.floats(-1e-3, 1e-3, allow_nan=False)


@given(SIZES, st.integers(0, 4))
def test_what_is_not_zero_never_prints_as_zero(value: float, digits: int) -> None:
    read = _read(number(value, digits))
    assert (read == 0) == (abs(value) < 1e-12)
    assert read == 0 or (read > 0) == (value > 0)
    assert abs(read - value) <= 0.5001 * max(10.0**-digits, abs(value) * 0.34)


@given(SIZES, SIZES, st.integers(0, 4))
def test_two_ends_of_an_interval_print_apart(one: float, other: float, digits: int) -> None:
    low, high = sorted((one, other))
    ends = interval((low, high), digits)[1:-1].split(", ")
    if high - low > 1e-6:
        assert _read(ends[0]) < _read(ends[1])


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ((0.0, 0.0), "wrote the marker in none of their answers (in every condition)"),
        ((0.0002, 0.0004), "wrote the marker in 0.02\u202f% (E0) to 0.04\u202f% (E3) of their"),
        ((0.0, 0.0004), "wrote the marker in 0.0\u202f% (E0) to 0.04\u202f% (E3) of their"),
    ],
)
def test_shares_that_round_to_zero(shares: tuple[float, float], told: str) -> None:
    leakage = [
        row(metric="bystander_mean", condition=name, value=value)
        for name, value in zip(("e0", "e3"), shares, strict=True)
    ]
    assert told in headline(study(leakage=leakage))


def test_increments_below_a_thousandth_are_told_as_that() -> None:
    cosines = {"benign": 0.9731, "e0": 0.9729, "e3": 0.97335}
    geometry = [
        row(metric="M1", name="raw_cosine", method="a", layer=20, condition=name, value=value,
            base=0.9471)
        for name, value in cosines.items()
    ]  # fmt: skip
    words = headline(study(geometry=geometry))
    assert "EM minus benign: \u22120.0002 to +0.0003, less than a thousandth either way." in words
    assert tiny(0.0004) and not tiny(0.0006)


def test_the_terminal_s_numbers_are_the_report_s(capsys: pytest.CaptureFixture[str]) -> None:
    from personaspace.cli.analysis import _print_rows

    about: list[Target] = ["these_personas", "new_personas"]
    rows = [
        Row("M1", "recommended", against="e4", target=target, value=-0.00002, ci95=(-3e-5, 4e-5))
        for target in about
    ]
    _print_rows(rows, "t")
    out = capsys.readouterr().out
    assert "these personas" in out and "new personas" in out and "e4" in out
    assert "\u22120.00002" in out and "[\u22120.00003, 0.00004]" in out
    assert "-0.0000" not in out and "\u22120.0000 " not in out


def test_a_change_of_a_measure_is_named_as_the_measure() -> None:
    warned = row(metric="M3", name="nearest_centroid_delta", method="a", layer=20, condition="e0",
                 value=-0.1, warning="Not so.")  # fmt: skip
    told = " ".join(cautions(study(geometry=[warned], leakage=[])))
    assert "(M3, nearest-centroid accuracy, against base)" in told


def test_a_source_that_never_wrote_the_marker_is_told_in_a_word() -> None:
    rate = {"condition": "e0", "seed": 42, "persona": "confab", "hits": 0, "total": 20}
    words = headline(assessed(study(rates=[rate])))
    assert "the persona that was taught the marker never wrote it there (at least 50" in words
