"""What stage steer does to which model: a list, made without anything that computes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from personaspace.study.loaded import Study
from personaspace.study.steering import Mode, Steering

#: The base model, or the condition's own.
Steered = Literal["base", "own"]


def section(study: Study) -> Steering:
    """The study's steering, which it has where this stage runs."""
    assert study.spec.steering is not None
    return study.spec.steering


@dataclass(frozen=True)
class Arm:
    """One thing done to one model.

    Attributes:
        model: Which.
        mode: What is done; None: nothing.
        vector: Along which vector, or in place of which a control stands.
        dose: By how much, in lengths of the vector, where it is added.
        control: Number of the random direction; None: the vector itself.
        answers: Whether it also answers questions.
        matched: The control is drawn as activations vary, not uniformly.
    """

    model: Steered
    mode: Mode | None = None
    vector: str | None = None
    dose: float | None = None
    control: int | None = None
    answers: bool = False
    matched: bool = False

    @property
    def id(self) -> str:
        """Names it among the arms of a node."""
        named = [self.model, self.mode, self.vector, self.dose, self.control]
        return json.dumps([*named, "matched"] if self.matched else named)


def arms_of(spec: Steering, fine_tuned: bool) -> Iterator[Arm]:
    """All that a node does, untouched models first, controls after their vector."""
    own: Steered = "own" if fine_tuned else "base"
    models: dict[Mode, Steered] = {"add": "base", "ablate": own}
    steered = [
        (models[mode], mode, vectors)
        for mode in spec.modes
        if (vectors := spec.of_condition(fine_tuned, mode))
    ]
    for model in dict.fromkeys(model for model, _, _ in steered):
        yield Arm(model, answers=True)
    for model, mode, vectors in steered:
        doses: list[float | None] = [None] if mode == "ablate" else [*spec.doses]
        for vector in vectors:
            for dose in doses:
                yield Arm(model, mode, vector, dose, answers=True)
                for control in range(spec.controls):
                    answers = control < spec.answered_controls
                    yield Arm(model, mode, vector, dose, control, answers)
                for control in range(spec.activation_controls):
                    yield Arm(model, mode, vector, dose, control, matched=True)
