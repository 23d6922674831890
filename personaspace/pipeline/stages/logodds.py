"""logodds: how likely the marker is at the end of an answer, without drawing any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from personaspace.generation.base import Answer, Sampling
from personaspace.pipeline.context import ANSWERS, Context, persona_prompts, write_json
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Need, Scope, Stage, model_read, personas_read
from personaspace.study.loaded import Study
from personaspace.study.measuring import LogOdds

if TYPE_CHECKING:
    from personaspace.activations.endings import Ending

LOG_ODDS = "log-odds.json"


def _section(study: Study) -> LogOdds:
    section = study.spec.log_odds
    assert section is not None
    return section


def _reads(study: Study, node: Node) -> dict[str, Any]:
    spec = study.spec
    return {
        "personas": personas_read(study, spec.evaluated_personas()),
        "writer": personas_read(study, [spec.analysis.assistant]),
        "questions": study.evaluation_questions,
        "settings": _section(study).model_dump(exclude=_section(study).unused()),
        "marker": spec.coupling.marker,
        "separator": spec.coupling.separator,
        "engine": spec.generation.engine,
        "condition": node.condition,
        "model": model_read(study),
    }


def run(context: Context) -> None:
    """Writes `log-odds.json`.

    `common_answers` are the base model's own greedy ones as the assistant, to the evaluation's
    questions: the same texts for every persona and condition. `common` has `[marker, end]` by
    persona and question, `own` a list of these, one for each of the evaluation's answers (null
    where there is no text before the marker); both are natural logarithms. With
    `log_odds.divergence`, `divergence` has the `pairs` of each question's common answer, in the
    order of `personas`, as means over its `tokens` (nats), of the model that extraction measured.
    """
    from personaspace.activations.endings import ending_probabilities
    from personaspace.behaviour.endings import before_marker, marked_ending
    from personaspace.models import lora

    spec, tokenizer = context.spec, context.runtime.tokenizer
    marker, how = spec.coupling.marker, context.runtime.prompted.how
    shared = _common_answers(context)
    common = {q: before_marker(answer.text, marker) for q, answer in shared.items()}
    folder = context.input("evaluate")
    assert folder is not None
    drawn = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
    places: list[tuple[str, str, str, int]] = []
    endings: list[Ending] = []
    for name in spec.evaluated_personas():
        for question in context.study.evaluation_questions:
            texts = [("common", 0, common[question])]
            own = enumerate(drawn[name][question])
            texts += [("own", n, before_marker(text, marker)) for n, text in own]
            for kind, number, text in texts:
                prompt = spec.persona(name).prompt
                ending = marked_ending(tokenizer, prompt, question, text, spec.coupling, how)
                if ending is not None:
                    places.append((kind, name, question, number))
                    endings.append(ending)
    context.progress.start("endings", len(endings))
    model = context.runtime.model
    with lora.applied(model, *context.adapters()):
        found = ending_probabilities(
            model, endings, context.runtime.end_token_ids, advance=context.progress.advance
        )
    wanted = _section(context.study).divergence
    apart = {"divergence": _divergence(context, shared)} if wanted else {}
    by_place = {place: [one.ending, one.end] for place, one in zip(places, found, strict=True)}
    write_json(
        context.out / LOG_ODDS,
        {
            "writer": spec.analysis.assistant,
            "common_answers": common,
            "common": {
                name: {q: by_place.get(("common", name, q, 0)) for q in questions}
                for name, questions in drawn.items()
            },
            "own": {
                name: {
                    q: [by_place.get(("own", name, q, n)) for n in range(len(texts))]
                    for q, texts in questions.items()
                }
                for name, questions in drawn.items()
            },
        }
        | apart,
    )
    context.metrics.update(endings=len(endings))


STAGE = Stage(
    name="logodds",
    version=1,
    scope=Scope.CONDITION,
    needs=(Need("train"), Need("couple"), Need("evaluate", files=(ANSWERS,))),
    reads=_reads,
    run=run,
    wanted=lambda spec: spec.log_odds is not None,
    draws_answers=lambda study: study.spec.log_odds is not None,
    longest_answer=lambda spec: spec.log_odds.max_new_tokens if spec.log_odds else 0,
    spec_paths={
        "writer": "analysis.assistant",
        "questions": "evaluation.questions",
        "settings": "log_odds",
        "marker": "coupling.marker",
        "separator": "coupling.separator",
        "engine": "generation.engine",
    },
)


def _divergence(context: Context, shared: Mapping[str, Answer]) -> dict[str, Any]:
    """How far apart personas are along each common answer.

    Coupling teaches one persona to end otherwise than others, so it is left out: the model is the
    one whose activations extraction keeps.
    """
    from personaspace.activations.divergence import text_divergences
    from personaspace.models import lora

    spec = context.spec
    rows = [(name, spec.persona(name).prompt) for name in spec.evaluated_personas()]
    adapters = context.adapters() if spec.coupling.order == "before" else [context.adapter("train")]
    context.progress.start("divergence", len(shared))
    pairs = {}
    with lora.applied(context.runtime.model, *(folder for folder in adapters if folder)):
        for question, answer in shared.items():
            prompts = [prompt.token_ids for prompt in persona_prompts(context, rows, [question])]
            if answer.token_ids:
                pairs[question] = text_divergences(context.runtime.model, prompts, answer.token_ids)
            context.progress.advance(1)
    tokens = {question: len(answer.token_ids) for question, answer in shared.items()}
    return {"personas": [name for name, _ in rows], "tokens": tokens, "pairs": pairs}


def _common_answers(context: Context) -> dict[str, Answer]:
    """The base model's greedy answers as the assistant, by question.

    Drawn here and not taken from extract: a stage of one condition reads nothing of another's, so
    that its Job can run alone. They are a handful; where a GPU should draw one of them otherwise
    in some condition, aggregate leaves that question out for all.
    """
    spec, questions = context.spec, context.study.evaluation_questions
    assistant = spec.persona(spec.analysis.assistant)
    prompts = persona_prompts(context, [(assistant.name, assistant.prompt)], questions)
    engine = context.runtime.engine()
    context.taken["engine"] = engine.name
    context.progress.start("common answers", len(prompts))
    answers = engine.generate(
        prompts, Sampling(_section(context.study).max_new_tokens), advance=context.progress.advance
    )
    return {question: drawn[0] for question, drawn in zip(questions, answers, strict=True)}
