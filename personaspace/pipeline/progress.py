"""Telling people how far a run is: a live table on a terminal, a line every so often in logs.

With `PERSONASPACE_LOG=json` each log line is a JSON object: `time` (UTC, ISO 8601), `event` (a
`RunEvent`), `node`, `message` (what the plain line would say). A start, progress and end also have
`number` and `of` (this is the 5th of 17 stages) and `run_left` (seconds, null where nothing is
known) with `run_left_whole` (false: there are stages to come whose like has not run yet, so it is
the least that it will take); progress has `what`, `done`, `total`, `left` (seconds, null at first),
`note` and, of a training, `loss`, `tokens_per_second` and `gpu_memory` (bytes, null without a GPU);
an end `state` (a `NodeState`) and `where`.

What stages, libraries and users wrote is shown as it is, never parsed as markup.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from personaspace.console import console, duration, shown, stage_table
from personaspace.logs import RunEvent, as_json, log_line, shows
from personaspace.pipeline.node import Node
from personaspace.pipeline.states import Measured, NodeState

#: Seconds between two lines of one stage in a log, at first and after `SETTLED` seconds.
LINE_EVERY = 10.0
LINE_LATER = 60.0
SETTLED = 300.0
#: What less of a stage takes tells nothing of the rest: batches, compilation, caches.
TELLING_SHARE = 0.1

#: States in a sentence; the others are their own word.
WORDS = {NodeState.SKIPPED: "already complete", NodeState.BLOCKED: "not run"}
#: States in the live table's cells, with their style.
_CELLS = {
    NodeState.WAITING: ("·", "dim"),
    NodeState.DONE: ("done", "green"),
    NodeState.SKIPPED: ("kept", "green"),
    NodeState.FAILED: ("FAILED", "red bold"),
    NodeState.BLOCKED: ("not run", "red"),
}


@dataclass
class NodeProgress:
    """How far one node is.

    Times are `time.monotonic`'s; of a training `losses` are by step, `measured` its last step's.
    """

    state: NodeState = NodeState.WAITING
    what: str = ""
    done: int = 0
    total: int = 0
    note: str = ""
    since: float = 0.0
    phase_since: float = 0.0
    said: float = 0.0
    took: float | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
    measured: Measured | None = None


@dataclass(frozen=True)
class Left:
    """What a run will still take.

    Attributes:
        seconds: Of the stages whose like has run.
        whole: Whether these are all that are to come.
    """

    seconds: float
    whole: bool


def roughly(seconds: float) -> str:
    """Seconds that are only estimated: 20 s, 3 min, 2 h 5 min."""
    if seconds < 60:
        return f"{max(1, round(seconds / 10)) * 10} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return duration(seconds)


def left(states: Mapping[Node, NodeProgress], now: float, processes: int = 1) -> Left | None:
    """How long a run still takes if every stage takes as long as the mean of its like did.

    Args:
        states: Of every node of the run.
        now: On the clock of the states.
        processes: That share the work.

    Returns:
        None while no stage of a kind that is to come has run.
    """
    times: dict[str, list[float]] = {}
    for node, state in states.items():
        if state.took is not None:
            times.setdefault(node.stage, []).append(state.took)
    open_nodes = [node for node, state in states.items() if not state.state.ended]
    known = [node for node in open_nodes if node.stage in times]
    if not known:
        return None
    seconds = 0.0
    for node in known:
        mean = sum(times[node.stage]) / len(times[node.stage])
        running = states[node].state is NodeState.RUNNING
        seconds += max(mean - (now - states[node].since if running else 0.0), 0.0)
    return Left(seconds / max(1, min(processes, len(open_nodes))), len(known) == len(open_nodes))


class StageProgress:
    """What one running stage tells; handed to the stage."""

    def __init__(self, board: Board, node: Node) -> None:
        self._board = board
        self._node = node

    def start(self, what: str, total: int) -> None:
        """A new phase of `total` units begins."""
        self._board.phase(self._node, what, total)

    def advance(self, count: int = 1, note: str = "", loss: float | None = None) -> None:
        """`count` more units are finished; of a training's step, its loss."""
        self._board.advance(self._node, count, note, loss)

    def measure(self, measured: Measured) -> None:
        """Numbers of a training's step that was made."""
        self._board.measure(self._node, measured)

    def say(self, text: str) -> None:
        """Something worth a line of its own."""
        self._board.tell(self._node, text)


