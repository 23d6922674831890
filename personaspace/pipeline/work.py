"""A study with its graph, fingerprints and store: what is complete, and what could run."""

from __future__ import annotations

from collections.abc import Iterator
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
        return self._own(node, self.store.find(self.key(node)))

    def manifests(self) -> Iterator[tuple[Node, Manifest | None]]:
        """Every node's `manifest`, in the graph's order; each is asked for once."""
        nodes = self.graph.nodes
        found = self.store.find_all([self.key(node) for node in nodes])
        return ((node, self._own(node, own)) for node, own in zip(nodes, found, strict=True))

    def complete(self, node: Node) -> Manifest | None:
        """The node's manifest if it was made from its inputs as they are now."""
        manifest = self.manifest(node)
        if manifest is None:
            return None
        for need in self.graph.needs[node]:
            current = self.manifest(need)
            if not _made_from(manifest, need, None if current is None else current.digest):
                return None
        return manifest

    def all_complete(self) -> Iterator[tuple[Node, Manifest | None]]:
        """Every node's `complete`, in the graph's order, by one look at the store."""
        digests: dict[Node, str | None] = {}
        for node, manifest in self.manifests():
            digests[node] = None if manifest is None else manifest.digest
            if manifest is not None and not all(
                _made_from(manifest, need, digests[need]) for need in self.graph.needs[node]
            ):
                manifest = None
            yield node, manifest

    def standings(self) -> dict[Node, Standing]:
        """Which nodes are complete, which run or could run, and which wait for those."""
        found: dict[Node, Standing] = {}
        for node, manifest in self.all_complete():
            if manifest is not None:
                found[node] = Standing.COMPLETE
            else:
                needs = self.graph.needs[node]
                if not all(found[need] is Standing.COMPLETE for need in needs):
                    found[node] = Standing.WAITING
                elif self.store.being_written(self.key(node)):
                    found[node] = Standing.RUNNING
                else:
                    found[node] = Standing.READY
        return found

    def _own(self, node: Node, manifest: Manifest | None) -> Manifest | None:
        """The manifest at the node's key, if it carries the node's fingerprint."""
        if manifest is None or manifest.fields.get("fingerprint") != self.fingerprints[node]:
            return None
        return manifest


def _made_from(manifest: Manifest, need: Node, digest: str | None) -> bool:
    """Whether an artifact was made from an input as it is now; None: it is gone.

    An input that is gone (cleaned up) does not make a finished artifact wrong.
    """
    return digest is None or manifest.fields.get("inputs", {}).get(need.id) == digest


def prepare(study: Study, store: Store) -> Work:
    """Build the graph and its fingerprints."""
    graph = graphs.build(study)
    return Work(study, graph, graphs.fingerprints(study, graph), store)
