"""Runs one node of the graph, the same in a laptop's process, a container and a Job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from personaspace.errors import Interrupted, UserError, one_line
from personaspace.models import energy
from personaspace.pipeline import taking, why
from personaspace.pipeline.context import Context
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import StageProgress
from personaspace.pipeline.rows import Offers
from personaspace.pipeline.runtime import Runtime
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.states import NodeState
from personaspace.pipeline.tracked_run import run_tracked
from personaspace.pipeline.work import Work
from personaspace.store import Manifest
from personaspace.store.base import STALE_MINUTES


@dataclass(frozen=True)
class Outcome:
    """How a node ended.

    Attributes:
        state: Done, or skipped because it was complete.
        manifest: Of its artifact.
    """

    state: NodeState
    manifest: Manifest


def _inputs(work: Work, node: Node) -> dict[Node, Manifest]:
    """Manifests of the inputs.

    Raises:
        UserError: One is missing, and the node cannot do without it.
    """
    found = {}
    missing = []
    for need in work.graph.needs[node]:
        manifest = work.manifest(need)
        if manifest is None:
            missing.append(need.id)
        else:
            found[need] = manifest
    tolerant = STAGES[node.stage].tolerates_loss(work.study)
    if missing and not (tolerant and found):
        raise UserError(
            f"needs {', '.join(missing[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            + f", not complete in {work.store.url}"
        )
    return found


def run_node(
    work: Work, node: Node, runtime: Runtime, start: Callable[[], StageProgress]
) -> Outcome:
    """Run a node unless its artifact is complete.

    Args:
        work: The study and its store.
        node: What to run.
        runtime: Models; not loaded for a node that is skipped.
        start: Called when there is something to do; gives where progress goes.

    Raises:
        UserError: A mistake of the user's, or an input that is missing.
        Interrupted: Asked to stop; checkpoints were kept.
    """
    manifest = work.complete(node)
    if manifest is not None:
        return Outcome(NodeState.SKIPPED, manifest)
    manifests = _inputs(work, node)
    progress = start()
    try:
        inputs = {need.id: manifest.digest for need, manifest in manifests.items()}
        former = why.former(work, node, progress.say)
        same = taking.whole(work, node, inputs, former)
        committed = None if same is None else taking.take_whole(work, node, same, progress.say)
        if committed is None:
            offers = taking.offers(work, node, inputs, former)
            committed = _computed(work, node, runtime, manifests, progress, offers)
    except Interrupted:
        raise
    except Exception as error:
        # Of two runs at once the first to end holds, and takes away what this one went on from.
        manifest = work.complete(node)
        if manifest is None:
            raise
        progress.say(f"another run has completed it meanwhile ({one_line(error)})")
        return Outcome(NodeState.SKIPPED, manifest)
    for checkpoint in work.store.list(f"{work.key(node)}/checkpoints"):
        work.store.delete(checkpoint)
    return Outcome(NodeState.DONE, committed)


def _computed(
    work: Work,
    node: Node,
    runtime: Runtime,
    manifests: Mapping[Node, Manifest],
    progress: StageProgress,
    offers: Offers,
) -> Manifest:
    """The node's artifact, computed; or another run's that was there first."""
    stage = STAGES[node.stage]
    # What does not run the model takes no GPU, whatever others do on it meanwhile.
    began, meter = time.monotonic(), energy.Meter() if stage.uses_model else None
    store, key = work.store, work.key(node)
    stale = store.find(key)
    # What a killed process left behind; where writers are not known, only what is surely nobody's.
    store.sweep(key, minutes=0 if store.knows_writers else STALE_MINUTES)
    with store.writer(key) as writer:
        context = Context(
            study=work.study,
            node=node,
            inputs={
                need: store.fetch(manifest, stage.input_files(need.stage))
                for need, manifest in manifests.items()
            },
            manifests=manifests,
            out=writer.folder,
            runtime=runtime,
            progress=progress,
            store=store,
            key=key,
            offers=offers,
            whole=lambda: dict(work.manifests()),
        )
        run_tracked(context, work.fingerprints[node])
        uses = meter.uses() if meter is not None else []
        committed = writer.commit(
            {
                "node": node.id,
                "stage": node.stage,
                "condition": node.condition or None,
                "seed": node.seed if node.condition else None,
                "study": work.study.spec.name,
                "fingerprint": work.fingerprints[node],
                why.FIELD: why.made_from(work.study, node),
                "data": why.data_read(work.study, node),
                "inputs": {need.id: manifest.digest for need, manifest in manifests.items()},
                "seconds": round(time.monotonic() - began, 3),
                "metrics": context.metrics,
                **taking.recorded(work, node),
                **({energy.FIELD: uses} if uses else {}),
                **context.taken,
                **runtime.describe(stage.uses_model),
            },
            # Of two runs at once the first to end holds.
            replace=stale or False,
        )
    for spent in context.spent:
        store.delete(spent)
    return committed
