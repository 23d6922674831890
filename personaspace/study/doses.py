"""What `training.doses` must not be: out of order, or beyond the steps that a condition trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from personaspace.console import counted
from personaspace.study.datasets import Chats
from personaspace.study.fields import LONGEST_NAME
from personaspace.study.problems import Problem
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.schedule import total_steps
from personaspace.study.spec import Experiment

FIELD = "training.doses"


def check_doses(spec: Experiment) -> Iterator[Problem]:
    """Mistakes that the spec alone shows."""
    doses, wanted = spec.training.doses, spec.training.doses_in
    trained = [condition for condition in spec.conditions if condition.dataset is not None]
    if doses and not trained:
        yield Problem(FIELD, Code.NOT_TRAINED_HERE, "no condition is trained here")
    for index, stage in enumerate(wanted):
        if stage in wanted[:index]:
            text = f"{stage!r} is listed twice"
            yield Problem(f"training.doses_in[{index}]", Code.DUPLICATE, text)
    for index, step in enumerate(doses):
        where = f"{FIELD}[{index}]"
        limits = {c.name: spec.recipe_of(c).max_steps for c in trained}
        short = next((name for name, most in limits.items() if most and step > most), None)
        if step in doses[:index]:
            yield Problem(where, Code.DUPLICATE, f"{step} is listed twice")
        elif index and step < doses[index - 1]:
            text = f"{step} comes after {doses[index - 1]}: name them in ascending order"
            yield Problem(where, Code.OUT_OF_ORDER, text)
        elif short is not None:
            yield Problem(where, Code.BEYOND_TRAINING, _beyond(step, limits[short] or 0, short))
    names = [condition.name for condition in spec.conditions]
    for dose in spec.doses():
        where = f"{FIELD}[{doses.index(dose.step)}]"
        if dose.name in names:
            text = f"{dose.name!r}, as the dose of {dose.of} is called, is the name of a condition"
            yield Problem(where, Code.RESERVED_NAME, text)
        elif len(dose.name) > LONGEST_NAME:
            yield Problem(
                where,
                Code.NAME_TOO_LONG,
                f"{dose.name!r}, as the dose is called, has more than {LONGEST_NAME} characters: "
                f"give {dose.of!r} a shorter name",
            )


def at_the_end(spec: Experiment) -> Iterator[tuple[str, str]]:
    """Doses that are conditions themselves, since these train no further: the field, and words."""
    trained = [condition for condition in spec.conditions if condition.dataset is not None]
    for index, step in enumerate(spec.training.doses):
        ends = [c.name for c in trained if spec.recipe_of(c).max_steps == step]
        if ends:
            whose = "every condition" if len(ends) == len(trained) else ", ".join(ends)
            yield (
                f"{FIELD}[{index}]",
                f"{step} is the last step of {whose}: the dose there is the condition itself, "
                "which is measured once",
            )


def check_steps(spec: Experiment, chats: Mapping[str, Chats]) -> Iterator[Problem]:
    """Doses that the data sets are too small for."""
    told: set[int] = set()
    for dose in spec.doses():
        if dose.dataset is None or dose.dataset not in chats or dose.step in told:
            continue
        steps = total_steps(spec.recipe_of(dose), len(chats[dose.dataset].conversations))
        if dose.step >= steps:
            told.add(dose.step)
            where = f"{FIELD}[{spec.training.doses.index(dose.step)}]"
            yield Problem(where, Code.BEYOND_TRAINING, _beyond(dose.step, steps, dose.of))


def _beyond(step: int, steps: int, condition: str) -> str:
    if step == steps:
        return f"{step} is the last step of {condition}, which is measured anyway: leave it out"
    return f"{step} is beyond the {counted(steps, 'step')} of {condition}"
