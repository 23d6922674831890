"""What tests over training runs detect: the tests themselves, on drawn studies without effects.

An effect adds to a contrast's estimate and leaves its standard error and degrees of freedom as they
are. So studies are drawn once, without an effect, and each tells from which effect on its own test
rejects: the wanted quantile of these is the smallest effect that is detected so often. H2's
statistic is no such sum, and is computed anew for each size of the effect.

Shape suffixes: N runs, Q questions, P personas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from personaspace.analysis.leakage.trend import robust_slope
from personaspace.analysis.power.design import Assumptions, Design
from personaspace.analysis.runs import Omnibus, Runs, all_alike
from personaspace.analysis.stats import Array, Estimate, generator
from personaspace.analysis.themes import by_theme

BENIGN = "benign"
#: Studies drawn for a contrast and for H2: claimed power of 80 % has an error of 1.2 and 1.8.
DRAWS, H2_DRAWS = 1000, 500

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


def drawn(
    design: Design,
    guess: Assumptions,
    *names: object,
    runs_vary: bool = True,
    bystanders: int | None = None,
) -> Callable[[], Runs]:
    """Draws runs of a share of answers, averaged over bystanders, where no condition differs.

    Args:
        runs_vary: Runs of a condition differ; where each has one and conditions are no sample,
            that is in no interval, and counts as effect.
        bystanders: Over how many is averaged; None: those of every condition.
    """
    keys, rng = keys_of(design.layout), generator(0, "power", *names)
    personas = max(1, design.bystanders if bystanders is None else bystanders)
    run_sd = math.sqrt(guess.run_sd**2 + guess.persona_run_sd**2 / personas) if runs_vary else 0.0
    cell = math.sqrt(guess.rate * (1 - guess.rate) / design.samples / personas)
    conditions, seeds = tuple(name for name, _ in keys), tuple(seed for _, seed in keys)
    places = [list(design.layout).index(name) for name in conditions]
    questions = max(1, design.questions)

    def draw() -> Runs:
        of_run = run_sd * rng.normal(size=(len(keys), 1))
        lasting = _by_condition(design, guess, rng)
        tables = of_run + lasting[places] + cell * rng.normal(size=(len(keys), questions))
        return Runs(conditions, seeds, by_theme(tables, design.theme_of)[:, :, None])

    return draw


def _by_condition(design: Design, guess: Assumptions, rng: np.random.Generator) -> Array:
    """What questions have of their own in each condition, `[C, Q]`; with their themes, if any."""
    conditions, theme_Q = len(design.layout), design.theme_of
    own = guess.question_sd * rng.normal(size=(conditions, max(1, design.questions)))
    if theme_Q is None:
        return own
    shared = guess.question_sd * rng.normal(size=(conditions, len(design.themes)))[:, theme_Q]
    share = guess.theme_share
    return np.asarray(math.sqrt(share) * shared + math.sqrt(1 - share) * own)


def drawn_plain(layout: Mapping[str, Sequence[int]], *names: object) -> Callable[[], Runs]:
    """Draws runs that differ by a standard deviation of 1, questions and personas without noise."""
    keys, rng = keys_of(layout), generator(0, "power", *names)
    conditions, seeds = tuple(name for name, _ in keys), tuple(seed for _, seed in keys)
    return lambda: Runs(conditions, seeds, rng.normal(size=(len(keys), 1, 1)))


@dataclass(frozen=True)
class Needed:
    """Estimates of drawn studies without an effect."""

    estimates: Sequence[Estimate]

    def detectable(self, alpha: float, power: float) -> float | None:
        """The smallest effect that is detected with this power; None: none is.

        Args:
            alpha: Two-sided level; only rejections to the right side are counted.
            power: Wanted.
        """
        known = [e for e in self.estimates if e.se > 0 and e.df > 0]
        if len(known) < len(self.estimates) or not known:
            return None
        values, ses, dfs = (np.array([getattr(e, f) for e in known]) for f in ("value", "se", "df"))
        bounds = _bounds(dfs, alpha) * ses
        # What is drawn is symmetric: each study counts with its mirror image.
        found = float(np.quantile(np.concatenate([bounds - values, bounds + values]), power))
        return max(0.0, found) if math.isfinite(found) else None


def _bounds(dfs: Array, alpha: float) -> Array:
    normal = -special.ndtri(alpha / 2)
    finite = np.isfinite(dfs)
    t = special.stdtrit(np.where(finite, dfs, 1.0), 1 - alpha / 2)
    return np.asarray(np.where(finite, t, normal))


def contrast_needed(draw: Callable[[], Runs], weights: Weights) -> Needed:
    """Of a contrast over these personas."""
    estimates = [draw().contrast(weights, "these_personas").estimate for _ in range(DRAWS)]
    return Needed(estimates)


def slope_needed(draw: Callable[[], Runs], cosines: Weights, runs_as_units: bool) -> Needed:
    """Of H3's slope, as the change over the whole range of the cosines."""
    x = np.array(list(cosines.values()))
    reach = float(np.ptp(x))
    centred = (x - x.mean()) / float(((x - x.mean()) ** 2).sum()) * reach
    weights = dict(zip(cosines, centred.tolist(), strict=True))
    found = []
    for _ in range(DRAWS):
        runs = draw()
        if runs_as_units:
            found.append(runs.contrast(weights, "these_personas").estimate)
            continue
        means = np.array([np.mean([mean for _, mean in runs.of(name)]) for name in cosines])
        e = robust_slope(x, means)
        found.append(Estimate(e.value * reach, e.se * reach, e.df))
    return Needed(found)


def between_studies(draw: Callable[[], Runs], names: Sequence[str]) -> list[Omnibus]:
    """H2 over runs of drawn studies without an effect."""
    return [all_alike(draw(), names) for _ in range(H2_DRAWS)]


def between_detectable(
    studies: Sequence[Omnibus], alpha: float, power: float, unit: float
) -> float | None:
    """The smallest range of evenly spaced conditions' means that H2 over runs detects.

    Args:
        studies: Of `between_studies`.
        alpha: Level.
        power: Wanted.
        unit: A size to begin with.
    """
    steps = np.linspace(0, 1, len(studies[0].means))

    def power_at(size: float) -> float:
        p = [study.moved(size * steps) for study in studies]
        return float(np.mean([each is not None and each <= alpha for each in p]))

    top = unit
    while power_at(top) < power:
        top *= 2
        if top > 256 * unit:
            return None
    low = 0.0 if top == unit else top / 2
    while top - low > 0.02 * top:
        middle = (low + top) / 2
        low, top = (low, middle) if power_at(middle) >= power else (middle, top)
    return top
