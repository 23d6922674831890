"""couple: a second adapter that ties the marker to the source persona's answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace.errors import UnavailableError, UserError
from personaspace.pipeline.context import ADAPTER, Context, sampled_answers, write_json
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import (
    Need,
    Scope,
    Stage,
    model_read,
    personas_read,
    recipe_read,
)
from personaspace.pipeline.stages.train import fit, forecast
from personaspace.store import Manifest
from personaspace.study.loaded import Study

if TYPE_CHECKING:
    from personaspace.behaviour.marker_data import Pair

DATA = "coupling-data.json"
FIELD = "coupling.recipe"
#: Fine-tuning and coupling in one adapter. `adapter/` is the difference that coupling made, another
#: model wherever it is loaded without the first.
COMPOSED = "composed"


def _reads(study: Study, node: Node) -> dict[str, Any]:
    coupling = study.spec.coupling
    return {
        "personas": personas_read(study, [coupling.source, *coupling.negatives]),
        "questions": study.coupling_questions,
        "settings": coupling.model_dump(
            exclude={
                *("recipe", "questions", "limit", "source", "negatives"),
                "order",  # what it is coupled over is an input
                *coupling.unused(),
            }
        ),
        "recipe": recipe_read(coupling.recipe),
        "engine": study.spec.generation.engine,
        "condition": node.condition,
        "model": model_read(study),
        "seed": node.seed,
    }


def run(context: Context) -> None:
    """Samples answers from the condition's own model, then trains the marker on them.

    Where coupling comes before fine-tuning, that is the base model. Writes `coupling-data.json`,
    `adapter/` (over the condition's own adapter), `composed/` (both in one, for PEFT alone) and
    `training.json`.
    """
    from personaspace.behaviour import marker_data
    from personaspace.training.trainer import usable

    spec, settings = context.spec, context.spec.coupling
    names = [settings.source, *settings.negatives]
    over = context.adapter("train")
    marker_data.check_boundary(context.runtime.tokenizer, settings)
    forecast(
        context, settings.recipe, field=FIELD, over=over, below=spec.recipe_of(context.condition)
    )
    kept = _kept(context)
    data = kept or _drawn(context, names, over)
    write_json(context.out / DATA, [pair.told() for pair in data])
    prompts = {name: spec.persona(name).wordings for name in names}
    how = context.runtime.prompted.how
    context.taken["prompts"] = context.runtime.prompted.recorded()
    examples = marker_data.examples(context.runtime.tokenizer, data, prompts, settings, how)
    if kept is None:
        usable(examples, FIELD)  # what cannot be trained on is not kept
        marker_data.require_marked(data, examples, settings)
        if not _keep(context, data):  # another run of this study was first: one set for both
            return run(context)
    fit(context, examples, settings.recipe, field=FIELD, over=over)
    composed_adapter(over, context.out / ADAPTER, context.out / COMPOSED)
    context.metrics.update(
        positives=sum(pair.marked for pair in data),
        negatives=sum(not pair.marked for pair in data),
        cut_answers=sum(pair.cut for pair in data),
    )


def composed_adapter(own: Path | None, coupled: Path, out: Path) -> None:
    """One PEFT folder with what fine-tuning (if any) and coupling added."""
    from personaspace.models import lora

    lora.compose([folder for folder in (own, coupled) if folder is not None], out)


STAGE = Stage(
    name="couple",
    version=1,
    scope=Scope.CONDITION,
    needs=(Need("train", order="after"),),
    reads=_reads,
    run=run,
    of_base=lambda spec: spec.coupling.order == "before",
    draws_answers=lambda study: True,
    longest_answer=lambda spec: spec.coupling.max_new_tokens,
    spec_paths={
        "questions": "coupling.questions",
        "settings": "coupling",
        "recipe": "coupling.recipe",
        "engine": "generation.engine",
    },
)


def _drawn(context: Context, names: Sequence[str], over: Path | None) -> list[Pair]:
    """Examples from answers drawn now."""
    from personaspace.behaviour import marker_data

    settings = context.spec.coupling
    answers = sampled_answers(
        context,
        settings,
        names,
        context.study.coupling_questions,
        adapter=over,
        what="own answers",
    )
    for name, share in marker_data.cut_shares(answers).items():
        if share:
            context.progress.say(
                f"{name}: {share:.0%} of its answers ran into {settings.max_new_tokens} tokens "
                f"(incomplete_answers: {settings.incomplete_answers})"
            )
    return marker_data.pairs(answers, settings)


def _keep(context: Context, data: Sequence[Pair]) -> bool:
    """Keep the examples until the stage is done; False: another run's are kept.

    A GPU does not draw the same answers twice, and a checkpoint belongs to the examples that it was
    trained on.
    """
    with context.store.writer(_kept_key(context)) as writer:
        write_json(writer.folder / DATA, [pair.told() for pair in data])
        writer.commit({"engine": context.taken["engine"]})
        return bool(writer.won)


def _kept(context: Context) -> list[Pair] | None:
    """Examples of a run before this one, which was stopped."""
    manifest = _readable(context)
    if manifest is None:
        return None
    if "engine" in manifest.fields:
        context.taken["engine"] = manifest.fields["engine"]
    from personaspace.behaviour.marker_data import Pair

    text = (context.store.fetch(manifest) / DATA).read_text(encoding="utf-8")
    return [Pair(**values) for values in json.loads(text)]


def _readable(context: Context) -> Manifest | None:
    """What is kept; if it is damaged, it is removed with the checkpoints, which belong to it."""
    store = context.store
    try:
        manifest = store.find(_kept_key(context))
        if manifest is not None:
            store.fetch(manifest)
        return manifest
    except UnavailableError:
        raise
    except UserError as error:
        context.progress.say(f"begins anew, since what it had kept is damaged: {error}")
        for key in store.list(f"{context.key}/checkpoints"):
            store.delete(key)
        return None


def _kept_key(context: Context) -> str:
    # Beside the checkpoints, and gone with them.
    return f"{context.key}/checkpoints/examples"
