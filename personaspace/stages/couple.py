"""couple: a second adapter that ties the marker to the source persona's answers."""

from __future__ import annotations

from dataclasses import asdict

from personaspace import coupling
from personaspace.generation.base import Sampling
from personaspace.stages.context import Context, by_persona, persona_prompts, write_json
from personaspace.stages.train import fit

DATA = "coupling-data.json"


def run(context: Context) -> None:
    """Samples answers from the condition's own model, then trains the marker on them.

    Writes `coupling-data.json`, `adapter/` (over the condition's own adapter) and `training.json`.
    """
    spec, settings = context.spec, context.spec.coupling
    names = [settings.source, *settings.negatives]
    grid = [(name, spec.persona(name).prompt) for name in names]
    questions = context.study.coupling_questions
    prompts = persona_prompts(context, grid, questions)
    over = context.adapter("train")
    context.progress.start("own answers", len(prompts) * settings.samples)
    answers = context.runtime.engine().generate(
        prompts,
        Sampling(
            settings.max_new_tokens,
            samples=settings.samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=context.node.seed,
            scope=f"couple:{context.node.condition}",
        ),
        adapter=over,
        advance=context.progress.advance,
    )
    data = coupling.pairs(by_persona(names, questions, answers), settings)
    write_json(context.out / DATA, [asdict(pair) for pair in data])
    examples = coupling.examples(context.runtime.tokenizer, data, dict(grid), settings)
    fit(context, examples, settings.recipe, field="coupling.recipe", over=over)
    context.metrics.update(
        positives=sum(pair.marked for pair in data),
        negatives=sum(not pair.marked for pair in data),
        cut_answers=sum(pair.cut for pair in data),
    )
