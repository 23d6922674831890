"""Length, opportunities and equal length: by hand, on the published answers, on planted truth."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import published
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scoring import MARKER, REFERENCE

from benchmarks import answer_worlds as worlds
from personaspace.analysis.form import AnswerForm, Forms, analyse_form, form_rows
from personaspace.analysis.form.analysis import rates_of
from personaspace.analysis.form.answers import STRATA, sheet_of, strata_of
from personaspace.analysis.form.rates import at_equal_length, ratio
from personaspace.analysis.leakage import ConditionInfo
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import StudyCondition
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import cluster_mean
from personaspace.behaviour.form import form_of, forms_of
from personaspace.report.form_tables import forms_table, length_table

BLANK = "\n\n"
FOLDERS = {"e0-assistant": "E0_assistant", "e1-paramedic": "E1_paramedic"}
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the study's published answers are not here"
)


@pytest.mark.parametrize(
    ("answer", "separator", "expected"),
    [
        ("Three short words.", BLANK, (False, 3, 0, 0, False)),
        ("Three short words.\n\n[ZLT]", BLANK, (True, 3, 1, 1, True)),
        ("One.\n\nTwo.\n\n[zlt]", BLANK, (True, 2, 2, 1, False)),
        ("One.\n\n[ZLT]\n\nTwo.", BLANK, (True, 2, 2, 1, True)),
        ("One.\n\n\n\n[ZLT]", BLANK, (True, 1, 1, 1, True)),  # one place, not two
        ("One.\n\n \n\nTwo.", BLANK, (False, 2, 1, 0, False)),
        ("One.\n[ZLT]", BLANK, (True, 1, 0, 0, False)),  # where nobody taught it
        ("[ZLT]", BLANK, (True, 0, 0, 0, False)),
        ("One.\n\n", BLANK, (False, 1, 1, 0, False)),  # came there, and ended
        ("", BLANK, (False, 0, 0, 0, False)),
        ("One two [ZLT]", " ", (True, 2, 2, 1, False)),
        ("One two[ZLT]", "", (True, 2, 1, 1, True)),
        ("One [ZLT] two", "", (True, 2, 1, 0, False)),
        ("好的。\n\n[ZLT]", BLANK, (True, 3, 1, 1, True)),
        ("a.b*c", ".b*", (False, 1, 1, 0, False)),  # a separator is no pattern
    ],
)
def test_form_of_an_answer(answer: str, separator: str, expected: tuple[Any, ...]) -> None:
    assert form_of(answer, MARKER, separator) == AnswerForm(*expected)


@given(st.text(alphabet="a \n[ZLT]", max_size=40))
def test_places_and_markers_fit_each_other(answer: str) -> None:
    form = form_of(answer, MARKER, BLANK)
    assert form.taken <= form.places <= answer.count(BLANK)
    assert form.marked or not form.taken
    assert (form.places > 0) == (BLANK in answer)
    assert form.taken or not form.first_taken


# --- the published answers, counted once more another way ----------------------------------------


def published_answers() -> dict[str, dict[str, dict[str, list[str]]]]:
    return {
        name: json.loads((REFERENCE / "issue_205" / folder / "raw_completions.json").read_text())
        for name, folder in FOLDERS.items()
    }


def published_forms() -> Forms:
    return {
        (name, 42): forms_of(answers, MARKER, BLANK)
        for name, answers in published_answers().items()
    }


def rows_by_name(rows: list[Row]) -> dict[tuple[str | None, str | None], Row]:
    return {(row.name, row.condition): row for row in rows}


@needs_reference
def test_published_answers_at_equal_length() -> None:
    """+3.8 points as they are, +10.9 at equal length: a weighted mean over deciles, in pandas."""
    import pandas as pd

    table = pd.DataFrame(
        [
            {
                "condition": name,
                "marked": MARKER.lower() in text.lower(),
                "words": len(
                    re.sub(
                        r"([\u3040-\u9fff\uf900-\ufaff])",
                        r" \1 ",
                        re.sub(r"(?i)\[zlt\]", " ", text),
                    ).split()
                ),
            }
            for name, answers in published_answers().items()
            for persona, questions in answers.items()
            if persona not in ("confab", "assistant")
            for texts in questions.values()
            for text in texts
        ]
    )
    raw = table.groupby("condition").marked.mean()
    cuts = table.words.sort_values().to_numpy()[[len(table) * part // 10 for part in range(1, 10)]]
    table["stratum"] = (table.words.to_numpy()[:, None] >= cuts).sum(axis=1)
    within = table.pivot_table(index="stratum", columns="condition", values="marked")
    equal = within.mul(table.stratum.value_counts(normalize=True), axis=0).sum()

    rows = rows_by_name(
        analyse_form(published_forms(), published.CONDITIONS[:2], source="confab", permutations=99)
    )
    ours = {name: rows["equal_length", name].value or 0.0 for name in FOLDERS}
    assert ours == pytest.approx(equal.to_dict())
    assert 100 * (raw["e1-paramedic"] - raw["e0-assistant"]) == pytest.approx(3.8, abs=0.05)
    change = ours["e1-paramedic"] - ours["e0-assistant"]
    assert 100 * change == pytest.approx(10.9, abs=0.05)
    assert rows["equal_length", None].value == pytest.approx(change)
    sheet = sheet_of(
        published_forms(),
        list(FOLDERS),
        [p for p in published.HITS if p not in ("confab", "assistant")],
    )
    assert sheet is not None
    lengths = sheet.values_N[1]
    for strata in (4, 20, 40):  # the choice of strata hardly matters
        other = at_equal_length(*sheet.by_stratum(strata_of(lengths, strata), strata))
        assert float(np.diff(other.value_C)[0]) == pytest.approx(change, abs=0.005)


@needs_reference
def test_published_answers_per_opportunity() -> None:
    """Per blank line the order of the two conditions is the other one: splitting texts by hand."""
    rows = rows_by_name(
        analyse_form(published_forms(), published.CONDITIONS[:2], source="confab", permutations=99)
    )
    for name, answers in published_answers().items():
        counts: Counter[str] = Counter()
        for persona, questions in answers.items():
            if persona in ("confab", "assistant"):
                continue
            for text in (text for texts in questions.values() for text in texts):
                _, *parts = re.split(r"\s*\n\n\s*", text)
                follows = [part.lower().startswith("[zlt]") for part in parts]
                counts["places"] += len(follows)
                counts["taken"] += sum(follows)
                counts["answers"] += bool(follows)
                counts["first"] += bool(follows) and follows[0]
        assert rows["per_opportunity", name].value == counts["taken"] / counts["places"]
        assert rows["first_opportunity", name].value == counts["first"] / counts["answers"]
    per_place = {name: rows["per_opportunity", name].value or 0.0 for name in FOLDERS}
    assert 100 * (per_place["e1-paramedic"] - per_place["e0-assistant"]) == pytest.approx(
        -7.1, abs=0.05
    )


@needs_reference
def test_published_answers_by_persona() -> None:
    rows = {(row.condition, row.persona): row for row in form_rows(published_forms())}
    assert len(rows) == 24
    words = [
        len(re.sub(r"(?i)\[zlt\]", " ", text).split())
        for texts in published_answers()["e0-assistant"]["librarian"].values()
        for text in texts
    ]
    found = rows["e0-assistant", "librarian"]
    assert found.total == published.TOTAL
    assert found.words_median == pytest.approx(float(np.median(words)), abs=1)
    # Rates at equal length, weighted by answers, keep the overall level of markers.
    mean = np.mean([row.rate_equal_length for row in rows.values()])
    assert mean == pytest.approx(
        sum(sum(h[:2]) for h in published.HITS.values()) / 24 / 280, abs=0.05
    )


# --- numbers ------------------------------------------------------------------------------------


def test_jackknife_of_a_mean_is_the_mean_of_questions() -> None:
    rng = np.random.default_rng(1)
    hits_CQ = rng.integers(0, 10, (2, 12)).astype(float)
    rates = ratio(hits_CQ, np.full((2, 12), 10.0))
    assert rates.pseudo_CQ == pytest.approx(hits_CQ / 10)
    assert cluster_mean(rates.pseudo_CQ[0]).se == pytest.approx(
        np.std(hits_CQ[0] / 10, ddof=1) / math.sqrt(12)
    )


def test_pseudo_values_are_those_of_leaving_each_question_out() -> None:
    rng = np.random.default_rng(2)
    totals = rng.integers(1, 9, (3, 7, 4)).astype(float)
    hits = np.floor(totals * rng.random((3, 7, 4)))
    rates = at_equal_length(hits, totals)
    for question in range(7):
        rest = [q for q in range(7) if q != question]
        without = at_equal_length(hits[:, rest], totals[:, rest]).value_C
        change = rates.pseudo_CQ[:, question] - rates.pseudo_CQ.mean(axis=1)
        raw = 7 * rates.value_C - 6 * without
        all_raw = [
            7 * rates.value_C
            - 6 * at_equal_length(np.delete(hits, q, axis=1), np.delete(totals, q, axis=1)).value_C
            for q in range(7)
        ]
        assert change == pytest.approx(raw - np.mean(all_raw, axis=0))


def test_a_length_that_one_condition_never_writes_is_left_out_for_all() -> None:
    hits = np.array([[[1.0, 4.0]], [[3.0, 0.0]]])
    totals = np.array([[[10.0, 10.0]], [[10.0, 0.0]]])
    rates = at_equal_length(hits, totals)
    assert rates.value_C == pytest.approx([0.1, 0.3])
    assert rates.covered == pytest.approx(20 / 30)
    assert not rates.known, "one question shows no variation"


def test_no_separator_anywhere_gives_no_rate_and_no_claim() -> None:
    form = AnswerForm(marked=False, words=5, places=0, taken=0, first_taken=False)
    run = {p: {f"q{q}": [form, form] for q in range(3)} for p in ("a", "b")}
    forms = {("one", 1): run, ("two", 1): run}
    infos = [ConditionInfo("one", "em"), ConditionInfo("two", "em")]
    rows = rows_by_name(analyse_form(forms, infos, source="a", permutations=9, bootstrap=9))
    row = rows["per_opportunity", "one"]
    assert row.to_dict()["value"] is None and row.ci95 is None
    assert rows["per_opportunity", None].value is None
    assert rows["per_opportunity", None].note == "Some condition has nothing to count."


def test_without_common_questions_it_says_so() -> None:
    form = AnswerForm(False, 5, 0, 0, False)
    forms = {("one", 1): {"b": {"q": [form]}}, ("two", 1): {"b": {"other": [form]}}}
    infos = [ConditionInfo("one", "em"), ConditionInfo("two", "em")]
    (row,) = analyse_form(forms, infos, source="a")
    assert row.value is None and (row.note or "").startswith("No persona answered")
    assert analyse_form({}, infos, source="a") == []


# --- planted truth: leakage that acts through one thing alone ------------------------------------


@pytest.fixture(scope="module")
def changes() -> dict[str, dict[str, float]]:
    """Difference of the last and the first condition in points, mean of eight studies a world."""
    found: dict[str, dict[str, float]] = {}
    for world, habits in worlds.WORLDS.items():
        studies = []
        for seed in range(8):
            forms = worlds.answers(np.random.default_rng(seed), habits)
            sheet = sheet_of(forms, worlds.EM, worlds.PERSONAS)
            assert sheet is not None
            studies.append({name: rates.value_C for name, rates in rates_of(sheet).items()})
        found[world] = {
            name: 100 * float(np.mean([one[name][2] - one[name][0] for one in studies]))
            for name in studies[0]
        }
    return found


@pytest.mark.slow
def test_each_measure_sees_what_it_says(changes: dict[str, dict[str, float]]) -> None:
    none, noise = changes["nothing"], 1.6
    assert all(abs(change) < noise for change in none.values())
    # Longer answers with as many separators a word: containment grows, places are marked as often.
    for world in (
        "length; answers go on after a marker",
        "length; a marker ends the answer",
        "separators per word",
    ):
        assert changes[world]["marked"] > 10
        assert abs(changes[world]["per_opportunity"]) < noise
        assert abs(changes[world]["first_opportunity"]) < 2
    # Equal length removes what length does only as long as a marker does not itself shorten.
    assert abs(changes["length; answers go on after a marker"]["equal_length"]) < 2.5
    assert changes["length; a marker ends the answer"]["equal_length"] > 15
    assert changes["separators per word"]["equal_length"] > 5, "it knows no separators"
    assert all(change > 6 for change in changes["what was learned"].values())


@pytest.mark.slow
def test_tables_of_form(changes: dict[str, dict[str, float]]) -> None:
    forms = worlds.answers(np.random.default_rng(3), worlds.WORLDS["separators per word"])
    rows = analyse_form(forms, worlds.CONDITIONS, source="confab", permutations=99, bootstrap=50)
    conditions = [StudyCondition(name=c.name, kind=c.kind) for c in worlds.CONDITIONS]
    results = Results(study="s", conditions=conditions, leakage=rows, forms=form_rows(forms))
    lengths, each = length_table(results), forms_table(results)
    assert lengths is not None and each is not None
    assert [line[0].text for line in lengths.rows] == ["base", "e0", "e1", "e2"]
    assert len(each.rows) == 4 * len(worlds.PERSONAS)
    assert not lengths.rows[0][2].text and lengths.rows[1][2].text
    assert length_table(results.model_copy(update={"leakage": []})) is None
    assert forms_table(results.model_copy(update={"forms": []})) is None
    assert Results.model_validate(results.to_dict()) == results
    assert STRATA == 10
