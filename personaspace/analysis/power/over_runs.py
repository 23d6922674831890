"""What t-tests detect: the tests themselves, on drawn studies.

An effect adds to a contrast's estimate and leaves its standard error and degrees of freedom as they
are. So studies are drawn once, without an effect, and each tells from which effect on its own test
rejects: the wanted quantile of these is the smallest effect that is detected so often. Where the
effect brings rates of answers so near to 0 or 1 that they scatter less, studies are drawn
with it, until it is the quantile of these. Each effect is looked for again in other studies.

Shape suffixes: N runs, C conditions, Q questions, P personas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from personaspace.analysis.leakage.trend import robust_slope
from personaspace.analysis.power.answers import Answers, scatter_alike
from personaspace.analysis.power.design import Assumptions, Design, Drawn
from personaspace.analysis.runs import Runs
from personaspace.analysis.stats import Array, Estimate, generator

BENIGN = "benign"
DRAWS = Drawn().t_tests
#: How often a size is looked for where the effect changes how answers scatter.
_ROUNDS = 8

Weights = Mapping[str, float]


@dataclass(frozen=True)
class Contrast:
    """A contrast that the analysis has, on these runs.

    Attributes:
        name: The row's name without the stem of its measure.
        what: For people.
        weights: By condition.
        single: A condition in it has one run, so that it borrows the variance of others.
        induced: How many personas were trained under in these conditions and are no bystander.
    """

    name: str
    what: str
    weights: dict[str, float]
    single: bool
    induced: int


def contrasts(design: Design) -> list[Contrast]:
    """Those of one kind with the most and with the fewest runs, for each kind."""
    found: list[Contrast] = []
    runs = {name: len(seeds) for name, seeds in design.layout.items()}
    em = [name for name in runs if name != BENIGN]

    def add(name: str, what: str, options: Sequence[dict[str, float]]) -> None:
        ordered = sorted(options, key=lambda weights: sum(1 / runs[each] for each in weights))
        ends = [ordered[0], ordered[-1]]
        counts = ["/".join(str(runs[each]) for each in weights) for weights in ends]
        for place in range(1 if counts[0] == counts[1] else 2):
            words = f"{what}, {counts[place]} run{'' if counts[place] == '1' else 's'}"
            single = any(runs[each] == 1 for each in ends[place])
            induced = sum(each != BENIGN for each in ends[place])
            found.append(Contrast(name, words, ends[place], single, induced))

    if em:
        add("delta", "change from base of one EM condition", [{name: 1.0} for name in em])
    if BENIGN in runs and len(em) > 1:
        whole = dict.fromkeys(em, 1 / len(em)) | {BENIGN: -1.0}
        numbers = sorted({runs[name] for name in whole})
        span = " to ".join(str(n) for n in sorted({numbers[0], numbers[-1]}))
        each = "run each" if span == "1" else "runs each"
        words = f"mean of the EM conditions less benign, {span} {each}"
        single = numbers[0] == 1
        found.append(Contrast("em_mean_minus_benign", words, whole, single, len(em)))
    if BENIGN in runs and em:
        options = [{name: 1.0, BENIGN: -1.0} for name in em]
        add("em_minus_benign", "one EM condition less benign", options)
    if len(em) > 1:
        pairs = [{one: 1.0, other: -1.0} for one, other in itertools.combinations(em, 2)]
        add("pair", "one EM condition less another", pairs)
    return found


def keys_of(layout: Mapping[str, Sequence[int]]) -> list[tuple[str, int]]:
    """Condition and seed of every run."""
    return [(name, seed) for name, seeds in layout.items() for seed in seeds]


def answers(
    design: Design,
    guess: Assumptions,
    runs_vary: bool = True,
    bystanders: int | None = None,
    only: Sequence[str] | None = None,
) -> Answers:
    """Where runs of a design are drawn from.

    Args:
        design: With its runs.
        guess: What varies.
        runs_vary: See `Answers`.
        bystanders: Over how many is averaged; None: those of every condition.
        only: Conditions that are drawn; None: all.
    """
    keys = [key for key in keys_of(design.layout) if only is None or key[0] in only]
    shared = design.bystanders if bystanders is None else bystanders
    return Answers(design, guess, keys, max(1, shared), runs_vary)


@dataclass(frozen=True)
class Sampled:
    """A t-test on drawn studies.

    Attributes:
        study: One study's estimate of an effect of this size, planted in it.
        alike: Whether an effect of this size leaves the estimate's scatter as it is.
        names: Tell its random numbers from those of others.
        most: The largest effect that can be.
    """

    study: Callable[[np.random.Generator, float], Estimate]
    alike: Callable[[float], bool]
    names: tuple[object, ...]
    most: float = math.inf

    def _drawn(self, size: float, *again: object) -> list[Estimate]:
        rng = generator(0, "power", *self.names, *again)
        return [self.study(rng, size) for _ in range(DRAWS)]

    @cached_property
    def estimates(self) -> list[Estimate]:
        """Of studies without an effect."""
        return self._drawn(0.0)

    def detectable(self, alpha: float, power: float) -> float | None:
        """The smallest effect that is detected with this power; None: none is.

        Args:
            alpha: Two-sided level; only rejections to the right side are counted.
            power: Wanted.
        """
        errors, bounds = _errors(self.estimates, 0.0), _bounds(self.estimates, alpha)
        # What is drawn is symmetric: each study counts with its mirror image.
        needed = np.concatenate([bounds - errors, bounds + errors])
        size = max(0.0, float(np.quantile(needed, power, method="higher")))
        if math.isinf(size) or (size <= self.most and self.alike(size)):
            return size if math.isfinite(size) else None
        low, high, size = 0.0, self.most, min(size, self.most)
        for _ in range(_ROUNDS):
            found = self._drawn(size)
            needed = _bounds(found, alpha) - _errors(found, size)
            wanted = float(np.quantile(needed, power, method="higher"))
            if abs(wanted - size) <= 0.02 * size:
                break
            if wanted > size >= self.most:
                return None
            low, high = (size, high) if wanted > size else (low, size)
            # Half of the way: the farther out, the less is needed, and whole steps would swing.
            size = min(max((size + wanted) / 2, (3 * low + high) / 4), (low + 3 * high) / 4)
        return size

    def found(self, size: float, alpha: float) -> float:
        """In which share of other studies an effect is detected."""
        found = self._drawn(size, "again")
        return float(np.mean(_errors(found, 0.0) >= _bounds(found, alpha)))


def _errors(found: Sequence[Estimate], size: float) -> Array:
    """Estimates less the effect."""
    return np.array([each.value for each in found]) - size


def _bounds(found: Sequence[Estimate], alpha: float) -> Array:
    """What estimates must exceed; infinite where there is no test."""
    reaches = (each.reach(alpha) for each in found)
    return np.array([math.inf if reach is None else reach for reach in reaches])


def halves(weights: Weights, size: float) -> dict[str, float]:
    """What is added to conditions so that a contrast of them is as large."""
    return {name: math.copysign(size / 2, weight) for name, weight in weights.items()}


def contrast_of(world: Answers, weights: Weights, *names: object) -> Sampled:
    """A contrast of bystanders' rates, over these personas."""
    rate = world.guess.rate
    return Sampled(
        lambda rng, size: (
            world.rates(rng, halves(weights, size)).contrast(weights, "these_personas").estimate
        ),
        lambda size: scatter_alike(rate, [-size / 2, size / 2]),
        ("contrast", *names),
        1.0,
    )


