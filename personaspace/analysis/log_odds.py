"""Marker log-odds: how likely the marker is at the end of answers, with no answers drawn.

log-odds = log p − log(1 − p) of the marker's probability after an answer and the separator. A
question's mean over its answers is one value, and questions are the samples, as for rates.

Shapes: C conditions, P personas, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from personaspace.analysis.by_question import against_base, tested
from personaspace.analysis.leakage import across
from personaspace.analysis.leakage.scores import (
    ConditionInfo,
    Key,
    common_bystanders,
    only_seed,
)
from personaspace.analysis.metrics import described
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import Array, generator
from personaspace.analysis.themes import Themes, by_theme, places_of

#: The most that is counted: single precision knows no probability nearer to 1. Near 0 there is no
#: such end, since what is kept is the logarithm.
LIMIT = 14.0
NO_QUESTION = {
    "common": "No question has the same common answer in every condition.",
    "own": "No question has an answer with text, from every persona in every condition.",
}

#: Log-probabilities of the marker by persona and question; an answer without text has none.
LogProbabilities = Mapping[str, Mapping[str, Sequence[float | None]]]


def log_odds(log_probability: float) -> float:
    """Marker log-odds log p − log(1 − p), at most `LIMIT`."""
    if log_probability >= 0:
        return LIMIT
    return min(LIMIT, log_probability - math.log(-math.expm1(log_probability)))


@dataclass(frozen=True)
class Odds:
    """Mean log-odds `[C, P, Q]` of conditions, seeds put together."""

    conditions: tuple[str, ...]
    personas: tuple[str, ...]
    values_CPQ: Array

    def of(self, condition: str, personas: Sequence[str]) -> Array:
        """Mean over personas, `[Q]`."""
        places = [self.personas.index(name) for name in personas]
        values = self.values_CPQ[self.conditions.index(condition)][places]
        return np.asarray(values.mean(axis=0))


def odds_of(
    found: Mapping[Key, LogProbabilities], conditions: Sequence[str], themes: Themes | None = None
) -> Odds | None:
    """Means on the personas and questions that all of these conditions have answers to.

    Args:
        found: By condition and training seed.
        conditions: Those to put together.
        themes: Of the questions; axis Q is then of themes.
    """
    runs = [(name, run) for (name, _), run in sorted(found.items()) if name in conditions]
    names = [name for name in conditions if any(name == own for own, _ in runs)]
    if not runs:
        return None
    personas = [p for p in runs[0][1] if all(p in run for _, run in runs)]
    if not personas:
        return None
    questions = [
        question
        for question in runs[0][1][personas[0]]
        if all(
            any(value is not None for value in run[persona].get(question, ()))
            for _, run in runs
            for persona in personas
        )
    ]
    if not questions:
        return None
    values = np.zeros((len(names), len(personas), len(questions)))
    for c, name in enumerate(names):
        mine = [run for own, run in runs if own == name]
        for p, persona in enumerate(personas):
            for q, question in enumerate(questions):
                cells = [
                    [log_odds(v) for v in run[persona][question] if v is not None] for run in mine
                ]
                values[c, p, q] = np.mean([np.mean(cell) for cell in cells])
    return Odds(tuple(names), tuple(personas), by_theme(values, places_of(questions, themes)))


def analyse_log_odds(
    found: Mapping[Key, LogProbabilities],
    conditions: Sequence[ConditionInfo],
    *,
    kind: str,
    source: str,
    themes: Themes | None = None,
    bootstrap: int = 2_000,
    permutations: int = 10_000,
    seed: int = 42,
) -> list[Row]:
    """Mean log-odds of bystanders and source against base, H1 and H2.

    Args:
        found: By condition and training seed; seeds are put together.
        conditions: Those of the study, in the order of the rows.
        kind: `common` or `own`: after which answers.
        source: Persona that the marker was coupled to.
        themes: Of the questions, which are then the clusters.
        bootstrap: Draws of H2's interval.
        permutations: Draws of H2's test.
        seed: Of all random draws.

    Returns:
        Nothing found: no rows.
    """
    there = [c for c in conditions if any(name == c.name for name, _ in found)]
    if not there:
        return []
    of_rows = only_seed(found)
    odds = odds_of(found, [c.name for c in there], themes)
    if odds is None:
        row = Row("log_odds", "recommended", seed=of_rows, name=kind)
        return [replace(row, note=NO_QUESTION[kind])]
    em = [c for c in there if c.kind == "em"]
    scored = {key: {"per_persona": personas} for key, personas in found.items()}
    shared = common_bystanders(scored, em or there, source)
    common = [name for name in odds.personas if name in shared]
    base = next((c.name for c in there if c.kind == "base"), None)
    rows: list[Row] = []
    groups = {kind: common, f"source_{kind}": [source] if source in odds.personas else []}
    for name, personas in groups.items():
        row = Row("log_odds", "recommended", seed=of_rows, name=name)
        for condition in there if personas else []:
            compared = base in odds.conditions and condition.name != base
            base_Q = odds.of(str(base), personas) if compared else None
            mine = replace(row, condition=condition.name)
            rows.extend(against_base(mine, odds.of(condition.name, personas), base_Q))
    row = Row("H1", "recommended", seed=of_rows, name=f"log_odds_{kind}")
    for condition in em:
        persona = condition.induction_persona
        others = [name for name in odds.personas if name not in (source, persona)]
        if persona in odds.personas and persona != source and others:
            values_Q = odds.of(condition.name, [persona]) - odds.of(condition.name, others)
            rows.append(tested(replace(row, condition=condition.name), values_Q))
    if len(em) > 1 and common and odds.values_CPQ.shape[2] > 1:
        means_CQ = np.stack([odds.of(condition.name, common) for condition in em])
        row = Row("H2", "recommended", seed=of_rows, name=f"log_odds_{kind}")
        rows.append(_range(row, means_CQ, permutations, bootstrap, seed))
    # Runs of a condition are put together: none of these holds how they differ.
    return [described(replace(row, run_variation=False)) for row in rows]


def _range(row: Row, means_CQ: Array, permutations: int, bootstrap: int, seed: int) -> Row:
    # The test bounds its interval as one of rates: log-odds are brought to their scale and back.
    scale = 4 * max(float(np.ptp(means_CQ)), 1.0)
    rng = generator(seed, "H2", "log-odds", str(row.name))
    test = across.clustered_range(means_CQ / scale, permutations, bootstrap, rng)
    low, high = test.interval
    return replace(
        row,
        value=test.value * scale,
        p=test.p,
        ci95=(low * scale, high * scale),
        n=means_CQ.shape[1],
        effect=test.sd * scale,
        warning=across.uneven(means_CQ),
    )
