"""The documentation: links lead somewhere, in the repository and on the site of all pages."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
NOT_OURS = {"build", "demo", "dist", "node_modules"}
MARKDOWN = MarkdownIt("commonmark").enable("table")
NAV_PAGE = re.compile(r"^ +- (?:.*: )?([\w/.-]+\.md)$", re.MULTILINE)


def markdown_files(root: Path) -> list[Path]:
    files = root.rglob("*.md")
    return sorted(
        path
        for path in files
        if not any(part in NOT_OURS or part[0] == "." for part in path.relative_to(root).parts)
    )


def walk(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from walk(token.children or [])


@functools.cache
def parsed(path: Path) -> list[Token]:
    return MARKDOWN.parse(path.read_text(encoding="utf-8"))


def links(path: Path) -> list[str]:
    """Targets of a page's links and images that are not on the web."""
    found = (
        str(token.attrs.get("href", token.attrs.get("src", "")))
        for token in walk(parsed(path))
        if token.type in ("link_open", "image")
    )
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@functools.cache
def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts make them."""
    tokens = parsed(path)
    seen: Counter[str] = Counter()
    out = set()
    for heading, inline in itertools.pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(part.content for part in inline.children or [])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            out.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return out


def broken(path: Path) -> list[str]:
    wrong = []
    for target in links(path):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize(
    "path", markdown_files(ROOT), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_links_and_anchors_exist(path: Path) -> None:
    assert broken(path) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# What is it, then?\n\n## A `name`\n\n## A `name`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#what-is-it-then) [b](there.md#a-name-1) [c](there.md#a-name-2) ![d](no.png)\n"
        "[e](https://example.org/x) [f](#g)\n"
    )
    assert broken(page) == ["there.md#a-name-2", "no.png", "#g"]


@pytest.mark.slow
def test_the_site_has_every_page_and_every_file_that_they_link_to(tmp_path: Path) -> None:
    place = ROOT / "docs" / "assemble.py"
    spec = importlib.util.spec_from_file_location("assemble", place)
    assert spec is not None and spec.loader is not None
    assemble = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(assemble)
    assemble.main(tmp_path / "site")
    pages = markdown_files(tmp_path / "site")
    named = {path.relative_to(tmp_path / "site").as_posix(): broken(path) for path in pages}
    assert {name: wrong for name, wrong in named.items() if wrong} == {}
    listed = set(NAV_PAGE.findall((ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {name for name in named if not name.startswith("files/")}


@pytest.mark.slow
def test_the_page_of_commands_is_fresh(tmp_path: Path) -> None:
    out = tmp_path / "cli.md"
    command = ["personaspace.cli.app", "utils", "docs", "--name", "personaspace", "--output"]
    subprocess.run([sys.executable, "-m", "typer", *command, str(out)], check=True, text=True)
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == out.read_text(encoding="utf-8"), (
        "run `make schema`"
    )
