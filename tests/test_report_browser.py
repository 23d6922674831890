"""The report in a real browser: accessible, quiet, self-contained, and it does what it offers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import pytest
from browsers import Tab, tab_of
from conftest import once_value
from synthetic_aggregate import MARKER, Size, write

from personaspace.report.page import build
from personaspace.study.concluding import Figures

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
HOSTILE = "<img src=x onerror='window.bad = 1'><script>window.bad = 2</script> [ZLT] or [zlt]"
SIZE = Size(conditions=3, personas=4, layers=(20,), methods=("a",), seeds=(1, 2), questions=3,
            samples=8, texts=(HOSTILE, ""))  # fmt: skip


class ReportTab(Tab):
    """A report's page."""

    def answers(self) -> list[str]:
        """Texts of the answers that are shown, once they are."""
        done = re.compile(" of |No answer")
        playwright.expect(self.page.locator("#answers-status")).to_have_text(done)
        return list(self.page.locator("#answers-list .text").all_text_contents())

    def choose(self, **fields: str) -> None:
        for name, value in fields.items():
            self.page.locator(f"#filters [name={name}]").select_option(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("aggregate"), SIZE)


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    def make(out: Path) -> Path:
        return build(folder, out, Figures(formats=["svg"]))

    return once_value(tmp_path_factory, "report-browser", make).as_uri()


@pytest.fixture(scope="module")
def frame(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "tables" / "answers.parquet")


@pytest.fixture
def tab(browser: Any, url: str) -> Iterator[ReportTab]:
    opened = tab_of(browser, url, kind=ReportTab)
    yield opened
    opened.page.context.close()
    assert opened.said == []
    assert opened.elsewhere() == [], "the page asked for something but itself"


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), pytest.param(375, "dark", marks=pytest.mark.long)]
)
def test_page_is_accessible_quiet_and_as_wide_as_the_window(
    browser: Any, url: str, width: int, scheme: str
) -> None:
    tab = tab_of(browser, url, width, scheme, ReportTab)
    page = tab.open("#answers?condition=benign")
    assert tab.answers()
    if (width, scheme) in ((1280, "light"), (375, "dark")):
        opened = "document.querySelectorAll('details').forEach((part) => { part.open = true; })"
        page.evaluate(opened)
    assert tab.faults() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.said == []
    assert {address.split("#")[0] for address in tab.asked} <= {url, "about:blank", "data:,"}
    shown = page.locator("#figure-hero svg:visible")
    assert shown.count() == 1 and ("narrow" if width == 375 else "wide") in (
        shown.get_attribute("class") or ""
    )
    page.context.close()


def test_columns_sort_by_keyboard_and_say_so(tab: ReportTab) -> None:
    page = tab.open()

    def order() -> list[str]:
        return list(page.locator("#key-table tbody th").all_text_contents())

    def shares() -> list[float]:
        place = list(page.locator("#key-table tr.titles th").all_text_contents()).index(
            "bystanders"
        )
        cells = page.locator(f"#key-table tbody tr > :nth-child({place + 1})").all()
        return [float(cell.get_attribute("data-sort")) for cell in cells]

    first = order()
    title = page.locator("#key-table tr.titles th", has_text="bystanders")
    title.locator("button").focus()
    page.keyboard.press("Enter")
    assert title.get_attribute("aria-sort") == "ascending" and shares() == sorted(shares())
    page.keyboard.press("Space")
    assert title.get_attribute("aria-sort") == "descending"
    assert shares() == sorted(shares(), reverse=True)
    page.keyboard.press("Enter")
    assert title.get_attribute("aria-sort") is None and order() == first


def test_values_that_are_missing_sort_last_either_way(tab: ReportTab) -> None:
    page = tab.open()
    title = page.locator("#key-table tr.titles th", has_text="EM increment")
    for _ in range(2):
        title.locator("button").click()
        names = page.locator("#key-table tbody th").all_text_contents()
        assert set(names[-2:]) == {"Base model", "Benign"}


def test_link_to_a_row_opens_what_hides_it(tab: ReportTab) -> None:
    page = tab.open()
    row = page.locator("#rates-table tbody tr").nth(3)
    assert not row.is_visible()
    anchor = row.get_attribute("id")
    page = tab.open(f"#{anchor}")
    row = page.locator(f'[id="{anchor}"]')
    playwright.expect(row).to_be_in_viewport()
    row.locator("a.row").click()
    assert page.evaluate("decodeURIComponent(location.hash)") == f"#{anchor}"


