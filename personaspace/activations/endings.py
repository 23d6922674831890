"""Teacher-forced log-probabilities of what could end an answer: the marker, or the turn's end.

Shapes: R rows of a batch, T tokens, K tokens of the ending, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from personaspace import interrupt
from personaspace.activations.extract import batches
from personaspace.errors import UserError
from personaspace.models.determinism import steady_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKEN_BUDGET = 8192


@dataclass(frozen=True)
class Ending:
    """A chat whose last tokens are asked for.

    Attributes:
        ids: Tokens of prompt, answer and ending.
        length: How many of them, at the end, are the ending.
    """

    ids: tuple[int, ...]
    length: int

    def __post_init__(self) -> None:
        if not 0 < self.length < len(self.ids):
            raise ValueError("an ending is one token or more after at least one other")


@dataclass(frozen=True)
class Probabilities:
    """Natural logarithms.

    Attributes:
        ending: Of the ending as a whole: the sum over its tokens.
        end: That the answer ends in its place: of any of the end tokens.
    """

    ending: float
    end: float


def ending_probabilities(
    model: PreTrainedModel,
    endings: Sequence[Ending],
    end_tokens: Sequence[int],
    *,
    token_budget: int = TOKEN_BUDGET,
    advance: Callable[[int], None] | None = None,
) -> list[Probabilities]:
    """One forward pass for each chat; the output layer is applied to the endings alone.

    Args:
        model: Causal LM in evaluation mode, adapters applied if any.
        endings: In any order; results keep it.
        end_tokens: Tokens that end an answer.
        token_budget: Tokens per batch, padding included.
        advance: Called with the number of chats finished since the last call.

    Raises:
        UserError: Probabilities that are NaN.
        Interrupted: Asked to stop.
    """
    found: dict[int, Probabilities] = {}
    stops = torch.tensor(list(end_tokens), device=model.device)
    with steady_attention(model.device), torch.inference_mode():
        for members in batches([len(one.ids) - 1 for one in endings], token_budget):
            interrupt.check()
            rows = [endings[index] for index in members]
            log_RKV = log_probabilities(model, rows)
            for index, one, log_KV in zip(members, rows, log_RKV, strict=True):
                log_KV = log_KV[-one.length :]
                wanted = torch.tensor(one.ids[-one.length :], device=log_KV.device)
                ending = log_KV.gather(1, wanted[:, None]).double().sum()
                end = log_KV[0, stops].double().logsumexp(0)
                found[index] = Probabilities(float(ending), float(end))
            if advance is not None:
                advance(len(rows))
    if any(one.ending != one.ending for one in found.values()):
        raise UserError("log-probabilities are NaN: try model.dtype bfloat16 or float32")
    return [found[index] for index in range(len(endings))]


def log_probabilities(model: PreTrainedModel, rows: Sequence[Ending]) -> torch.Tensor:
    """`[R, K, V]` in float32: of what follows the last K tokens before each row's last.

    Padded at the left, so that endings stand above each other and the output layer is applied to
    them alone; positions count from each row's own first token.
    """
    width = max(len(row.ids) for row in rows) - 1
    ids_RT = torch.zeros((len(rows), width), dtype=torch.long)
    mask_RT = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        tokens = torch.tensor(row.ids[:-1])
        ids_RT[number, -len(tokens) :] = tokens
        mask_RT[number, -len(tokens) :] = 1
    logits_RKV = model(
        input_ids=ids_RT.to(model.device),
        attention_mask=mask_RT.to(model.device),
        position_ids=(mask_RT.cumsum(dim=1) - 1).clamp(min=0).to(model.device),
        logits_to_keep=max(row.length for row in rows),
        use_cache=False,
    ).logits
    return torch.log_softmax(logits_RKV.float(), dim=-1)
