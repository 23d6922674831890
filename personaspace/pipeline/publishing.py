"""A study as the room that publishes it takes it."""

from __future__ import annotations

from collections.abc import Mapping

from personaspace.pipeline.node import Node
from personaspace.publish.contents import Finished, Made
from personaspace.store import Manifest, Store
from personaspace.study.loaded import Study


def finished(study: Study, store: Store, made: Mapping[Node, Manifest | None]) -> Finished:
    """The study with what its store has of it; what publishes has no artifact to be published."""
    return Finished(
        study,
        store,
        [Made(node.stage, node.condition, node.seed, found) for node, found in made.items()],
    )
