"""Hidden states of a persona's wordings: their mean, and the rows of the file that keeps them.

Shape suffixes: N rows (persona and wording), P personas, Q questions, L layers, H hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personaspace.activations.files import wording_name


def row_names(names: Sequence[str]) -> list[str]:
    """What the rows of a file of wordings are called, given the persona of each."""
    seen = Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(wording_name(name, seen[name]))
    return found


def means(
    names: Sequence[str], states_NQLH: NDArray[Any], valid_NQ: NDArray[np.bool_]
) -> tuple[list[str], NDArray[Any], NDArray[np.bool_]]:
    """Each persona's mean over the wordings that are valid at a question.

    Args:
        names: Persona of each row.
        states_NQLH: Hidden states.
        valid_NQ: Whether there are any.

    Returns:
        Personas `[P]` in order of appearance, their means and where there are some. Personas of
        one row have that row as it is.
    """
    personas = list(dict.fromkeys(names))
    if len(personas) == len(names):
        return personas, states_NQLH, valid_NQ
    states, valid = [], []
    for persona in personas:
        mine = [place for place, name in enumerate(names) if name == persona]
        kept = valid_NQ[mine]
        valid.append(kept.any(axis=0))
        if len(mine) == 1:
            states.append(states_NQLH[mine[0]])
            continue
        sums = np.where(kept[:, :, None, None], states_NQLH[mine], 0).sum(axis=0, dtype=np.float64)
        count = np.maximum(kept.sum(axis=0), 1)[:, None, None]
        states.append((sums / count).astype(states_NQLH.dtype))
    return personas, np.stack(states), np.stack(valid)
