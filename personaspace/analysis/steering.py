"""What steering along a vector changes: dose curves, and where random directions would come out.

Questions are the samples of each change's interval (topics, where several questions have one). p is
another matter: the vector's change is ranked among those of K random directions of its length. If
the vector were one more such direction, all K + 1 ranks would be equally likely, whatever a change
of direction does in this model, so the p = (1 + #{|cₖ| ≥ |v|}) / (K + 1) is exact (Phipson & Smyth
2010, for permutations). It says nothing of other vectors than random ones.

Shapes: Q questions, D doses, K controls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from personaspace.analysis.stats import TIE, Array, cluster_mean
from personaspace.analysis.steering_rows import SteeringMeasure, SteeringRow
from personaspace.analysis.themes import Places, by_theme, of_used, places_of

#: Condition and training seed.
Key = tuple[str, int]
#: Of `steering.json`.
Run = Mapping[str, Any]
_Arm = Mapping[str, Any]


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
    for (condition, seed), run in found.items():
        kinds = dict.fromkeys(
            (arm["model"], arm["mode"], arm["vector"]) for arm in run["arms"] if arm["mode"]
        )
        for model, mode, vector in kinds:
            for measure in measures:
                curve = _Curve(run, measure, model, mode, vector)
                rows += curve.rows(condition, seed)
    return rows


@dataclass(frozen=True)
class _Curve:
    """One measure of one model along one vector."""

    run: Run
    measure: SteeringMeasure
    model: Literal["base", "own"]
    mode: Literal["add", "ablate"]
    vector: str

    def rows(self, condition: str, seed: int) -> list[SteeringRow]:
        arms = [
            arm
            for arm in self.run["arms"]
            if (arm["model"], arm["mode"], arm["vector"]) == (self.model, self.mode, self.vector)
        ]
        plain_Q = self._values(
            next(a for a in self.run["arms"] if (a["model"], a["mode"]) == (self.model, None))
        )
        # By dose, then the vector (None) and its controls.
        changes: dict[float | None, dict[int | None, Array]] = {}
        for arm in arms:
            if self._has(arm):
                values = self._values(arm) - plain_Q
                changes.setdefault(arm["dose"], {})[arm["control"]] = values
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
        rows = [
            self._row(shared, dose, own, plain_Q)
            for dose, own in sorted(changes.items(), key=lambda item: item[0] or 0.0)
        ]
        # Damage grows with the dose in both directions: a slope says nothing of it.
        return [*rows, self._together(shared, changes)] if self._tested else rows

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

    def _places(self) -> Places | None:
        pairs = self.run["pairs"] if self._of_pairs else []
        topics = {pair["question"]: pair["topic"] for pair in pairs if pair["topic"]}
        return places_of([pair["question"] for pair in pairs], topics)

    def _row(
        self,
        shared: SteeringRow,
        dose: float | None,
        changes: Mapping[int | None, Array],
        plain_Q: Array,
    ) -> SteeringRow:
        own = changes[None]
        known = ~np.isnan(own)
        share = self.run["lengths"][self.vector] / self.run["typical_length"]
        filled = shared.model_copy(
            update={
                "dose": dose,
                "relative": share * abs(1.0 if dose is None else dose),
                "value": _mean((own + plain_Q)[known]),
                "unsteered": _mean(plain_Q[known]),
            }
        )
        controls = [values for control, values in changes.items() if control is not None]
        return self._compared(filled, own, controls, tested=self.mode == "ablate")

    def _together(
        self, shared: SteeringRow, changes: Mapping[float | None, Mapping[int | None, Array]]
    ) -> SteeringRow:
        doses = [dose for dose in changes if dose is not None]
        names = changes[doses[0]].keys()
        slopes = {name: slope(doses, np.stack([changes[d][name] for d in doses])) for name in names}
        share = self.run["lengths"][self.vector] / self.run["typical_length"]
        controls = [values for name, values in slopes.items() if name is not None]
        filled = shared.model_copy(update={"relative": share})
        return self._compared(filled, slopes[None], controls, tested=True)

    def _compared(
        self, row: SteeringRow, own_Q: Array, controls: Iterable[Array], tested: bool
    ) -> SteeringRow:
        """The change with its interval, the controls' range and, where there is a test, its p."""
        known = ~np.isnan(own_Q)
        others = [found for values in controls if (found := _mean(values)) is not None]
        if not known.any():
            return row.model_copy(update={"controls": len(others)})
        samples = by_theme(own_Q[known], of_used(self._places(), known))
        mean = cluster_mean(samples)
        tested = tested and self._advice and bool(others)
        return row.model_copy(
            update={
                "delta": mean.value,
                "delta_ci95": mean.interval,
                "n": len(samples),
                "controls": len(others),
                "control_low": min(others, default=None),
                "control_high": max(others, default=None),
                "p": rank_p(mean.value, others) if tested else None,
                "p_floor": 1 / (len(others) + 1) if tested else None,
            }
        )


def _mean(values: Array) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
