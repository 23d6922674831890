"""Training runs as the units: estimates and contrasts over seeds, for two kinds of claim.

A run is a condition trained with a seed. Its table has a value (or pseudo-value) for each question
and persona; all runs share both. What a study says of a contrast of conditions has up to three
sources of chance: which runs were trained, which questions were asked, which personas were there.

- *These personas*: runs and questions are samples, and wordings where personas have several.
- *New personas*: personas are one as well.

Conditions trained with the same seed share its initial adapter and the order of its examples, and
their runs resemble each other (in `docs/study` the correlation between EM runs of a seed has a
median of 0.3 in M1 and 0.9 in M2, whose axis is a run of that seed). So the seed is the cluster.
The variance over runs is the bias-reduced cluster variance of the conditions' means (CR2: Bell &
McCaffrey 2002, Pustejovsky & Tipton 2018), which with the same seeds everywhere is the paired
t-test over seeds, whatever the conditions' variances, and with no seed in common that of Welch.
Questions and personas count as far as they exceed what the other ways' share of them explains
(Cameron, Gelbach & Miller 2011; see `stats.two_way`), and degrees of freedom are Satterthwaite's.

Shape suffixes: N runs, C conditions, S seeds, Q questions, P personas, W wordings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from scipy import special

from personaspace.analysis.jackknife import jackknife_excess
from personaspace.analysis.rows import Target
from personaspace.analysis.stats import TIE, Array, Estimate

TARGETS: tuple[Target, ...] = ("these_personas", "new_personas")

BORROWED = (
    "A condition has a single training run; its runs are taken to vary as those of the conditions "
    "with several do."
)
ONE_RUN = "One training run each: run-to-run variation is not in the interval or p."


@dataclass(frozen=True)
class RunEstimate:
    """An estimate over runs.

    Attributes:
        estimate: With standard error and degrees of freedom.
        runs: How many runs it rests on.
        run_variation: Differences between runs are in the standard error.
        warning: What had to be assumed.
    """

    estimate: Estimate
    runs: int
    run_variation: bool
    warning: str | None = None


@lru_cache(maxsize=64)
def _residual(conditions: tuple[str, ...]) -> Array:
    """Takes a run's own condition's mean off, `[N, N]`."""
    same = np.array([[a == b for b in conditions] for a in conditions], dtype=float)
    return np.asarray(np.eye(len(same)) - same / same.sum(axis=1, keepdims=True))


@lru_cache(maxsize=256)
def _form(
    conditions: tuple[str, ...], seeds: tuple[int, ...], weights: tuple[tuple[str, float], ...]
) -> Array:
    """See `Runs.form`: it depends on which runs there are alone."""
    of, levels = dict(weights), sorted(set(seeds))
    found = np.zeros((len(levels), len(seeds)))
    for place, (name, seed) in enumerate(zip(conditions, seeds, strict=True)):
        n = conditions.count(name)
        if n > 1 and of.get(name):
            found[levels.index(seed), place] = of[name] / n / math.sqrt(1 - 1 / n)
    return np.asarray(found @ _residual(conditions))


@dataclass(frozen=True)
class Runs:
    """Tables of all runs of a measure.

    Attributes:
        conditions: Of each run, `[N]`.
        seeds: Of each run, `[N]`.
        tables: `[N, Q, P]`, by question and persona.
        pairs: `[N, P, P]` for measures of pairs of personas, whose jackknife counts what belongs
            to a pair twice; None for others.
        wordings: `[N, W, Q, P]`, the tables of each wording (or its pseudo-values); None: personas
            have one.
    """

    conditions: tuple[str, ...]
    seeds: tuple[int, ...]
    tables: Array
    pairs: Array | None = None
    wordings: Array | None = None

    @cached_property
    def counts(self) -> dict[str, int]:
        """Runs of each condition."""
        return {name: self.conditions.count(name) for name in dict.fromkeys(self.conditions)}

    @cached_property
    def replicated(self) -> bool:
        """Whether any condition has several runs."""
        return max(self.counts.values(), default=0) > 1

    @cached_property
    def means(self) -> Array:
        """Mean of each run, `[N]`."""
        return np.asarray(self.tables.mean(axis=(1, 2)))

    @cached_property
    def by_question(self) -> Array:
        """Mean over personas, `[N, Q]`."""
        return np.asarray(self.tables.mean(axis=2))

    @cached_property
    def by_persona(self) -> Array:
        """Mean over questions, `[N, P]`."""
        return np.asarray(self.tables.mean(axis=1))

    def of(self, condition: str) -> list[tuple[int, float]]:
        """Seed and mean of each run of a condition."""
        found = zip(self.conditions, self.seeds, self.means, strict=True)
        return sorted((seed, float(mean)) for name, seed, mean in found if name == condition)

    @cached_property
    def _residual(self) -> Array:
        """Takes a run's own condition's mean off, `[N, N]`."""
        return _residual(self.conditions)

    @cached_property
    def spread(self) -> float:
        """Pooled variance between runs of a condition."""
        free = len(self.means) - len(self.counts)
        return float(((self._residual @ self.means) ** 2).sum() / free) if free > 0 else 0.0

    def form(self, weights: Mapping[str, float]) -> Array:
        """U, `[S, N]`: the variance over runs of a contrast of values y is |U y|² (CR2).

        Args:
            weights: Of the conditions' means; those of one run alone are left out.
        """
        return _form(self.conditions, self.seeds, tuple(sorted(weights.items())))

    def _borrowed(self, weights: Mapping[str, float]) -> float:
        """Variance of the part of a contrast whose conditions have one run each.

        Runs of a seed are taken to be correlated by something between 0 and 1, whichever is worse.
        """
        total = 0.0
        for seed in set(self.seeds):
            found = zip(self.conditions, self.seeds, strict=True)
            mine = [n for n, s in found if s == seed and self.counts[n] == 1 and n in weights]
            shares = [weights[name] for name in mine]
            total += max(sum(w * w for w in shares), sum(shares) ** 2)
        return total * self.spread

    def contrast(self, weights: Mapping[str, float], target: Target) -> RunEstimate:
        """Estimates Σ weight × condition mean.

        Args:
            weights: By condition; all of them have runs.
            target: Whom the claim is about.
        """
        weights = {name: weight for name, weight in weights.items() if weight}
        shares = np.array([weights.get(n, 0.0) / self.counts[n] for n in self.conditions])
        runs = int((shares != 0).sum())
        table = np.tensordot(shares, self.tables, axes=1)
        value = float(table.mean())
        parts = [self._over_runs(weights)] if self.replicated else []
        form = self.form(weights) if self.replicated else None
        rest = _interplay(table) if target == "new_personas" else 0.0
        if target == "new_personas":
            parts.append(self._over_personas(table, shares, form))
        if len(parts) and target == "new_personas" and form is not None:
            rest = max(0.0, rest - _within(form, self.tables))
        if self.wordings is not None:
            of_wording, shared = self._over_wordings(shares, form, target)
            parts.append(of_wording)
            rest += shared
        parts.append(_beyond(table.mean(axis=1), form, self.by_question, rest))
        estimate = _combined(value, parts)
        single = self.replicated and any(self.counts[name] == 1 for name in weights)
        return RunEstimate(estimate, runs, self.replicated, BORROWED if single else None)

    def _over_runs(self, weights: Mapping[str, float]) -> tuple[float, float]:
        form = self.form(weights)
        variance = float(((form @ self.means) ** 2).sum())
        gram = form @ form.T
        free = float(np.trace(gram)) ** 2 / float((gram**2).sum()) if gram.any() else 0.0
        borrowed = self._borrowed(weights)
        if not borrowed:
            return variance, free
        seeds = {s for n, s in zip(self.conditions, self.seeds, strict=True) if self.counts[n] > 1}
        own = len(seeds) - 1.0
        total = variance + borrowed
        return total, total**2 / ((variance**2 / free if free else 0.0) + borrowed**2 / own)

    def _over_wordings(
        self, shares: Array, form: Array | None, target: Target
    ) -> tuple[tuple[float, float], float]:
        """What wordings bring beyond runs, and what they share with questions.

        Of new personas they count whole, although the variance over personas holds some of that:
        forms that all personas share are not in it.
        """
        assert self.wordings is not None
        mine = np.tensordot(shares, self.wordings, axes=1)
        shared = _interplay(mine.mean(axis=2)) if target == "these_personas" else 0.0
        if form is not None:
            shared = max(0.0, shared - _within(form, self.wordings.mean(axis=3)))
        return _beyond(mine.mean(axis=(1, 2)), form, self.wordings.mean(axis=(2, 3)), 0.0), shared

    def _over_personas(
        self, table: Array, shares: Array, form: Array | None
    ) -> tuple[float, float]:
        excess = 0.0
        if self.pairs is not None:
            excess = jackknife_excess(np.tensordot(shares, self.pairs, axes=1))
        by_persona = table.mean(axis=0)
        if len(by_persona) < 2:
            return 0.0, 0.0
        whole = float(by_persona.var(ddof=1)) / len(by_persona)
        whole = max(whole / 2, whole - excess) if excess else whole
        if form is not None:
            whole = max(0.0, whole - _explained(form, self.by_persona))
        return whole, len(by_persona) - 1.0


def _explained(form: Array, by_way: Array) -> float:
    """What runs bring to the variance over the levels of another way, `[N, level]`."""
    levels = len(by_way.T)
    found = form @ (by_way - by_way.mean(axis=1, keepdims=True))
    return float(np.square(found).sum()) / (levels * (levels - 1))


def _within(form: Array, tables: Array) -> float:
    """What runs bring to the variance of single cells, `[N, Q, P]`."""
    rest = tables - tables.mean(axis=1, keepdims=True) - tables.mean(axis=2, keepdims=True)
    rest = rest + tables.mean(axis=(1, 2), keepdims=True)
    found = np.tensordot(form, rest, axes=1)
    questions, personas = len(tables[0]), len(tables[0, 0])
    free = (questions - 1) * (personas - 1)
    return float(np.square(found).sum()) / (free * questions * personas) if free else 0.0


def _interplay(table: Array) -> float:
    """Variance of the mean that single cells bring, `[Q, P]`."""
    questions, personas = len(table), len(table[0])
    if min(questions, personas) < 2:
        return 0.0
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    squares = float(np.square(rest).sum())
    return squares / ((questions - 1) * (personas - 1)) / (questions * personas)


def _beyond(
    values_Q: Array, form: Array | None, by_question: Array, rest: float
) -> tuple[float, float]:
    """What questions bring beyond what runs and cells explain, with its degrees of freedom."""
    if len(values_Q) < 2:
        return 0.0, 0.0
    whole = float(values_Q.var(ddof=1)) / len(values_Q)
    explained = _explained(form, by_question) if form is not None else 0.0
    return max(0.0, whole - explained - rest), len(values_Q) - 1.0


def _combined(value: float, parts: Sequence[tuple[float, float]]) -> Estimate:
    """The estimate whose variance is the sum of these, each with its degrees of freedom.

    Where the sum, by the luck of a variance from two or three runs, gives a narrower interval or a
    smaller p than its first parts do alone, these decide: another source of chance makes no claim
    surer. Which of them decides depends on the level. Three runs alone know their variance so badly
    that small p's are theirs, whatever many questions bring beside them.
    """
    sums = [_sum(value, parts[:last]) for last in range(1, len(parts) + 1)]
    widest = max(Estimate(value, 0.0, 0.0), *sums, key=lambda each: each.reach(0.05) or 0.0)
    others = tuple(way for each in sums if each is not widest for way in each.ways)
    return replace(widest, others=others)


def _sum(value: float, parts: Sequence[tuple[float, float]]) -> Estimate:
    variance = sum(part for part, _ in parts)
    # Rounding of identical inputs is no variation.
    if not variance > (TIE * max(1.0, abs(value))) ** 2:
        return Estimate(value, 0.0, 0.0)
    squares = sum(part**2 / free for part, free in parts if part > 0 and free > 0)
    return Estimate(value, math.sqrt(variance), variance**2 / squares if squares else 0.0)


@dataclass(frozen=True)
class Omnibus:
    """A test that several conditions do not differ.

    Attributes:
        p: None where runs do not vary or there are too few of them.
        spread: Variance between the conditions' means net of chance.
        runs: How many runs it rests on.
        means: Of the conditions, less their mean, `[C]`.
        ways: What chance alone brings to the sum of their squares, and the degrees of freedom of
            F: with questions, and by runs alone. p is the larger. Empty: no test.
    """

    p: float | None
    spread: float
    runs: int
    means: Array
    ways: tuple[tuple[float, tuple[float, float]], ...]

    def moved(self, shifts: Array) -> float | None:
        """What p is if the conditions' means move by so much, `[C]`, and their chance stays."""
        size = float(((self.means + shifts - shifts.mean()) ** 2).sum())
        found = (float(special.fdtrc(*free, size / noise)) for noise, free in self.ways)
        return max(found, default=None)


