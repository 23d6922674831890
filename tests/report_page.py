"""A report page as tests look at it: its elements, texts and tables."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from personaspace.report.page import build
from personaspace.study.concluding import Figures

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements of a page, with a check that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: dict[int, list[str]] = {}
        self.comments: dict[str, str] = {}  # by the id of the element that they are alone in
        self.stack: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag}: an attribute appears twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
            self.stack.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        for place in self.stack:
            self.texts.setdefault(place, []).append(data)

    def handle_comment(self, data: str) -> None:
        within = self.elements[self.stack[-1]][1].get("id", "") if self.stack else ""
        assert within and within not in self.comments, f"a comment in {within!r}"
        self.comments[within] = data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self, tag: str, **wanted: str) -> list[str]:
        """Text of the elements with that tag and these attributes."""
        return [
            " ".join("".join(self.texts.get(place, [])).split())
            for place, (name, attrs) in enumerate(self.elements)
            if name == tag and wanted.items() <= attrs.items()
        ]

    def raw(self, tag: str, **wanted: str) -> str:
        (place,) = [
            place
            for place, (name, attrs) in enumerate(self.elements)
            if name == tag and wanted.items() <= attrs.items()
        ]
        return "".join(self.texts.get(place, []))


def cells(page: Page, table: str) -> list[list[str]]:
    """Texts of a table's body, one list a row."""
    found: list[list[str]] = []
    inside = body = False
    for place, (name, attrs) in enumerate(page.elements):
        if name == "table":
            inside, body = attrs["id"] == table, False
        elif inside and name == "tbody":
            body = True
        elif inside and body and name == "tr":
            found.append([])
        elif inside and body and name in ("td", "th"):
            found[-1].append(" ".join("".join(page.texts.get(place, [])).split()))
    return found


def identities(page: Page, table: str) -> list[tuple[str, ...]]:
    """What each of a table's rows is about: its cells of words, and of layers, seeds and steps."""
    (wanted,) = [
        n for n, (tag, a) in enumerate(page.elements) if (tag, a.get("id")) == ("table", table)
    ]
    titles: list[str] = []
    found: list[list[str]] = []
    column = 0
    for place, (tag, attrs) in enumerate(page.elements[wanted:], start=wanted):
        text = " ".join("".join(page.texts.get(place, [])).split())
        if tag == "table" and place > wanted:
            break
        if tag == "th" and attrs.get("scope") == "col":
            titles.append(text)
        elif tag == "tr" and attrs.get("id"):
            found.append([])
            column = 0
        elif found and tag in ("td", "th"):
            if attrs.get("class") != "num" or titles[column] in ("Layer", "Seed", "steps"):
                found[-1].append(text)
            column += 1
    return [tuple(row) for row in found]


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return loaded


def rebuilt(folder: Path, found: dict[str, Any], out: Path) -> Page:
    (folder / "results.json").write_text(json.dumps(found))
    return Page(build(folder, out, Figures(formats=["svg"])).read_text("utf-8"))
