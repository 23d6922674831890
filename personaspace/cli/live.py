"""`run --serve` and `status --serve`: what the live page shows, of a run, a store or a release."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from personaspace import interrupt
from personaspace.cluster.states import JobState
from personaspace.console import console, shown
from personaspace.files import read_json
from personaspace.live import Address, Cell, LivePage, Look, Losses, Snapshot, Source, address
from personaspace.pipeline.context import TRAINING_LOG, TRAINS
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import WORDS, Board, seconds_left
from personaspace.pipeline.so_far import SoFar, so_far
from personaspace.pipeline.states import NodeState, Standing
from personaspace.pipeline.work import Work

if TYPE_CHECKING:
    from personaspace.cluster.api import Cluster
    from personaspace.cluster.status import JobRow

_LOOKS = {
    NodeState.WAITING: Look.WAITING,
    NodeState.RUNNING: Look.RUNNING,
    NodeState.DONE: Look.DONE,
    NodeState.SKIPPED: Look.DONE,
    NodeState.FAILED: Look.FAILED,
    NodeState.BLOCKED: Look.STOPPED,
}
_LOOKS_BETWEEN = {
    Standing.COMPLETE: Look.DONE,
    Standing.READY: Look.READY,
    Standing.RUNNING: Look.RUNNING,
    Standing.WAITING: Look.WAITING,
}
_LOOKS_OF_JOBS = {
    JobState.DONE: Look.DONE,
    JobState.FAILED: Look.FAILED,
    JobState.NOT_RUN: Look.STOPPED,
    JobState.GONE: Look.STOPPED,
    JobState.RUNNING: Look.RUNNING,
    JobState.STARTING: Look.READY,
    JobState.QUEUED: Look.READY,
    JobState.WAITING: Look.WAITING,
}
#: Seconds for which what was read of a store or of a cluster is shown again.
REFRESH_SECONDS = 5.0
#: Lines of a pod's log that the page shows.
LOG_LINES = 1000
#: Trainings, at most, whose checkpoints are looked for where a store does not know its writers.
_LOOKED_AT = 50


@contextmanager
def serving(
    source: Source, where: Address, every: float = 1.0, of_run: bool = False
) -> Iterator[LivePage]:
    """Serve a page, and say where. See `LivePage`."""
    with LivePage(source, where, every, of_run) as page:
        console(stderr=True).print(f"live page: {page.where.url}")
        yield page


def until_stopped(source: Source, where: Address) -> None:
    """Serve a page until the process is told to stop."""
    interrupt.install()
    with serving(source, where, REFRESH_SECONDS):
        while not interrupt.asked():
            time.sleep(0.2)


# --- a run ---------------------------------------------------------------------------------------


def page_of_run(where: str) -> Callable[[Work, Board], AbstractContextManager[LivePage]]:
    """Serves a run's page, given what is run and its board.

    Raises:
        UserError: That is no address.
    """
    asked = address(where)
    return lambda work, board: serving(RunSource(work, board), asked, of_run=True)


class RunSource:
    """A run on this machine, as its board has it."""

    def __init__(self, work: Work, board: Board) -> None:
        self.work, self.board = work, board

    def snapshot(self) -> Snapshot:
        """See `Source.snapshot`."""
        ahead = self.board.ahead()
        return Snapshot(
            study=self.work.study.spec.name,
            cells=[self._cell(node) for node in self.board.nodes],
            left=None if ahead is None else ahead.seconds,
            left_whole=ahead is not None and ahead.whole,
        )

    def losses(self, node: str) -> Losses:
        """See `Source.losses`; of one that was complete before, as its artifact has them."""
        found, state = next(each for each in self.board.states.items() if each[0].id == node)
        known = list(state.losses)
        return known if known or not state.state.complete else _kept_losses(self.work, found)

    def log(self, node: str) -> str:
        """See `Source.log`: it stands on the terminal."""
        return ""

    def _cell(self, node: Node) -> Cell:
        mine = self.board.states[node]
        cell = _plain(node, _LOOKS[mine.state], WORDS.get(mine.state, str(mine.state)))
        if mine.state is NodeState.RUNNING:
            training = bool(mine.losses) and mine.losses[-1][0] == mine.done
            measured = mine.measured if training else None
            return replace(
                cell,
                what=mine.what,
                done=mine.done,
                total=mine.total,
                note=mine.note,
                left=seconds_left(mine),
                ran=time.monotonic() - mine.since,
                steps=mine.total if training else 0,
                tokens_per_second=None if measured is None else measured.tokens_per_second,
                gpu_memory=None if measured is None else measured.gpu_memory,
            )
        if mine.state is NodeState.WAITING:
            needs = self.work.graph.needs[node]
            known = self.board.states
            left = [n.id for n in needs if n in known and not known[n].state.complete]
            if not left:
                return replace(cell, look=Look.READY, state=str(Standing.READY))
            return replace(cell, why=_waits_for(left))
        return replace(cell, why=mine.note, ran=mine.took)


class StoreSource:
    """A study between runs, or run by other processes: what of it the store has."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._so_far: dict[Node, SoFar] = {}

    def snapshot(self) -> Snapshot:
        """See `Source.snapshot`."""
        standings = self.work.standings()
        self._look(standings)
        return Snapshot(
            study=self.work.study.spec.name,
            cells=[self._cell(node, standing, standings) for node, standing in standings.items()],
        )

    def losses(self, node: str) -> Losses:
        """See `Source.losses`; of a training that is not complete, as its checkpoint has them."""
        found = next(each for each in self.work.graph.nodes if each.id == node)
        known = self._so_far.get(found)
        return _kept_losses(self.work, found) if known is None else known.losses

    def log(self, node: str) -> str:
        """See `Source.log`: whoever runs the stage has it."""
        return ""

    def _look(self, standings: Mapping[Node, Standing]) -> None:
        """How far trainings are that somebody runs, or has begun."""
        begun = [
            node
            for node, standing in standings.items()
            if node.stage in TRAINS and standing in (Standing.RUNNING, Standing.READY)
        ]
        if self.work.store.knows_writers or len(begun) <= _LOOKED_AT:
            found = {node: so_far(self.work.store, self.work.key(node)) for node in begun}
        else:  # each takes a question to the store
            found = {}
        # A checkpoint may go while it is read, and its successor is not there yet.
        known = {node: found.get(node) or self._so_far.get(node) for node in begun}
        self._so_far = {node: each for node, each in known.items() if each is not None}

    def _cell(self, node: Node, standing: Standing, all_: Mapping[Node, Standing]) -> Cell:
        cell = _plain(node, _LOOKS_BETWEEN[standing], str(standing))
        known = self._so_far.get(node)
        if known is not None and standing is Standing.RUNNING:
            note = "as its latest checkpoint has it"
            steps = known.total
            return replace(cell, what="train", done=known.done, total=steps, steps=steps, note=note)
        if known is not None:
            of = f" of {known.total}" if known.total else ""
            return replace(cell, why=f"goes on after step {known.done}{of}: a checkpoint is kept")
        if standing is not Standing.WAITING:
            return cell
        needs = self.work.graph.needs[node]
        return replace(
            cell, why=_waits_for([n.id for n in needs if all_[n] is not Standing.COMPLETE])
        )


