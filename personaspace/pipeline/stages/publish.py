"""publish: the finished study on the Hugging Face Hub, where the spec asks for it.

Its artifact records what was sent where. It follows the report, and nothing follows it, so that it
is in no result's fingerprint and its failure takes no result away.
"""

from __future__ import annotations

from typing import Any

from personaspace.pipeline.context import Context, write_json
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Need, Scope, Stage
from personaspace.study.loaded import Study
from personaspace.study.publishing import Publish

PUBLISHED = "published.json"


def _section(study: Study) -> Publish:
    section = study.spec.publish
    assert section is not None  # the stage is not wanted without it
    return section


def _reads(study: Study, _: Node) -> dict[str, Any]:
    return {"publish": _section(study).told()}


def run(context: Context) -> None:
    """Writes `published.json`: repositories, commits, the collection.

    What aggregate was made of is found in the store, by the study's fingerprints.
    """
    from personaspace.pipeline.publishing import finished
    from personaspace.publish.finished import publish

    context.progress.start("publishing", 1)
    study = finished(context.study, context.store, context.whole())
    sent = publish(study, _section(context.study), context.progress.say)
    for line in sent.lines():
        context.progress.say(line)
    write_json(context.out / PUBLISHED, sent.model_dump())
    context.progress.advance(1)


STAGE = Stage(
    name="publish",
    version=1,
    scope=Scope.STUDY,
    # Both are of the whole study, so all that is published is there before.
    needs=(Need("aggregate"), Need("report")),
    reads=_reads,
    run=run,
    wanted=lambda spec: spec.publish is not None,
    breakable=True,
    outward=True,
)
