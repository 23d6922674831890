"""The stage graph: what runs, in which order, on what, and when it need not run again.

A node's *fingerprint* is a hash of the stage's version, the parts of the study that the stage
reads, and its inputs' fingerprints; so it is known before anything runs. What a stage reads is what
`_reads` returns for it: a field that is not there cannot change the stage's result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from personaspace.errors import UserError
from personaspace.study.load import Study
from personaspace.study.spec import Condition, Recipe

Stage = Literal["train", "extract", "couple", "evaluate", "aggregate", "report"]
STAGES: tuple[Stage, ...] = ("train", "extract", "couple", "evaluate", "aggregate", "report")

#: Raised when a stage computes something else from the same inputs.
VERSIONS: dict[Stage, int] = {
    "train": 1,
    "extract": 1,
    "couple": 1,
    "evaluate": 1,
    "aggregate": 3,
    "report": 3,
}


@dataclass(frozen=True, order=True)
class Node:
    """One run of one stage.

    Attributes:
        stage: What is done.
        condition: For which condition; empty for the whole study.
        seed: For which seed; -1 for the whole study.
    """

    stage: Stage
    condition: str = ""
    seed: int = -1

    @property
    def id(self) -> str:
        """`train:e4-villain:42`, or `aggregate`."""
        return f"{self.stage}:{self.condition}:{self.seed}" if self.condition else self.stage


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run.

    Attributes:
        nodes: Every node after those it needs.
        needs: Each node's inputs.
    """

    nodes: tuple[Node, ...]
    needs: dict[Node, tuple[Node, ...]]

    def descendants(self, node: Node) -> set[Node]:
        """All nodes that cannot run without this one."""
        found: set[Node] = set()
        for other in self.nodes:
            if any(need == node or need in found for need in self.needs[other]):
                found.add(other)
        return found

    def select(self, pattern: str) -> list[Node]:
        """Nodes that match `stage`, `stage:condition` or `stage:condition:seed`.

        Raises:
            UserError: None does.
        """
        parts = pattern.split(":")
        chosen = [
            node
            for node in self.nodes
            if all(
                part in ("", own)
                for part, own in zip(
                    parts, (node.stage, node.condition, str(node.seed)), strict=False
                )
            )
        ]
        if not chosen or len(parts) > 3:
            stages = ", ".join(dict.fromkeys(node.stage for node in self.nodes))
            raise UserError(
                f"--only {pattern}: no such stage (stages: {stages}; form: train:e4:42)"
            )
        return chosen


def build(study: Study) -> Graph:
    """The study's graph: train → extract; train → couple → evaluate; all → aggregate → report."""
    spec = study.spec
    needs: dict[Node, tuple[Node, ...]] = {}
    ends: list[Node] = []
    for seed_index, seed in enumerate(spec.seeds):
        for condition in spec.conditions:
            adapter: tuple[Node, ...] = ()
            if condition.dataset is not None:
                train = Node("train", condition.name, seed)
                needs[train] = ()
                adapter = (train,)
            # The base model's activations do not depend on the seed: extracted once.
            if condition.dataset is not None or seed_index == 0:
                extract = Node("extract", condition.name, seed)
                needs[extract] = adapter
                ends.append(extract)
            couple = Node("couple", condition.name, seed)
            needs[couple] = adapter
            evaluate = Node("evaluate", condition.name, seed)
            needs[evaluate] = (*adapter, couple)
            ends.append(evaluate)
    aggregate = Node("aggregate")
    needs[aggregate] = tuple(
        sorted(
            [*ends, *(node for node in needs if node.stage in ("train", "couple"))],
            key=lambda node: (STAGES.index(node.stage), node.condition, node.seed),
        )
    )
    needs[Node("report")] = (aggregate,)
    if study.part is not None:
        of = study.part
        needs = {
            n: w for n, w in needs.items() if n.condition == of.condition and n.stage in of.stages
        }
    # Stage by stage, so that the first results of all conditions come early.
    order = sorted(needs, key=lambda node: STAGES.index(node.stage))
    return Graph(tuple(order), needs)


