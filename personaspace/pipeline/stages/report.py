"""report: figures and the HTML page, from the aggregate's files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personaspace.pipeline.context import Context
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Need, Scope, Stage
from personaspace.pipeline.stages.aggregate import PROVENANCE
from personaspace.store.manifest import Manifest
from personaspace.study.loaded import Study

if TYPE_CHECKING:
    from personaspace.report.provenance import Artifact


def _reads(study: Study, _: Node) -> dict[str, Any]:
    # It prints the whole spec, so any change of it changes the report. What was computed again is
    # no part of the study, nor is where artifacts are looked for, or who is told of it.
    return {"spec": study.spec.told(exclude={"rerun", "substitutes", "tracking", "publish"})}


def artifact(node: str, manifest: Manifest) -> Artifact:
    """What the report says about an input."""
    from personaspace.report.provenance import Artifact

    told = {name: manifest.fields.get(name) for name in PROVENANCE}
    return Artifact.model_validate(
        {"node": node, "key": manifest.key, "digest": manifest.digest, "created": manifest.created}
        | told
    )


def run(context: Context) -> None:
    """Writes `figures/`, `report.html` and `report.md`."""
    from personaspace.report.page import build

    folder = context.input("aggregate")
    assert folder is not None
    context.progress.start("figures and page", 1)
    # The aggregate cannot name its own digest: it is made of its files.
    made_from = [artifact(node.id, manifest) for node, manifest in context.manifests.items()]
    build(folder, context.out, context.spec.figures, made_from)
    context.progress.advance(1)


STAGE = Stage(
    name="report",
    version=13,
    scope=Scope.STUDY,
    needs=(Need("aggregate"),),
    reads=_reads,
    run=run,
    breakable=True,
    tracked=("report.html",),
    spec_paths={"spec": ""},
)
