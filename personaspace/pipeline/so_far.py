"""How far a training is that another process runs, or ran: by its latest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from personaspace.errors import UserError
from personaspace.files import read_json
from personaspace.pipeline.stages.train import checkpoints_of
from personaspace.store import Store
from personaspace.training import STEPS


@dataclass(frozen=True)
class SoFar:
    """A training as its latest checkpoint has it.

    Attributes:
        done: Steps that it has made, at least.
        total: Of how many; 0: not known.
        losses: By step.
    """

    done: int
    total: int
    losses: list[tuple[int, float]]


def so_far(store: Store, key: str) -> SoFar | None:
    """How far the training is whose artifact is to lie at a key; None: it has kept no checkpoint.

    Raises:
        UserError: The store cannot be read.
    """
    for found in reversed(checkpoints_of(store, key)):
        manifest = store.find(found)
        if manifest is None:
            continue  # a later one has taken its place meanwhile
        try:
            steps = read_json(store.fetch(manifest, [STEPS]) / STEPS)
        except (UserError, OSError):
            continue  # so it is with a damaged one, which its run will name
        losses = [(step["step"], step["loss"]) for step in steps]
        return SoFar(len(losses), manifest.fields.get("of", 0), losses)
    return None
