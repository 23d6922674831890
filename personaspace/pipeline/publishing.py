"""A study as the room that publishes it takes it."""

from __future__ import annotations

from personaspace.pipeline.work import Work
from personaspace.publish.contents import Finished, Made


def finished(work: Work) -> Finished:
    """The study with what its store has of it; what publishes has no artifact to be published."""
    return Finished(
        work.study,
        work.store,
        [
            Made(node.stage, node.condition, node.seed, work.manifest(node))
            for node in work.graph.nodes
        ],
    )
