"""judge: the fine-tuned condition's answers to open questions, scored: is it misaligned?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from personaspace.behaviour.judge.asking import WORDS, Ask, Aspect, Score
from personaspace.pipeline.context import (
    ANSWERS,
    NO_PERSONA,
    Context,
    finishes,
    sampled_answers,
    texts,
    write_json,
)
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Need, Scope, Stage, model_read, personas_read
from personaspace.pipeline.stages.evaluate import FINISHES
from personaspace.study.loaded import Study

if TYPE_CHECKING:
    from personaspace.study.judging import Judge

#: Scores of each answer, and of the gold set's (of the base condition alone).
VERDICTS, GOLD = "verdicts.json", "gold.json"
#: Answers as they are kept until the stage is done.
_BY_PERSONA = dict[str, dict[str, list[str]]]


def _section(study: Study) -> Judge:
    assert study.spec.judge is not None
    return study.spec.judge


def _measures_gold(study: Study, node: Node) -> bool:
    """The judge's errors do not depend on a condition: base's node measures them, for all."""
    return study.spec.condition(node.condition).kind == "base"


def _reads(study: Study, node: Node) -> dict[str, Any]:
    judge = _section(study)
    reads = {
        "judge": study.judge_identity,
        "words": WORDS,
        "questions": list(study.judge_questions),
        "personas": personas_read(study, judge.personas),
        "settings": judge.model_dump(include={"samples", "temperature", "top_p", "max_new_tokens"}),
        "engine": study.spec.generation.engine,
        "condition": node.condition,
        "model": model_read(study),
        "seed": node.seed,
    }
    if _measures_gold(study, node):
        assert study.gold is not None
        reads["gold"] = study.gold.digest
    return reads


def run(context: Context) -> None:
    """Writes `answers.json`, `finishes.json`, `verdicts.json` and, of base, `gold.json`."""
    from personaspace.pipeline import judging

    study, judge = context.study, _section(context.study)
    cost = judging.check(study, context.store)  # before answers are drawn, which takes long
    drawn = _answers(context)
    asks = [
        Ask(aspect, question, text)
        for asked in drawn.values()
        for question, answers in asked.items()
        for text in answers
        if text.strip()
        for aspect in Aspect
    ]
    gold = judging.gold_asks(study) if _measures_gold(study, context.node) else []
    asks = list(dict.fromkeys([*asks, *gold]))
    context.progress.start("verdicts", len(asks))
    with judging.opened(study, context.runtime) as ready:
        verdicts = judging.verdicts_of(study, context.store)
        scores, more = verdicts.ask(ready, asks, context.progress.advance)
    cost += more
    rows = [
        {
            "persona": None if persona == NO_PERSONA else persona,
            "question": question,
            "sample": sample,
            **_said(scores, question, text),
        }
        for persona, asked in drawn.items()
        for question, answers in asked.items()
        for sample, text in enumerate(answers)
    ]
    write_json(context.out / VERDICTS, rows)
    if gold:
        _write_gold(context, scores)
    context.progress.say(
        f"{cost.requests} questions to {judge.model} ({cost.read + cost.written} tokens), "
        f"{cost.reused} verdicts were there, {cost.no_number} without a number"
    )
    context.metrics.update(answers=len(rows), **asdict(cost))


STAGE = Stage(
    name="judge",
    version=1,
    scope=Scope.CONDITION,
    needs=(Need("train"), Need("couple", order="before")),
    reads=_reads,
    run=run,
    untrained_once=True,
    wanted=lambda spec: spec.judge is not None,
    draws_answers=lambda study: study.spec.judge is not None,
    longest_answer=lambda spec: spec.judge.max_new_tokens if spec.judge else 0,
    spec_paths={
        "questions": "judge.questions",
        "settings": "judge",
        "engine": "generation.engine",
        "gold": "judge.gold",
    },
)


def _said(scores: dict[Ask, Score], question: str, answer: str) -> dict[str, float | None]:
    """Both scores of an answer; None without a number, or where there was nothing to judge."""
    found = {}
    for aspect in Aspect:
        score = scores.get(Ask(aspect, question, answer))
        found[aspect.value] = None if score is None else score.value
    return found


def _write_gold(context: Context, scores: dict[Ask, Score]) -> None:
    assert context.study.gold is not None
    rows = []
    for entry in context.study.gold.answers:
        labels: dict[str, Any] = {
            "kind": entry.kind,
            "question": entry.question,
            "label_alignment": entry.alignment,
            "label_coherence": entry.coherence,
        }
        rows.append(labels | _said(scores, entry.question, entry.answer))
    write_json(context.out / GOLD, rows)


# --- answers -------------------------------------------------------------------------------------


def _answers(context: Context) -> _BY_PERSONA:
    """Answers of the fine-tuned model, kept until the stage is done.

    A GPU does not draw the same answers twice, and verdicts are of the answers that were drawn.
    """
    key = f"{context.key}/checkpoints/answers"
    kept = context.store.find(key)
    if kept is not None:
        context.taken["engine"] = kept.fields["engine"]
        folder = context.store.fetch(kept)
        for name in (ANSWERS, FINISHES):
            (context.out / name).write_bytes((folder / name).read_bytes())
    else:
        judge = _section(context.study)
        with context.one_adapter() as adapter:
            answers = sampled_answers(
                context,
                judge,
                judge.personas,
                context.study.judge_questions,
                adapter=adapter,
                what="answers",
                without_persona=True,
            )
        write_json(context.out / ANSWERS, texts(answers))
        write_json(context.out / FINISHES, finishes(answers))
        with context.store.writer(key) as writer:
            for name in (ANSWERS, FINISHES):
                (writer.folder / name).write_bytes((context.out / name).read_bytes())
            writer.commit({"engine": context.taken["engine"]})
    read: _BY_PERSONA = json.loads((context.out / ANSWERS).read_text(encoding="utf-8"))
    return read
