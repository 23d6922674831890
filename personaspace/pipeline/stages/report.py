"""report: figures and the HTML page, from the aggregate's files alone."""

from __future__ import annotations

from personaspace.pipeline.context import Context
from personaspace.pipeline.stages.aggregate import PROVENANCE
from personaspace.report import build
from personaspace.report.provenance import Artifact
from personaspace.store.manifest import Manifest


def artifact(node: str, manifest: Manifest) -> Artifact:
    """What the report says about an input."""
    told = {name: manifest.fields.get(name) for name in PROVENANCE}
    return Artifact.model_validate(
        {"node": node, "key": manifest.key, "digest": manifest.digest, "created": manifest.created}
        | told
    )


def run(context: Context) -> None:
    """Writes `figures/`, `report.html` and `report.md`."""
    folder = context.input("aggregate")
    assert folder is not None
    context.progress.start("figures and page", 1)
    # The aggregate cannot name its own digest: it is made of its files.
    made_from = [artifact(node.id, manifest) for node, manifest in context.manifests.items()]
    build(folder, context.out, context.spec.figures, made_from)
    context.progress.advance(1)
