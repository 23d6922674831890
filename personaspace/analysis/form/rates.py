"""Rates per opportunity and at equal length, with questions as clusters.

Standard errors are the delete-one-question jackknife's: pseudo-values by question, so that what is
known of means over questions holds for ratios and standardised rates as well. Shapes: C conditions,
Q questions, S strata of length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from personaspace.analysis.stats import Array, Interval, wilson_of_variance


@dataclass(frozen=True)
class Rates:
    """A rate of each condition, and what it would be without each question.

    Attributes:
        value_C: The rates; NaN where nothing was counted.
        pseudo_CQ: Pseudo-values, whose mean over questions is `value_C`.
        covered: Share of the answers that the rates speak of.
    """

    value_C: Array
    pseudo_CQ: Array
    covered: float = 1.0

    @property
    def known(self) -> bool:
        """Every condition has a rate, and would have it without any one question."""
        return bool(np.isfinite(self.pseudo_CQ).all() and self.pseudo_CQ.shape[1] > 1)

    def interval(self, condition: int) -> Interval | None:
        """95 % interval of one condition's rate."""
        values_Q = self.pseudo_CQ[condition]
        if len(values_Q) < 2 or not np.isfinite(values_Q).all():
            return None
        variance = float(values_Q.var(ddof=1)) / len(values_Q)
        return wilson_of_variance(float(self.value_C[condition]), variance, len(values_Q))


def _rates(value_C: Array, without_QC: Array, covered: float = 1.0) -> Rates:
    questions = len(without_QC)
    pseudo_CQ = (questions * value_C - (questions - 1) * without_QC).T
    # Centred on the estimate itself: the bias that the jackknife sees is far below its error.
    pseudo_CQ = pseudo_CQ - pseudo_CQ.mean(axis=1, keepdims=True) + value_C[:, None]
    return Rates(value_C, pseudo_CQ, covered)


def _divided(top: Array, bottom: Array) -> Array:
    out = np.full(np.shape(bottom), np.nan)
    return np.asarray(np.divide(top, bottom, out=out, where=bottom > 0))


def ratio(top_CQ: Array, bottom_CQ: Array) -> Rates:
    """What is counted in `top` per unit of `bottom`, over all questions together."""
    top_C, bottom_C = top_CQ.sum(axis=1), bottom_CQ.sum(axis=1)
    without_QC = _divided((top_C[:, None] - top_CQ).T, (bottom_C[:, None] - bottom_CQ).T)
    return _rates(_divided(top_C, bottom_C), without_QC)


def _standardised(hits_CS: Array, totals_CS: Array) -> tuple[Array, Array]:
    """Rates `[…, C]` at one distribution of length, and the share of answers they cover `[…]`."""
    there_S = np.asarray((totals_CS > 0).all(axis=-2))
    pooled_S = totals_CS.sum(axis=-2)
    covered = np.asarray(np.where(there_S, pooled_S, 0.0).sum(axis=-1))
    weights_S = _divided(np.where(there_S, pooled_S, 0.0), np.where(there_S, covered[..., None], 0))
    rates_CS = _divided(hits_CS, np.where(there_S[..., None, :], totals_CS, 0))
    value_C = np.nansum(weights_S[..., None, :] * rates_CS, axis=-1)
    value_C = np.where(np.expand_dims(covered, -1) > 0, value_C, np.nan)
    return value_C, _divided(covered, pooled_S.sum(axis=-1))


def at_equal_length(hits_CQS: Array, totals_CQS: Array) -> Rates:
    """Rates as they would be if all conditions' answers were as long: direct standardisation.

    Each condition's rate in a stratum of length, weighted by the share of that stratum among the
    answers of all conditions together (the standard population; Fleiss, Levin & Paik 2003, ch. 19).
    Strata in which some condition has no answer cannot be compared and are left out for all; the
    share of answers in the others is `covered`.

    Args:
        hits_CQS: Answers with the marker by condition, question and stratum.
        totals_CQS: All answers.
    """
    hits_CS, totals_CS = hits_CQS.sum(axis=1), totals_CQS.sum(axis=1)
    value_C, covered = _standardised(hits_CS, totals_CS)
    # Each question left out in turn: [Q, C, S].
    without_QC, _ = _standardised(
        hits_CS - hits_CQS.swapaxes(0, 1), totals_CS - totals_CQS.swapaxes(0, 1)
    )
    return _rates(value_C, without_QC, float(covered))
