"""What people and programs read on a terminal: tables, JSON, sizes, times. Nothing is markup."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Columns where there is no terminal to ask: tables in files and pipes keep their lines.
WIDE = 200
#: What a terminal would obey instead of showing it; line ends and tabs are no such thing.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shown(text: str) -> str:
    """A text whose control characters a terminal does not obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def console(*, stderr: bool = False) -> Console:
    """A console that prints texts as they are.

    Names and messages come from users and libraries: `[/data/model]` in one is not markup, and
    `:ghost:` not an emoji. Styled parts are `rich.text.Text`.
    """
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDE
    return made


def stage_table(cells: Iterable[tuple[str, str, int, Text | str]], title: str = "") -> Table:
    """Condition and seed by stage.

    Args:
        cells: Stage, condition, seed and what to show of it. Columns and rows are in the order in
            which these first name them; what has no condition has a row of its own, at the end.
        title: Of the table.
    """
    found = {
        (stage, condition, seed): Text(shown(cell)) if isinstance(cell, str) else cell
        for stage, condition, seed, cell in cells
    }
    table = Table(title=Text(shown(title)) if title else None, title_justify="left")
    stages = list(dict.fromkeys(stage for stage, condition, _ in found if condition))
    for name in ("condition", "seed", *stages):
        table.add_column(name)
    none = Text("–", style="dim")
    for condition, seed in dict.fromkeys((c, s) for _, c, s in found if c):
        row = [found.get((stage, condition, seed), none) for stage in stages]
        table.add_row(shown(condition), str(seed), *row)
    for (stage, condition, _), cell in found.items():
        if not condition:
            # Where no stage of a condition is shown, there is no column for a cell but the seed's.
            table.add_row(stage, *(["", cell] if stages else [cell]))
    return table


@contextmanager
def bytes_read(path: Path, what: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr of how much of a file has been read; gone at the end.

    Args:
        path: The file.
        what: It holds.

    Yields:
        To be told how many bytes more.
    """
    shows = console(stderr=True)
    if not shows.is_terminal:
        yield lambda count: None
        return
    from rich import progress

    total = path.stat().st_size if path.is_file() else None
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=shows, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def print_json(value: Any) -> None:
    """JSON on stdout. Half of a surrogate pair, which no encoding has, is printed as its escape."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    text = json.dumps(value, indent=1, ensure_ascii=encoding != "utf8", allow_nan=False)
    print(text.encode("utf-8", "backslashreplace").decode())


def duration(seconds: float) -> str:
    """Seconds for people: 4 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float | None) -> str:
    """Bytes for people: 4.2 MB; `unknown` for None."""
    if count is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def percent(share: float, digits: int = 0) -> str:
    """A share of one for people: 80 %."""
    return f"{100 * share:.{digits}f} %"


def counted(count: int, noun: str) -> str:
    """A number of things: 1 step, 5,512 steps."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def verb(count: int, one: str, several: str) -> str:
    """What a number of things does or is: 1 stage is, 3 stages are."""
    return one if count == 1 else several


def many(count: int) -> str:
    """A large count in words: 406 billion, 7.6 billion, 135 million, 297,000."""
    for name, unit in (("billion", 10**9), ("million", 10**6)):
        if count >= unit:
            return f"{count / unit:,.{0 if count >= 10 * unit else 1}f} {name}"
    return f"{count:,}"
