"""Tables as data, rendered by the page's template and as Markdown alike."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from personaspace.report.text import NONE


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What is shown.
        sort: What it is sorted by; None sorts last.
        detail: Shown smaller beneath, such as an interval.
        warning: An assumption that failed; shown beneath, and marked.
        warning_ref: Number of the footnote that tells it instead; 0 for none.
        full: The whole of what `text` shortens, such as a digest.
        ref: Number of the table's footnote, from 1; 0 for none.
    """

    text: str
    sort: float | str | None = None
    detail: str = ""
    full: str = ""
    ref: int = 0
    warning: str = ""
    warning_ref: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read in it."""
        return self.text in ("", NONE) and not (self.detail or self.warning or self.ref)

    @property
    def key(self) -> str:
        """`sort` as an attribute; numbers exactly."""
        if self.sort is None:
            return ""
        return repr(float(self.sort)) if isinstance(self.sort, int | float) else self.sort


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether it holds numbers."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table. The first cell of each row is its heading.

    Attributes:
        id: Anchor on the page.
        groups: Headings over several columns: title and number of columns; empty titles allowed.
        note: A sentence beneath.
        footnotes: Numbered sentences that cells refer to.
    """

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = ()
    note: str = ""
    footnotes: Sequence[str] = ()
    classes: str = ""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows} - {len(self.columns)}
        if widths or (self.groups and sum(n for _, n in self.groups) != len(self.columns)):
            raise ValueError(f"table {self.id}: rows or groups do not fit the columns")

    @cached_property
    def shown(self) -> Table:
        """The table as it is printed: without columns that are empty in every row.

        The first column is the rows' heading and always stays.
        """
        kept = [
            place
            for place in range(len(self.columns))
            if place == 0 or not self.rows or any(not row[place].empty for row in self.rows)
        ]
        over = [index for index, (_, width) in enumerate(self.groups) for _ in range(width)]
        widths = Counter(over[place] for place in kept) if over else Counter[int]()
        return replace(
            self,
            columns=[self.columns[place] for place in kept],
            rows=[[row[place] for place in kept] for row in self.rows],
            groups=[(self.groups[index][0], width) for index, width in sorted(widths.items())],
        )

    @cached_property
    def anchors(self) -> list[str]:
        """An id for each row, from its first cells: as many as it takes to tell rows apart."""
        for width in range(1, len(self.columns) + 1):
            found = [_slug(row[:width]) for row in self.rows]
            if len(set(found)) == len(found) and all(found):
                return [f"{self.id}.{slug}" for slug in found]
        return [f"{self.id}.{place}" for place in range(1, len(self.rows) + 1)]


_PLAIN = re.compile(r"[^a-z0-9]+")


def _slug(cells: Sequence[Cell]) -> str:
    words = [_PLAIN.sub("-", cell.text.lower()).strip("-") for cell in cells]
    return ".".join(word for word in words if word)


_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#~$])")


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def to_markdown(table: Table) -> str:
    """A pipe table of what is shown; column groups are put before the titles."""
    table = table.shown
    heads = [column.title for column in table.columns]
    groups = [title for title, width in table.groups for _ in range(width)]
    if groups:
        heads = [
            f"{group}: {head}" if group else head for group, head in zip(groups, heads, strict=True)
        ]
    lines = [
        "| " + " | ".join(escape_markdown(head) for head in heads) + " |",
        "|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|",
    ]
    for row in table.rows:
        cells = [
            " ".join(
                part
                for part in (
                    cell.text,
                    f"({cell.ref})" if cell.ref else "",
                    _beside(cell.detail),
                    "" if not cell.warning else "\u26a0" if cell.warning_ref else cell.warning,
                )
                if part
            )
            for cell in row
        ]
        lines.append("| " + " | ".join(escape_markdown(text) for text in cells) + " |")
    if table.footnotes:
        lines.append("")
        lines += [f"{i}. {escape_markdown(t)}" for i, t in enumerate(table.footnotes, start=1)]
    return "\n".join(lines)


def _beside(detail: str) -> str:
    """What the page shows smaller beneath a number: in brackets, if it is no interval."""
    return detail if not detail or detail.startswith("[") else f"({detail})"


class Footnotes:
    """Collects sentences; equal ones share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def ref(self, text: str | None) -> int:
        """The number of a sentence, from 1; 0 for none."""
        if not text:
            return 0
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1
