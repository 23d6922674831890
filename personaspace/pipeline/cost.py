"""What a study will cost, before it runs: GPU-hours and bytes, from counts and stated rates."""

from __future__ import annotations

from dataclasses import dataclass

from personaspace.study import base_model
from personaspace.study.load import Study
from personaspace.study.spec import Recipe
from personaspace.training.trainer import total_steps

#: Rates measured on one H100 with a model of Qwen2.5-7B's shape (docs/performance.md and
#: docs/performance-generation.md): FLOP/s of LoRA training and of forward passes, and answered
#: tokens a second. Small models keep a GPU less busy and take longer than these say.
TRAINING_FLOPS = 510e12
FORWARD_FLOPS = 665e12
DECODE_TOKENS_7B = 15_000.0
#: English text; chat models average near this.
CHARACTERS_PER_TOKEN = 4.5
#: Tokens that a chat template adds to each chat.
TEMPLATE_TOKENS = 20
#: LoRA parameters per rank and layer, in hidden sizes, all seven projections (Qwen2.5-7B: 25.1).
LORA_WIDTHS = 25.1


@dataclass(frozen=True)
class Estimate:
    """Rough cost of a whole study.

    Attributes:
        gpu_hours: On one H100, start-up not counted; None if the model's size is unknown.
        bytes: Of all artifacts; None if the model's shape is unknown.
        answers: Generated answers, all conditions and seeds.
        prompts: Prompts whose hidden states are taken.
        steps: Optimiser steps, both fine-tunings.
    """

    gpu_hours: float | None
    bytes: int | None
    answers: int
    prompts: int
    steps: int


def _tokens(text: str) -> float:
    return len(text) / CHARACTERS_PER_TOKEN


def _training_tokens(recipe: Recipe, examples: int, each: float) -> tuple[int, float]:
    steps = total_steps(recipe, examples)
    return steps, steps * min(recipe.batch_size, examples) * min(each, recipe.max_tokens)


def estimate(study: Study) -> Estimate:
    """Count the work of a study."""
    spec, shape = study.spec, base_model.shape(study.spec.model)
    prompts = len(spec.extracted_personas()) * len(study.extraction_questions)
    system = sum(_tokens(p.prompt or "") for p in spec.personas) / len(spec.personas)
    prompt_tokens = system + 12 + TEMPLATE_TOKENS
    coupling = spec.coupling
    asked = len(study.coupling_questions) * (1 + len(coupling.negatives)) * coupling.samples
    evaluated = (
        len(study.evaluation_questions) * len(spec.evaluated_personas()) * spec.evaluation.samples
    )
    greedy = prompts if "b" in spec.extraction.methods else 0
    arms = len(spec.conditions) * len(spec.seeds)
    extractions = (len(spec.conditions) - 1) * len(spec.seeds) + 1
    steps, trained = 0, 0.0
    for condition in spec.conditions:
        if condition.dataset is None:
            continue
        chats = study.chats[condition.dataset].conversations
        each = TEMPLATE_TOKENS + sum(_tokens(m["content"]) for c in chats for m in c) / len(chats)
        persona = spec.persona(condition.persona).prompt if condition.persona else ""
        more, tokens = _training_tokens(spec.training, len(chats), each + _tokens(persona or ""))
        steps, trained = steps + more, trained + tokens
    marked = coupling.positives + coupling.negatives_each * len(coupling.negatives)
    length = prompt_tokens + 0.4 * coupling.max_new_tokens
    more, tokens = _training_tokens(coupling.recipe, marked, length)
    steps = (steps + more * len(spec.conditions)) * len(spec.seeds)
    trained = (trained + tokens * len(spec.conditions)) * len(spec.seeds)
    decoded = 0.4 * (
        arms * (asked * coupling.max_new_tokens + evaluated * spec.evaluation.max_new_tokens)
        + extractions * greedy * spec.extraction.max_new_tokens
    )
    read = arms * (asked + evaluated) * prompt_tokens + 2 * extractions * prompts * prompt_tokens
    answers = arms * (asked + evaluated) + extractions * greedy
    hours = size = None
    if shape is not None:
        layers = len(study.layers(shape.num_layers))
        lora = LORA_WIDTHS * shape.hidden_size * shape.num_layers
        adapters = (
            4
            * lora
            * len(spec.seeds)
            * (
                spec.training.rank * sum(c.dataset is not None for c in spec.conditions)
                + coupling.recipe.rank * len(spec.conditions)
            )
        )
        states = prompts * layers * shape.hidden_size * 2 * len(spec.extraction.methods)
        size = int(adapters + states * extractions + 600 * answers)
        if shape.matmul_parameters:
            n = shape.matmul_parameters
            seconds = (
                4 * n * trained / TRAINING_FLOPS
                + 2 * n * read / FORWARD_FLOPS
                + decoded / (DECODE_TOKENS_7B * 7e9 / n)
            )
            hours = seconds / 3600
    return Estimate(hours, size, answers, prompts * extractions, steps)
