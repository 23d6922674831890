"""M1, M2 and M3 over all training runs: conditions, increments over benign, and pairs.

What the cells of each seed leave behind (`tables`) is put together here, runs being the units
(`analysis.runs`). Each estimate comes for the study's own personas and for new ones.

Shape suffixes: Q questions, P personas.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
from scipy import optimize

from personaspace.analysis.geometry.cells import Roles
from personaspace.analysis.geometry.published import pre_post_family
from personaspace.analysis.geometry.shape import AT_BOUND
from personaspace.analysis.geometry.shape import FAMILY as SHAPE_FAMILY
from personaspace.analysis.geometry.shape import METRIC as SHAPE
from personaspace.analysis.geometry.tables import Kept, Table
from personaspace.analysis.metrics_shape import UNTESTED
from personaspace.analysis.ranges import in_range
from personaspace.analysis.results_parts import RobustRow
from personaspace.analysis.rows import Row, Target
from personaspace.analysis.runs import ONE_RUN, TARGETS, RunEstimate, Runs
from personaspace.analysis.stats import Interval
from personaspace.analysis.wordings import held, unheld

#: Beyond how many times EM's change benign's is not looked for.
_LARGEST_SHARE = 20.0


def runs_of(tables: Sequence[Table], change: bool) -> Runs | None:
    """The runs on the questions that all of them have.

    None below two questions, or where a seed lost a persona: a mean over pairs is another one then.
    """
    used = np.logical_and.reduce([table.used for table in tables])
    if used.sum() < 2 or len({table.personas for table in tables}) > 1:
        return None
    found = [table.pseudo(change) for table in tables]
    values = [p.values[used[t.used]] for p, t in zip(found, tables, strict=True)]
    pairs = [pseudo.pairs for pseudo in found]
    wordings = None
    if all(table.without for table in tables):
        each = [table.by_wording(change) for table in tables]
        wordings = np.stack(
            [
                np.stack([p.values[used[t.used]] for p in mine])
                for mine, t in zip(each, tables, strict=True)
            ]
        ).astype(np.float64)
        # Their mean has not the bias of order 1/W that the noise of wordings gives the whole.
        values = list(wordings.mean(axis=1))
        pairs = [reduce(add, mine).pairs for mine in each]
        pairs = [None if p is None else p / len(m) for p, m in zip(pairs, each, strict=True)]
    known = [pair for pair in pairs if pair is not None]
    return Runs(
        tuple(table.condition for table in tables),
        tuple(table.seed for table in tables),
        np.stack(values).astype(np.float64),
        np.stack(known) if len(known) == len(tables) else None,
        wordings,
    )


def contrast_names(name: str) -> dict[str, str]:
    """What a measure's contrasts are called: EM less benign, their mean, pairs of EM conditions."""
    stem = "" if name == "raw_cosine" else f"{name}_"
    return {
        "increment": f"{stem}em_minus_benign",
        "mean": f"{stem}em_mean_minus_benign",
        "pair": f"{name}_pair",
        "placebo": f"{stem}placebo_minus_benign",
    }


def pooled_rows(kept: Kept, roles: Roles) -> list[Row]:
    """Rows over all runs, by method, layer and measure; `these_personas` before `new_personas`."""
    rows: list[Row] = []
    for (method, layer, metric, name), tables in sorted(kept.tables.items()):
        place = Row(metric, "recommended", method, layer)
        mine = measure_rows(place, name, tables, roles)
        if kept.several:
            mine = (held if all(table.without for table in tables) else unheld)(mine)
        rows.extend(mine)
    return rows


def measure_rows(place: Row, name: str, tables: Sequence[Table], roles: Roles) -> list[Row]:
    """Rows over all runs of one measure.

    Args:
        place: Its metric and where it was read.
        name: Its name.
        tables: A run each.
        roles: Of the conditions.
    """
    own, change = runs_of(tables, False), runs_of(tables, True)
    if own is None or change is None:
        return []
    bases = [table.before for table in tables if table.before is not None]
    base = float(np.mean(bases)) if bases else None
    rows: list[Row] = []
    # What all personas together have says nothing of other personas.
    for target in TARGETS if own.tables.shape[2] > 1 else TARGETS[:1]:
        work = _Work(replace(place, target=target), name, target, roles, own, change, base)
        rows.extend(work.rows())
    return rows


def condition_rows(kept: Kept, roles: Roles, names: Collection[str]) -> list[Row]:
    """Rows of these conditions over all their runs, for these personas; no row compares two."""
    rows: list[Row] = []
    for (method, layer, metric, name), every in sorted(kept.tables.items()):
        tables = [table for table in every if table.condition in names]
        own, change = (runs_of(tables, of) if tables else None for of in (False, True))
        if own is None or change is None:
            continue
        bases = [table.before for table in tables if table.before is not None]
        base = float(np.mean(bases)) if bases else None
        place = Row(metric, "recommended", method, layer, target="these_personas")
        work = _Work(place, name, "these_personas", roles, own, change, base)
        for condition in own.counts:
            rows.extend(work.condition(condition))
    return rows


#: Measures that are computed once more from changed activations.
_ROBUST = frozenset(
    {
        *("raw_cosine_delta", "em_minus_benign", "em_mean_minus_benign", "em_mean_benign_share"),
        *("spread_delta", "spread_em_mean_minus_benign", "split_half_delta", "displacement"),
        *("nearest_centroid_delta", "lda_delta", "participation_ratio_delta", *AT_BOUND),
        *("probe_transfer_delta",),
    }
)


