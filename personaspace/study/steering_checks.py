"""What steering must not be beside the rest of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from personaspace.errors import nearest
from personaspace.study import base_model
from personaspace.study.problems import Problem
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.spec import Experiment
from personaspace.study.steering import SHIFT, Steering


def check_steering(spec: Experiment) -> Iterator[Problem]:
    """All mistakes of `steering` that a field alone does not show."""
    steering = spec.steering
    if steering is None:
        return
    yield from _lists(steering)
    yield from _vectors(spec, steering)
    yield from _runs(spec, steering)
    if steering.answered_controls > steering.controls:
        yield Problem(
            "steering.answered_controls",
            Code.INVALID_VALUE,
            f"is more than steering.controls ({steering.controls})",
        )
    try:
        shape, positions = base_model.shape(spec.model), base_model.positions(spec.model)
    except base_model.ModelError:  # told by the checks of the model
        return
    layers = spec.extraction.layers
    if layers == "all":
        layers = list(range(shape.num_layers)) if shape else []
    if steering.layer is not None and layers and steering.layer not in layers:
        text = f"{steering.layer} is not extracted (extraction.layers)"
        yield Problem("steering.layer", Code.LAYER_NOT_EXTRACTED, text)
    if positions is not None and steering.max_new_tokens >= positions:
        yield Problem(
            "steering.max_new_tokens",
            Code.TOO_MANY_TOKENS,
            f"{steering.max_new_tokens} tokens and a prompt do not fit the model's {positions} "
            "positions",
        )


def _lists(steering: Steering) -> Iterator[Problem]:
    lists: dict[str, Sequence[object]] = {
        "vectors": steering.vectors,
        "modes": steering.modes,
        "conditions": steering.conditions or [],
        "seeds": steering.seeds or [],
    }
    for name, values in lists.items():
        for index, value in enumerate(values):
            if value in values[:index]:
                where = f"steering.{name}[{index}]"
                yield Problem(where, Code.DUPLICATE, f"{value} is listed twice")


def _vectors(spec: Experiment, steering: Steering) -> Iterator[Problem]:
    known, assistant = {persona.name for persona in spec.personas}, spec.analysis.assistant
    for index, name in enumerate(steering.vectors):
        where = f"steering.vectors[{index}]"
        if name == SHIFT:
            if SHIFT in known:
                yield Problem(
                    where, Code.RESERVED_NAME, "is a persona's name too: rename the persona"
                )
        elif name not in known:
            text = f"unknown vector {name!r}: neither {SHIFT} nor a persona"
            yield Problem(where, Code.UNKNOWN_PERSONA, text, nearest(name, {*known, SHIFT}))
        elif name == assistant:
            text = f"{name!r} less itself is no vector: name another persona, or {SHIFT}"
            yield Problem(where, Code.NOT_COMPUTED, text)
        elif name not in spec.extracted_personas():
            text = f"{name!r} is not among the extracted personas"
            yield Problem(where, Code.NOT_COMPUTED, text)


def _runs(spec: Experiment, steering: Steering) -> Iterator[Problem]:
    known = {condition.name: condition for condition in spec.conditions}
    whole = {dose.name: dose.of for dose in spec.doses()}
    for index, name in enumerate(steering.conditions or []):
        where = f"steering.conditions[{index}]"
        if name in whole:
            text = f"{name!r} is a dose, and vectors are of whole trainings: name {whole[name]!r}"
            yield Problem(where, Code.NOT_COMPUTED, text)
        elif name not in known:
            text = f"unknown condition {name!r}"
            yield Problem(where, Code.UNKNOWN_CONDITION, text, nearest(name, known))
        elif not any(steering.of_condition(known[name].fine_tuned, m) for m in steering.modes):
            yield Problem(where, Code.NOT_COMPUTED, f"{name!r} has none of the vectors: {_WHOSE}")
        elif not any(spec.steers(known[name], seed) for seed in spec.seeds_of(known[name])):
            text = f"{name!r} has none of the seeds in steering.seeds"
            yield Problem(where, Code.UNKNOWN_SEED, text)
    for index, seed in enumerate(steering.seeds or []):
        if seed not in spec.seeds:
            text = f"{seed} is not among the seeds of the study"
            yield Problem(f"steering.seeds[{index}]", Code.UNKNOWN_SEED, text)
    steered = any(spec.steers(c, seed) for c in spec.conditions for seed in spec.seeds_of(c))
    known_seeds = set(steering.seeds or []) <= set(spec.seeds)
    if not steered and not steering.conditions and known_seeds:
        yield Problem("steering.vectors", Code.NOT_COMPUTED, f"no run has one: {_WHOSE}")


_WHOSE = f"{SHIFT} is of fine-tuned conditions; personas' are added to base, and ablated anywhere"
