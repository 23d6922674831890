"""What a study will cost, before it runs: GPU-hours and bytes, from counts and stated rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from personaspace.kept import once
from personaspace.pipeline import graph
from personaspace.pipeline.arms import arms_of
from personaspace.pipeline.context import persona_rows
from personaspace.pipeline.node import Node
from personaspace.study import base_model
from personaspace.study.inputs import Dose, Model, Persona
from personaspace.study.loaded import Study
from personaspace.study.recipe import Recipe
from personaspace.study.schedule import total_steps
from personaspace.study.spec import Experiment
from personaspace.study.steering import SHIFT

#: Rates measured on one H100 with a model of Qwen2.5-7B's shape (docs/performance.md and
#: docs/performance-generation.md): FLOP/s of LoRA training and of forward passes, and answered
#: tokens a second. Small models keep a GPU less busy and take longer than these say.
TRAINING_FLOPS = 510e12
FORWARD_FLOPS = 665e12
DECODE_TOKENS_7B = 15_000.0
#: Steps a second of the transformers engine, in which a GPU waits more than it computes:
#: SmolLM2-135M on an H200, 64 answers at once (docs/performance-generation.md).
SERIAL_STEPS = 27.0
#: Answers that it has in flight.
SERIAL_ROWS = 64
#: English text; chat models average near this.
CHARACTERS_PER_TOKEN = 4.5
#: Tokens that a chat template adds to each chat.
TEMPLATE_TOKENS = 20
#: LoRA parameters per rank and layer, in hidden sizes, all seven projections (Qwen2.5-7B: 25.1).
LORA_WIDTHS = 25.1


#: Bytes that an answer takes with all that is said of it.
ANSWER_BYTES = 600
#: Answers are about so long, in shares of the longest allowed.
ANSWER_LENGTH = 0.4


@dataclass(frozen=True)
class Load:
    """The work of a node, or of several.

    Attributes:
        steps: Optimiser steps.
        trained: Tokens of training.
        answers: Generated answers.
        decoded: Tokens of those.
        prompts: Prompts whose hidden states are taken.
        read: Tokens of prompts, those of answers included.
        serial: Steps in which the transformers engine draws answers, one after another.
    """

    steps: int = 0
    trained: float = 0.0
    answers: int = 0
    decoded: float = 0.0
    prompts: int = 0
    read: float = 0.0
    serial: float = 0.0

    def __add__(self, other: Load) -> Load:
        mine, theirs = vars(self), vars(other)
        return Load(**{name: mine[name] + theirs[name] for name in mine})

    def gpu_seconds(self, model: Model) -> float | None:
        """On one H100, start-up not counted; None if the model's size is unknown."""
        shape = base_model.shape(model)
        if shape is None or not shape.matmul_parameters:
            return None
        n = shape.matmul_parameters
        return (
            4 * n * self.trained / TRAINING_FLOPS
            + 2 * n * self.read / FORWARD_FLOPS
            + self.decoded / (DECODE_TOKENS_7B * 7e9 / n)
            + self.serial / SERIAL_STEPS
        )


@dataclass(frozen=True)
class StudyCost:
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


def _system(persona: Persona) -> float:
    """Tokens of a persona's prompt, in the mean of its wordings."""
    return sum(_tokens(text or "") for text in persona.wordings) / len(persona.wordings)


def _prompt_tokens(spec: Experiment) -> float:
    system = sum(_system(p) for p in spec.personas) / len(spec.personas)
    return system + 12 + TEMPLATE_TOKENS


def _training(recipe: Recipe, examples: int, each: float) -> Load:
    steps = total_steps(recipe, examples)
    tokens = steps * min(recipe.batch_size, examples) * min(each, recipe.max_tokens)
    return Load(steps=steps, trained=tokens)


def _answers(spec: Experiment, count: int, longest: int) -> Load:
    return Load(
        answers=count,
        decoded=ANSWER_LENGTH * count * longest,
        read=count * _prompt_tokens(spec),
    )


def _mean_length(chats: Sequence[Sequence[Mapping[str, str]]]) -> float:
    return sum(_tokens(m["content"]) for c in chats for m in c) / len(chats)


def _train(study: Study, node: Node, kept: bool = True) -> Load:
    spec = study.spec
    condition = spec.condition(node.condition)
    recipe = spec.recipe_of(condition)
    if condition.adapter is not None:
        return Load()
    if isinstance(condition, Dose):
        if kept:  # by the whole training, on its way
            return Load()
        recipe = recipe.model_copy(update={"max_steps": condition.step})
    assert condition.dataset is not None
    chats = study.chats[condition.dataset].conversations
    each = TEMPLATE_TOKENS + once(
        f"length of {condition.dataset}", (chats,), lambda: _mean_length(chats)
    )
    under = _system(spec.persona(condition.persona)) if condition.persona else 0.0
    return _training(recipe, len(chats), each + under)


def _extracted(study: Study) -> int:
    """Prompts of one extraction."""
    rows = persona_rows(study.spec, study.spec.extracted_personas())
    return len(rows) * len(study.extraction_questions)