def all_alike(runs: Runs, names: Sequence[str]) -> Omnibus:
    """Tests that conditions have one mean, whatever the variances of their runs and seeds.

    The means' squared distance from their mean, against the trace of their covariance, referred to
    F with the degrees of freedom of Box (1954) as Greenhouse & Geisser (1959) estimate them. With
    few seeds that estimate is on the cautious side: where runs vary alike, the test rejects in
    fewer than 5 % of studies; where one condition's vary much more than the others', in 5 %.

    Args:
        runs: Tables of these conditions and perhaps others.
        names: Conditions with several runs each.
    """
    centre = np.eye(len(names)) - 1 / len(names)
    means = np.array([runs.means[[n == name for n in runs.conditions]].mean() for name in names])
    forms = np.stack([runs.form({name: 1.0}) for name in names])  # [C, S, N]
    parts = forms @ runs.means  # [C, S]
    over_runs = centre @ (parts @ parts.T) @ centre
    questions = runs.by_question.shape[1]
    by_question = np.stack(
        [runs.by_question[[n == name for n in runs.conditions]].mean(axis=0) for name in names]
    )
    trace, free = float(np.trace(over_runs)), min(runs.counts[name] for name in names) - 1.0
    share, over_questions = 0.0, np.zeros_like(over_runs)
    if questions > 1:
        off = by_question - by_question.mean(axis=1, keepdims=True)
        over_questions = centre @ (off @ off.T) @ centre / (questions * (questions - 1))
        centred = runs.by_question - runs.by_question.mean(axis=1, keepdims=True)
        explained = np.tensordot(np.tensordot(centre, forms, axes=1), centred, axes=1)
        beyond = float(np.trace(over_questions)) - float((explained**2).sum()) / (
            questions * (questions - 1)
        )
        whole = float(np.trace(over_questions))
        share = max(0.0, beyond) / whole if whole > 0 else 0.0
    total = over_runs + share * over_questions
    size = float(((centre @ means) ** 2).sum())
    net = max(0.0, size - float(np.trace(total))) / (len(names) - 1)
    count = sum(runs.counts[name] for name in names)
    if not (trace > TIE**2 and free > 0):
        return Omnibus(1.0 if size < TIE**2 else None, net, count, centre @ means, ())
    alone = float((over_runs**2).sum()) / free
    uncertain = alone + share**2 * float((over_questions**2).sum()) / max(1, questions - 1)
    ways = tuple(
        (noise, (noise**2 / float((part**2).sum()), noise**2 / unsure))
        for part, unsure in ((total, uncertain), (over_runs, alone))
        for noise in [float(np.trace(part))]
    )
    found = Omnibus(None, net, count, centre @ means, ways)
    return replace(found, p=found.moved(np.zeros(len(names))))
