"""A training of few steps, and the examples that it takes."""

from __future__ import annotations

from made_examples import random_examples

from personaspace.study.recipe import Recipe

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

#: 10 examples in fours: three steps an epoch, the last of two; six steps; several rows a step.
SMALL = Recipe(
    rank=4,
    alpha=8,
    learning_rate=5e-3,
    batch_size=4,
    epochs=2,
    dropout=0.1,
    row_tokens=60,
    checkpoint_every=100,
)

EXAMPLES = random_examples(10)
