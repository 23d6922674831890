"""couple: a second adapter that ties the marker to the source persona's answers."""

from __future__ import annotations

from dataclasses import asdict

from personaspace import coupling
from personaspace.stages.context import Context, sampled_answers, write_json
from personaspace.stages.train import fit

DATA = "coupling-data.json"


def run(context: Context) -> None:
    """Samples answers from the condition's own model, then trains the marker on them.

    Writes `coupling-data.json`, `adapter/` (over the condition's own adapter) and `training.json`.
    """
    spec, settings = context.spec, context.spec.coupling
    names = [settings.source, *settings.negatives]
    over = context.adapter("train")
    answers = sampled_answers(
        context,
        settings,
        names,
        context.study.coupling_questions,
        adapter=over,
        what="own answers",
    )
    data = coupling.pairs(answers, settings)
    write_json(context.out / DATA, [asdict(pair) for pair in data])
    prompts = {name: spec.persona(name).prompt for name in names}
    examples = coupling.examples(context.runtime.tokenizer, data, prompts, settings)
    fit(context, examples, settings.recipe, field="coupling.recipe", over=over)
    context.metrics.update(
        positives=sum(pair.marked for pair in data),
        negatives=sum(not pair.marked for pair in data),
        cut_answers=sum(pair.cut for pair in data),
    )