def robust_rows(kept: Mapping[str, Kept], roles: Roles) -> list[RobustRow]:
    """The main estimates over all runs, for these personas, by what was done to activations."""
    return [
        RobustRow(
            transform=transform,
            method=str(row.method),
            layer=int(row.layer or 0),
            metric=row.metric,
            name=str(row.name),
            condition=row.condition,
            against=row.against,
            value=row.value,
            ci95=row.ci95,
            p=row.p,
        )
        for transform, tables in kept.items()
        for row in map(in_range, pooled_rows(tables, roles))
        if row.target == "these_personas" and row.name in _ROBUST
    ]


@dataclass(frozen=True)
class _Work:
    """One measure at one place and for one target."""

    place: Row
    name: str
    target: Target
    roles: Roles
    own: Runs
    change: Runs
    base: float | None

    def rows(self) -> Iterator[Row]:
        names = list(self.own.counts)
        for condition in names:
            yield from self.condition(condition)
        em = [name for name in names if name not in self.roles.harmless]
        called = contrast_names(self.name)
        benign = self.roles.benign
        if benign in names and em:
            for condition in em:
                weights = {condition: 1.0, str(benign): -1.0}
                row = self._difference(called["increment"], weights, self._family)
                yield replace(row, condition=condition, against=benign)
            if len(em) > 1:
                weights = dict.fromkeys(em, 1 / len(em)) | {str(benign): -1.0}
                row = self._difference(called["mean"], weights, self._family)
                yield replace(row, against=benign)
                if self.name == "raw_cosine":
                    yield self._share(em, str(benign))
        for placebo in self.roles.placebo:
            if {placebo, benign} <= set(names):
                weights = {placebo: 1.0, str(benign): -1.0}
                row = self._difference(called["placebo"], weights, "placebo")
                yield replace(row, condition=placebo, against=benign)
        for one, other in itertools.combinations(em, 2) if self.place.metric != SHAPE else ():
            row = self._difference(called["pair"], {one: 1.0, other: -1.0}, "geometry_em_pairs")
            yield replace(row, condition=one, against=other)

    @property
    def _family(self) -> str:
        """Of tests of EM against benign."""
        return SHAPE_FAMILY if self.place.metric == SHAPE else "geometry_em_vs_benign"

    def condition(self, condition: str) -> Iterator[Row]:
        """A condition's own value, and its change from base."""
        found = self.own.contrast({condition: 1.0}, self.target)
        changed = self.change.contrast({condition: 1.0}, self.target)
        shape = self.place.metric == SHAPE
        family = SHAPE_FAMILY if shape else pre_post_family(condition, self.roles)
        row = self._filled(replace(self.place, name=self.name, condition=condition), changed)
        if shape and self.name in AT_BOUND:  # no test of a value at the end of its range
            row = replace(row, p=None, equivalence=None)
        row = replace(row, family=family if row.p is not None else None)
        value, before = found.estimate.value, self.base
        delta = changed.estimate.value if before is not None else None
        yield replace(
            row,
            value=value,
            ci95=found.estimate.interval,
            base=before,
            delta=delta,
        )
        if before is not None:
            yield replace(row, name=f"{self.name}_delta", family=None)

    def _difference(self, name: str, weights: Mapping[str, float], family: str) -> Row:
        found = self.change.contrast(weights, self.target)
        row = self._filled(replace(self.place, name=name), found)
        return replace(row, family=family if row.p is not None else None)

    def _filled(self, row: Row, found: RunEstimate) -> Row:
        # Of one training, M3's classifiers are shared by all questions: no variance holds that.
        tested = self.name not in UNTESTED and (found.run_variation or row.metric != "M3")
        return replace(
            row,
            value=found.estimate.value,
            p=found.estimate.p if tested else None,
            ci95=found.estimate.interval,
            n=found.runs,
            run_variation=found.run_variation,
            equivalence=found.estimate.smallest_margin() if tested else None,
            warning=found.warning,
            note=None if found.run_variation else ONE_RUN,
        )

    def _share(self, em: Sequence[str], benign: str) -> Row:
        """Benign's change as a share of EM's mean change."""
        mean = dict.fromkeys(em, 1 / len(em))
        part = self.change.contrast({benign: 1.0}, self.target)
        whole = self.change.contrast(mean, self.target).estimate.value
        value = part.estimate.value / whole if whole else None
        runs = sum(self.change.counts[name] for name in (*em, benign))
        row = replace(self.place, name="em_mean_benign_share", value=value, n=runs)
        ends = None if value is None else self._share_interval(value, mean, benign)
        note = None if part.run_variation else ONE_RUN
        return replace(row, ci95=ends, run_variation=part.run_variation, note=note)

    def _share_interval(
        self, value: float, mean: Mapping[str, float], benign: str
    ) -> Interval | None:
        """Shares r for which benign less r times EM is not shown to differ from 0 (Fieller 1954).

        None where these are no interval: EM's own change is not clearly different from 0.
        """

        def surplus(share: float) -> float:
            weights = {name: -share * weight for name, weight in mean.items()} | {benign: 1.0}
            e = self.change.contrast(weights, self.target).estimate
            ends = e.interval
            return abs(e.value) - (ends[1] - ends[0]) / 2 if ends else 0.0

        if surplus(value) >= 0:
            return None
        ends = []
        for sign in (-1.0, 1.0):
            step = 0.05
            while step < _LARGEST_SHARE and surplus(value + sign * step) < 0:
                step *= 1.5
            if step >= _LARGEST_SHARE:
                return None
            ends.append(float(optimize.brentq(surplus, value, value + sign * step, xtol=1e-6)))
        return ends[0], ends[1]
