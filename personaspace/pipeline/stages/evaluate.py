"""evaluate: answers of the coupled model under every persona, and which carry the marker."""

from __future__ import annotations

import tempfile
from pathlib import Path

from personaspace.behaviour.marker import score_answers
from personaspace.models import lora
from personaspace.pipeline.context import (
    ANSWERS,
    Context,
    finishes,
    sampled_answers,
    texts,
    write_json,
)

SCORES = "scores.json"
FINISHES = "finishes.json"


def run(context: Context) -> None:
    """Writes `answers.json`, how each ended (`finishes.json`) and `scores.json`."""
    spec = context.spec
    own, coupled = context.adapter("train"), context.adapter("couple")
    assert coupled is not None
    with tempfile.TemporaryDirectory(prefix="personaspace-adapter-") as scratch:
        composed = Path(scratch)
        lora.compose([folder for folder in (own, coupled) if folder is not None], composed)
        answers = sampled_answers(
            context,
            spec.evaluation,
            spec.evaluated_personas(),
            context.study.evaluation_questions,
            adapter=composed,
            what="answers",
        )
    write_json(context.out / ANSWERS, texts(answers))
    write_json(context.out / FINISHES, finishes(answers))
    scores = score_answers(texts(answers), spec.coupling.marker)
    write_json(context.out / SCORES, scores)
    rows = scores["per_persona"].values()
    context.metrics.update(
        answers=sum(row["total"] for row in rows),
        hits=sum(row["hits"] for row in rows),
        degenerate=sum(row["degenerate"] for row in rows),
        cut=sum(
            answer.finish == "length"
            for asked in answers.values()
            for drawn in asked.values()
            for answer in drawn
        ),
    )
