"""Hidden states of decoder layers: method A (last prompt token) and B (mean over an answer).

Layers are counted from 0; layer l is what the l-th decoder layer adds to the residual stream and
hands on, before the final norm. (`output_hidden_states` of transformers counts the embedding as 0,
and its last entry has gone through the final norm, so it is not used here.)

Shapes: N = sequences, L = chosen layers, H = hidden, R = rows of a batch, T = tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from personaspace import fastlora, interrupt
from personaspace.errors import ASKED, Interrupted, UserError
from personaspace.models import implementation
from personaspace.models.architecture import decoder_of
from personaspace.models.determinism import steady_attention
from personaspace.models.implementation import Taken
from personaspace.study.fields import Implementation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from personaspace.models.team import Team


#: Tokens of a padded batch, where nobody says.
TOKEN_BUDGET = 8192


@dataclass(frozen=True)
class Passage:
    """A prompt and its answer, as one forward pass reads them.

    Attributes:
        prompt: Tokens of the rendered chat with its generation prompt.
        answer: Tokens of the answer, without the end token; may be empty.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class States:
    """Hidden states in float32.

    Attributes:
        last_NLH: Method A: at the last token of the prompt.
        mean_NLH: Method B: mean over the answer's tokens; 0 where there is no answer.
        answered_N: Whether there was an answer to average.
        taken: What computed them.
    """

    last_NLH: NDArray[np.float32]
    mean_NLH: NDArray[np.float32]
    answered_N: NDArray[np.bool_]
    taken: Taken


@contextmanager
def _watched(model: PreTrainedModel, wanted: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Collects the chosen layers' outputs `[R, T, H]`, and runs no layer above the highest."""
    decoder, layers = decoder_of(model)
    seen: dict[int, torch.Tensor] = {}

    def keep(number: int) -> Callable[..., None]:
        def hook(_: torch.nn.Module, __: Any, output: Any) -> None:
            seen[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [layers[number].register_forward_hook(keep(number)) for number in wanted]
    decoder.layers = layers[: max(wanted) + 1]
    try:
        yield seen
    finally:
        decoder.layers = layers
        for handle in handles:
            handle.remove()


def batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices of like length together, each batch at most `token_budget` tokens when padded."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    result: list[list[int]] = []
    for index in order:
        if result and lengths[result[-1][0]] * (len(result[-1]) + 1) <= token_budget:
            result[-1].append(index)
        else:
            result.append([index])
    return result


def hidden_states(
    model: PreTrainedModel,
    sequences: Sequence[Passage],
    layers: Sequence[int],
    *,
    wanted: Implementation = "auto",
    token_budget: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> States:
    """Both methods for every sequence, every chosen layer from one pass.

    The last prompt token cannot see the answer after it, so one pass over prompt and answer serves
    both methods. On a GPU `fastlora` computes what the model's own forward pass computes
    elsewhere, with common beginnings of prompts computed once.

    Args:
        model: Causal LM in evaluation mode, adapters applied if any.
        sequences: In any order; results keep it.
        layers: Layer numbers from 0.
        wanted: What is to compute, as `extraction.implementation`.
        token_budget: Tokens per batch, padding included; by default 8192, or on a GPU as many as
            memory holds.
        advance: Called with the number of sequences finished since the last call.

    Raises:
        UserError: Hidden states that are NaN or infinite, or an unknown architecture; or `fused` is
            asked for and cannot run.
        Interrupted: Asked to stop.
    """
    decoder_of(model)
    taken = implementation.choose(wanted, model, implementation.EXTRACTION).taken
    assert taken is not None
    if taken is Taken.FUSED:
        last_NLH, mean_NLH = fastlora.hidden_states(
            model, sequences, layers, token_budget=token_budget, advance=advance
        )
    else:
        last_NLH, mean_NLH = padded(model, sequences, layers, token_budget, advance)
    return checked(last_NLH, mean_NLH, sequences, taken)


def checked(
    last_NLH: NDArray[np.float32],
    mean_NLH: NDArray[np.float32],
    sequences: Sequence[Passage],
    taken: Taken,
) -> States:
    """What was computed of the sequences, if it is numbers.

    Raises:
        UserError: It holds NaN or infinity.
    """
    if not (np.isfinite(last_NLH).all() and np.isfinite(mean_NLH).all()):
        raise UserError("hidden states hold NaN or infinity: try model.dtype bfloat16 or float32")
    answered_N = np.array([len(s.answer) > 0 for s in sequences])
    return States(last_NLH, mean_NLH, answered_N, taken)


def padded(
    model: PreTrainedModel,
    sequences: Sequence[Passage],
    layers: Sequence[int],
    token_budget: int | None,
    advance: Callable[[int], None] | None,
    team: Team | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both methods with the model's own forward pass over padded batches.

    Args:
        team: Over which the model is spread; all its processes are here, each with texts of its
            own, and run as many batches as the one with the most.
    """
    shape = (len(sequences), len(layers), int(model.config.get_text_config().hidden_size))
    last_NLH = np.zeros(shape, dtype=np.float32)
    mean_NLH = np.zeros(shape, dtype=np.float32)
    decoder, _ = decoder_of(model)
    groups = batches([len(s) for s in sequences], token_budget or TOKEN_BUDGET)
    with (
        _watched(model, layers) as seen,
        steady_attention(model.device),
        # What is gathered of a sharded model must not become inference tensors.
        torch.inference_mode() if team is None else torch.no_grad(),
    ):
        for members in _together(groups, team):
            if not members:
                decoder(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device))
                continue
            rows = [sequences[index] for index in members]
            ids_RT, mask_RT = _right_padded(rows, model.device)
            decoder(input_ids=ids_RT, attention_mask=mask_RT, use_cache=False)
            ends = torch.tensor([len(row.prompt) for row in rows], device=model.device)
            where = torch.arange(len(rows), device=model.device)
            positions_T = torch.arange(ids_RT.shape[1], device=model.device)
            answer_RT = (positions_T >= ends[:, None]) & mask_RT.bool()
            weights_RT = answer_RT / answer_RT.sum(dim=1, keepdim=True).clamp(min=1)
            for slot, layer in enumerate(layers):
                states_RTH = seen[layer].float()
                last_NLH[members, slot] = states_RTH[where, ends - 1].cpu().numpy()
                mean_RH = torch.einsum("rt,rth->rh", weights_RT.float(), states_RTH)
                mean_NLH[members, slot] = mean_RH.cpu().numpy()
            seen.clear()
            if advance is not None:
                advance(len(rows))
    return last_NLH, mean_NLH


def _together(found: list[list[int]], team: Team | None) -> Iterator[list[int]]:
    """The batches, and empty ones while others of the team have more.

    Raises:
        Interrupted: Asked to stop; in a team all of them are.
    """
    for index in range(len(found) if team is None else team.most(len(found))):
        if team is None:
            interrupt.check()
        else:
            team.meet()
            if team.asked():
                raise Interrupted(ASKED)
        yield found[index] if index < len(found) else []


def _right_padded(
    rows: Sequence[Passage], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        tokens = torch.tensor(row.prompt + row.answer)
        ids[number, : len(tokens)] = tokens
        mask[number, : len(tokens)] = 1
    return ids.to(device), mask.to(device)
