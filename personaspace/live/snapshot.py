"""What the page shows: where every stage of a study is, at one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

#: Steps and their losses.
Losses = list[tuple[int, float]]


class Look(StrEnum):
    """How a stage is drawn."""

    DONE = "done"
    RUNNING = "running"
    READY = "ready"
    WAITING = "waiting"
    FAILED = "failed"
    STOPPED = "stopped"  # it will not run


class Ended(StrEnum):
    """How what the page shows came to its end."""

    COMPLETE = "complete"
    FAILED = "failed"
    STOPPED = "stopped"  # it was asked to


@dataclass(frozen=True)
class Cell:
    """One stage of one condition and seed.

    Attributes:
        node: `train:e4-villain:42`.
        stage: Its stage.
        condition: Its condition; empty: of the whole study.
        seed: Its seed; -1: of the whole study.
        look: How it is drawn.
        state: Where it is, for people.
        why: Why it is not further, or where its result is.
        what: Units of its present phase: steps, answers; empty: it does not run, or has not said.
        done: How many of these.
        total: Of how many.
        left: Seconds that this phase still takes; None: not known.
        note: What else it says.
        ran: Seconds that it ran, or runs; None: not known.
        trains: Whether it has a loss.
        log: The command that prints its log; empty: there is none.
        logged: Whether the page has its log.
        steps: Of how many its loss is in the end; 0: it does not train now, or not known.
        tokens_per_second: Of its latest step that is known; None: it does not train, or not known.
        gpu_memory: Bytes that it reserved of its GPU at most so far; None: none, or not known.
    """

    node: str
    stage: str
    condition: str
    seed: int
    look: Look
    state: str
    why: str = ""
    what: str = ""
    done: int = 0
    total: int = 0
    left: float | None = None
    note: str = ""
    ran: float | None = None
    trains: bool = False
    log: str = ""
    logged: bool = False
    steps: int = 0
    tokens_per_second: float | None = None
    gpu_memory: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment.

    Attributes:
        study: Its name.
        cells: Its stages, in the order in which the page names them.
        notices: What to know of the whole study.
        left: Seconds that it still takes; None: not known.
        left_whole: Whether `left` counts all that is to come; else it takes longer.
        trouble: Why this is not newer; empty: it is as things are.
        ended: How it ended; None: it goes on.
    """

    study: str
    cells: list[Cell]
    notices: list[str] = field(default_factory=list)
    left: float | None = None
    left_whole: bool = True
    trouble: str = ""
    ended: Ended | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Source(Protocol):
    """Where a page finds what it shows. All may raise; the page then says so."""

    def snapshot(self) -> Snapshot:
        """The study as it is now."""

    def losses(self, node: str) -> Losses:
        """A training's losses so far, by step; empty: none are known."""

    def log(self, node: str) -> str:
        """The end of a stage's log, for people; only asked of cells that are `logged`."""
