"""One stage in one process: what a container runs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from personaspace import interrupt, runtime, study
from personaspace.errors import UserError
from personaspace.graph import Node, Stage
from personaspace.progress import Board, StageProgress
from personaspace.stages import prepare, run_node
from personaspace.store import open_store


def run_stage(stage: str, spec: Path, store_url: str, condition: str = "", seed: int = -1) -> None:
    """Run one node and say, in lines, what it does and where the result is.

    Ends the process: 0 done, 2 the user's mistake, 75 asked to stop, 1 anything else.
    """
    from personaspace.cli import guarded

    guarded(_run)(stage, spec, store_url, condition, seed)


def _run(stage: str, spec: Path, store_url: str, condition: str, seed: int) -> None:
    interrupt.install()
    loaded = study.load(spec)
    node = Node(cast(Stage, stage), condition, seed)
    with open_store(store_url) as store:
        store.check()
        work = prepare(loaded, store)
        if node not in work.graph.needs:
            known = ", ".join(n.id for n in work.graph.nodes if n.stage == stage)
            raise UserError(f"{node.id}: not a stage of {spec}; there are: {known}")
        board = Board([node])
        models = runtime.Runtime(loaded)

        def start() -> StageProgress:
            board.line(
                f"{node.id}: fingerprint {work.fingerprints[node][:16]}, "
                f"inputs {', '.join(n.id for n in work.graph.needs[node]) or 'none'}, "
                f"{runtime.device_name()}"
            )
            return board.stage(node)

        try:
            outcome = run_node(work, node, models, start)
        finally:
            models.close()
        board.finish(node, outcome.state, store.describe(work.key(node)))