def plain_contrast(
    layout: Mapping[str, Sequence[int]], weights: Weights, *names: object
) -> Sampled:
    """A contrast of runs that differ by a standard deviation of 1, without any other noise."""
    keys = keys_of(layout)
    conditions, seeds = tuple(name for name, _ in keys), tuple(seed for _, seed in keys)

    def study(rng: np.random.Generator, size: float) -> Estimate:
        runs = Runs(conditions, seeds, rng.normal(size=(len(keys), 1, 1)))
        found = runs.contrast(weights, "these_personas").estimate
        return replace(found, value=found.value + size)

    return Sampled(study, lambda size: True, ("plain", *names))


def own_less_others(world: Answers, condition: str, *names: object) -> Sampled:
    """H1: a persona's excess in its own condition less that in the others, if there are any."""
    found = dict.fromkeys(name for name, _ in world.keys)
    weights = dict.fromkeys(found, -1 / max(1, len(found) - 1)) | {condition: 1.0}
    rate = world.guess.rate
    return Sampled(
        lambda rng, size: (
            world.excess(rng, condition, size).contrast(weights, "these_personas").estimate
        ),
        lambda size: scatter_alike(rate, [size if rate <= 0.5 else -size]),
        ("H1", condition, *names),
        max(rate, 1 - rate),
    )


def line(cosines: Weights, size: float) -> dict[str, float]:
    """A straight line on the cosine, as high as this over the whole of their range."""
    low, reach = min(cosines.values()), max(cosines.values()) - min(cosines.values())
    return {name: size * ((each - low) / reach - 0.5) for name, each in cosines.items()}


def slope_of(world: Answers, cosines: Weights, runs_as_units: bool) -> Sampled:
    """H3's slope, as the change over the whole range of the cosines."""
    x = np.array(list(cosines.values()))
    reach = float(np.ptp(x))
    centred = (x - x.mean()) / float(((x - x.mean()) ** 2).sum()) * reach
    weights = dict(zip(cosines, centred.tolist(), strict=True))
    rate = world.guess.rate

    def study(rng: np.random.Generator, size: float) -> Estimate:
        runs = world.rates(rng, line(cosines, size))
        if runs_as_units:
            return runs.contrast(weights, "these_personas").estimate
        e = robust_slope(x, means_of(runs, cosines))
        return Estimate(e.value * reach, e.se * reach, e.df)

    return Sampled(
        study,
        lambda size: scatter_alike(rate, [-size / 2, size / 2]),
        ("H3", "runs" if runs_as_units else "conditions"),
        1.0,
    )


def means_of(runs: Runs, names: Iterable[str]) -> Array:
    """Mean of each condition over its runs, `[C]`."""
    return np.array([np.mean([mean for _, mean in runs.of(name)]) for name in names])


def evenly(names: Sequence[str], size: float) -> dict[str, float]:
    """Conditions whose means are evenly spaced, the farthest as far apart as this."""
    return dict(zip(names, np.linspace(-size / 2, size / 2, len(names)).tolist(), strict=True))
