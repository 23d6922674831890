"""Rows of an activation file that was written before, put among those of another one.

Shape suffixes: R rows (personas, or wordings of personas), Q questions, L layers, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personaspace.activations.files import open_activations
from personaspace.errors import UserError


@dataclass(frozen=True)
class Former:
    """A file, and which of its rows are wanted.

    Attributes:
        path: The file.
        wants: Whether a persona's row at a question is.
    """

    path: Path
    wants: Callable[[str, str], bool]


def lay_over(
    states_RQLH: NDArray[Any],
    valid_RQ: NDArray[np.bool_],
    former: Sequence[Former],
    *,
    rows: Sequence[str],
    personas: Sequence[str],
    questions: Sequence[str],
    layers: Sequence[int],
) -> None:
    """Puts what is wanted of former files in its place, bit for bit as it was stored.

    Args:
        states_RQLH: Changed.
        valid_RQ: Changed.
        former: Files with these layers; rows, questions and layers in any order.
        rows: What the rows are called in files.
        personas: Whose each of them is.
        questions: Texts along axis Q.
        layers: Along axis L.

    Raises:
        UserError: A file lacks what is wanted of it, has other layers, or cannot be read.
    """
    for each in former:
        there = [
            (r, q)
            for r, persona in enumerate(personas)
            for q, question in enumerate(questions)
            if each.wants(persona, question)
        ]
        if not there:
            continue
        file = open_activations(each.path)
        if file.hidden != states_RQLH.shape[3] or set(file.layers) != set(layers):
            raise UserError(f"{each.path}: has other layers or sizes than are wanted")
        row_at = {name: place for place, name in enumerate(file.personas)}
        question_at = {text: place for place, text in enumerate(file.questions)}
        try:
            before = [(row_at[rows[r]], question_at[questions[q]]) for r, q in there]
        except KeyError as error:
            raise UserError(f"{each.path}: has no row {error.args[0]!r}") from None
        to, source = (tuple(np.array(places).T) for places in (there, before))
        valid_RQ[to] = file.valid[source]
        for slot, layer in enumerate(layers):
            states_RQLH[(*to, slot)] = file.read_layer(layer)[source]
