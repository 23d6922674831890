"""Which code computes training and hidden states: transformers' own, or `fastlora`; and why.

Both compute the same up to rounding. A loaded model is asked by `choose`; `forecast` says the same
beforehand from the model's configuration, so that what cannot run is refused before anything long.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from personaspace.errors import UserError
from personaspace.models.footprint import Use
from personaspace.study import base_model
from personaspace.study.adapters import CONFIG
from personaspace.study.fields import Implementation
from personaspace.study.inputs import Model
from personaspace.study.recipe import PUBLISHED_TARGETS, Recipe
from personaspace.study.spec import Experiment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from personaspace.fastlora import Obstacle, PlannedAdapter

TRAINING = "training"
COUPLING = "coupling.recipe"
EXTRACTION = "extraction"

#: `model_type` of models whose configuration need not be at hand.
_KNOWN_TYPES = {"Qwen/Qwen2.5-7B-Instruct": "qwen2", base_model.SMOLLM2: "llama"}


class Taken(StrEnum):
    """What computes."""

    REFERENCE = "reference"
    FUSED = "fused"


@dataclass(frozen=True)
class Choice:
    """What `implementation` comes to.

    Attributes:
        field: Part of the spec whose `implementation` it is.
        wanted: What the spec says.
        taken: What computes; None: the machine that runs it decides.
        obstacle: What speaks against `fused` here, where that is known.
    """

    field: str
    wanted: Implementation
    taken: Taken | None
    obstacle: Obstacle | None = None

    @property
    def slow(self) -> bool:
        """Whether the slower one computes though nobody asked for it."""
        return self.wanted == "auto" and self.taken is Taken.REFERENCE

    @property
    def reason(self) -> str:
        """Why, for people: a clause without a full stop."""
        here = "" if self.obstacle is None else self.obstacle.text
        if self.taken is None:
            return "decided on the machine that runs it" + (here and f" (here: {here})")
        if self.wanted != "auto":
            of_machine = self.taken is Taken.FUSED and here
            return "as the study says" + (f"; not on this machine: {here}" if of_machine else "")
        return here or "the faster way"


def choose(wanted: Implementation, model: PreTrainedModel, field: str) -> Choice:
    """What computes a model, as it is and where it is.

    Args:
        wanted: What the spec says.
        model: With its adapters in place; of a PEFT model the base.
        field: Part of the spec that says so.

    Raises:
        UserError: `fused` is asked for and cannot run.
    """
    from personaspace import fastlora

    found = fastlora.obstacle(model)
    _refuse(wanted, found, field, str(model.config.name_or_path) or type(model).__name__)
    if wanted == "auto":
        return Choice(field, wanted, Taken.FUSED if found is None else Taken.REFERENCE, found)
    return Choice(field, wanted, Taken(wanted), found)


def forecast(
    wanted: Implementation,
    model: Model,
    adapters: Sequence[PlannedAdapter],
    field: str,
    *,
    here: bool,
) -> Choice:
    """What `choose` will say, without the model's weights.

    Args:
        wanted: What the spec says.
        model: The base model.
        adapters: What is to be put on it, from the lowest.
        field: Part of the spec that says so.
        here: Whether this machine is the one that runs it.

    Raises:
        UserError: `fused` is asked for and cannot run: here, or anywhere.
    """
    import torch

    from personaspace import fastlora

    config = _config(model)
    asked = None if wanted == "auto" else Taken(wanted)
    if config is None:
        return Choice(field, wanted, asked)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype: torch.dtype = getattr(torch, model.dtype)
    found = fastlora.foreseen_obstacle(config, dtype, device, adapters)
    elsewhere = found is not None and found.code.of_machine and not here
    if not elsewhere:
        _refuse(wanted, found, field, model.name)
        if asked is None:
            asked = Taken.FUSED if found is None else Taken.REFERENCE
    return Choice(field, wanted, asked, found)


def forecasts(spec: Experiment, spread: Collection[str] = ()) -> list[Choice]:
    """What will compute each part of a study, as far as this machine can tell.

    Args:
        spec: The study.
        spread: What a model must be spread over several GPUs for (`footprint.Use`).

    Raises:
        UserError: `fused` is asked for where it can run on no machine.
    """
    wants: list[tuple[str, Implementation]] = [
        (TRAINING, spec.training.implementation),
        (COUPLING, spec.coupling.recipe.implementation),
        (EXTRACTION, spec.extraction.implementation),
    ]
    if importlib.util.find_spec("torch") is None:
        return [Choice(f, w, None if w == "auto" else Taken(w)) for f, w in wants]
    trained = [spec.recipe_of(c) for c in spec.conditions if c.dataset is not None]
    own = {str(planned(recipe)): recipe for recipe in trained}
    found = [_forecasts(spec, wants, recipe) for recipe in own.values() or [None]]
    chosen = [_where_spread(choice, spread) for choices in found for choice in choices]
    return list({repr(choice): choice for choice in chosen}.values())


def _where_spread(choice: Choice, spread: Collection[str]) -> Choice:
    """A choice as it is where the model is spread over several GPUs."""
    use = Use.READING if choice.field == EXTRACTION else Use.TRAINING
    if use not in spread:
        return choice
    from personaspace.fastlora import Obstacle, ObstacleCode

    why = Obstacle(ObstacleCode.SHARDED, "the model is spread over several GPUs")
    return replace(choice, taken=Taken.REFERENCE, obstacle=why)


def _forecasts(
    spec: Experiment, wants: Sequence[tuple[str, Implementation]], training: Recipe | None
) -> list[Choice]:
    """`forecasts` for conditions of one recipe; None: none is trained."""
    recipes = {} if training is None else {TRAINING: training}
    if spec.coupling.order == "before":
        recipes = {COUPLING: spec.coupling.recipe, **recipes}
        below = {COUPLING: [], TRAINING: [COUPLING], EXTRACTION: list(recipes)}
    else:
        below = {TRAINING: [], COUPLING: list(recipes), EXTRACTION: list(recipes)}
    frozen = {
        field: [each for under in fields for each in planned(recipes[under], trained=False)]
        for field, fields in below.items()
    }
    adapters = {
        TRAINING: [*frozen[TRAINING], *planned(training or spec.training)],
        COUPLING: [*frozen[COUPLING], *planned(spec.coupling.recipe)],
        EXTRACTION: frozen[EXTRACTION],
    }
    return [
        forecast(wanted, spec.model, adapters[field], field, here=False) for field, wanted in wants
    ]


def planned(recipe: Recipe, *, trained: bool = True) -> list[PlannedAdapter]:
    """The recipe's adapter, for `forecast`."""
    from personaspace.fastlora import PlannedAdapter

    # Where `auto` comes to other layers, the architecture is none that fastlora knows.
    targets = PUBLISHED_TARGETS if recipe.targets == "auto" else tuple(recipe.targets)
    return [PlannedAdapter(recipe.rank, targets, trained)]


