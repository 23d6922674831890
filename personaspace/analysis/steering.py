"""What steering along a vector changes: dose curves, and where random directions would come out.

Questions are the samples of each change's interval (topics, where several questions have one). p is
another matter: the vector's change is ranked among those of K random directions of its length. If
the vector were one more such direction, all K + 1 ranks would be equally likely, whatever a change
of direction does in this model, so the p = (1 + #{|cₖ| ≥ |v|}) / (K + 1) is exact (Phipson & Smyth
2010, for permutations). It says nothing of other vectors than random ones, and vectors are made of
activations, which vary along few directions: `p_matched` ranks among directions drawn as they do.

Over several training runs the mean of the vectors' changes is ranked among the means of as many
controls, one of each run: exact for the same reason.

Shapes: R runs, Q questions, D doses, K controls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from personaspace.analysis.ranges import cut
from personaspace.analysis.runs import Runs
from personaspace.analysis.stats import TIE, Array, cluster_mean
from personaspace.analysis.steering_rows import SteeringMeasure, SteeringRow
from personaspace.analysis.themes import Places, by_theme, of_used, places_of

#: Condition and training seed.
Key = tuple[str, int]
#: Of `steering.json`.
Run = Mapping[str, Any]
_Arm = Mapping[str, Any]
#: Of a direction: None for the vector itself, else how a control is drawn, and its number.
_Name = tuple[bool, int] | None


def rank_p(own: float, controls: Sequence[float]) -> float | None:
    """Two-sided Monte Carlo p of a change among those of random directions; None: there are none.

    Args:
        own: The vector's.
        controls: The random directions', drawn as the vector would be under the null hypothesis.
    """
    if not controls:
        return None
    beyond = sum(abs(one) >= abs(own) - TIE * max(1.0, abs(own)) for one in controls)
    return (1 + beyond) / (len(controls) + 1)


def slope(doses_D: Sequence[float], changes_DQ: Array) -> Array:
    """Change per dose of each question, `[Q]`: least squares through no change at dose 0.

    Args:
        doses_D: None of them 0.
        changes_DQ: Against the untouched model.
    """
    doses = np.asarray(doses_D, dtype=np.float64)
    return np.asarray(doses @ changes_DQ / (doses @ doses))


def analyse_steering(
    found: Mapping[Key, Run], measures: Iterable[SteeringMeasure] = tuple(SteeringMeasure)
) -> list[SteeringRow]:
    """Rows of every run, vector and measure: one a dose, and one of all doses together.

    Args:
        found: What stage steer wrote, by condition and seed.
        measures: Those that are wanted.
    """
    rows: list[SteeringRow] = []
    curves: dict[tuple[Any, ...], list[tuple[_Curve, list[SteeringRow]]]] = {}
    wanted = list(measures)
    for (condition, seed), run in found.items():
        kinds = dict.fromkeys(
            (arm["model"], arm["mode"], arm["vector"]) for arm in run["arms"] if arm["mode"]
        )
        for model, mode, vector in kinds:
            for measure in wanted:
                curve = _Curve(run, measure, model, mode, vector)
                mine = curve.rows(condition, seed)
                curves.setdefault((condition, model, mode, vector, measure), []).append(
                    (curve, mine)
                )
                rows += mine
    for several in curves.values():
        if len(several) > 1:
            rows += _over_runs(several)
    return [_in_range(row) for row in rows]


def _in_range(row: SteeringRow) -> SteeringRow:
    """A share changes by no more than one, whatever so few answers leave open."""
    if row.measure is not SteeringMeasure.DEGENERATE or row.delta_ci95 is None:
        return row
    low, high = (cut(end, (-1.0, 1.0)) for end in row.delta_ci95)
    return row.model_copy(update={"delta_ci95": (low, high)})


@dataclass(frozen=True)
class _Curve:
    """One measure of one model along one vector."""

    run: Run
    measure: SteeringMeasure
    model: Literal["base", "own"]
    mode: Literal["add", "ablate"]
    vector: str

    @cached_property
    def plain(self) -> Array:
        """Values of the untouched model, `[Q]`."""
        return self._values(
            next(a for a in self.run["arms"] if (a["model"], a["mode"]) == (self.model, None))
        )

    @cached_property
    def changes(self) -> dict[float | None, dict[_Name, Array]]:
        """Changes `[Q]` by dose, and there of the vector (None) and of its controls."""
        found: dict[float | None, dict[_Name, Array]] = {}
        for arm in self.run["arms"]:
            mine = (arm["model"], arm["mode"], arm["vector"])
            if mine == (self.model, self.mode, self.vector) and self._has(arm):
                values = self._values(arm) - self.plain
                found.setdefault(arm["dose"], {})[_name(arm)] = values
        return found

    @cached_property
    def slopes(self) -> dict[_Name, Array]:
        """Changes per dose `[Q]`, over all doses together."""
        doses = [dose for dose in self.changes if dose is not None]
        names = self.changes[doses[0]].keys()
        return {n: slope(doses, np.stack([self.changes[d][n] for d in doses])) for n in names}

    def changed(self, dose: float | None) -> dict[_Name, Array]:
        """Of a row: at its dose, or over all of them."""
        return self.slopes if dose is None and self.mode == "add" else self.changes[dose]

    def rows(self, condition: str, seed: int) -> list[SteeringRow]:
        shared = SteeringRow(
            condition=condition,
            seed=seed,
            model=self.model,
            mode=self.mode,
            vector=self.vector,
            layer=self.run["layer"],
            method=self.run["method"],
            measure=self.measure,
            trained_on=self.run["trained_on"] if self._advice else None,
        )
        rows = [self._row(shared, dose) for dose in sorted(self.changes, key=lambda d: d or 0.0)]
        # Damage grows with the dose in both directions: a slope says nothing of it.
        if self._tested:
            share = self.run["lengths"][self.vector] / self.run["typical_length"]
            whole = shared.model_copy(update={"relative": share})
            rows.append(self._compared(whole, self.slopes))
        return rows

    @property
    def _advice(self) -> bool:
        return self.measure is SteeringMeasure.ADVICE

    @property
    def _tested(self) -> bool:
        return self._advice and self.mode == "add"

    @property
    def _of_pairs(self) -> bool:
        return self.measure in (SteeringMeasure.ADVICE, SteeringMeasure.GOOD)

    def _has(self, arm: _Arm) -> bool:
        return self._of_pairs or bool(arm["answers"])

    def _values(self, arm: _Arm) -> Array:
        """Of each question; NaN where there is none."""
        if self._of_pairs:
            good = np.array(arm["good"], dtype=np.float64)
            return np.array(arm["bad"]) - good if self._advice else good
        return np.array(arm[self.measure.value], dtype=np.float64)

    def places(self) -> Places | None:
        """The topic of each question of a pair."""
        pairs = self.run["pairs"] if self._of_pairs else []
        topics = {pair["question"]: pair["topic"] for pair in pairs if pair["topic"]}
        return places_of([pair["question"] for pair in pairs], topics)

    def _row(self, shared: SteeringRow, dose: float | None) -> SteeringRow:
        changes = self.changes[dose]
        own = changes[None]
        known = ~np.isnan(own)
        share = self.run["lengths"][self.vector] / self.run["typical_length"]
        filled = shared.model_copy(
            update={
                "dose": dose,
                "relative": share * abs(1.0 if dose is None else dose),
                "value": _mean((own + self.plain)[known]),
                "unsteered": _mean(self.plain[known]),
            }
        )
        return self._compared(filled, changes)

    def _compared(self, row: SteeringRow, changes: Mapping[_Name, Array]) -> SteeringRow:
        """The change with its interval, the controls' range and, where there is a test, its p."""
        own_Q = changes[None]
        known = ~np.isnan(own_Q)
        others = {name: found for name, v in changes.items() if (found := _mean(v)) is not None}
        if not known.any():
            return row.model_copy(update=_ranked(None, others))
        samples = by_theme(own_Q[known], of_used(self.places(), known))
        mean = cluster_mean(samples)
        tested = self.tests(row) and len(samples) > 1
        filled = {"delta": mean.value, "delta_ci95": mean.interval, "n": len(samples)}
        return row.model_copy(update=filled | _ranked(mean.value if tested else None, others))

    def tests(self, row: SteeringRow) -> bool:
        """Whether a row carries a test: of the trait, over all doses or ablated."""
        return self._advice and row.dose is None


