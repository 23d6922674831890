"""A study on this machine: how far it is."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from personaspace.pipeline.graph import STAGES, Node
from personaspace.pipeline.run import prepare
from personaspace.store import open_store
from personaspace.study.load import load_study


def status_of_spec(spec: Path, store: str, as_json: bool) -> None:
    """Print which of a study's stages are complete, which can run, and which wait."""
    with open_store(store) as place:
        place.check(write=False)
        work = prepare(load_study(spec), place)
        states: dict[Node, str] = {}
        for node in work.graph.nodes:
            if work.complete(node) is not None:
                states[node] = "complete"
            else:
                ready = all(states[need] == "complete" for need in work.graph.needs[node])
                states[node] = "ready" if ready else "waiting"
    if as_json:
        print(json.dumps({node.id: state for node, state in states.items()}, indent=1))
        return
    table = Table()
    table.add_column("condition")
    table.add_column("seed")
    stages = [stage for stage in STAGES if any(n.stage == stage and n.condition for n in states)]
    for stage in stages:
        table.add_column(stage)
    for condition, seed in dict.fromkeys((n.condition, n.seed) for n in states if n.condition):
        cells = [states.get(Node(stage, condition, seed), "–") for stage in stages]
        table.add_row(condition, str(seed), *cells)
    for node, state in states.items():
        if not node.condition:
            table.add_row(node.stage, "", state)
    Console().print(table)
