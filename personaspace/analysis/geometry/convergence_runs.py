"""The layer of convergence over all training runs: one estimate, runs being the units.

What `convergence` asks of one seed's positions is asked here of contrasts over runs: a pair's
difference less the tolerated part of the EM conditions' mean change from base is a contrast of
these conditions, with the standard error that `runs` gives it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from personaspace.analysis.geometry.cells import Roles
from personaspace.analysis.geometry.convergence import (
    TOLERANCE,
    Bounds,
    first_layers,
    judged,
    layer_row,
)
from personaspace.analysis.geometry.pooled import runs_of
from personaspace.analysis.geometry.tables import Kept
from personaspace.analysis.rows import Row, Target
from personaspace.analysis.runs import TARGETS, Runs
from personaspace.analysis.wordings import unheld


def layer_bounds(
    change: Runs, em: Sequence[str], target: Target, tolerance: float = TOLERANCE
) -> Bounds:
    """Judges one layer.

    Args:
        change: Positions on the axis, as changes from base, of all runs.
        em: Conditions that are compared, two or more.
        target: Whom the claim is about.
        tolerance: Share of their mean shift that counts as none.
    """
    mean = dict.fromkeys(em, 1 / len(em))
    shift = change.contrast(mean, target).estimate.value
    tolerated = tolerance * math.copysign(1.0, shift) / len(em)
    excess = []
    for one, other in itertools.permutations(em, 2):
        weights = dict.fromkeys(em, -tolerated)
        weights[one] += 1.0
        weights[other] -= 1.0
        excess.append(change.contrast(weights, target).estimate)
    return judged(excess)


def convergence_over_runs(kept: Kept, roles: Roles) -> list[Row]:
    """Its row for each method and target; none where no EM condition has several runs."""
    layers_of: dict[str, dict[int, Runs]] = {}
    for (method, layer, metric, name), tables in sorted(kept.tables.items()):
        if (metric, name) == ("M2", "split_half"):
            runs = runs_of([t for t in tables if t.condition not in roles.harmless], True)
            if runs is not None and runs.replicated and len(runs.counts) > 1:
                layers_of.setdefault(method, {})[layer] = runs
    rows = []
    for method, by_layer in layers_of.items():
        for target in TARGETS:
            found = [
                (layer, layer_bounds(runs, list(runs.counts), target))
                for layer, runs in by_layer.items()
            ]
            count = sum(next(iter(by_layer.values())).counts.values())
            row = Row("M2", "recommended", method, n=count, target=target, run_variation=True)
            rows.append(layer_row(row, list(by_layer), first_layers(found)))
    return unheld(rows) if kept.several else rows
