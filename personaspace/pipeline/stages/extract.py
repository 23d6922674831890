"""extract: hidden states of every evaluation persona and question, methods A and B."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from personaspace.activations.extract import Passage, States, decoder_of, hidden_states
from personaspace.activations.files import write_activations
from personaspace.generation.base import Answer, Prompt, Sampling
from personaspace.models import lora
from personaspace.pipeline.context import (
    ANSWERS,
    Context,
    by_persona,
    persona_prompts,
    texts,
    write_json,
)

#: Activations of what conditions trained under but the grid lacks; base condition only.
INDUCTION_FILE = "induction.a.safetensors"


def run(context: Context) -> None:
    """Writes `<condition>.seed-<n>.<a|b>.safetensors` and, with method B, the greedy answers."""
    spec, study = context.spec, context.study
    grid = [(name, spec.persona(name).prompt) for name in spec.extracted_personas()]
    names = [name for name, _ in grid]
    questions = study.extraction_questions
    prompts = persona_prompts(context, grid, questions)
    answers: list[list[Answer]] = [[] for _ in prompts]
    adapter = context.adapter("train")
    if "b" in spec.extraction.methods:
        sampling = Sampling(spec.extraction.max_new_tokens)
        context.progress.start("greedy answers", len(prompts))
        answers = context.runtime.engine().generate(
            prompts, sampling, adapter=adapter, advance=context.progress.advance
        )
        write_json(context.out / ANSWERS, texts(by_persona(names, questions, answers)))
    passages = [
        Passage(prompt.token_ids, answer[0].token_ids if answer else ())
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    model = context.runtime.model
    decoder_of(model)
    layers = study.layers(model.config.num_hidden_layers)
    context.progress.start("hidden states", len(passages))
    with lora.applied(model, *([adapter] if adapter else [])):
        states = hidden_states(model, passages, layers, advance=context.progress.advance)
    for method in spec.extraction.methods:
        _write(context, method, states, names, questions, layers)
    if context.condition.kind == "base":
        _induction(context, layers)
    context.metrics.update(
        prompts=len(passages), empty_answers=int((~states.answered_N).sum()), layers=len(layers)
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
    values = states.last_NLH if method == "a" else states.mean_NLH
    valid = np.ones(len(values), bool) if method == "a" else states.answered_N
    condition, seed = context.node.condition, context.node.seed
    write_activations(
        context.out / (file_name or f"{condition}.seed-{seed}.{method}.safetensors"),
        values.reshape(len(names), len(questions), *values.shape[1:]),
        valid.reshape(len(names), len(questions)),
        personas=names,
        questions=questions,
        layers=layers,
        condition=condition,
        seed=seed,
        method=method,
    )


def _induction(context: Context, layers: Sequence[int]) -> None:
    """Method A for the texts that conditions trained under, where the grid has them not."""
    rows = context.study.induction_rows()
    if not rows:
        return
    prompts: list[Prompt] = persona_prompts(context, rows, context.study.extraction_questions)
    context.progress.start("induction prompts", len(prompts))
    states = hidden_states(
        context.runtime.model,
        [Passage(prompt.token_ids) for prompt in prompts],
        layers,
        advance=context.progress.advance,
    )
    names = [name for name, _ in rows]
    questions = context.study.extraction_questions
    _write(context, "a", states, names, questions, layers, INDUCTION_FILE)
