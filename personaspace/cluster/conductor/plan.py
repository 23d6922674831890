"""What the conductor must know of a study: Jobs, what they need, what complete artifacts look like.

Reading a study can load a data set, so it is done in a process of its own that ends afterwards, and
the conductor stays small: python -m personaspace.cluster.conductor.plan SPEC TABLE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace.errors import EXIT_UNAVAILABLE, EXIT_USER_ERROR, SpecErrors, UserError

if TYPE_CHECKING:
    from personaspace.study.loaded import Study


class PlanFailedError(UserError):
    """The study cannot be read.

    Attributes:
        final: Whether trying again is of no use: the user must fix it.
    """

    def __init__(self, message: str, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True)
class JobPlan:
    """A study as Jobs.

    Attributes:
        jobs: Each Job's nodes, by the Job's name, every Job after those it needs.
        needs: Nodes of other Jobs that a Job needs.
        artifacts: Key in the store and fingerprint of every node.
        partial: Whether aggregate may run on what exists.
    """

    jobs: dict[str, list[str]]
    needs: dict[str, list[str]]
    artifacts: dict[str, tuple[str, str]]
    partial: bool

    @cached_property
    def job_of(self) -> dict[str, str]:
        """The Job that runs a node."""
        return {node: job for job, nodes in self.jobs.items() for node in nodes}

    def depths(self) -> dict[str, int]:
        """How many Jobs come one after another before each: the longest way to it."""
        found: dict[str, int] = {}
        for job in self.jobs:  # every Job after those that it needs
            before = (found[self.job_of[node]] for node in self.needs[job])
            found[job] = max(before, default=-1) + 1
        return found

    def title(self, job: str) -> str:
        """A Job's nodes, for people."""
        nodes = self.jobs[job]
        if len(nodes) > 1 and ":" in nodes[0]:
            return "condition:" + nodes[0].partition(":")[2]
        return nodes[0]

    def is_tolerant(self, job: str) -> bool:
        """Whether the Job runs although some of its inputs are lost."""
        return self.partial and "aggregate" in self.jobs[job]


def make(spec: Path, table: dict[str, list[str]]) -> JobPlan:
    """Read a study and put the chart's Jobs beside its graph.

    Args:
        spec: The study.
        table: The chart's Jobs: nodes by name.

    Raises:
        UserError: The study cannot be read, or chart and code disagree about what it consists of.
    """
    from personaspace.pipeline import graph as graphs
    from personaspace.study.load import load_study

    expected = os.environ.get("PERSONASPACE_SPEC_SCHEMA")
    if expected:
        from personaspace.cluster.chart import schema_digest

        if schema_digest() != expected:
            raise SpecErrors(["the image's code and the chart are of different versions"])
    loaded = load_study(spec)
    check_model(loaded)
    graph = graphs.build(loaded)
    prints = graphs.fingerprints(loaded, graph)
    by_id = {node.id: node for node in graph.nodes}
    listed = {node for nodes in table.values() for node in nodes}
    if listed != set(by_id):
        odd = sorted(listed ^ set(by_id))
        raise SpecErrors([f"chart and code disagree about {', '.join(odd[:3])}"])
    rank = {node.id: number for number, node in enumerate(graph.nodes)}
    order = sorted(table, key=lambda name: max(rank[node] for node in table[name]))
    needs = {}
    for name in order:
        own = set(table[name])
        wanted = dict.fromkeys(n.id for node in table[name] for n in graph.needs[by_id[node]])
        needs[name] = [node for node in wanted if node not in own]
    artifacts = {node.id: (graphs.key(node, prints[node]), prints[node]) for node in graph.nodes}
    return JobPlan(
        {name: table[name] for name in order}, needs, artifacts, loaded.spec.analysis.partial
    )


def check_model(study: Study) -> None:
    """Refuse a model that cannot serve, before a pod with a GPU starts.

    Its tokenizer and configuration are fetched from the hub if need be. Where they are not on this
    machine and the hub may not be asked, nothing is said: the stages' pods may have another cache.

    Raises:
        UserError: It cannot serve.
        UnavailableError: The hub does not answer.
    """
    from personaspace.study import base_model

    model = study.spec.model
    if base_model.at_hand(model) is None:
        from huggingface_hub.constants import HF_HUB_OFFLINE

        if HF_HUB_OFFLINE or model.name.startswith("builtin:"):
            return
    from personaspace.models import preflight
    from personaspace.pipeline import judging

    preflight.check_to_run(study)
    judging.check_unasked(study.spec)


def load(spec: Path, table: Path) -> JobPlan:
    """The plan, made in another process.

    Raises:
        PlanFailedError: With what that process said.
    """
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", __name__, str(spec), str(table)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        raw = json.loads(done.stdout)
        raw["artifacts"] = {node: tuple(pair) for node, pair in raw["artifacts"].items()}
        return JobPlan(**raw)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    told = done.returncode in (EXIT_USER_ERROR, EXIT_UNAVAILABLE)
    text = "; ".join(lines) if told else lines[-1]
    raise PlanFailedError(text, final=done.returncode == EXIT_USER_ERROR)


def _main(spec: str, table: str) -> None:
    try:
        plan = make(Path(spec), json.loads(Path(table).read_text(encoding="utf-8")))
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    found: dict[str, Any] = {
        "jobs": plan.jobs,
        "needs": plan.needs,
        "artifacts": plan.artifacts,
        "partial": plan.partial,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
