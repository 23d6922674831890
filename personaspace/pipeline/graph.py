"""The stage graph: what runs, in which order, on what, and when it need not run again.

A node's *fingerprint* is a hash of the stage's version, the parts of the study that the stage
reads, and its inputs' fingerprints; so it is known before anything runs. What a stage needs and
reads is what its `Stage` says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from personaspace.errors import UserError, did_you_mean, nearest
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Scope
from personaspace.pipeline.stages import STAGES
from personaspace.study.inputs import Condition
from personaspace.study.loaded import Study
from personaspace.study.spec import Experiment

__all__ = ["STAGES", "Graph", "Node", "build", "fingerprints", "key"]


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run.

    Attributes:
        nodes: Every node after those it needs.
        needs: Each node's inputs.
    """

    nodes: tuple[Node, ...]
    needs: dict[Node, tuple[Node, ...]]

    def select(self, pattern: str) -> list[Node]:
        """Nodes that match `stage`, `stage:condition` or `stage:condition:seed`.

        Raises:
            UserError: None does.
        """
        parts = pattern.split(":")
        if not pattern.strip(": "):
            raise UserError("--only: is empty; leave it out to run everything")
        chosen = [
            node
            for node in self.nodes
            if all(part in ("", own) for part, own in zip(parts, _parts(node), strict=False))
        ]
        if not chosen or len(parts) > 3:
            stages = ", ".join(dict.fromkeys(node.stage for node in self.nodes))
            near = did_you_mean(self._nearest(parts))
            raise UserError(
                f"--only {pattern}: no such stage{near} (stages: {stages}; form: train:e4:42)"
            )
        return chosen

    def _nearest(self, parts: list[str]) -> str:
        """The pattern that was probably meant; empty if none is near."""
        meant = []
        for place, part in enumerate(parts[:3]):
            known = list(dict.fromkeys(_parts(node)[place] for node in self.nodes))
            meant.append(part if part in ("", *known) else nearest(part, known))
        found = all(mine or not given for mine, given in zip(meant, parts, strict=False))
        return ":".join(meant) if found and meant != parts else ""

    def choose(self, only: Iterable[str], with_inputs: bool = False) -> list[Node]:
        """The nodes that are meant, in order: all, or those of some patterns (see `select`).

        Args:
            only: Patterns; none: all nodes.
            with_inputs: With patterns: what their nodes need as well.

        Raises:
            UserError: A pattern that matches none, or `with_inputs` without patterns.
        """
        meant = {node for pattern in only for node in self.select(pattern)}
        if not meant:
            if with_inputs:
                raise UserError("--with-inputs: goes with --only")
            return list(self.nodes)
        return self.with_inputs(meant) if with_inputs else [n for n in self.nodes if n in meant]

    def with_inputs(self, nodes: Iterable[Node]) -> list[Node]:
        """These nodes and all that they need, in order."""
        wanted = set(nodes)
        for node in reversed(self.nodes):
            if node in wanted:
                wanted.update(self.needs[node])
        return [node for node in self.nodes if node in wanted]


def _parts(node: Node) -> tuple[str, str, str]:
    return node.stage, node.condition, str(node.seed)


def stages_of(spec: Experiment) -> list[str]:
    """Names of the stages that this study has, each after those that it needs."""
    wanted = {name: stage for name, stage in STAGES.items() if stage.wanted(spec)}
    needs = {
        name: {need.stage for need in stage.needs_of(spec)} & wanted.keys()
        for name, stage in wanted.items()
    }
    order: list[str] = []
    while len(order) < len(needs):
        order.append(next(n for n in needs if n not in order and needs[n] <= set(order)))
    return order


def _arms(study: Study) -> list[Condition]:
    """The conditions and their doses: of a part, its own and what that is a dose of."""
    spec, part = study.spec, study.part
    if part is None:
        return [*spec.conditions, *spec.doses()]
    condition = spec.condition(part.condition)
    whole = [] if condition.whole is None else [spec.condition(condition.whole)]
    return [*whole, condition]


def _of_part(study: Study, node: Node) -> bool:
    """Whether a part of a study tells of a node: of what its own is a dose of, inputs alone."""
    part = study.part
    if part is None:
        return True
    whole = study.spec.condition(part.condition).whole
    stands = node.stage in part.stages
    return stands and (node.condition != whole or STAGES[node.stage].of_whole is not None)


def build(study: Study) -> Graph:
    """The study's graph.

    train → extract; train → couple → evaluate; all → aggregate → report (→ publish); with a judge
    also train → judge → aggregate. Where the marker is coupled before fine-tuning: couple (of base)
    → train → extract, evaluate and judge. A dose of a condition has some of these stages again, and
    its train needs the condition's.
    """
    spec, part = study.spec, study.part
    needs: dict[Node, tuple[Node, ...]] = {}
    of_condition = [stage for stage in STAGES.values() if stage.scope is Scope.CONDITION]
    for seed in spec.seeds:
        for condition in _arms(study):
            if seed not in spec.seeds_of(condition):
                continue
            own = {stage.name: stage.node(spec, condition, seed) for stage in of_condition}
            for stage in of_condition:
                node = own[stage.name]
                if node is not None and node not in needs:
                    theirs = [own[need.stage] for need in stage.needs_of(spec)]
                    whole = condition.whole
                    if whole is not None and stage.of_whole is not None:
                        theirs.append(stage.node(spec, spec.condition(whole), seed))
                    needs[node] = tuple(need for need in theirs if need is not None)
    rank = {name: place for place, name in enumerate(stages_of(spec))}
    for stage in STAGES.values():
        if stage.scope is Scope.STUDY and stage.wanted(spec):
            wanted = {need.stage for need in stage.needs_of(spec)}
            inputs = sorted(
                (node for node in needs if node.stage in wanted),
                key=lambda node: (rank[node.stage], node.condition, node.seed),
            )
            needs[Node(stage.name)] = tuple(inputs)
    if part is not None:
        needs = {n: own for n, own in needs.items() if _of_part(study, n)}
    # Stage by stage, so that the first results of all conditions come early.
    return Graph(tuple(sorted(needs, key=lambda node: rank[node.stage])), needs)


def fingerprints(study: Study, graph: Graph) -> dict[Node, str]:
    """Every node's fingerprint."""
    found: dict[Node, str] = {}
    for node in graph.nodes:
        stage = STAGES[node.stage]
        content = {
            "stage": [stage.name, stage.version],
            "reads": stage.reads(study, node),
            "inputs": [[need.id, found[need]] for need in graph.needs[node]],
        }
        nonces = study.spec.nonces(node.stage, node.condition, node.seed)
        if nonces:
            content["nonces"] = nonces
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        found[node] = hashlib.sha256(text.encode()).hexdigest()
    return found


def key(node: Node, fingerprint: str) -> str:
    """Where the node's artifact lies in the store."""
    if not node.condition:
        return f"{node.stage}/{fingerprint[:16]}"
    return f"{node.condition}/seed-{node.seed}/{node.stage}/{fingerprint[:16]}"
