"""A study with its graph, fingerprints and store: what is complete, and what could run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from personaspace.pipeline import graph as graphs
from personaspace.pipeline.graph import Graph
from personaspace.pipeline.node import Node
from personaspace.pipeline.states import Standing
from personaspace.store import Manifest, Store
from personaspace.study.loaded import Study
from personaspace.study.order import in_one_order


@dataclass(frozen=True)
class Work:
    """A study made ready to run.

    Attributes:
        study: The study.
        graph: Its graph.
        fingerprints: Of every node.
        store: Where artifacts are.
    """

    study: Study
    graph: Graph
    fingerprints: dict[Node, str]
    store: Store

    @cached_property
    def unordered(self) -> dict[Node, str]:
        """Fingerprints that are the same whatever the order of personas and questions is."""
        return graphs.fingerprints(in_one_order(self.study), self.graph)

    def key(self, node: Node) -> str:
        """Where the node's artifact lies."""
        return graphs.key(node, self.fingerprints[node])

    def manifest(self, node: Node) -> Manifest | None:
        """The node's manifest, if it carries the node's fingerprint."""
        manifest = self.store.find(self.key(node))
        if manifest is None or manifest.fields.get("fingerprint") != self.fingerprints[node]:
            return None
        return manifest

    def manifests(self) -> dict[Node, Manifest | None]:
        """Every node's `manifest`."""
        return {node: self.manifest(node) for node in self.graph.nodes}

    def complete(self, node: Node) -> Manifest | None:
        """The node's manifest if it was made from its inputs as they are now."""
        manifest = self.manifest(node)
        if manifest is None:
            return None
        recorded = manifest.fields.get("inputs", {})
        for need in self.graph.needs[node]:
            current = self.manifest(need)
            # An input that is gone (cleaned up) does not make a finished artifact wrong.
            if current is not None and recorded.get(need.id) != current.digest:
                return None
        return manifest

    def standings(self) -> dict[Node, Standing]:
        """Which nodes are complete, which could run, and which wait for those."""
        found: dict[Node, Standing] = {}
        for node in self.graph.nodes:
            if self.complete(node) is not None:
                found[node] = Standing.COMPLETE
            else:
                needs = self.graph.needs[node]
                ready = all(found[need] is Standing.COMPLETE for need in needs)
                found[node] = Standing.READY if ready else Standing.WAITING
        return found


def prepare(study: Study, store: Store) -> Work:
    """Build the graph and its fingerprints."""
    graph = graphs.build(study)
    return Work(study, graph, graphs.fingerprints(study, graph), store)
