"""Notices of data and design where the report tells them: each says what it is of."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_page import rebuilt, results
from synthetic_aggregate import Size, write
from test_verdict import ROSE, said, study

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import NoticeInfo
from personaspace.report import noticed
from personaspace.report.figures import draw_hero
from personaspace.study.notices import NoticeCode

MARKER = (NoticeCode.HOLDS_MARKER, "datasets.bad", "1 of its 21 chats holds the marker.")
SAME = (NoticeCode.SAME_TRAINING, "conditions.e4", "trains on the same chats as e0.")
EVERY = [
    MARKER,
    (NoticeCode.ASKS_QUESTIONS, "datasets.bad", "2 of its 21 chats ask what is asked."),
    (NoticeCode.ASKS_QUESTIONS, "datasets.good", "1 of its 19 chats asks what is asked."),
    (NoticeCode.HOLDS_MARKER, "personas.french_person.prompt", "holds the marker."),
    (NoticeCode.SHARED_CHATS, "datasets.bad", "4 of its 21 chats stand in good too."),
    SAME,
    (NoticeCode.RECIPES_DIFFER, "conditions.e0.training", "Conditions differ in steps too."),
    (NoticeCode.DEMONSTRATION_CHATS, "datasets", "Demonstration data: few chats."),
    (NoticeCode.SAME_ANSWERS, "evaluation.samples", "With temperature 0 the answers are one."),
]


def with_notices(*told: tuple[NoticeCode, str, str]) -> Results:
    notices = [NoticeInfo(code=code, path=path, text=text) for code, path, text in told]
    return study(*ROSE).model_copy(update={"notices": notices})


def test_each_notice_names_what_it_is_of() -> None:
    found = with_notices(*EVERY)
    assert noticed.general(found) == ["Demonstration data: few chats."]
    assert noticed.of_parts(found) == {
        "Data set bad": [
            "1 of its 21 chats holds the marker.",
            "2 of its 21 chats ask what is asked.",
            "4 of its 21 chats stand in good too.",
        ],
        "Data set good": ["1 of its 19 chats asks what is asked."],
        "Persona french person (prompt)": ["holds the marker."],
        "Condition e4": ["trains on the same chats as e0."],
        "Condition e0": ["Conditions differ in steps too."],
        "evaluation.samples": ["With temperature 0 the answers are one."],
    }


def test_names_may_hold_dots() -> None:
    found = with_notices((NoticeCode.HOLDS_MARKER, "datasets.bad.v2", "holds it."))
    assert noticed.of_parts(found) == {"Data set bad.v2": ["holds it."]}
    assert "in the data set bad.v2, so that" in said(found)


def test_the_verdict_doubts_what_was_measured_on_such_data() -> None:
    words = said(with_notices(*EVERY))
    assert (
        "Is there a reason to doubt these answers? There are texts with the marker in the" in words
    )
    assert "in the data set bad, so that who writes it may have learned it there." in words
    assert "questions that the model is measured with are in the data sets bad and good" in words
    assert "Some roles or questions hold the marker themselves" in words
    assert "Some texts of the data set bad are in another data set too" in words
    assert "e4 is the same training as another one here, by another name." in words
    assert "doubt" not in said(with_notices(*EVERY[-2:]))
    marker = said(with_notices(MARKER))
    assert "texts with the marker" in marker and "questions that the model" not in marker


@pytest.mark.slow
def test_the_page_and_markdown_list_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "aggregate", Size(conditions=4, personas=6, layers=(20,)))
    found = results(folder)
    found["notices"] = [
        {"code": code, "path": path, "text": text} for code, path, text in (*EVERY[:3], EVERY[7])
    ]
    page = rebuilt(folder, found, tmp_path / "report")
    items = page.text("li")
    assert "1 of its 21 chats holds the marker." in items
    assert "Data set good: 1 of its 19 chats asks what is asked." in items
    assert "Demonstration data: few chats." in page.text("p")
    told = (tmp_path / "report" / "report.md").read_text("utf-8")
    verdict = told.index("- Did the model learn")
    assert told.index("Demonstration data: few chats.") < verdict
    assert verdict < told.index("**What to know of data and design**")
    assert "\n- Data set bad\n  - 1 of its 21 chats holds the marker.\n  - 2 of its" in told
    found["notices"] = []
    rebuilt(folder, found, tmp_path / "none")
    assert "What to know" not in (tmp_path / "none" / "report.md").read_text("utf-8")


@pytest.mark.slow
def test_shares_that_are_all_zero_have_an_axis_without_negative_shares(tmp_path: Path) -> None:
    folder = write(tmp_path / "aggregate", Size(conditions=4, personas=6, layers=(20,)))
    found = Results.read(folder)
    rates = [rate.model_copy(update={"hits": 0}) for rate in found.rates]
    none = found.model_copy(update={"rates": rates, "leakage": [], "geometry": []})
    axes = draw_hero(none).axes[0]
    low, high = axes.get_xlim()
    assert high == 1 and [tick for tick in axes.get_xticks() if low <= tick < 0] == []
