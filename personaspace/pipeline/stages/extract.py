"""extract: hidden states of every evaluation persona and question, methods A and B."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from personaspace.generation.base import Answer, Prompt, Sampling
from personaspace.pipeline.context import (
    ANSWERS,
    Context,
    by_persona,
    persona_prompts,
    persona_rows,
    texts,
    write_json,
)
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Need, Scope, Stage, model_read, personas_read
from personaspace.study.loaded import Study

if TYPE_CHECKING:
    from personaspace.activations.extract import Passage, States

#: Activations of what conditions trained under but the grid lacks; base condition only.
INDUCTION_FILE = "induction.a.safetensors"


def _reads(study: Study, node: Node) -> dict[str, Any]:
    # No seed: greedy answers and activations draw nothing.
    spec = study.spec
    methods = sorted(set(spec.extraction.methods))
    reads: dict[str, Any] = {
        "personas": personas_read(study, spec.extracted_personas()),
        "questions": study.extraction_questions,
        "layers": spec.extraction.layers,
        "methods": methods,
        "condition": node.condition,
        "model": model_read(study),
    }
    if "b" in methods:
        reads["max_new_tokens"] = spec.extraction.max_new_tokens
        reads["engine"] = spec.generation.engine
    if spec.condition(node.condition).kind == "base":
        reads["induction"] = study.induction_rows()
    return reads


def run(context: Context) -> None:
    """Writes `<condition>.seed-<n>.<a|b>.safetensors` and, with method B, the greedy answers."""
    from personaspace.activations.extract import Passage
    from personaspace.models.footprint import Use, check_not_spread

    spec, study = context.spec, context.study
    _forecast(context)
    grid = persona_rows(spec, spec.extracted_personas())
    names = [name for name, _ in grid]
    questions = study.extraction_questions
    prompts = persona_prompts(context, grid, questions)
    answers: list[list[Answer]] = [[] for _ in prompts]
    if "b" in spec.extraction.methods:
        sampling = Sampling(spec.extraction.max_new_tokens)
        context.progress.start("greedy answers", len(prompts))
        engine = context.runtime.engine()
        context.taken["engine"] = engine.name
        with context.one_adapter() as adapter:
            answers = engine.generate(
                prompts, sampling, adapter=adapter, advance=context.progress.advance
            )
        write_json(context.out / ANSWERS, texts(by_persona(names, questions, answers)))
    passages = [
        Passage(prompt.token_ids, answer[0].token_ids if answer else ())
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    devices = context.runtime.spread(Use.READING)
    if devices:
        check_not_spread(spec.extraction.implementation, "extraction")
    layers = _layers(context, spread=bool(devices))
    context.progress.start("hidden states", len(passages))
    states = _states(context, passages, layers, devices)
    context.taken["implementation"] = states.taken
    for method in spec.extraction.methods:
        _write(context, method, states, names, questions, layers)
    if context.condition.kind == "base":
        _induction(context, layers, devices)
    context.metrics.update(
        prompts=len(passages), empty_answers=int((~states.answered_N).sum()), layers=len(layers)
    )


STAGE = Stage(
    name="extract",
    version=1,
    scope=Scope.CONDITION,
    needs=(Need("train"), Need("couple", order="before")),
    reads=_reads,
    run=run,
    untrained_once=True,
    draws_answers=lambda study: "b" in study.spec.extraction.methods,
    longest_answer=lambda spec: spec.extraction.max_new_tokens,
    spec_paths={
        "questions": "extraction.questions",
        "layers": "extraction.layers",
        "methods": "extraction.methods",
        "max_new_tokens": "extraction.max_new_tokens",
        "engine": "generation.engine",
        "induction": "personas",
    },
)


def _forecast(context: Context) -> None:
    """Refuse what cannot run before answers are drawn, which takes long."""
    from personaspace.models import implementation

    spec = context.spec
    implementation.forecast(
        spec.extraction.implementation,
        spec.model,
        [
            planned
            for stage, recipe in (
                ("train", spec.recipe_of(context.condition)),
                ("couple", spec.coupling.recipe),
            )
            for planned in implementation.planned_below(context.adapter(stage), recipe)
        ],
        implementation.EXTRACTION,
        here=True,
    )


def _layers(context: Context, *, spread: bool) -> list[int]:
    """The layers to be read; of a model that is not loaded whole, its configuration says how many.

    Args:
        spread: The model is spread over several GPUs.
    """
    from personaspace.models import preflight
    from personaspace.models.architecture import decoder_of

    if spread:
        return context.study.layers(preflight.described(context.spec.model).layers)
    return context.study.layers(len(decoder_of(context.runtime.model)[1]))


def _states(
    context: Context,
    passages: Sequence[Passage],
    layers: Sequence[int],
    devices: Sequence[str],
) -> States:
    """Hidden states of the condition's model.

    Args:
        devices: Over which it is spread; none: it is not.
    """
    from personaspace.activations import spread
    from personaspace.activations.extract import hidden_states
    from personaspace.models import lora

    adapters, advance = context.adapters(), context.progress.advance
    if devices:
        reading = spread.Reading(context.spec.model, adapters, passages, layers)
        return spread.hidden_states(reading, devices, advance)
    with lora.applied(context.runtime.model, *adapters):
        return hidden_states(
            context.runtime.model,
            passages,
            layers,
            wanted=context.spec.extraction.implementation,
            advance=advance,
        )


def _write(
    context: Context,
    method: str,
    states: States,
    names: Sequence[str],
    questions: Sequence[str],
    layers: Sequence[int],
    file_name: str | None = None,
) -> None:
    """Files of a method: each persona's mean over its wordings, and the wordings, if any."""
    import numpy as np

    from personaspace.activations import wordings
    from personaspace.activations.files import wordings_file, write_activations

    values = states.last_NLH if method == "a" else states.mean_NLH
    valid = np.ones(len(values), bool) if method == "a" else states.answered_N
    condition, seed = context.node.condition, context.node.seed
    values = values.reshape(len(names), len(questions), *values.shape[1:])
    valid = valid.reshape(len(names), len(questions))
    path = context.out / (file_name or f"{condition}.seed-{seed}.{method}.safetensors")
    about: dict[str, Any] = {
        "questions": questions,
        "layers": layers,
        "condition": condition,
        "seed": seed,
        "method": method,
    }
    personas, means, known = wordings.means(names, values, valid)
    write_activations(path, means, known, personas=personas, **about)
    times = Counter(names)
    several = [place for place, name in enumerate(names) if times[name] > 1]
    if several and file_name is None:
        rows = wordings.row_names([names[place] for place in several])
        write_activations(
            wordings_file(path), values[several], valid[several], personas=rows, **about
        )


def _induction(context: Context, layers: Sequence[int], devices: Sequence[str]) -> None:
    """Method A for the texts that conditions trained under, where the grid has them not."""
    from personaspace.activations.extract import Passage

    rows = context.study.induction_rows()
    if not rows:
        return
    prompts: list[Prompt] = persona_prompts(context, rows, context.study.extraction_questions)
    context.progress.start("induction prompts", len(prompts))
    # Base has an adapter where it is coupled before the others are fine-tuned.
    states = _states(context, [Passage(prompt.token_ids) for prompt in prompts], layers, devices)
    names = [name for name, _ in rows]
    questions = context.study.extraction_questions
    _write(context, "a", states, names, questions, layers, INDUCTION_FILE)
