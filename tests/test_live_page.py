"""The live page in a browser that is left open: what it keeps, and what it follows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from browsers import Tab, tab_of

from personaspace.live import Address, Cell, LivePage, Look, Losses, Snapshot

NODE = "train:e4-villain:42"


class Growing:
    """A training that makes steps, among others of which one curve cannot be had."""

    def __init__(self, cells: list[Cell]) -> None:
        self.cells = cells
        self.curve: Losses = [(step, 3.0 / step) for step in range(1, 21)]

    def snapshot(self) -> Snapshot:
        return Snapshot("em-205", self.cells)

    def losses(self, node: str) -> Losses:
        return self.curve if node == NODE else [(1, math.nan), (2, 1.0), (3, math.inf), (4, 2.0)]

    def log(self, node: str) -> str:
        return f"what {node} said <b>here</b>\n"

    def step(self, done: int) -> None:
        self.curve += [(step, 3.0 / step) for step in range(len(self.curve) + 1, done + 1)]
        at = next(place for place, cell in enumerate(self.cells) if cell.node == NODE)
        self.cells[at] = replace(self.cells[at], done=done, note=f"loss {3 / done:.3f}")


def cell(node: str, look: Look, state: str = "", **more: Any) -> Cell:
    stage, condition, seed = node.split(":")
    return Cell(
        node, stage, condition, int(seed), look, state or str(look), trains=stage == "train", **more
    )


def running(node: str = NODE, **more: Any) -> Cell:
    log = f"personaspace logs em {node}"
    return cell(node, Look.RUNNING, what="train", done=20, total=40, steps=40, log=log, **more)


@pytest.fixture
def source() -> Growing:
    others = [cell("train:benign:42", Look.DONE, ran=9.0), running("train:e0:42")]
    waits = [cell("extract:e4-villain:42", Look.WAITING, why=f"for {NODE}")]
    speed: dict[str, Any] = {"tokens_per_second": 19500.4, "gpu_memory": 37 * 2**30, "logged": True}
    return Growing([*others, running(**speed), *waits])


@pytest.fixture(params=[1280, 390])
def opened(browser: Any, source: Growing, request: pytest.FixtureRequest) -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api")
    with LivePage(source, Address("127.0.0.1", 0), every=0) as page:
        tab: Tab = tab_of(browser, page.where.url, request.param)
        yield tab.open()
        assert tab.said == [] and tab.elsewhere() == []
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= request.param
        tab.page.context.close()


def card(opened: Any, node: str = NODE) -> Any:
    return opened.locator("#running article", has_text=node)


def points(drawn: Any) -> int:
    return len(str(drawn.locator("svg path").get_attribute("d")).split()) - 1


def test_what_is_selected_opened_or_scrolled_to_stays_while_it_follows(
    opened: Any, source: Growing
) -> None:
    from playwright.sync_api import expect

    mine = card(opened)
    expect(mine.locator("p").first).to_contain_text("train 20 of 40, 19,500 tokens/s, 37.0 GiB of")
    expect(mine.locator(".steps")).to_have_text("step 140"), "it is drawn up to its end"
    opened.get_by_role("button", name=f"loss of {NODE}").click()
    expect(opened.locator("#chosen h3")).to_have_text(NODE)
    expect(card(opened, "train:e0:42").locator("svg")).to_be_visible()
    opened.evaluate("scrollTo(0, 60)")
    opened.evaluate(
        """() => {
          const range = document.createRange();
          range.selectNodeContents(document.querySelector("#running article:last-child code"));
          getSelection().addRange(range);
          window.redrawn = 0;
          const seen = new MutationObserver((all) => { window.redrawn += all.length; });
          const all = {subtree: true, childList: true, attributes: true, characterData: true};
          for (const place of ["tbody tr", "#running article", "#idle", "header"])
            seen.observe(document.querySelector(place), all);
        }"""
    )
    selected, place = opened.evaluate("getSelection().toString()"), opened.evaluate("scrollY")
    source.step(30)
    expect(mine.locator("p").first).to_contain_text("train 30 of 40")
    said = f"loss of {NODE}: 3.00 at step 1, 0.100 at step 30"
    for drawn in (mine, opened.locator("#chosen")):
        expect(drawn.locator("svg")).to_have_attribute("aria-label", said)
        assert points(drawn) == 30
    assert (
        opened.evaluate("getSelection().toString()") == selected == f"personaspace logs em {NODE}"
    )
    assert (opened.evaluate("scrollY"), opened.evaluate("window.redrawn")) == (place, 0)
    # Closed, it stays closed, and who came by keyboard is where they were.
    opened.get_by_role("button", name="close").press("Enter")
    expect(opened.locator("#chosen article")).to_have_count(0)
    assert opened.evaluate("document.activeElement.dataset.node") == NODE
    source.step(31)
    expect(mine.locator("p").first).to_contain_text("train 31 of 40")
    expect(opened.locator("#chosen article")).to_have_count(0)


def test_what_is_no_number_is_a_gap_and_one_curve_fewer_hides_nothing(
    opened: Any, source: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect

    drawn = card(opened, "train:e0:42").locator("svg")
    expect(drawn).to_have_attribute(
        "aria-label", "loss of train:e0:42: no number at step 1, 2.00 at step 4"
    )
    assert drawn.locator("path").get_attribute("d").count("M") == 2
    opened.route("**/losses.json?node=train%3Ae0%3A42", lambda route: route.fulfill(body="<"))
    source.step(33)
    expect(card(opened).locator("p").first).to_contain_text("train 33 of 40")
    expect(card(opened).locator("svg")).to_have_attribute(
        "aria-label", "loss of train:e4-villain:42: 3.00 at step 1, 0.0909 at step 33"
    )
    expect(drawn).to_be_visible()
    expect(opened.locator("#trouble")).to_be_hidden()


def test_a_log_is_a_link_away(opened: Any) -> None:
    with opened.expect_popup() as popup:
        opened.get_by_role("link", name=f"log of {NODE}, in a new tab").click()
    said = popup.value.locator("body")
    assert said.inner_text().strip() == f"what {NODE} said <b>here</b>", "as text"
    assert card(opened, "train:e0:42").get_by_role("link").count() == 0


def test_sixty_runs_are_read_at_a_glance(opened: Any, source: Growing) -> None:
    from playwright.sync_api import expect

    source.cells = []
    for number in range(20):
        for seed in (42, 137, 2025):
            name = f"e{number}-kindergarten-teacher:{seed}"
            source.cells += [running(f"train:{name}")] if number < 6 else []
            source.cells += [cell(f"train:{name}", Look.READY, "queued", why="no GPU is free")] * (
                number >= 6
            )
            source.cells.append(cell(f"extract:{name}", Look.WAITING, why=f"for train:{name}"))
    expect(opened.locator("tbody tr")).to_have_count(60)
    expect(opened.locator("#running article")).to_have_count(12)
    more = opened.locator("#now details")
    expect(more.locator("summary")).to_have_text("and 6 more")
    expect(opened.locator("#idle > ul > li")).to_have_count(2)
    expect(opened.locator("#idle > ul > li").first).to_have_text(
        "extract:e0-kindergarten-teacher:42, extract:e0-kindergarten-teacher:137, "
        "extract:e0-kindergarten-teacher:2025 and 57 more: waiting, each for train of its own"
    )
    more.locator("summary").click()
    expect(more.locator("li").last).to_contain_text("train 20 of 40")
    time.sleep(2.5)
    expect(more.locator("li").last).to_be_visible(), "opened, it stays open"
