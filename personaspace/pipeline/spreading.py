"""Whether a stage spreads the model over several GPUs of its machine, and over which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personaspace.errors import UserError
from personaspace.models.footprint import Footprint, Use, check_not_spread
from personaspace.study.hardware import Hardware

if TYPE_CHECKING:
    from personaspace.pipeline.context import Context
    from personaspace.study.recipe import Recipe


@dataclass(frozen=True)
class Machine:
    """What a process sees.

    Attributes:
        gpus: Names of its GPUs.
        bytes: Memory of the first.
    """

    gpus: list[str]
    bytes: int


def here() -> Machine:
    """This machine."""
    import torch

    from personaspace.models.team import gpus

    found = gpus(16)
    return Machine(found, torch.cuda.get_device_properties(0).total_memory if found else 0)


def devices(
    hardware: Hardware,
    use: Use,
    need: Callable[[], Footprint | None],
    machine: Machine,
    wanted: int = 1,
) -> list[str]:
    """What each process sees of CUDA where the model is spread; empty: it is not.

    Without a GPU it is spread only if the study says so, over processes, to try it.

    Args:
        hardware: The study's.
        use: What the model is for.
        need: What it takes, if that is known.
        machine: Where this runs.
        wanted: GPUs that the training shares its examples out to.

    Raises:
        UserError: There are too few GPUs here.
    """
    # vLLM spreads what it must, whatever `sharding` says of training and hidden states.
    sharding = "auto" if use is Use.ANSWERING else hardware.sharding
    if sharding == "none":
        return []
    if sharding == "full":
        count = max(hardware.gpus or 1, wanted)
        if not machine.gpus:
            return [""] * max(2, count)
        count = count if count > 1 else max(2, len(machine.gpus))
        return _first(machine, count, "hardware.sharding: full")
    if not machine.gpus:
        return []
    found = need()
    if found is None or found.need(use, 1) <= machine.bytes:
        return []
    least = found.gpus(use, machine.bytes / 10**9)
    size = f"{machine.bytes / 10**9:.0f} GB"
    if least is None:
        raise UserError(f"model.name: 16 GPUs of {size} do not hold it for {use}")
    return _first(machine, max(least, hardware.gpus or 1, wanted), f"GPUs of {size} for {use}")


def _first(machine: Machine, count: int, what: str) -> list[str]:
    if len(machine.gpus) < count:
        raise UserError(f"{what}: {count} GPUs are needed, and {len(machine.gpus)} are here")
    return machine.gpus[:count]


def for_training(context: Context, recipe: Recipe, field: str) -> list[str]:
    """What each process of a training sees of CUDA where the model is spread; empty: it is not.

    Args:
        context: Of the stage.
        recipe: Of the training.
        field: Where it stands in the spec.

    Raises:
        UserError: There are too few GPUs, or `fused` is asked for.
    """
    found = context.runtime.spread(Use.TRAINING, context.condition.gpus)
    if found:
        check_not_spread(recipe.implementation, field)
        context.progress.say(f"the model is spread over {len(found)} processes, a GPU each")
    return found
