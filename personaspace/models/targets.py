"""Which layers a recipe's adapter is put on, by their names alone."""

from __future__ import annotations

from collections.abc import Sequence

from personaspace.errors import UserError
from personaspace.study.recipe import PUBLISHED_TARGETS, Recipe, named


def chosen_targets(recipe: Recipe, adaptable: Sequence[str], field: str) -> list[str]:
    """The recipe's targets, or what `auto` comes to.

    Args:
        adaptable: Linear layers that an adapter can be put on (`architecture.adaptable`).
        field: Where the recipe stands in the spec.

    Raises:
        UserError: None can.
    """
    if recipe.targets != "auto":
        return list(recipe.targets)
    if all(any(named(name, target) for name in adaptable) for target in PUBLISHED_TARGETS):
        return list(PUBLISHED_TARGETS)
    found = sorted({name.rpartition(".")[2] for name in adaptable})
    if not found:
        raise UserError(f"{field}.targets: the model has no linear layer that could be adapted")
    return found


def check_target(target: str, within: Sequence[str], adaptable: Sequence[str], field: str) -> None:
    """Refuse a target that stands for linear layers of the decoder but can be put on none.

    Args:
        within: All linear layers of the decoder.
        adaptable: Those that an adapter can be put on.
    """
    meant = [name for name in within if named(name, target)]
    refused = next((name for name in meant if name not in adaptable), None)
    if refused is not None and not any(name in adaptable for name in meant):
        raise UserError(
            f"{field}.targets: no adapter can be put on {target!r} ({refused}): it chooses among "
            "experts, or what computes it or loads it would pass an adapter by"
        )
