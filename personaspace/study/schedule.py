"""How long a recipe trains on so many examples."""

from __future__ import annotations

import math

from personaspace.study.recipe import Recipe


def total_steps(recipe: Recipe, examples: int) -> int:
    """Optimiser steps of a run: whole epochs, the last batch of each possibly smaller."""
    steps = recipe.epochs * math.ceil(examples / recipe.batch_size)
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def times_seen(recipe: Recipe, examples: int) -> float:
    """How often a run trains on each example, on average."""
    per_epoch = math.ceil(examples / recipe.batch_size)
    epochs, rest = divmod(total_steps(recipe, examples), per_epoch)
    return epochs + min(rest * recipe.batch_size, examples) / examples
