"""Counts of answers of made-up studies, with what conditions do to them planted.

Shares cannot leave 0 to 1, and scatter less near the ends: an effect changes how surely it is
found. So what is planted is drawn, as the study itself would count it.

Shape suffixes: N runs, C conditions, P personas, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from personaspace.analysis.power.design import Assumptions, Design
from personaspace.analysis.runs import Runs
from personaspace.analysis.stats import Array
from personaspace.analysis.themes import by_theme

Shifts = Mapping[str, float]
#: What share of answers' variance an effect may change before it is drawn and not only added.
_SAME_SCATTER = 0.05


def scatter_alike(rate: float, shifts: Sequence[float]) -> bool:
    """Whether answers scatter at these distances from a rate nearly as they do at it."""
    moved = [min(max(rate + shift, 0.0), 1.0) for shift in shifts]
    whole = rate * (1 - rate)
    return all(abs(each * (1 - each) - whole) <= _SAME_SCATTER * whole for each in moved)


@dataclass(frozen=True)
class Answers:
    """A world of answers to draw studies from.

    Attributes:
        design: Its questions, themes and samples.
        guess: What varies.
        keys: Condition and seed of every run, `[N]`.
        bystanders: Over how many personas a rate is averaged.
        runs_vary: Runs of a condition differ; where each has one and conditions are no sample,
            that is in no interval, and counts as effect.
    """

    design: Design
    guess: Assumptions
    keys: Sequence[tuple[str, int]]
    bystanders: int
    runs_vary: bool = True

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.keys)

    @cached_property
    def _places(self) -> list[int]:
        return [list(dict.fromkeys(self._names)).index(name) for name in self._names]

    def _rates(self, rng: np.random.Generator, moved_NP: Array) -> Array:
        """`[N, P, Q]`."""
        guess, runs, personas = self.guess, len(self.keys), moved_NP.shape[1]
        of_run = guess.run_sd * rng.normal(size=(runs, 1))
        own = guess.persona_run_sd * rng.normal(size=(runs, personas))
        lasting_CQ = self._by_condition(rng, max(self._places) + 1)
        rates = guess.rate + moved_NP + (of_run + own) * self.runs_vary
        return np.clip(rates[:, :, None] + lasting_CQ[self._places][:, None, :], 0.0, 1.0)

    def _by_condition(self, rng: np.random.Generator, conditions: int) -> Array:
        """What questions have of their own in each condition; with their themes, if any."""
        design, guess, theme_Q = self.design, self.guess, self.design.theme_of
        own = guess.question_sd * rng.normal(size=(conditions, max(1, design.questions)))
        if theme_Q is None:
            return own
        shared = guess.question_sd * rng.normal(size=(conditions, len(design.themes)))[:, theme_Q]
        share = guess.theme_share
        return np.asarray(math.sqrt(share) * shared + math.sqrt(1 - share) * own)

    def _shares(self, rng: np.random.Generator, rates_NPQ: Array) -> Array:
        """Shares of the personas' answers together, `[N, Q]`."""
        answers = self.design.samples * rates_NPQ.shape[1]
        return np.asarray(rng.binomial(answers, rates_NPQ.mean(axis=1)) / answers)

    def _runs(self, shares_NQ: Array) -> Runs:
        tables = by_theme(shares_NQ, self.design.theme_of)[:, :, None]
        return Runs(self._names, tuple(seed for _, seed in self.keys), tables)

    def rates(self, rng: np.random.Generator, shifts: Shifts) -> Runs:
        """Rates of bystanders in every run, `[N, Q, 1]`.

        Args:
            rng: Source of randomness.
            shifts: What is added to a condition's rate; all are moved where one would leave 0 to 1.
        """
        each = [shifts.get(name, 0.0) for name in self._names]
        low, high = self.guess.rate + min(each), self.guess.rate + max(each)
        middle = max(0.0, -low) - max(0.0, high - 1.0)
        moved = np.repeat(middle + np.array(each)[:, None], max(1, self.bystanders), axis=1)
        return self._runs(self._shares(rng, self._rates(rng, moved)))

    def excess(self, rng: np.random.Generator, condition: str, size: float) -> Runs:
        """One persona's rate less the mean of the bystanders', `[N, Q, 1]`.

        Args:
            rng: Source of randomness.
            condition: Where the persona is moved.
            size: By how much.
        """
        moved = np.zeros((len(self.keys), 1 + self.bystanders))
        sign = 1.0 if self.guess.rate <= 0.5 else -1.0
        moved[[name == condition for name in self._names], 0] = sign * size
        rates = self._rates(rng, moved)
        own, others = self._shares(rng, rates[:, :1]), self._shares(rng, rates[:, 1:])
        return self._runs(sign * (own - others))
