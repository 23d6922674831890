"""Training on several GPUs of one machine: one process each, with a share of every step's examples.

Only the adapter trains, so what the processes exchange is its gradient: summed once a step, before
clipping. Each has the whole base model, or, where that is sharded, a part of every layer, and
gathers a layer's weights when it comes to it. All start from the same adapter, take the same
optimiser steps and stop at the same step; the process that runs the stage leads, and alone writes
checkpoints and the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from personaspace.models import lora, sharding
from personaspace.models.chat import Example
from personaspace.models.load import load_model
from personaspace.models.team import Team, shares
from personaspace.models.team import leading as team_leading
from personaspace.seeds import derive_seed
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe
from personaspace.training.checkpoints import Checkpoints
from personaspace.training.plain import PlainStep
from personaspace.training.trainer import StepEngine, Trainer, step_engine

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Job:
    """What every process of a run is told.

    Attributes:
        model: The base model.
        examples: All of the run's examples.
        recipe: Hyper-parameters.
        over: Adapter that stays applied, frozen.
        adapter_seed: Seeds the new adapter.
        run_seed: Seeds order and dropout.
        field: Where the recipe stands in the spec.
        checkpoint: Folder of the checkpoint to go on from.
        until: Stop after so many steps of the schedule; None: at its end.
        sharded: Each process holds a part of the base model, not all of it.
    """

    model: Model
    examples: Sequence[Example]
    recipe: Recipe
    over: Path | None
    adapter_seed: int
    run_seed: int
    field: str
    checkpoint: Path | None
    until: int | None = None
    sharded: bool = False


class SharedStep:
    """This process's share of a step, and the sum of all shares' gradients; see `StepEngine`.

    Args:
        engine: Computes the share.
        team: Whose sum.
        parameters: The adapter's.
        sharded: The base model is spread over the team.
    """

    def __init__(
        self,
        engine: StepEngine,
        team: Team,
        parameters: Sequence[torch.nn.Parameter],
        sharded: bool = False,
    ) -> None:
        self.engine = engine
        self.team = team
        self.parameters = list(parameters)
        self.sharded = sharded

    def backward(self, batch: Sequence[Example], loss_tokens: int, seed: int) -> torch.Tensor:
        """See `StepEngine.backward`; gradients and loss are those of the whole batch."""
        team = self.team
        team.begin(self.parameters)
        members = shares([len(example.ids) for example in batch], team.processes)[team.rank]
        total = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        # One without an example of its own holds weights that the others gather.
        if members or self.sharded:
            own = derive_seed(seed, "process", team.rank)
            with team.exchanging():
                total = self.engine.backward([batch[index] for index in members], loss_tokens, own)
        grads = []
        for parameter in self.parameters:
            if parameter.grad is None:  # no example fell to this process
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
        # Before the GPUs wait for each other: one that is gone would be waited for in vain.
        team.meet()
        team.add_up(grads)
        team.add_up([total])
        return total


def trainer(job: Job, model: PeftModel, team: Team | None) -> Trainer:
    """The run's trainer in one process: alone, or as one of a team."""
    engine: StepEngine
    if job.sharded and team is not None:
        with team.exchanging():
            engine = PlainStep.sharded(model, job.examples, job.recipe.row_tokens, team)
    else:
        engine = step_engine(model, job.examples, job.recipe, job.field)
    made = Trainer(model, job.examples, job.recipe, job.run_seed, engine, job.until)
    if team is not None:
        parameters = list(made.parameters.values())
        made.engine = SharedStep(made.engine, team, parameters, job.sharded)
        made.asked = team.asked
    return made


def adapter(job: Job, base: PreTrainedModel) -> AbstractContextManager[PeftModel]:
    """The run's fresh adapter on the base model."""
    return lora.trainable(base, job.recipe, over=job.over, seed=job.adapter_seed, field=job.field)


def leading(job: Job, devices: Sequence[str]) -> AbstractContextManager[Team | None]:
    """Start the other processes of a training; see `team.leading`."""
    return team_leading(_follow, job, devices, "the training")


def sharded_base(job: Job, team: Team) -> PreTrainedModel:
    """This process's part of the base model."""
    team.assemble()
    return sharding.load_sharded(job.model, team.mesh(), team.device)


def _follow(job: Job, team: Team) -> None:
    """What every process but the leader does."""
    base = sharded_base(job, team) if job.sharded else load_model(job.model)
    with adapter(job, base) as model:
        # The leader alone writes checkpoints.
        checkpoints = Checkpoints(load=lambda: job.checkpoint, save=None)
        trainer(job, model, team).run(checkpoints)