def _name(arm: _Arm) -> _Name:
    if arm["control"] is None:
        return None
    return bool(arm.get("matched")), int(arm["control"])  # stored before there was a choice: not


def _ranked(own: float | None, means: Mapping[_Name, float]) -> dict[str, Any]:
    """The controls' numbers and ranges and, of a change that is tested, its ranks among them.

    Args:
        own: The vector's change; None: it is not tested.
        means: Of every control; the vector's own is left out.
    """
    found: dict[str, Any] = {}
    fields = (("controls", "control", "p"), ("matched", "matched", "p_matched"))
    for matched, (count, stem, p) in enumerate(fields):
        mine = [mean for name, mean in means.items() if name is not None and name[0] == matched]
        tested = own is not None and bool(mine)
        found |= {
            count: len(mine),
            f"{stem}_low": min(mine, default=None),
            f"{stem}_high": max(mine, default=None),
            p: rank_p(own, mine) if own is not None else None,
            f"{p}_floor": 1 / (len(mine) + 1) if tested else None,
        }
    return found


def _over_runs(several: Sequence[tuple[_Curve, list[SteeringRow]]]) -> list[SteeringRow]:
    """Rows over all runs of a condition, for each row that every run has."""
    first = several[0][1]
    found = []
    for row in first:
        mine = [(c, r) for c, rows in several for r in rows if r.dose == row.dose]
        if len(mine) < len(several):
            continue
        curve, changes = mine[0][0], [c.changed(row.dose) for c, _ in mine]
        own_RQ = np.stack([by_name[None] for by_name in changes])
        known = ~np.isnan(own_RQ).any(axis=0)
        names = set(changes[0]).intersection(*changes) - {None}
        means = {}
        for name in names:
            of_runs = [mean for c in changes if (mean := _mean(c[name])) is not None]
            if len(of_runs) == len(changes):
                means[name] = float(np.mean(of_runs))
        update: dict[str, Any] = {"seed": None, "runs": len(mine)}
        for field in ("relative", "value", "unsteered"):
            values = [getattr(r, field) for _, r in mine]
            update[field] = None if None in values else float(np.mean(values))
        if not known.any():
            empty = {"delta": None, "delta_ci95": None, "n": 0} | _ranked(None, means)
            found.append(row.model_copy(update=update | empty))
            continue
        tables_RQ = by_theme(own_RQ[:, known], of_used(curve.places(), known))
        runs = Runs((row.condition,) * len(mine), tuple(range(len(mine))), tables_RQ[:, :, None])
        estimate = runs.contrast({row.condition: 1.0}, "these_personas").estimate
        update |= {
            "delta": estimate.value,
            "delta_ci95": estimate.interval,
            "n": tables_RQ.shape[1],
        }
        update |= _ranked(estimate.value if curve.tests(row) else None, means)
        found.append(row.model_copy(update=update))
    return found


def _mean(values: Array) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