def planned_below(adapter: Path | None, recipe: Recipe) -> list[PlannedAdapter]:
    """An adapter that lies frozen below, for `forecast`.

    Args:
        adapter: Its folder; None: there is none.
        recipe: That it was trained by, or would have been: a published one says itself what it is.
    """
    if adapter is None:
        return []
    from personaspace.fastlora import PlannedAdapter

    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    targets = config["target_modules"]
    if not isinstance(targets, list):
        return planned(recipe, trained=False)
    return [PlannedAdapter(int(config["r"]), tuple(targets), False)]


def _refuse(wanted: Implementation, found: Obstacle | None, field: str, name: str) -> None:
    if wanted == "fused" and found is not None:
        raise UserError(f"{field}.implementation: fused cannot run {name}: {found.text}")


def _config(model: Model) -> Any:
    """The model's configuration, or what is known of it; None where it is not on this machine."""
    if model.name in _KNOWN_TYPES:
        layers = base_model.KNOWN_SHAPES[model.name][0]
        return SimpleNamespace(
            model_type=_KNOWN_TYPES[model.name], hidden_act="silu", num_hidden_layers=layers
        )
    from transformers import AutoConfig

    folder = base_model.local_folder(model)
    try:
        return AutoConfig.from_pretrained(
            str(folder or model.name),
            revision=None if folder else base_model.commit_of(model),
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError):
        return None
