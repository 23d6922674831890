"""Leakage over all training runs: conditions, their differences, and H2, runs being the units.

Shape suffixes: Q questions, P personas.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from personaspace.analysis.leakage.scores import (
    ConditionInfo,
    Key,
    Scores,
    Table,
    common_bystanders,
    of_wording,
    tabulate,
    wordings_of,
)
from personaspace.analysis.ranges import within
from personaspace.analysis.rows import Row
from personaspace.analysis.runs import ONE_RUN, TARGETS, RunEstimate, Runs, all_alike
from personaspace.analysis.stats import Array

FAMILY = "behavioral_contrasts"

NO_SHARED = "No persona is a bystander in all of these conditions."


def run_tables(
    scores: Mapping[Key, Scores],
    names: Sequence[str],
    personas: Sequence[str],
    kind: str = "hits",
    questions: Sequence[str] | None = None,
) -> Runs | None:
    """Rates of every run of these conditions.

    Args:
        scores: By condition and seed.
        names: Conditions that have scores.
        personas: Those to keep; personas that a run lacks are left out of all.
        kind: What is counted.
        questions: Those to keep; None: all that every run has.

    Returns:
        None where no persona or question is shared.
    """
    keys = [key for key in sorted(scores) if key[0] in names]
    whole = tabulate(scores, list(names), kind)
    if whole is None or not keys:
        return None
    shared = [name for name in personas if name in whole.personas]
    if not shared:
        return None
    kept = None
    if whole.by_question:
        kept = [q for q in whole.questions if questions is None or q in questions]

    def tables(of: Mapping[Key, Scores]) -> Array:
        found = []
        for key in keys:
            part = tabulate({key: of[key]}, [key[0]], kind)
            assert part is not None
            counted = part if whole.by_question else _totals(part)
            found.append(counted.pick(shared, kept).rates[0].T)
        return np.stack(found)

    return Runs(
        tuple(c for c, _ in keys),
        tuple(s for _, s in keys),
        tables(scores),
        wordings=by_wording(scores, tables),
    )


def by_wording(
    scores: Mapping[Key, Scores], tables: Callable[[Mapping[Key, Scores]], Array]
) -> Array | None:
    """Tables of each wording alone, `[N, W, …]`; None where personas have one.

    Args:
        scores: By condition and seed.
        tables: Makes those of all runs, `[N, …]`, from scores.
    """
    count = wordings_of(scores)
    if count < 2:
        return None
    return np.stack([tables(of_wording(scores, number)) for number in range(count)], axis=1)


def _totals(table: Table) -> Table:
    """Without questions: every file has counts, and some do not have them by question."""
    hits = table.hits.sum(axis=2, keepdims=True)
    return replace(
        table,
        questions=("",),
        hits=hits,
        totals=table.totals.sum(axis=2, keepdims=True),
        by_question=False,
    )


def share_over_runs(row: Row, runs: Runs | None) -> list[Row]:
    """A condition's share with run-to-run variation in its interval, for both targets.

    The interval holds that of the share's questions too (Wilson's, which knows that there are no
    negative rates) and never leaves 0 to 1.

    Args:
        row: The share over all runs, with its interval by questions.
        runs: Of this condition; None: they have nothing in common.
    """
    if runs is None:
        return [row]
    found = []
    for target in TARGETS:
        estimate = runs.contrast(dict.fromkeys(runs.counts, 1.0), target)
        ends = within(estimate.estimate.interval, 0.0, 1.0)
        known = [pair for pair in (row.ci95, ends) if pair is not None]
        hull = (min(e[0] for e in known), max(e[1] for e in known)) if known else None
        note = None if estimate.run_variation else ONE_RUN
        found.append(
            replace(row, ci95=hull, target=target, run_variation=estimate.run_variation, note=note)
        )
    return found


def _difference(row: Row, found: RunEstimate) -> Row:
    e = found.estimate
    return replace(
        row,
        value=e.value,
        p=e.p,
        ci95=e.interval,
        n=found.runs,
        family=FAMILY,
        run_variation=found.run_variation,
        equivalence=found.estimate.smallest_margin(),
        warning=found.warning,
        note=None if found.run_variation else ONE_RUN,
    )


def contrast_rows(
    scores: Mapping[Key, Scores],
    there: Sequence[ConditionInfo],
    source: str,
    seed: int | None = None,
) -> Iterator[Row]:
    """Differences of bystander leakage between conditions, each on the bystanders of both.

    From base for every other condition; from benign for every EM condition and for their mean, and
    for further benign ones; of every pair of EM conditions.

    Args:
        scores: By condition and training seed.
        there: Conditions that have scores.
        source: Persona that the marker was coupled to.
        seed: Of the rows; None: several.
    """
    row = Row("bystander_contrast", "recommended", seed=seed)
    base = next((c for c in there if c.kind == "base"), None)
    harmless = [c for c in there if c.kind == "benign"]
    benign = harmless[0] if harmless else None
    em = [c for c in there if c.kind == "em"]
    for condition in there:
        if base is not None and condition is not base:
            yield from _pair(scores, replace(row, name="minus_base"), condition, base, source)
    if benign is not None:
        for condition in em:
            yield from _pair(
                scores, replace(row, name="em_minus_benign"), condition, benign, source
            )
        if len(em) > 1:
            yield from _mean(scores, row, em, benign, source)
        for placebo in harmless[1:]:
            found = _pair(
                scores, replace(row, name="placebo_minus_benign"), placebo, benign, source
            )
            yield from (replace(each, family=each.family and "placebo") for each in found)
    for one, other in itertools.combinations(em, 2):
        yield from _pair(scores, replace(row, name="bystander_pair"), one, other, source)


def _pair(
    scores: Mapping[Key, Scores],
    row: Row,
    one: ConditionInfo,
    other: ConditionInfo,
    source: str,
) -> Iterator[Row]:
    row = replace(row, condition=one.name, against=other.name)
    runs = _common_runs(scores, [one, other], source)
    if runs is None:
        yield replace(row, note=NO_SHARED)
        return
    for target in TARGETS:
        found = runs.contrast({one.name: 1.0, other.name: -1.0}, target)
        yield _difference(replace(row, target=target), found)


def _common_runs(
    scores: Mapping[Key, Scores], conditions: Sequence[ConditionInfo], source: str
) -> Runs | None:
    names = [c.name for c in conditions]
    return run_tables(scores, names, common_bystanders(scores, conditions, source))


def _mean(
    scores: Mapping[Key, Scores],
    row: Row,
    em: Sequence[ConditionInfo],
    benign: ConditionInfo,
    source: str,
) -> Iterator[Row]:
    row = replace(row, name="em_mean_minus_benign", against=benign.name)
    runs = _common_runs(scores, [*em, benign], source)
    if runs is None:
        yield replace(row, note=NO_SHARED)
        return
    weights = {c.name: 1 / len(em) for c in em} | {benign.name: -1.0}
    for target in TARGETS:
        yield _difference(replace(row, target=target), runs.contrast(weights, target))


def between_runs(
    scores: Mapping[Key, Scores],
    em: Sequence[ConditionInfo],
    personas: Sequence[str],
    row: Row,
) -> Row | None:
    """H2 with training runs as units; None unless two conditions have several.

    Effect: standard deviation between conditions net of chance.
    """
    runs = run_tables(scores, [c.name for c in em], personas)
    if runs is None:
        return None
    several = [name for name in runs.counts if runs.counts[name] > 1]
    if len(several) < 2:
        return None
    found = all_alike(runs, several)
    means = [float(np.mean([mean for _, mean in runs.of(name)])) for name in several]
    left = [name for name in runs.counts if name not in several]
    note = f"Not compared, with one run each: {', '.join(left)}." if left else None
    return replace(
        row,
        value=max(means) - min(means),
        p=found.p,
        n=found.runs,
        effect=float(np.sqrt(found.spread)),
        name="between_runs",
        run_variation=True,
        note=note,
    )
