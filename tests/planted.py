"""Activation files with a planted truth: how far personas collapse and shift along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personaspace.activations.files import write_activations

PERSONAS = ("villain", "librarian", "assistant", "comedian", "confab", "medical_doctor")


@dataclass(frozen=True)
class Arm:
    """What fine-tuning does to the persona vectors of a condition.

    Attributes:
        spread: Factor on the differences between personas.
        shift: How far all personas are moved along the axis, in its lengths.
        own: Size of a random displacement of each persona on its own.
    """

    spread: float = 1.0
    shift: float = 0.0
    own: float = 0.02


STUDY = {
    "base": Arm(own=0.0),
    "benign": Arm(spread=0.5, shift=0.2),
    "e0-assistant": Arm(spread=0.2, shift=1.0),
    "e4-villain": Arm(spread=0.25, shift=0.9),
}


@dataclass(frozen=True)
class World:
    """The truth behind a set of files.

    Attributes:
        vectors: Noise-free persona vectors by condition, `[persona, hidden]`.
        states: What the files hold, `[persona, question, layer, hidden]`.
    """

    vectors: dict[str, NDArray[np.float64]]
    states: dict[str, NDArray[np.float64]]


def world(
    arms: Mapping[str, Arm] = STUDY,
    personas: int = 12,
    questions: int = 24,
    layers: int = 1,
    hidden: int = 32,
    noise: float = 0.5,
    seed: int = 0,
) -> World:
    """Draws a world; every layer has the same truth and noise of its own."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 2, size=hidden)
    differences = rng.normal(0, 0.7, size=(personas, hidden))
    axis = rng.normal(0, 0.5, size=hidden)
    # Questions move all personas of all conditions alike.
    common = rng.normal(0, 0.5, size=(1, questions, layers, hidden))
    vectors, states = {}, {}
    for name, arm in arms.items():
        own = rng.normal(0, arm.own, size=(personas, hidden))
        vectors[name] = mean + arm.spread * differences + arm.shift * axis + own
        error = rng.normal(0, noise, size=(personas, questions, layers, hidden))
        states[name] = vectors[name][:, None, None] + common + error
    return World(vectors, states)


def names(count: int) -> list[str]:
    """Persona names, the assistant among the first three."""
    return [*PERSONAS, *(f"persona_{i}" for i in range(count))][:count]


def write(
    folder: Path,
    drawn: World,
    *,
    seed: int = 42,
    methods: Sequence[str] = ("a",),
    layers: Sequence[int] | None = None,
    valid: Mapping[str, NDArray[np.bool_]] | None = None,
) -> list[Path]:
    """Writes a world's files; `valid` by condition, everything where it is not given."""
    paths = []
    for condition, states in drawn.states.items():
        for method in methods:
            path = folder / f"{condition}.seed-{seed}.{method}.safetensors"
            write_activations(
                path,
                states,
                (valid or {}).get(condition, np.ones(states.shape[:2], dtype=bool)),
                personas=names(states.shape[0]),
                questions=[f"question {i}?" for i in range(states.shape[1])],
                layers=layers if layers is not None else range(states.shape[2]),
                condition=condition,
                seed=seed,
                method=method,
            )
            paths.append(path)
    return paths