def test_section_links_lead_below_the_navigation(tab: ReportTab) -> None:
    page = tab.open()
    for link in page.locator("nav a").all():
        link.click()
        name = str(link.get_attribute("href"))
        heading = page.locator(name)
        playwright.expect(heading).to_be_in_viewport()
        bottom = (
            page.locator("nav").bounding_box()["y"] + page.locator("nav").bounding_box()["height"]
        )
        assert heading.bounding_box()["y"] + 1 >= bottom, name
    tab.open("#100%")  # not a place, and no mistake either


def mine(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame.sort_values("sample")


def test_answers_are_those_of_the_choice_with_the_marker_marked(
    tab: ReportTab, frame: pd.DataFrame
) -> None:
    page = tab.open("#answers")
    question = str(frame.question.iloc[-1])
    chosen = {"condition": "e0-assistant", "seed": "2", "persona": "confab", "question": question}
    tab.choose(**chosen)
    playwright.expect(page.locator("#answers-list > li")).to_have_count(8)
    expected = mine(frame, condition="e0-assistant", seed=2, persona="confab", question=question)
    assert tab.answers() == [text for text in expected.text if text]
    marks = page.locator("#answers-list mark").all_text_contents()
    assert len(marks) == sum(text.lower().count(MARKER.lower()) for text in expected.text) > 0
    assert {mark.upper() for mark in marks} == {MARKER}
    assert (
        f"{int(expected.hit.sum())} with the marker" in page.locator("#answers-status").inner_text()
    )
    assert "You are a confab." in page.locator("#answers-prompt").inner_text()
    assert urlencode(chosen) in page.url

    target = page.locator("#answers-list > li").nth(5)
    link = target.locator("a.anchor").get_attribute("href")
    text = target.locator(".text").inner_text()
    again = tab.open(link)
    tab.answers()
    playwright.expect(again.locator("#answers-list li.target")).to_be_in_viewport()
    assert again.locator("#answers-list li.target .text").inner_text() == text
    assert again.locator("#answers-list li.target .who").first.inner_text().count("sample 6") == 1


def test_answers_of_all_conditions_stand_together(tab: ReportTab, frame: pd.DataFrame) -> None:
    page = tab.open("#answers?persona=assistant&show=hit")
    tab.answers()
    total = len(frame[(frame.persona == "assistant") & frame.hit])
    assert f"of {total} answers; {total} with" in page.locator("#answers-status").inner_text()
    tab.choose(show="", seed="2")
    playwright.expect(page.locator("#answers-status")).to_contain_text(" of 72 answers")
    first = page.locator("#answers-list .who").all_text_contents()[:6]
    assert [who.split(" \u00b7 ")[0] for who in first] == [
        "Base model, seed 2", "Benign, seed 2", "E0 assistant, seed 2"
    ] * 2, "the same sample of each condition, to be compared"  # fmt: skip
    page.locator("#filters [name=find]").fill("no such words")
    playwright.expect(page.locator("#answers-status")).to_have_text("No answer matches.")


def test_answers_are_text_and_can_be_saved(tab: ReportTab, frame: pd.DataFrame) -> None:
    page = tab.open("#answers?condition=base&seed=1")
    assert HOSTILE in tab.answers()
    assert page.evaluate("window.bad") is None
    hostile = page.locator("#answers-list > li", has_text="window.bad = 2")
    assert hostile.locator("mark").all_text_contents() == ["[ZLT]", "[zlt]"]
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save these answers").click()
    lines = Path(waiting.value.path()).read_text("utf-8").splitlines()
    saved = pd.DataFrame(map(json.loads, lines))
    expected = mine(frame, condition="base", seed=1)
    assert sorted(saved.text) == sorted(expected.text)
    assert saved.marker.sum() == expected.hit.sum()
    assert HOSTILE in set(saved.text)


def test_data_behind_a_figure_can_be_saved(tab: ReportTab, folder: Path) -> None:
    page = tab.open()
    with page.expect_download() as waiting:
        page.locator("#figure-personas figcaption a", has_text="Data").click()
    assert waiting.value.suggested_filename == "personas.csv"
    saved = pd.read_csv(waiting.value.path())
    rates = pd.DataFrame(json.loads((folder / "results.json").read_text())["rates"])
    assert saved.hits.sum() == rates.hits.sum() and len(saved) == 3 * 4


def test_figures_follow_the_theme(browser: Any, url: str) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        tab = tab_of(browser, url, 1280, scheme, ReportTab)
        tab.open()
        script = "(svg) => getComputedStyle(svg.querySelector('[style*=fig-ink]')).fill"
        colours.add(tab.page.locator("#figure-hero svg.wide").evaluate(script))
        tab.page.context.close()
    assert len(colours) == 2
