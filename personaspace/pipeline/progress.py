"""Telling people how far a run is: a live table on a terminal, a line every so often in logs.

With `PERSONASPACE_LOG=json` each log line is a JSON object: `time` (UTC, ISO 8601), `event` (start,
progress, end, message, trouble, error), `node`, `message` (what the plain line would say), and for
progress `what`, `done`, `total`, `left` (seconds, null at first) and `note`; for an end `state`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from personaspace.logs import as_json, log_line
from personaspace.pipeline.stage import Node

#: Seconds between two lines of one stage in a log, at first and after `SETTLED` seconds.
LINE_EVERY = 10.0
LINE_LATER = 60.0
SETTLED = 300.0

_SYMBOLS = {
    "waiting": "·",
    "running": "…",
    "done": "done",
    "skipped": "kept",
    "failed": "FAILED",
    "blocked": "not run",
}


@dataclass
class _State:
    state: str = "waiting"
    what: str = ""
    done: int = 0
    total: int = 0
    note: str = ""
    since: float = 0.0
    phase_since: float = 0.0
    said: float = 0.0


def duration(seconds: float) -> str:
    """Seconds for people: 4 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class StageProgress:
    """What one running stage tells; handed to the stage."""

    def __init__(self, board: Board, node: Node) -> None:
        self._board = board
        self._node = node

    def start(self, what: str, total: int) -> None:
        """A new phase of `total` units begins."""
        self._board.phase(self._node, what, total)

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are finished."""
        self._board.advance(self._node, count, note)

    def say(self, text: str) -> None:
        """Something worth a line of its own."""
        self._board.tell(self._node, text)


class Board:
    """Plain lines, for logs and pipes.

    Args:
        nodes: Everything that will run or be skipped.
        stream: Where lines go.
    """

    def __init__(self, nodes: Sequence[Node], stream: TextIO | None = None) -> None:
        self.nodes = list(nodes)
        self.stream = stream or sys.stderr
        self.states = {node: _State() for node in nodes}
        self.began = time.monotonic()
        self.as_json = as_json()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, node: Node, note: str = "") -> StageProgress:
        """The handle for a stage that is about to run; `note` says on what."""
        state = self.states[node]
        state.state, state.since = "running", time.monotonic()
        self.tell(node, "started" + (f": {note}" if note else ""), event="start")
        return StageProgress(self, node)

    def phase(self, node: Node, what: str, total: int) -> None:
        """See `StageProgress.start`."""
        state = self.states[node]
        state.what, state.total, state.done, state.note = what, total, 0, ""
        state.phase_since = state.said = time.monotonic()
        self.refresh()

    def advance(self, node: Node, count: int, note: str) -> None:
        """See `StageProgress.advance`."""
        state = self.states[node]
        state.done += count
        state.note = note or state.note
        now = time.monotonic()
        every = LINE_EVERY if now - state.since < SETTLED else LINE_LATER
        if now - state.said >= every and state.done < state.total:
            state.said = now
            self.line(
                f"{node.id}: {self._how_far(state)}",
                event="progress",
                node=node.id,
                what=state.what,
                done=state.done,
                total=state.total,
                left=self._seconds_left(state),
                note=state.note,
            )
        self.refresh()

    def finish(self, node: Node, state: str, note: str = "") -> None:
        """A stage ended: done, skipped, failed or blocked."""
        mine = self.states[node]
        mine.state, mine.note = state, note
        took = f" in {duration(time.monotonic() - mine.since)}" if state == "done" else ""
        words = {"skipped": "already complete", "blocked": "not run"}.get(state, state)
        text = f"{words}{took}" + (f" – {note}" if note else "")
        self.tell(node, text, event="end", state=state, where=note)

    def tell(self, node: Node, text: str, event: str = "message", **fields: Any) -> None:
        """One line about a node that always appears."""
        self.say(f"{node.id}: {text}", event=event, node=node.id, **fields)

    def say(self, text: str, event: str = "message", **fields: Any) -> None:
        """One line that always appears."""
        self.line(text, event, **fields)
        self.refresh()

    def line(self, text: str, event: str = "message", **fields: Any) -> None:
        """Write a log line with the time."""
        print(log_line(text, event, self.as_json, **fields), file=self.stream, flush=True)

    def refresh(self) -> None:
        """Show the present state, where there is something to show it on."""

    @staticmethod
    def _how_far(state: _State) -> str:
        share = state.done / state.total if state.total else 0.0
        text = f"{state.what} {state.done}/{state.total}"
        left = Board._seconds_left(state)
        if left is not None and share < 1:
            text += f", {duration(left)} left"
        return text + (f", {state.note}" if state.note else "")

    @staticmethod
    def _seconds_left(state: _State) -> float | None:
        share = state.done / state.total if state.total else 0.0
        if not share:
            return None
        return round((time.monotonic() - state.phase_since) * (1 - share) / share, 1)


class LiveBoard(Board):
    """A live table of stages by condition, for terminals."""

    def __init__(self, nodes: Sequence[Node], console: Console) -> None:
        super().__init__(nodes)
        self.console = console
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._table)

    def __enter__(self) -> Board:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def line(self, text: str, event: str = "message", **fields: Any) -> None:
        """Nothing: the table says it."""

    def say(self, text: str, event: str = "message", **fields: Any) -> None:
        """Lines scroll above the table, but not the starts and ends that it shows anyway."""
        if event != "start" and "already complete" not in text:
            self._live.console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", markup=True)

    def _table(self) -> Table:
        table = Table(title=f"{duration(time.monotonic() - self.began)}", title_justify="left")
        stages = list(dict.fromkeys(n.stage for n in self.nodes if n.condition))
        table.add_column("condition")
        for stage in stages:
            table.add_column(stage)
        rows = dict.fromkeys((n.condition, n.seed) for n in self.nodes if n.condition)
        for condition, seed in rows:
            cells = [self._cell(Node(stage, condition, seed)) for stage in stages]
            table.add_row(f"{condition} [dim]{seed}[/dim]", *cells)
        for node in self.nodes:
            if not node.condition:
                table.add_row(node.stage, self._cell(node))
        return table

    def _cell(self, node: Node) -> str:
        state = self.states.get(node)
        if state is None:
            return "[dim]–[/dim]"
        if state.state == "running":
            return f"[yellow]{self._how_far(state)}[/yellow]"
        style = {"done": "green", "skipped": "green", "failed": "red bold", "blocked": "red"}
        text = _SYMBOLS[state.state]
        return f"[{style[state.state]}]{text}[/]" if state.state in style else f"[dim]{text}[/dim]"


def make_board(nodes: Sequence[Node]) -> Board:
    """A live table on a terminal, lines otherwise."""
    console = Console(stderr=True)
    return LiveBoard(nodes, console) if console.is_terminal else Board(nodes)
