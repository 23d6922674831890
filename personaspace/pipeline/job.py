"""Stages in one process: what a container runs.

Ends the process: 0 done, 2 the user's mistake, 69 store away, 75 asked to stop, 1 anything else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from personaspace import interrupt
from personaspace.errors import UnavailableError, UserError, one_line
from personaspace.files import environment_number
from personaspace.logs import RunEvent, log_line, tell
from personaspace.pipeline import executor, job_log, metrics, runtime, substitutes, termination
from personaspace.pipeline.graph import Graph
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import WORDS, Board, StageProgress
from personaspace.pipeline.stage import Scope
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.states import NodeState
from personaspace.pipeline.termination import Code, Ending
from personaspace.pipeline.work import Work, prepare
from personaspace.store import Store, open_store
from personaspace.study.load import load_study

#: Seconds for which a job waits for a store that does not answer; the chart sets it, so that a
#: server's restart does not use up the retries of everything that starts meanwhile.
PATIENCE = "PERSONASPACE_STORE_PATIENCE"
#: Which nodes of the graph a job runs.
Choice = Callable[[Graph], list[Node]]


class JobBoard(Board):
    """Lines that tell what a stage is made from and where its result lies."""

    def __init__(self, work: Work, nodes: list[Node]) -> None:
        super().__init__(nodes)
        self.work = work
        self.ends: list[str] = []
        self.artifacts: dict[str, str] = {}

    def stage(self, node: Node, note: str = "") -> StageProgress:
        """See `Board.stage`; the start line names fingerprint, inputs and device."""
        needs = ", ".join(need.id for need in self.work.graph.needs[node]) or "none"
        if len(needs) > 200:
            needs = f"{len(self.work.graph.needs[node])} artifacts"
        return super().stage(
            node,
            f"fingerprint {self.work.fingerprints[node][:16]}, inputs {needs}, "
            f"{runtime.device_name(STAGES[node.stage].uses_model)}",
        )

    def finish(self, node: Node, state: NodeState, note: str = "") -> None:
        """See `Board.finish`; the end line names the artifact."""
        if state.complete:
            key = self.artifacts[node.id] = self.work.key(node)
            note = self.work.store.describe(key)
        ended = WORDS.get(state, str(state))
        self.ends.append(f"{node.id}: {ended}" + (f" – {note}" if note else ""))
        super().finish(node, state, note)


def run_stage(stage: str, spec: Path, store_url: str, condition: str = "", seed: int = -1) -> None:
    """Run one node and say, in lines, what it does and where the result is."""
    node = Node(stage, condition, seed)
    run_job(spec, store_url, lambda graph: [node], node.id, seed)


def run_condition(spec: Path, store_url: str, condition: str, seed: int) -> None:
    """Run all stages of one condition and seed in this process, the model loaded once."""

    def mine(graph: Graph) -> list[Node]:
        return [n for n in graph.nodes if (n.condition, n.seed) == (condition, seed)]

    run_job(spec, store_url, mine, f"condition:{condition}:{seed}", seed)


def conclude(spec: Path, store_url: str) -> None:
    """Run the stages that compute of the whole study: aggregate and report."""
    of_study = [
        Node(stage.name)
        for stage in STAGES.values()
        if stage.scope is Scope.STUDY and not stage.outward
    ]
    run_job(spec, store_url, lambda graph: of_study, of_study[0].id)


def run_job(spec: Path, store_url: str, choose: Choice, name: str, seed: int = -1) -> None:
    """Run some nodes, and end the process with the code that says how it went.

    Args:
        spec: The study.
        store_url: Where artifacts are.
        choose: Which nodes; none, or one that the study does not have, is the user's mistake.
        name: What is run, for messages.
        seed: Of what is run; -1: of the whole study.

    The reason of every ending is left where Kubernetes reads it.
    """
    try:
        with job_log.recorded() as log:
            _run(spec, store_url, choose, name, seed, log)
    except SystemExit:
        raise
    except BaseException as error:
        termination.write_error(name, error)
        raise


def _run(
    spec: Path, store_url: str, choose: Choice, name: str, seed: int, log: job_log.Recorded
) -> None:
    termination.take_signals()
    with interrupt.breakable():  # nothing is at stake yet, whatever is waited for
        loaded = load_study(spec, None if seed < 0 else seed)
    with open_store(store_url) as store:
        with interrupt.breakable():
            _reach(store, name)
        work = prepare(loaded, store)
        nodes = choose(work.graph)
        unknown = [node for node in nodes if node not in work.graph.needs]
        if unknown or not nodes:
            stage = unknown[0].stage if unknown else ""
            known = ", ".join(n.id for n in work.graph.nodes if stage in ("", n.stage))
            raise UserError(f"{spec} has no {name}; there are: {known}")
        substitutes.take(work, nodes, (), tell)
        board = JobBoard(work, nodes)
        errors: list[Exception] = []
        try:
            with metrics.served(board.say, metrics.Stages(loaded.spec.name, board)):
                summary = executor.run_here(work, nodes, board)
            errors += summary.failed.values()
        finally:
            begun = [node for node in nodes if board.states[node].since]
            job_log.keep(work, begun, log.text() + job_log.traces(errors))
        ending = Ending(node=name, code=Code.COMPLETE, artifacts=board.artifacts)
        if summary.failed:
            error = _gravest(list(summary.failed.values()))
            if not isinstance(error, UserError):
                raise error  # not the user's mistake: whoever fixes it wants the traceback
            text, code = one_line(error), termination.code_of(error)
            if len(nodes) > 1:
                failed = next(node for node, its in summary.failed.items() if its is error)
                text = f"{failed.id}: {text}"
            ending = ending.model_copy(update={"code": code, "text": text})
            termination.write("\n".join(board.ends), ending)  # the log has it already
            raise SystemExit(error.exit_code)
        termination.write("\n".join(board.ends), ending)


def _reach(store: Store, name: str) -> None:
    """Wait until the store answers. Raises UnavailableError when patience is over."""
    until = time.monotonic() + environment_number(PATIENCE, 0.0)
    told = False
    while True:
        try:
            return store.check()
        except UnavailableError as error:
            if time.monotonic() >= until:
                raise
            if not told:
                line = log_line(f"{name}: waiting for the store: {error}", RunEvent.TROUBLE)
                print(line, file=sys.stderr, flush=True)
            told = True
        interrupt.pause(3)


def _gravest(errors: list[Exception]) -> Exception:
    """The error that decides the exit code: what a retry may cure comes first."""

    def rank(error: Exception) -> int:
        return 2 if not isinstance(error, UserError) else isinstance(error, UnavailableError)

    return max(errors, key=rank)
