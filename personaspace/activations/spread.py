"""Hidden states of a model that is spread over the GPUs of one machine, each with a part of it.

Each process reads a share of the texts. A layer's weights are gathered by all of them together, so
they run as many batches as the one with the most.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from personaspace.activations.extract import Passage, States, checked, padded
from personaspace.models import lora, sharding
from personaspace.models.implementation import Taken
from personaspace.models.team import Team, leading, shares
from personaspace.study.inputs import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Reading:
    """What every process is told.

    Attributes:
        model: The base model.
        adapters: Folders of what is applied to it.
        sequences: All of the texts.
        layers: Layer numbers from 0.
        token_budget: Tokens per batch, padding included; None: as without a team.
    """

    model: Model
    adapters: Sequence[Path]
    sequences: Sequence[Passage]
    layers: Sequence[int]
    token_budget: int | None = None


def hidden_states(
    reading: Reading, devices: Sequence[str], advance: Callable[[int], None] | None = None
) -> States:
    """As `extract.hidden_states`, by as many processes as there are devices.

    Args:
        reading: Model and texts.
        devices: Two or more; see `team.leading`.
        advance: Called with the number of sequences finished since the last call.

    Raises:
        UserError: As there; or the model cannot be spread.
        Interrupted: Asked to stop.
    """
    with tempfile.TemporaryDirectory(prefix="personaspace-") as scratch:
        folder = Path(scratch)
        with leading(_follow, (reading, folder), devices, "the extraction") as team:
            assert team is not None
            with _reader(reading, team) as model:
                return of_team(model, reading, team, folder, advance)


@contextmanager
def _reader(reading: Reading, team: Team) -> Iterator[PreTrainedModel]:
    """This process's part of the model, adapters applied."""
    team.assemble()
    base = sharding.load_sharded(reading.model, team.mesh(), team.device)
    with lora.applied(base, *reading.adapters):
        yield base


def _follow(told: tuple[Reading, Path], team: Team) -> None:
    """What every process but the leader does."""
    reading, folder = told
    with _reader(reading, team) as model:
        of_team(model, reading, team, folder)


def of_team(
    model: PreTrainedModel,
    reading: Reading,
    team: Team,
    folder: Path,
    advance: Callable[[int], None] | None = None,
) -> States:
    """One process's share of the work; the leader has the whole of the result.

    Args:
        model: Its part, adapters applied.
        reading: Texts and layers.
        team: All of whose processes are here.
        folder: Where the others leave their shares.
        advance: As in `hidden_states`; of the leader alone.
    """
    texts = reading.sequences
    members = shares([len(text) for text in texts], team.processes)
    own = [texts[index] for index in members[team.rank]]
    with team.exchanging():
        found = padded(model, own, reading.layers, reading.token_budget, advance, team)
    if team.rank:
        for name, values in zip(_NAMES, found, strict=True):
            np.save(folder / f"{team.rank}.{name}.npy", values)
        team.meet()
        return checked(*found, own, Taken.REFERENCE)
    whole = [np.zeros((len(texts), *values.shape[1:]), np.float32) for values in found]
    team.meet()  # all have left their shares
    for rank, indices in enumerate(members):
        for name, values, to in zip(_NAMES, found, whole, strict=True):
            to[indices] = values if rank == 0 else np.load(folder / f"{rank}.{name}.npy")
    if advance is not None:
        advance(len(texts) - len(own))
    return checked(whole[0], whole[1], texts, Taken.REFERENCE)


#: Files of both methods.
_NAMES = ("last", "mean")
