"""A stage's run, told to the study's experiment trackers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from personaspace import interrupt
from personaspace.pipeline import why
from personaspace.pipeline.context import Context
from personaspace.pipeline.stages import STAGES
from personaspace.tracking import BACKENDS, Run, tracked


def run_tracked(context: Context, fingerprint: str) -> None:
    """Run the context's stage: one run in each tracker, grouped by study.

    What the stage reads is the run's configuration; where a value is long, its digest.
    """
    spec, node = context.spec, context.node
    stage = STAGES[node.stage]
    told = {
        "condition": node.condition,
        "seed": node.seed,
        "model": spec.model.name,
        "fingerprint": fingerprint,
    }
    reads = why.made_from(context.study, node)["reads"] if spec.tracking else {}
    run = Run(spec.name, node.id, node.stage, {**reads, **told})
    chosen = {str(name): BACKENDS[name] for name in spec.tracking}
    with tracked(chosen, run, context.progress.say) as track:
        with interrupt.breakable() if stage.breakable else nullcontext():
            stage.run(replace(context, track=track))
        numbers = {n: v for n, v in context.metrics.items() if isinstance(v, int | float)}
        track.log({f"{node.stage}/{name}": value for name, value in numbers.items()})
        for name in stage.tracked:
            track.keep(context.out / name)
