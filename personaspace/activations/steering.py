"""Directions in a decoder layer's output: made from activations, added to it, or projected out.

A layer's output is what `activations.extract` reads: the residual stream that the layer hands on.
What is done to it is done at every position, of prompts and of answers alike, as Arditi et al.
(2024, arXiv:2406.11717) do; padding is changed too, and no token looks at it.

Shapes: P personas, Q questions, K directions, H hidden; a layer's output is `[rows, tokens, H]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from personaspace.console import counted
from personaspace.errors import UserError
from personaspace.models.architecture import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = NDArray[np.float64]
#: From a layer's output to what is handed on instead.
Edit = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def edited(model: PreTrainedModel, layer: int, edit: Edit | None) -> Iterator[None]:
    """The model with a decoder layer's output changed; on leaving, however, it is as before.

    Args:
        model: Causal LM; adapters may be put on and taken off meanwhile.
        layer: Decoder layer, counted from 0.
        edit: What is done to its output; None: nothing.

    Raises:
        UserError: An architecture whose layers cannot be found, or no such layer.
    """
    _, layers = decoder_of(model)
    if not 0 <= layer < len(layers):
        raise UserError(
            f"steering.layer: {layer} is not one of the model's {counted(len(layers), 'layer')}"
        )
    if edit is None:
        yield
        return
    change = edit

    def hook(_: torch.nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    handle = layers[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def adding(vector_H: Floats) -> Edit:
    """Adds v to each state: h + v."""
    vector = torch.from_numpy(vector_H.astype(np.float32))

    def add(states: torch.Tensor) -> torch.Tensor:
        return (states.float() + vector.to(states.device)).to(states.dtype)

    return add


def ablating(vector_H: Floats) -> Edit:
    """Projects v out: h − (h·u) u with u = v/|v|, so that nothing is left along v."""
    unit = torch.from_numpy((vector_H / np.linalg.norm(vector_H)).astype(np.float32))

    def ablate(states: torch.Tensor) -> torch.Tensor:
        along = unit.to(states.device)
        whole = states.float()
        # Not a matrix product, which rounds otherwise in batches of another size.
        return (whole - (whole * along).sum(dim=-1, keepdim=True) * along).to(states.dtype)

    return ablate


def mean_difference(
    to_QH: NDArray[np.floating[Any]],
    from_QH: NDArray[np.floating[Any]],
    valid_Q: NDArray[np.bool_],
    what: str,
) -> Floats:
    """Mean over questions of the difference of two activations: the vector that is steered along.

    The difference of means, as in Rimsky et al. (2024, arXiv:2312.06681), which multiplies it by
    the coefficients that `doses` are here. 1 shifts the one's mean onto the other's.

    Args:
        to_QH: Of each question, what the vector points to.
        from_QH: What it points away from.
        valid_Q: Questions that both have.
        what: Names the vector in messages.

    Raises:
        UserError: No question, or a vector that is NaN, infinite or 0.
    """
    if not valid_Q.any():
        raise UserError(f"{what}: no question has activations of both")
    difference = to_QH[valid_Q].astype(np.float64) - from_QH[valid_Q].astype(np.float64)
    vector: Floats = difference.mean(axis=0)
    if not np.isfinite(vector).all():
        raise UserError(f"{what}: the vector holds NaN or infinity")
    if not vector.any():
        raise UserError(f"{what}: the vector is 0, so there is nothing to steer along")
    return vector


def varied_directions(length: float, states_NH: Floats, seeds: list[int]) -> Floats:
    """Directions drawn as activations vary, one for each seed, all of one length: `[K, H]`.

    Before it is scaled, a direction is normal with the activations' own covariance: a sum of their
    deviations from their mean, with standard normal weights.

    Args:
        length: Of each.
        states_NH: Activations.
        seeds: Of the draws.

    Raises:
        UserError: Activations that do not vary.
    """
    if not seeds:
        return np.zeros((0, states_NH.shape[1]))
    off_NH = states_NH - states_NH.mean(axis=0)
    weights = [
        np.random.Generator(np.random.PCG64(seed)).standard_normal(len(off_NH)) for seed in seeds
    ]
    found = np.stack(weights) @ off_NH
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise UserError(
            "steering.activation_controls: the activations do not vary, or hold NaN or infinity: "
            "no direction can be drawn as they do"
        )
    return np.asarray(length * found / lengths)


def random_directions(length: float, hidden: int, seeds: list[int]) -> Floats:
    """Directions drawn uniformly, one for each seed, all of one length: `[K, H]`."""
    drawn = [np.random.Generator(np.random.PCG64(seed)).standard_normal(hidden) for seed in seeds]
    if not drawn:
        return np.zeros((0, hidden))
    found = np.stack(drawn)
    return np.asarray(length * found / np.linalg.norm(found, axis=1, keepdims=True))
