"""evaluate: answers of the coupled model under every persona, and which carry the marker."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from personaspace.generation.base import Answer
from personaspace.pipeline import taken_rows, wordings
from personaspace.pipeline.context import (
    ANSWERS,
    Context,
    finishes,
    sampled_answers,
    texts,
    write_json,
)
from personaspace.pipeline.node import Node
from personaspace.pipeline.rows import GRID
from personaspace.pipeline.stage import Need, Scope, Stage, model_read, personas_read
from personaspace.study.loaded import Study

SCORES = "scores.json"
FINISHES = "finishes.json"


def _reads(study: Study, node: Node) -> dict[str, Any]:
    return {
        "personas": personas_read(study, study.spec.evaluated_personas()),
        "questions": study.evaluation_questions,
        "settings": study.spec.evaluation.model_dump(
            include={"samples", "temperature", "top_p", "max_new_tokens"}
        ),
        "engine": study.spec.generation.engine,
        "marker": study.spec.coupling.marker,
        "condition": node.condition,
        "model": model_read(study),
        "seed": node.seed,
    }


def run(context: Context) -> None:
    """Writes `answers.json`, how each ended (`finishes.json`) and `scores.json`.

    Where personas have several wordings also which each answer is of (`wordings.json`), and the
    counts by wording.
    """
    from personaspace.behaviour.marker import counts_of, score_answers

    spec = context.spec
    personas, questions = spec.evaluated_personas(), context.study.evaluation_questions
    several = spec.several(personas)
    taken = taken_rows.taken(context, answers=True)
    with context.one_adapter() if taken.left else nullcontext() as composed:
        drawn = sampled_answers(
            context,
            spec.evaluation,
            personas,
            questions,
            adapter=composed,
            what="answers",
            skip=taken.has,
        )
    former = {source.folder: _former(source.folder) for source in taken.sources}
    answers = taken_rows.merged(personas, questions, drawn, former, taken)
    write_json(context.out / ANSWERS, texts(answers))
    write_json(context.out / FINISHES, finishes(answers))
    scores = score_answers(texts(answers), spec.coupling.marker)
    for number in range(spec.wordings if several else 0):
        of_one = wordings.texts_of(answers, several, number)
        for name, counts in counts_of(of_one, spec.coupling.marker).items():
            scores["per_persona"][name].setdefault("per_wording", []).append(counts)
    if several:
        numbers = wordings.numbers_of(answers, several)
        write_json(context.out / wordings.WORDINGS, numbers)
    write_json(context.out / SCORES, scores)
    scored = scores["per_persona"].values()
    for name, row in scores["per_persona"].items():
        context.track.log({f"evaluate/rate/{name}": row["rate"]})
    context.metrics.update(
        answers=sum(row["total"] for row in scored),
        hits=sum(row["hits"] for row in scored),
        degenerate=sum(row["degenerate"] for row in scored),
        cut=sum(
            answer.finish == "length"
            for asked in answers.values()
            for drawn in asked.values()
            for answer in drawn
        ),
    )


def _former(folder: Path) -> dict[str, dict[str, list[Answer]]]:
    """The answers of a former artifact, without their tokens."""
    said, ends = (json.loads((folder / name).read_bytes()) for name in (ANSWERS, FINISHES))
    numbers = {}
    if (folder / wordings.WORDINGS).is_file():
        numbers = json.loads((folder / wordings.WORDINGS).read_bytes())
    return {
        name: {
            question: [
                Answer(text, (), finish, wording)
                for text, finish, wording in zip(
                    each,
                    ends[name][question],
                    numbers.get(name, {}).get(question, [0] * len(each)),
                    strict=True,
                )
            ]
            for question, each in asked.items()
        }
        for name, asked in said.items()
    }


STAGE = Stage(
    name="evaluate",
    version=1,
    scope=Scope.CONDITION,
    needs=(Need("train"), Need("couple")),
    reads=_reads,
    run=run,
    draws_answers=lambda study: True,
    longest_answer=lambda spec: spec.evaluation.max_new_tokens,
    rows=(GRID,),
    spec_paths={
        "questions": "evaluation.questions",
        "settings": "evaluation",
        "engine": "generation.engine",
        "marker": "coupling.marker",
    },
)