class Board:
    """Plain lines, for logs and pipes.

    Args:
        nodes: Everything that will run or be skipped, stage by stage.
        stream: Where lines go.

    Attributes:
        processes: How many share the work.
    """

    def __init__(self, nodes: Sequence[Node], stream: TextIO | None = None) -> None:
        self.nodes = list(nodes)
        self.stream = stream or sys.stderr
        self.states = {node: NodeProgress() for node in nodes}
        self.processes = 1
        self.began = time.monotonic()
        self.as_json = as_json()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, node: Node, note: str = "") -> StageProgress:
        """The handle for a stage that is about to run; `note` says on what."""
        state = self.states[node]
        state.state, state.since = NodeState.RUNNING, time.monotonic()
        text = f"started{self._in_brackets()}" + (f": {note}" if note else "")
        self.tell(node, text, event=RunEvent.START, **self._whole_run())
        return StageProgress(self, node)

    def phase(self, node: Node, what: str, total: int) -> None:
        """See `StageProgress.start`."""
        state = self.states[node]
        state.what, state.total, state.done, state.note = what, total, 0, ""
        state.phase_since = state.said = time.monotonic()
        self.refresh()

    def advance(self, node: Node, count: int, note: str, loss: float | None = None) -> None:
        """See `StageProgress.advance`."""
        state = self.states[node]
        state.done += count
        if loss is not None:
            state.losses.append((state.done, loss))
        state.note = note or state.note
        now = time.monotonic()
        every = LINE_EVERY if now - state.since < SETTLED else LINE_LATER
        if now - state.said >= every and state.done < state.total:
            state.said = now
            self.line(
                f"{node.id}: {_how_far(state)}{self._in_brackets()}",
                event=RunEvent.PROGRESS,
                node=node.id,
                what=state.what,
                done=state.done,
                total=state.total,
                left=seconds_left(state),
                note=state.note,
                **({} if loss is None else {"loss": loss, **_speed(state)}),
                **self._whole_run(),
            )
        self.refresh()

    def measure(self, node: Node, measured: Measured) -> None:
        """See `StageProgress.measure`."""
        self.states[node].measured = measured

    def finish(self, node: Node, state: NodeState, note: str = "") -> None:
        """A stage ended: done, skipped, failed or blocked; `note` says where or why."""
        mine = self.states[node]
        mine.state, mine.note = state, note
        text = WORDS.get(state, str(state))
        if state is NodeState.DONE:
            mine.took = time.monotonic() - mine.since
            text += f" in {duration(mine.took)}"
        text += f" – {note}" if note else ""
        self.tell(node, text, event=RunEvent.END, state=state, where=note, **self._whole_run())

    def tell(
        self, node: Node, text: str, event: RunEvent = RunEvent.MESSAGE, **fields: Any
    ) -> None:
        """One line about a node that always appears."""
        self.say(f"{node.id}: {text}", event=event, node=node.id, **fields)

    def say(self, text: str, event: RunEvent = RunEvent.MESSAGE, **fields: Any) -> None:
        """One line that always appears."""
        self.line(text, event, **fields)
        self.refresh()

    def line(self, text: str, event: RunEvent = RunEvent.MESSAGE, **fields: Any) -> None:
        """Write a log line with the time, if its kind is of a level that appears."""
        if shows(event, fields.get("state")):
            print(log_line(text, event, self.as_json, **fields), file=self.stream, flush=True)

    def refresh(self) -> None:
        """Show the present state, where there is something to show it on."""

    def ahead(self) -> Left | None:
        """What the run still takes, as `left` has it."""
        return left(self.states, time.monotonic(), self.processes)

    def how_far(self) -> str:
        """`stage 5 of 17, about 3 min left`."""
        text = f"stage {self._number()} of {len(self.states)}"
        ahead = self.ahead()
        if ahead is not None and ahead.seconds:
            text += f", {'about' if ahead.whole else 'more than'} {roughly(ahead.seconds)} left"
        return text

    def _number(self) -> int:
        """How many stages have begun, or ended without."""
        return sum(state.state is not NodeState.WAITING for state in self.states.values())

    def _in_brackets(self) -> str:
        return f" ({self.how_far()})" if len(self.states) > 1 else ""

    def _whole_run(self) -> dict[str, Any]:
        ahead = self.ahead()
        return {
            "number": self._number(),
            "of": len(self.states),
            "run_left": None if ahead is None else round(ahead.seconds, 1),
            "run_left_whole": ahead is not None and ahead.whole,
        }


def _how_far(state: NodeProgress) -> str:
    text = f"{state.what} {state.done}/{state.total}"
    seconds = seconds_left(state)
    if seconds is not None and state.done < state.total:
        text += f", {duration(seconds)} left"
    return text + (f", {state.note}" if state.note else "")


def _speed(state: NodeProgress) -> dict[str, Any]:
    """How fast a training's last step was, and on how much memory."""
    if state.measured is None:
        return {}
    rate = round(state.measured.tokens_per_second, 1)
    return {"tokens_per_second": rate, "gpu_memory": state.measured.gpu_memory}


def seconds_left(state: NodeProgress) -> float | None:
    """Of the node's present phase; None while too little of it is done to tell."""
    share = state.done / state.total if state.total else 0.0
    if share < TELLING_SHARE:
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

    def line(self, text: str, event: RunEvent = RunEvent.MESSAGE, **fields: Any) -> None:
        """Nothing: the table says it."""

    def say(self, text: str, event: RunEvent = RunEvent.MESSAGE, **fields: Any) -> None:
        """Lines scroll above the table, but not the starts and ends that it shows anyway."""
        if event is not RunEvent.START and fields.get("state") is not NodeState.SKIPPED:
            self._live.console.print(
                Text.assemble((time.strftime("%H:%M:%S"), "dim"), " ", shown(text))
            )

    def _table(self) -> Table:
        so_far = duration(time.monotonic() - self.began)
        cells = ((n.stage, n.condition, n.seed, self._cell(n)) for n in self.nodes)
        return stage_table(cells, f"{self.how_far()} ({so_far} so far)")

    def _cell(self, node: Node) -> Text:
        state = self.states[node]
        if state.state is NodeState.RUNNING:
            return Text(shown(_how_far(state)), "yellow")
        return Text(*_CELLS[state.state])


def make_board(nodes: Sequence[Node]) -> Board:
    """A live table on a terminal, lines otherwise."""
    out = console(stderr=True)
    return LiveBoard(nodes, out) if out.is_terminal else Board(nodes)
