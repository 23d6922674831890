"""A whole study on this machine, for the command line and for Python alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from personaspace import interrupt
from personaspace.errors import UserError
from personaspace.generation import choice
from personaspace.logs import tell
from personaspace.pipeline import executor, judging
from personaspace.pipeline import substitutes as taking
from personaspace.pipeline.executor import Summary
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import Board, make_board
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.work import Work, prepare
from personaspace.store import Store
from personaspace.study.loaded import Study


def run_study(
    study: Study,
    store: Store,
    *,
    only: Sequence[str] = (),
    with_inputs: bool = False,
    jobs: int = 1,
    file: Path | None = None,
    substitutes: Sequence[str] = (),
    watched: Callable[[Work, Board], AbstractContextManager[object]] | None = None,
) -> tuple[Work, Summary]:
    """Run a study's stages, in this process or in several; progress goes to stderr.

    Args:
        study: The study.
        store: Where its artifacts are.
        only: Patterns of stages (see `Graph.select`); none: all.
        with_inputs: With `only`: what these need as well.
        jobs: Processes that share the work.
        file: The study's file, which further processes read.
        substitutes: Stores whose artifacts are taken instead of computed, in this order, before
            those that the study names.
        watched: Given what is run and its board; entered while stages run.

    Returns:
        What was run, and how each stage ended.

    Raises:
        UserError: A model that cannot serve, a stage that is not there, or a store that cannot be
            written to.
        Interrupted: Asked to stop; another run goes on from there.
    """
    if jobs > 1 and file is None:
        raise UserError("jobs: several processes need the study's file, not a loaded study")
    taking.check_named(substitutes)
    from personaspace.models import preflight

    with interrupt.breakable():  # nothing is at stake yet, whatever is waited for
        preflight.check_to_run(study)  # a model that cannot serve fails before anything starts
        store.check()
        work = prepare(study, store)
        nodes = work.graph.choose(only, with_inputs)
        if any(node.stage == "judge" and work.complete(node) is None for node in nodes):
            # One that cannot be asked fails before anything is trained for it.
            judging.check(study, store)
    with interrupt.caught():
        taking.take(work, nodes, substitutes, tell)
    _foretell_publishing(work, nodes)
    missing = choice.slow(study.spec.generation.engine)
    asked = (node for node in nodes if STAGES[node.stage].draws_answers(study))
    if missing and any(work.complete(node) is None for node in asked):
        tell(missing)
    board = make_board(nodes)
    beside = nullcontext() if watched is None else watched(work, board)
    with interrupt.caught(), beside, board:
        if jobs > 1 and file is not None:
            summary = executor.run_beside(work, nodes, board, file.absolute(), jobs)
        else:
            summary = executor.run_here(work, nodes, board)
    return work, summary


def _foretell_publishing(work: Work, nodes: Sequence[Node]) -> None:
    """Say now what would let publishing fail at the end; the study runs all the same."""
    target = work.study.spec.publish
    node = next((node for node in nodes if STAGES[node.stage].outward), None)
    if node is None or target is None or work.complete(node) is not None:
        return
    from personaspace.publish.finished import obstacle

    why = obstacle(work.study, target)
    if why is not None:
        tell(f"note: publish would fail now ({why}); all else runs, and another run publishes it")


def export(work: Work, out: Path, *, report: bool = True) -> Path:
    """Copy results and, unless it is not wanted, the report to a folder.

    Raises:
        UserError: They are not complete.
    """
    out.mkdir(parents=True, exist_ok=True)
    for stage in ("aggregate", "report") if report else ("aggregate",):
        manifest = work.manifest(Node(stage))
        if manifest is None:
            raise UserError(f"{stage}: not complete in {work.store.url}; `personaspace run` first")
        shutil.copytree(work.store.fetch(manifest), out, dirs_exist_ok=True)
    return out
