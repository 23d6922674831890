"""Hidden states on a GPU: packed batches, shared prefixes once, results copied while it computes.

Shapes: N = sequences (in `_run` ranges of a batch), L = chosen layers, H = hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from personaspace import interrupt
from personaspace.fastlora.decoder import PackedDecoder
from personaspace.fastlora.examples import Passage
from personaspace.fastlora.layout import lay_out
from personaspace.fastlora.memory import free_bytes
from personaspace.fastlora.obstacles import computation_obstacle
from personaspace.fastlora.prefixes import Group, shared_prefixes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Tokens of a batch; GEMMs gain nothing beyond.
BATCH_TOKENS = 32768
#: Tokens of prefixes whose keys and values are held at a time.
PREFIX_TOKENS = 8192


@dataclass(frozen=True)
class _Job:
    """One batch: its sequences, and where each one's prefix lies among the held ones."""

    members: list[int]
    prefixes: list[tuple[int, int]]


def batch_tokens(model: PreTrainedModel) -> int:
    """Tokens a batch may have: what a layer holds for them stays below half of free memory."""
    config: Any = model.config
    if model.device.type != "cuda":
        return BATCH_TOKENS
    size = torch.finfo(model.dtype).bits // 8
    each = size * (3 * int(config.intermediate_size) + 12 * int(config.hidden_size))
    return max(1024, min(BATCH_TOKENS, free_bytes(model.device) // 2 // each))


def hidden_states(
    model: PreTrainedModel,
    sequences: Sequence[Passage],
    layers: Sequence[int],
    *,
    token_budget: int | None = None,
    share: bool = True,
    advance: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """State at the last prompt token, and mean over the answer (0 where none): `[N, L, H]` each.

    Layers are counted from 0; a layer's state is the residual stream after it, before the final
    norm.

    Args:
        model: Causal LM in evaluation mode, adapters in place.
        sequences: In any order; results keep it.
        layers: Which layers' states. No layer above the highest runs.
        token_budget: Tokens of a batch; by default as memory allows.
        share: Compute common beginnings of prompts once.
        advance: Called with the number of sequences finished since the last call.

    Raises:
        ValueError: fastlora cannot compute the model.
        Interrupted: Asked to stop (`personaspace.interrupt`).
    """
    if (unable := computation_obstacle(model)) is not None:
        raise ValueError(unable.text)
    decoder = PackedDecoder(model)
    budget = token_budget or batch_tokens(model)
    shape = (len(sequences), len(layers), int(model.config.hidden_size))
    last_NLH = np.zeros(shape, dtype=np.float32)
    mean_NLH = np.zeros(shape, dtype=np.float32)
    waiting: list[tuple[_Job, torch.Tensor, Any]] = []

    def finish() -> None:
        job, host, copied = waiting.pop(0)
        if copied is not None:
            copied.synchronize()
        values = host.numpy()
        last_NLH[job.members] = values[: len(job.members)]
        if len(values) > len(job.members):
            mean_NLH[job.members] = values[len(job.members) :]
        if advance is not None:
            advance(len(job.members))

    groups = (
        shared_prefixes([s.prompt for s in sequences])
        if share
        else [Group(0, tuple(range(len(sequences))))]
    )
    for held in _portions(groups):
        prefix, jobs = _prepare(decoder, sequences, held, budget, max(layers))
        for job in jobs:
            interrupt.check()
            host, copied = _run(decoder, sequences, layers, job, prefix)
            waiting.append((job, host, copied))
            # One batch is read while the next one is computed.
            if len(waiting) > 1:
                finish()
    while waiting:
        finish()
    return last_NLH, mean_NLH


def _portions(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups in portions whose prefixes' keys and values are held together."""
    portion: list[Group] = []
    for group in groups:
        if portion and sum(g.length for g in portion) + group.length > PREFIX_TOKENS:
            yield portion
            portion = []
        portion.append(group)
    if portion:
        yield portion


@dataclass(frozen=True)
class _Prefix:
    """Keys and values of each layer, and how many tokens they cover, padding included."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    tokens: int


def _prepare(
    decoder: PackedDecoder,
    sequences: Sequence[Passage],
    groups: Sequence[Group],
    budget: int,
    highest: int,
) -> tuple[_Prefix | None, list[_Job]]:
    """Keys and values of the groups' prefixes, and the batches of what comes after them."""
    places: dict[int, tuple[int, int]] = {}
    heads: list[tuple[int, ...]] = []
    start = 0
    for group in groups:
        for member in group.members:
            places[member] = (start if group.length else 0, group.length)
        if group.length:
            heads.append(tuple(sequences[group.members[0]].prompt[: group.length]))
            start += group.length
    prefix = None
    if heads:
        layout = lay_out(heads, decoder.head_VH.device)
        prefix = _Prefix(decoder.keys_and_values(layout, highest), len(layout))
    own = {i: _length(sequences[i]) - length for i, (_, length) in places.items()}
    jobs: list[_Job] = []
    room = 0
    # Longest first: like lengths together, and the largest batch meets an empty memory.
    for index in sorted(own, key=lambda i: (-own[i], i)):
        if not jobs or own[index] > room:
            jobs.append(_Job([], []))
            room = budget
        jobs[-1].members.append(index)
        jobs[-1].prefixes.append(places[index])
        room -= own[index]
    return prefix, jobs


def _length(sequence: Passage) -> int:
    return len(sequence.prompt) + len(sequence.answer)


def _run(
    decoder: PackedDecoder,
    sequences: Sequence[Passage],
    layers: Sequence[int],
    job: _Job,
    prefix: _Prefix | None,
) -> tuple[torch.Tensor, Any]:
    """Starts a batch; the states on the host, and the event after which they are there."""
    device = decoder.head_VH.device
    rows, lasts, answers, start = [], [], [], 0
    for index, (_, length) in zip(job.members, job.prefixes, strict=True):
        sequence = sequences[index]
        tokens = (sequence.prompt + sequence.answer)[length:]
        end = start + len(sequence.prompt) - length
        lasts.append((end - 1, end))
        answers.append((end, start + len(tokens)))
        rows.append(tokens)
        start += len(tokens)
    ranges = lasts + (answers if any(stop > begin for begin, stop in answers) else [])
    layout = lay_out(
        rows,
        device,
        None if prefix is None else job.prefixes,
        0 if prefix is None else prefix.tokens,
    )
    edges = torch.tensor(ranges, dtype=torch.long).T.contiguous()
    if device.type == "cuda":
        edges = edges.pin_memory().to(device, non_blocking=True)
    states_NLH = decoder.range_means(
        layout, layers, edges[0], edges[1], None if prefix is None else prefix.layers
    )
    if device.type != "cuda":
        return states_NLH, None
    host = torch.empty(states_NLH.shape, dtype=torch.float32, pin_memory=True)
    host.copy_(states_NLH, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return host, copied
