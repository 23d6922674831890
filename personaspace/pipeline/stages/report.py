"""report: figures and the HTML page, from the aggregate's files alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from personaspace.pipeline.context import Context
from personaspace.pipeline.stage import Need, Node, Scope, Stage
from personaspace.pipeline.stages.aggregate import PROVENANCE
from personaspace.store.manifest import Manifest
from personaspace.study.load import Study
from personaspace.study.section import Section

if TYPE_CHECKING:
    from personaspace.report.provenance import Artifact


def _reads(study: Study, _: Node) -> dict[str, Any]:
    # It prints the whole spec, so any change of it changes the report. What was computed again is
    # no part of the study.
    return {"spec": _told(study.spec, exclude={"rerun"})}


def _told(section: Section, exclude: Collection[str] = ()) -> dict[str, Any]:
    """A part of the spec, without fields that came later and are at their defaults."""
    told = section.model_dump(mode="json", exclude={*exclude, *section.unused()})
    told |= section.known_as()
    for name in told:
        value = getattr(section, name)
        if isinstance(value, Section):
            told[name] = _told(value)
        elif isinstance(value, list):
            told[name] = [
                _told(item) if isinstance(item, Section) else plain
                for item, plain in zip(value, told[name], strict=True)
            ]
    return told


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
    version=4,
    scope=Scope.STUDY,
    needs=(Need("aggregate"),),
    reads=_reads,
    run=run,
    breakable=True,
    spec_paths={"spec": ""},
)
