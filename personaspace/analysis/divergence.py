"""How far apart personas' answers are: divergences of pairs, against base and between conditions.

Of each question there is one number for every pair of personas (stage logodds), exact but for
rounding: nothing was drawn. A mean over pairs has the jackknife of M1 over personas, and its
contrasts are those of M1, with training runs as units.

Shapes: Q questions, P personas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from personaspace.analysis.geometry.cells import Roles
from personaspace.analysis.geometry.compare import Pseudo, leave_one_out_personas
from personaspace.analysis.geometry.pooled import measure_rows
from personaspace.analysis.geometry.tables import Table
from personaspace.analysis.leakage.scores import ConditionInfo, Key
from personaspace.analysis.metrics import described
from personaspace.analysis.ranges import in_range
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import adjust
from personaspace.analysis.themes import Themes, by_theme, places_of

METRIC, NAME, FAMILY = "divergence", "common_answers", "behavioral_divergence"

TOO_LITTLE = "Fewer than two personas or two questions have a common answer in every condition."


@dataclass(frozen=True)
class Divergences:
    """Of one training run.

    Attributes:
        personas: In order.
        pairs: By question: of personas (0, 1), (0, 2) …, nats.
    """

    personas: tuple[str, ...]
    pairs: Mapping[str, Sequence[float]]

    def ordered_like(self, personas: tuple[str, ...]) -> Divergences:
        """The same with personas in this order; of other personas, itself."""
        if self.personas == personas or set(self.personas) != set(personas):
            return self
        places = [self.personas.index(name) for name in personas]
        upper = np.triu_indices(len(places), 1)
        pairs = {}
        for question, values in self.pairs.items():
            square = np.zeros((len(places), len(places)))
            square[upper] = values
            square += square.T
            pairs[question] = square[np.ix_(places, places)][upper].tolist()
        return Divergences(personas, pairs)


def analyse_divergence(
    found: Mapping[Key, Divergences],
    conditions: Sequence[ConditionInfo],
    *,
    themes: Themes | None = None,
) -> list[Row]:
    """Every condition against base of its seed, and contrasts between conditions.

    Args:
        found: By condition and training seed.
        conditions: Those of the study.
        themes: Of the questions, which are then the samples.

    Returns:
        For these personas and for new ones, as M1's rows over training runs. Nothing found, or
        base alone: no rows.
    """
    base = next((c.name for c in conditions if c.kind == "base"), None)
    named = [c.name for c in conditions]
    keys = [(c, seed) for c, seed in found if c != base and (base, seed) in found]
    keys.sort(key=lambda key: (named.index(key[0]), key[1]))
    if base is None or not keys:
        return []
    first = found[base, keys[0][1]].personas
    found = {key: run.ordered_like(first) for key, run in found.items()}
    bases = {seed: found[base, seed] for _, seed in keys}
    runs = [*bases.values(), *(found[key] for key in keys)]
    personas = runs[0].personas
    questions = [q for q in runs[0].pairs if all(q in run.pairs for run in runs)]
    if len(personas) < 2 or len(questions) < 2 or any(run.personas != personas for run in runs):
        return [Row(METRIC, "recommended", name=NAME, note=TOO_LITTLE)]
    tables = []
    for condition, seed in keys:
        own = _pseudo(found[condition, seed], questions, themes)
        before = _pseudo(bases[seed], questions, themes)
        used = np.ones(len(own.values), dtype=bool)
        change = own - before
        tables.append(Table(condition, seed, used, personas, own, change, before.mean))
    benign = [c.name for c in conditions if c.kind == "benign"]
    roles = Roles(base, None, next(iter(benign), None), "", tuple(benign[1:]))
    rows = measure_rows(Row(METRIC, "recommended"), NAME, tables, roles)
    return [described(in_range(row)) for row in adjust([_in_family(row) for row in rows])]


def _in_family(row: Row) -> Row:
    """Its tests are a family of their own; those of harmless training are marked as such."""
    return row if row.family in (None, "placebo") else replace(row, family=FAMILY)


def _pseudo(run: Divergences, questions: Sequence[str], themes: Themes | None) -> Pseudo:
    """By question (or theme) and persona; the mean is that over questions and pairs."""
    personas = len(run.personas)
    pairs_QPP = np.zeros((len(questions), personas, personas))
    upper = np.triu_indices(personas, 1)
    pairs_QPP[:, *upper] = [run.pairs[question] for question in questions]
    pairs_QPP += pairs_QPP.swapaxes(1, 2)
    values = by_theme(leave_one_out_personas(pairs_QPP), places_of(questions, themes), axis=0)
    return Pseudo(values, pairs_QPP.mean(axis=0) if personas > 2 else None)
