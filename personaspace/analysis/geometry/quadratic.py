"""Is the mean of a crossed layout of vectors zero? A test of its squared length.

‖D‖² of a mean D over personas and questions is compared with its expectation under the null, the
trace of D's two-way covariance V_P + V_Q − V_PQ (Cameron, Gelbach & Miller 2011). The ratio is
referred to an F distribution whose degrees of freedom match the first two moments (Box 1954): those
of the numerator count in how many directions the vectors really vary, those of the denominator how
well the trace is known.

Shape suffixes: N vectors, P personas, Q questions, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from personaspace.analysis.stats import Array


@dataclass(frozen=True)
class _Part:
    """Covariance of a mean of n vectors, by the inner products of their deviations.

    Attributes:
        trace: Of the covariance.
        square: Trace of its square, without bias for normal vectors (Srivastava 2005).
        free: Degrees of freedom, n − 1.
    """

    trace: float
    square: float
    free: int

    @classmethod
    def of(cls, deviations_NH: Array) -> _Part:
        n = len(deviations_NH)
        gram = (deviations_NH @ deviations_NH.T).astype(np.float64) / (n * (n - 1))
        trace, square, free = float(np.trace(gram)), float((gram**2).sum()), n - 1
        if free > 1:
            square = free**2 / ((free + 2) * (free - 1)) * (square - trace**2 / free)
        return cls(trace, max(square, 0.0), free)


@dataclass(frozen=True)
class ZeroMean:
    """The test's outcome.

    Attributes:
        p: Of a mean of zero; None where there is no variation to test it with.
        excess: ‖D‖² less its expectation under the null: an unbiased square of the true length.
    """

    p: float | None
    excess: float


def zero_mean_test(rows_PH: Array, columns_QH: Array, square: float) -> ZeroMean:
    """Tests whether the mean of a two-way layout of vectors is zero.

    Args:
        rows_PH: Row means: each persona's over the questions.
        columns_QH: Column means: each question's over the personas.
        square: Mean squared length of the single vectors.
    """
    mean = rows_PH.mean(axis=0)
    length = float(mean @ mean)
    personas, questions = len(rows_PH), len(columns_QH)
    if min(personas, questions) < 2:
        return ZeroMean(None, length)
    rows_PH, columns_QH = rows_PH - mean, columns_QH - columns_QH.mean(axis=0)
    rows, columns = _Part.of(rows_PH), _Part.of(columns_QH)
    left = square - length - rows.trace * (personas - 1) - columns.trace * (questions - 1)
    rest = max(0.0, left) / ((personas - 1) * (questions - 1))
    trace = max(rows.trace, columns.trace, rows.trace + columns.trace - rest)
    if not trace > 1e-24 * length:
        return ZeroMean(None, length)
    share = (trace - rows.trace) / columns.trace if columns.trace > 0 else 0.0
    crossed = (rows_PH.astype(columns_QH.dtype) @ columns_QH.T).astype(np.float64) ** 2
    both = float(crossed.sum()) / (personas * (personas - 1) * questions * (questions - 1))
    squares = rows.square + share**2 * columns.square + 2 * share * both
    uncertain = 2 * (rows.square / rows.free + share**2 * columns.square / columns.free)
    known = max(trace**2 - uncertain, 0.0)  # the squared trace without its sampling variance
    above = max(1.0, known / squares) if squares > 0 else 1.0
    below = max(1.0, 2 * known / uncertain) if uncertain > 0 else float(rows.free)
    return ZeroMean(float(special.fdtrc(above, below, length / trace)), length - trace)
