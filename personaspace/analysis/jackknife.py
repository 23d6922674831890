"""What the jackknife of a mean over pairs overstates."""

from __future__ import annotations

import numpy as np

from personaspace.analysis.stats import Array


def jackknife_excess(pairs_PP: Array) -> float:
    """By how much the personas' jackknife overstates the variance of a mean over pairs.

    With pair values m + aᵢ + aⱼ + rᵢⱼ the mean over pairs has the variance
    4σ²ₐ/P + 2σ²ᵣ/(P(P − 1)), while the jackknife expects 4σ²ₐ/P + 4σ²ᵣ/(P(P − 2)): it counts the
    part that belongs to pairs about twice (Efron & Stein 1981). σ²ᵣ is estimated from what rows and
    columns leave of the pair values.

    Args:
        pairs_PP: Symmetric; the diagonal is ignored. Below four personas: 0.
    """
    personas = len(pairs_PP)
    free = personas * (personas - 3) / 2
    if free <= 0:
        return 0.0
    off = ~np.eye(personas, dtype=bool)
    mean = float(pairs_PP[off].mean())
    rows = np.where(off, pairs_PP, 0).sum(axis=1) / (personas - 1)
    own = (personas - 1) / (personas - 2) * (rows - mean)
    rest = np.where(off, pairs_PP - mean - own[:, None] - own, 0)
    return float((rest**2).sum()) / 2 / free * 2 / ((personas - 1) * (personas - 2))
