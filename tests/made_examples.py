"""Training examples of random tokens."""

from __future__ import annotations

import random

from personaspace.models.chat import Example


def random_examples(count: int, seed: int = 0) -> list[Example]:
    """Examples of random tokens; loss on a tail of random length, as on an answer."""
    dice = random.Random(seed)
    made = []
    for _ in range(count):
        length, answer = dice.randint(12, 30), dice.randint(2, 10)
        ids = tuple(dice.randrange(3, 800) for _ in range(length))
        made.append(Example(ids, (False,) * (length - answer) + (True,) * answer))
    return made