def _extract(study: Study, _: Node) -> Load:
    spec = study.spec
    prompts = _extracted(study)
    load = Load(prompts=prompts, read=2 * prompts * _prompt_tokens(spec))
    if "b" not in spec.extraction.methods:
        return load
    # The greedy answers' prompts are those whose hidden states are taken: read twice in all.
    longest = spec.extraction.max_new_tokens
    return load + Load(answers=prompts, decoded=ANSWER_LENGTH * prompts * longest)


def _couple(study: Study, _: Node) -> Load:
    spec, coupling = study.spec, study.spec.coupling
    asked = len(study.coupling_questions) * (1 + len(coupling.negatives)) * coupling.samples
    marked = coupling.positives + coupling.negatives_each * len(coupling.negatives)
    length = _prompt_tokens(spec) + ANSWER_LENGTH * coupling.max_new_tokens
    training = _training(coupling.recipe, marked, length)
    return training + _answers(spec, asked, coupling.max_new_tokens)


def _evaluate(study: Study, _: Node) -> Load:
    spec, evaluation = study.spec, study.spec.evaluation
    asked = len(study.evaluation_questions) * len(spec.evaluated_personas()) * evaluation.samples
    return _answers(spec, asked, evaluation.max_new_tokens)


def _judge(study: Study, _: Node) -> Load:
    """Answers alone: what the judge is, and where, is not known here."""
    judge = study.spec.judge
    assert judge is not None
    asked = len(study.judge_questions) * (1 + len(judge.personas)) * judge.samples
    return _answers(study.spec, asked, judge.max_new_tokens)


def _logodds(study: Study, _: Node) -> Load:
    spec, evaluation = study.spec, study.spec.evaluation
    assert spec.log_odds is not None
    questions, personas = len(study.evaluation_questions), len(spec.evaluated_personas())
    common = _answers(spec, questions, spec.log_odds.max_new_tokens)
    prompt = _prompt_tokens(spec)
    each = prompt + ANSWER_LENGTH * spec.log_odds.max_new_tokens
    own = prompt + ANSWER_LENGTH * evaluation.max_new_tokens
    read = questions * personas * (each + evaluation.samples * own)
    if spec.log_odds.divergence:  # a long answer is read in two pieces or three
        read += 2 * questions * personas * each
    return common + Load(read=read)


def _steer(study: Study, node: Node) -> Load:
    spec, steering, inputs = study.spec, study.spec.steering, study.steering
    assert steering is not None and inputs is not None
    fine_tuned = spec.condition(node.condition).fine_tuned
    arms = list(arms_of(steering, fine_tuned))
    texts = [text for pair in inputs.pairs for text in (pair.bad, pair.good)]
    scored = sum(
        _tokens(pair.question) + TEMPLATE_TOKENS for pair in inputs.pairs for _ in range(2)
    ) + sum(min(_tokens(text), steering.answer_tokens) for text in texts)
    answering = sum(arm.answers for arm in arms)
    answers = _answers(spec, len(inputs.questions) * answering, steering.max_new_tokens)
    batches = answering * -(-len(inputs.questions) // SERIAL_ROWS)
    drawn = Load(serial=float(batches * steering.max_new_tokens))
    # What is answered is read once more, by the untouched model.
    again = answers.read + answers.decoded
    shift = len(study.extraction_questions) if fine_tuned and SHIFT in steering.vectors else 0
    return answers + drawn + Load(read=len(arms) * scored + again + shift * _prompt_tokens(spec))


#: What the stages that need a GPU have to do.
_LOADS = {
    "extract": _extract,
    "couple": _couple,
    "evaluate": _evaluate,
    "judge": _judge,
    "logodds": _logodds,
    "steer": _steer,
}


def load_of(study: Study, node: Node, *, kept: bool = True) -> Load | None:
    """The work of a node; None: it needs no GPU, and nothing is known of it.

    Args:
        kept: Of a dose's training: the whole training keeps its adapter, so that there is none.
    """
    if node.stage == "train":
        return _train(study, node, kept)
    count = _LOADS.get(node.stage)
    return None if count is None else count(study, node)


def _bytes(study: Study, load: Load, nodes: Sequence[Node]) -> int | None:
    """Of all artifacts; None if the model's shape is unknown."""
    spec, shape = study.spec, base_model.shape(study.spec.model)
    if shape is None:
        return None
    runs = Counter(node.stage for node in nodes)
    trained = [spec.recipe_of(spec.condition(n.condition)) for n in nodes if n.stage == "train"]
    ranks = sum(recipe.rank for recipe in trained) + spec.coupling.recipe.rank * runs["couple"]
    adapters = 4 * LORA_WIDTHS * shape.hidden_size * shape.num_layers * ranks
    prompts = _extracted(study)
    layers = len(study.layers(shape.num_layers))
    states = prompts * layers * shape.hidden_size * 2 * len(spec.extraction.methods)
    return int(adapters + states * runs["extract"] + ANSWER_BYTES * load.answers)


def estimate(study: Study) -> StudyCost:
    """Count the work of a study."""
    nodes = graph.build(study).nodes
    load = sum((found for node in nodes if (found := load_of(study, node))), Load())
    seconds = load.gpu_seconds(study.spec.model)
    size = _bytes(study, load, nodes)
    hours = None if seconds is None else seconds / 3600
    return StudyCost(hours, size, load.answers, load.prompts, load.steps)