def _recipe(recipe: Recipe) -> dict[str, Any]:
    # How often a checkpoint is written, or rows are filled, does not change what is learned.
    return recipe.model_dump(exclude={"checkpoint_every"})


def _personas(study: Study, names: Iterable[str]) -> list[list[str | None]]:
    return [[name, study.spec.persona(name).prompt] for name in names]


def _reads_train(study: Study, condition: Condition) -> dict[str, Any]:
    spec = study.spec
    assert condition.dataset is not None
    persona = None if condition.persona is None else spec.persona(condition.persona).prompt
    data = spec.datasets[condition.dataset]
    return {
        "dataset": [study.chats[condition.dataset].digest, data.bounds()],
        "persona": persona,
        "recipe": _recipe(spec.training),
    }


def _reads_extract(study: Study, condition: Condition) -> dict[str, Any]:
    spec = study.spec
    methods = sorted(set(spec.extraction.methods))
    reads: dict[str, Any] = {
        "personas": _personas(study, spec.extracted_personas()),
        "questions": study.extraction_questions,
        "layers": spec.extraction.layers,
        "methods": methods,
        "condition": condition.name,
    }
    if "b" in methods:
        reads["max_new_tokens"] = spec.extraction.max_new_tokens
        reads["engine"] = spec.generation.engine
    if condition.kind == "base":
        reads["induction"] = study.induction_rows()
    return reads


def _reads_couple(study: Study, condition: Condition) -> dict[str, Any]:
    coupling = study.spec.coupling
    return {
        "personas": _personas(study, [coupling.source, *coupling.negatives]),
        "questions": study.coupling_questions,
        "settings": coupling.model_dump(
            exclude={"recipe", "questions", "limit", "source", "negatives"}
        ),
        "recipe": _recipe(coupling.recipe),
        "engine": study.spec.generation.engine,
        "condition": condition.name,
    }


def _reads_evaluate(study: Study, condition: Condition) -> dict[str, Any]:
    evaluation = study.spec.evaluation
    return {
        "personas": _personas(study, study.spec.evaluated_personas()),
        "questions": study.evaluation_questions,
        "settings": evaluation.model_dump(
            include={"samples", "temperature", "top_p", "max_new_tokens"}
        ),
        "engine": study.spec.generation.engine,
        "marker": study.spec.coupling.marker,
        "condition": condition.name,
    }


_READS: dict[str, Callable[[Study, Condition], dict[str, Any]]] = {
    "train": _reads_train,
    "extract": _reads_extract,
    "couple": _reads_couple,
    "evaluate": _reads_evaluate,
}


def _reads(study: Study, node: Node) -> dict[str, Any]:
    spec = study.spec
    if node.condition:
        condition = spec.condition(node.condition)
        reads = _READS[node.stage](study, condition)
        reads["model"] = [study.model_identity, spec.model.dtype]
        if node.stage != "extract":  # greedy answers and activations draw nothing
            reads["seed"] = node.seed
        return reads
    if node.stage == "aggregate":
        return {
            "study": spec.name,
            "model": spec.model.model_dump(),
            "personas": _personas(study, [persona.name for persona in spec.personas]),
            "analysis": spec.analysis.model_dump(exclude={"partial"}),
            "conditions": [c.model_dump(exclude={"gpus"}) for c in spec.conditions],
            "coupling": spec.coupling.model_dump(include={"source", "negatives", "marker"}),
            "coupling_questions": study.coupling_questions,
            "seeds": spec.seeds,
        }
    # The report prints the whole spec, so any change of it changes the report. What was computed
    # again is no part of the study.
    return {"spec": spec.model_dump(mode="json", exclude={"rerun"})}


def fingerprints(study: Study, graph: Graph) -> dict[Node, str]:
    """Every node's fingerprint."""
    found: dict[Node, str] = {}
    for node in graph.nodes:
        content = {
            "stage": [node.stage, VERSIONS[node.stage]],
            "reads": _reads(study, node),
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
