"""evaluate: answers of the coupled model under every persona, and which carry the marker."""

from __future__ import annotations

import tempfile
from pathlib import Path

from personaspace import adapters
from personaspace.generation.base import Sampling
from personaspace.scoring import score_answers
from personaspace.stages.context import (
    ANSWERS,
    Context,
    by_persona,
    finishes,
    persona_prompts,
    texts,
    write_json,
)

SCORES = "scores.json"
FINISHES = "finishes.json"


def run(context: Context) -> None:
    """Writes `answers.json`, how each ended (`finishes.json`) and `scores.json`."""
    spec, settings = context.spec, context.spec.evaluation
    names = spec.evaluated_personas()
    grid = [(name, spec.persona(name).prompt) for name in names]
    questions = context.study.evaluation_questions
    prompts = persona_prompts(context, grid, questions)
    context.progress.start("answers", len(prompts) * settings.samples)
    own, coupled = context.adapter("train"), context.adapter("couple")
    assert coupled is not None
    with tempfile.TemporaryDirectory(prefix="personaspace-adapter-") as scratch:
        composed = Path(scratch)
        adapters.compose([folder for folder in (own, coupled) if folder is not None], composed)
        drawn = context.runtime.engine().generate(
            prompts,
            Sampling(
                settings.max_new_tokens,
                samples=settings.samples,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=context.node.seed,
                scope=f"evaluate:{context.node.condition}",
            ),
            adapter=composed,
            advance=context.progress.advance,
        )
    answers = by_persona(names, questions, drawn)
    write_json(context.out / ANSWERS, texts(answers))
    write_json(context.out / FINISHES, finishes(answers))
    scores = score_answers(texts(answers), spec.coupling.marker)
    write_json(context.out / SCORES, scores)
    rows = scores["per_persona"].values()
    context.metrics.update(
        answers=sum(row["total"] for row in rows),
        hits=sum(row["hits"] for row in rows),
        degenerate=sum(row["degenerate"] for row in rows),
        cut=sum(answer.finish == "length" for each in drawn for answer in each),
    )
