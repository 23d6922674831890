"""A real browser for tests of pages: what a page says on its console, and what it asks for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Tab:
    """A page and everything it said or asked for."""

    page: Any
    url: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, fragment: str = "") -> Any:
        """Loads the page at a fragment, anew."""
        self.page.goto("about:blank")
        self.page.goto(self.url + fragment)
        return self.page

    def elsewhere(self) -> list[str]:
        """What was asked for besides the page's own address and what lies below it."""
        own = (self.url, "data:", "blob:", "about:")
        return [address for address in self.asked if not address.startswith(own)]

    def faults(self) -> list[tuple[str, Any]]:
        """What a checker of accessibility finds: rules, and where each is broken."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright")
        found = axe.Axe().run(self.page).response
        assert found["passes"], "axe looked at something"
        return [
            (rule["id"], node["target"]) for rule in found["violations"] for node in rule["nodes"]
        ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium found (Debian: apt-get install chromium; or set CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS + root)
        yield started
        started.close()


def tab_of(
    browser: Any, url: str, width: int = 1280, scheme: str = "light", kind: type[Tab] = Tab
) -> Any:
    """A new tab, of so wide a window."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
    )
    tab = kind(context.new_page(), url)
    tab.page.on("console", lambda message: tab.said.append(f"{message.type}: {message.text}"))
    tab.page.on("pageerror", lambda error: tab.said.append(f"error: {error}"))
    tab.page.on("request", lambda request: tab.asked.append(request.url))
    return tab
