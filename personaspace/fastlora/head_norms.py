"""Norms of queries and keys.

Shapes: T = tokens, A = heads, X = heads of any kind, D = head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class HeadNorms:
    """Norms of queries and keys, before they are turned.

    Attributes:
        q_weight: `[D]`, for each head the same; where `whole`, `[A·D]`.
        k_weight: The same for keys.
        eps: Added to the mean square.
        whole: All heads of a token are one vector; else each has a norm of its own.
        late: The weight is applied before the norm is rounded, not after.
    """

    q_weight: torch.Tensor
    k_weight: torch.Tensor
    eps: float
    whole: bool
    late: bool

    def parts(
        self, all_TXD: torch.Tensor, heads: int, kv_heads: int
    ) -> list[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Queries and keys: where they are among all heads, normalised, 1/rms, their weight."""
        found = []
        places = (slice(heads), slice(heads, heads + kv_heads))
        for where, weight in zip(places, (self.q_weight, self.k_weight), strict=True):
            wide_TXD = all_TXD[:, where].float()
            rstd = torch.rsqrt(self.mean(wide_TXD.pow(2)) + self.eps)
            shaped = weight.view(-1, wide_TXD.shape[2]) if self.whole else weight
            found.append((where, wide_TXD * rstd, rstd, shaped))
        return found

    def mean(self, x_TXD: torch.Tensor) -> torch.Tensor:
        """Over what is one vector to the norm."""
        return x_TXD.mean((1, 2) if self.whole else 2, keepdim=True)
