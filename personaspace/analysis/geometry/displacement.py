"""Were the personas of a condition displaced together?

The centred cosine depends on the common displacement D through its square: at the null hypothesis
D = 0 its first-order expansion vanishes, and a t-test of it (as the jackknife gives) has no valid
level. Its p is that of D itself (`quadratic`), whose inner products are all that it needs.

Shape suffixes: P personas, Q questions, H hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from personaspace.analysis.geometry.grams import Grams
from personaspace.analysis.geometry.quadratic import zero_mean_test


@dataclass(frozen=True)
class Displacement:
    """The common displacement of a condition's personas from base.

    Attributes:
        p: Of no common displacement; None where there is no variation to test it with.
        size: Its length, corrected for sampling, in units of base's root mean square distance of
            a persona from the personas' mean; None where base's personas do not differ.
    """

    p: float | None
    size: float | None


def common_displacement(grams: Grams, condition: str) -> Displacement:
    """Tests the common displacement of one condition from base."""
    cell = grams.cell
    index = cell.conditions.index(condition)
    a_PH = cell.vectors(condition) - cell.means[0]
    b_QH = grams.question_means[index] - grams.question_means[0]
    squares = grams.displacement_squares(condition)
    test = zero_mean_test(a_PH, b_QH, float(squares.sum() / grams.valid[: len(a_PH)].sum()))
    at = grams.places(cell.conditions[0])
    own = grams.whole[np.ix_(at, at)]
    spread = float(np.trace(own)) / len(at) - float(own.mean())
    return Displacement(test.p, math.sqrt(max(0.0, test.excess) / spread) if spread > 0 else None)
