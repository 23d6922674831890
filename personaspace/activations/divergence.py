"""How far apart two prompts' distributions over the next token are, along one text.

The Jensen-Shannon divergence (Lin 1991, "Divergence measures based on the Shannon entropy") of
distributions p and q with the mean m is ½ Σ p log(p/m) + ½ Σ q log(q/m): 0 where they are the same,
log 2 where no token has a chance in both. It is computed over the whole vocabulary, not estimated
from draws. An error ε in log-probabilities moves that of equal distributions by the order of ε²
alone, so that float32 is no limit.

Shapes: P prompts, K tokens of the text, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from personaspace import interrupt
from personaspace.activations.endings import Ending, log_probabilities
from personaspace.errors import UserError
from personaspace.models.determinism import steady_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Log-probabilities that are held at once, all prompts together: half a GB in float32.
LOG_PROBABILITIES = 1 << 27


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Divergence in nats, from 0 to log 2.

    Args:
        log_p: Natural logarithms, `[…, V]`; −inf where there is no chance.
        log_q: Of the same shape.

    Returns:
        `[…]`, in float64.
    """
    log_p, log_q = log_p.double(), log_q.double()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    parts = [
        torch.where(one == -torch.inf, 0.0, one.exp() * (one - log_m)) for one in (log_p, log_q)
    ]
    return ((parts[0] + parts[1]).sum(dim=-1) / 2).clamp(0.0, math.log(2))


def text_divergences(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    text: Sequence[int],
    *,
    held: int = LOG_PROBABILITIES,
) -> list[float]:
    """Mean divergence over the text's tokens, nats, of every two prompts.

    The text is read piece by piece, each with all that goes before it, so that the distributions of
    one piece alone are in memory.

    Args:
        model: Causal LM in evaluation mode, adapters applied if any.
        prompts: Tokens of two prompts or more.
        text: Tokens that follow each prompt, one or more.
        held: Log-probabilities in memory at once; at least one token's are.

    Returns:
        Pairs (first, second), (first, third) …, as `itertools.combinations` has them.

    Raises:
        UserError: Probabilities that are NaN.
        Interrupted: Asked to stop.
    """
    pairs = list(itertools.combinations(range(len(prompts)), 2))
    totals = torch.zeros(len(pairs), dtype=torch.float64)
    step = max(1, held // (len(prompts) * model.config.get_text_config().vocab_size))
    with steady_attention(model.device), torch.inference_mode():
        for start in range(0, len(text), step):
            interrupt.check()
            end = min(start + step, len(text))
            rows = [Ending((*prompt, *text[:end]), end - start) for prompt in prompts]
            log_PKV = log_probabilities(model, rows)
            for place, (i, j) in enumerate(pairs):
                totals[place] += jensen_shannon(log_PKV[i], log_PKV[j]).sum().cpu()
    if totals.isnan().any():
        raise UserError("log-probabilities are NaN: try model.dtype bfloat16 or float32")
    return [float(total) / len(text) for total in totals]
