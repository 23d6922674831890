"""The stages of a study, in an order in which they can run.

Whoever adds one writes its file and names it here; `docs/decisions/0008-one-stage.md` says what
else there is to do.
"""

from personaspace.pipeline.stage import Stage
from personaspace.pipeline.stages import (
    aggregate,
    couple,
    evaluate,
    extract,
    judge,
    logodds,
    publish,
    report,
    steer,
    train,
)

#: Every stage by its name, after those that it needs.
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        train.STAGE,
        extract.STAGE,
        couple.STAGE,
        evaluate.STAGE,
        judge.STAGE,
        logodds.STAGE,
        steer.STAGE,
        aggregate.STAGE,
        report.STAGE,
        publish.STAGE,
    )
}

__all__ = ["STAGES"]