def _plain(node: Node, look: Look, state: str) -> Cell:
    trains = node.stage in TRAINS
    return Cell(node.id, node.stage, node.condition, node.seed, look, state, trains=trains)


def _waits_for(needs: list[str]) -> str:
    if len(needs) > 2:
        return f"for {len(needs)} stages"
    return f"for {' and '.join(needs)}" if needs else ""


def _kept_losses(work: Work, node: Node) -> Losses:
    manifest = work.complete(node)
    if manifest is None:
        return []
    steps = read_json(work.store.fetch(manifest, [TRAINING_LOG]) / TRAINING_LOG)["steps"]
    return [(step["step"], step["loss"]) for step in steps]


# --- a release -----------------------------------------------------------------------------------


class ReleaseSource:
    """A release of the chart, as its cluster has it.

    Args:
        cluster: Where.
        release: Its name.
        flags: What names the cluster, for commands.
    """

    def __init__(self, cluster: Cluster, release: str, flags: list[str]) -> None:
        self.cluster, self.release, self.flags = cluster, release, flags
        self._pods: dict[str, str] = {}

    def snapshot(self) -> Snapshot:
        """See `Source.snapshot`."""
        from personaspace.cluster.status import rows

        found = rows(self.cluster, self.release)
        self._pods = {row.title: row.pod for row in found if row.pod}
        notices = [row.notice for row in found if row.notice]
        return Snapshot(self.release, [self._cell(row) for row in found], notices)

    def losses(self, node: str) -> Losses:
        """See `Source.losses`: as the newest pod's log tells them, one every so many seconds."""
        from personaspace.cluster.pod_logs import told_losses

        pod = self._pods.get(node)
        return told_losses(self.cluster, pod) if pod else []

    def log(self, node: str) -> str:
        """See `Source.log`: of its newest pod."""
        from personaspace.cluster.pod_logs import log_end

        return log_end(self.cluster, self._pods[node], LOG_LINES) or "no log can be read of it\n"

    def _cell(self, row: JobRow) -> Cell:
        command = ["personaspace", "logs", self.release, row.condition or row.stage]
        if row.condition and row.stage != "condition":
            command += ["--stage", row.stage, f"--seed={row.seed}"]
        command += ["--namespace", self.cluster.namespace, *self.flags]
        has_log = bool(row.pod) and row.ran is not None  # one that has not run has said nothing
        cell = Cell(
            row.title,
            row.stage,
            row.condition,
            row.seed,
            _LOOKS_OF_JOBS[row.state],
            row.state_told,
            why=row.why,
            ran=row.ran,
            trains=row.stage in (*TRAINS, "condition"),
            log=shlex.join(map(shown, command)) if has_log else "",
            logged=has_log,
        )
        if row.progress is None:
            return cell
        told = row.progress
        return replace(
            cell,
            what=told.what,
            done=told.done,
            total=told.total,
            left=told.left,
            note=told.note,
            steps=0 if told.tokens_per_second is None else told.total,
            tokens_per_second=told.tokens_per_second,
            gpu_memory=told.gpu_memory,
        )
