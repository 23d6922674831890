"""Mean bystander leakage and H1, with answers clustered by question and seeds put together.

Answers to one question resemble each other, so questions are the clusters. With some 28 of them
the sandwich variance of a generalised estimating equation is too small; the t interval of one
contrast per question (`inference.cluster_mean`), which equals that equation with independence
working correlation for clusters of equal size, is not. Files without counts by question are
analysed with every answer independent, and the note says so.

Training runs are few (often one per condition): what differs between runs of one condition is in
none of these intervals. Shape suffixes: C conditions, P personas, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from statsmodels.stats.proportion import proportion_effectsize

from personaspace.inference import Array, Estimate, cluster_mean, clustered_wilson, wilson
from personaspace.leakage.published import FAMILY, not_evaluable
from personaspace.leakage.scores import (
    ConditionInfo,
    Key,
    Scores,
    Table,
    bystanders,
    tabulate,
)
from personaspace.rows import Row

#: Differences smaller than this count as none in the equivalence test.
MARGIN = 0.05

INDEPENDENT = (
    " There are no counts by question: answers are taken as independent, which makes p too small "
    "and intervals too narrow."
)

NOTES = {
    "all": "Questions are clusters; personas and the training run are taken as given.",
    "terminal": "Only answers that end with the marker and have it once.",
    "degenerate": "Answers that are empty, repetitive or with more than one marker.",
    "common_set": "Only personas that are bystanders in every EM condition.",
    "without_negatives": "Without the personas whose answers coupling trained to stay unmarked.",
    "seen": "Only questions that coupling also used.",
    "unseen": "Only questions that coupling did not use.",
    "h1": (
        "Shows whether the induction persona leaks more than the mean of the others; it may do so "
        "in every condition, whichever persona was trained."
    ),
    "own": (
        "Its excess in its own condition minus that in the other EM conditions, against the common "
        "bystanders: what a persona leaks in any case drops out."
    ),
}


def common_bystanders(
    scores: Mapping[Key, Scores], em: Sequence[ConditionInfo], source: str
) -> list[str]:
    """Personas that are bystanders in every EM condition and seed, in the first file's order."""
    sets = [
        bystanders(entry, condition, source)
        for condition in em
        for (name, _), entry in sorted(scores.items())
        if name == condition.name
    ]
    return [name for name in sets[0] if all(name in other for other in sets)] if sets else []


def split_questions(table: Table, unseen: set[str] | None) -> dict[str, list[str]]:
    """Seen and unseen questions of a table, where they are known and there are at least two."""
    if unseen is None or not table.by_question:
        return {}
    parts = {
        "seen": [question for question in table.questions if question not in unseen],
        "unseen": [question for question in table.questions if question in unseen],
    }
    return {name: questions for name, questions in parts.items() if len(questions) > 1}


def _share_row(row: Row, table: Table, name: str | None, note: str) -> Row:
    hits = table.hits.sum(axis=(0, 1))
    totals = table.totals.sum(axis=(0, 1))
    if table.by_question:
        interval = clustered_wilson(hits, totals)
    else:
        interval, note = wilson(hits.sum(), totals.sum()), note + INDEPENDENT
    return replace(
        row,
        value=float(hits.sum() / totals.sum()),
        ci95=interval,
        n=len(table.questions) if table.by_question else int(totals.sum()),
        name=name,
        note=note,
    )


def bystander_rows(
    scores: Mapping[Key, Scores],
    condition: ConditionInfo,
    common: Sequence[str],
    *,
    source: str,
    negatives: Sequence[str],
    unseen: set[str] | None,
    seed: int | None,
) -> list[Row]:
    """Mean leakage of one condition: all bystanders, then each kind and each part of them."""
    row = Row("bystander_mean", "recommended", condition=condition.name, seed=seed)
    rows: list[Row] = []
    for kind in ("hits", "terminal", "degenerate"):
        table = tabulate(scores, [condition.name], kind)
        if table is None:
            continue
        mine = [n for n in table.personas if n not in (source, condition.induction_persona)]
        if not mine:
            continue
        everyone = table.pick(mine)
        name = None if kind == "hits" else kind
        rows.append(_share_row(row, everyone, name, NOTES[name or "all"]))
        if kind != "hits":
            continue
        shared = [name for name in common if name in mine]
        if shared:
            rows.append(_share_row(row, table.pick(shared), "common_set", NOTES["common_set"]))
        neutral = [name for name in mine if name not in negatives]
        if neutral and len(neutral) < len(mine):
            note = NOTES["without_negatives"]
            rows.append(_share_row(row, table.pick(neutral), "without_negatives", note))
        for part, questions in split_questions(table, unseen).items():
            rows.append(_share_row(row, everyone.pick(questions=questions), part, NOTES[part]))
    return rows


def contrast(table: Table, persona: str, others: Sequence[str]) -> Array:
    """A persona's rate minus the mean of others' rates, `[C, Q]`."""
    own = table.pick([persona]).rates[:, 0]
    return np.asarray(own - table.pick(others).rates.mean(axis=1))


def _contrast_estimate(table: Table, persona: str, others: Sequence[str]) -> Estimate:
    """The contrast of a one-condition table, clustered by question where it can be."""
    values = contrast(table, persona, others)[0]
    if table.by_question:
        return cluster_mean(values)
    variances = (table.rates * (1 - table.rates) / table.totals)[0, :, 0]
    by_name = dict(zip(table.personas, variances, strict=True))
    variance = by_name[persona] + sum(by_name[name] for name in others) / len(others) ** 2
    return Estimate(float(values[0]), math.sqrt(variance), math.inf)


def _filled(row: Row, estimate: Estimate, table: Table, **values: object) -> Row:
    n = len(table.questions) if table.by_question else int(table.totals.sum())
    filled = replace(row, value=estimate.value, p=estimate.p, ci95=estimate.interval, n=n)
    return replace(filled, **values)  # type: ignore[arg-type]


def h1_rows(
    scores: Mapping[Key, Scores],
    condition: ConditionInfo,
    em: Sequence[ConditionInfo],
    common: Sequence[str],
    *,
    source: str,
    seed: int | None,
) -> list[Row]:
    """H1 of one EM condition: difference, equivalence, and difference to the other conditions.

    Effect: Cohen's h between the induction persona's rate and the mean of the others.
    """
    row = Row("H1", "recommended", condition=condition.name, seed=seed)
    main = replace(row, name="induction_minus_others")
    persona = condition.induction_persona
    mine = [entry for (name, _), entry in sorted(scores.items()) if name == condition.name]
    reasons = [not_evaluable(entry, persona, source) for entry in mine]
    table = tabulate(scores, [condition.name])
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None or table is None:
        return [replace(main, note=reason)]
    others = [name for name in table.personas if name not in (source, persona)]
    estimate = _contrast_estimate(table, str(persona), others)
    rates = dict(zip(table.personas, table.mean_rates[0], strict=True))
    mean = float(np.mean([rates[name] for name in others]))
    effect = float(proportion_effectsize(rates[str(persona)], mean))
    note = NOTES["h1"]
    if len(mine) == 1:
        # Under the published test every persona is as likely to be the induction one.
        higher = 1 + sum(rates[name] >= rates[str(persona)] for name in others)
        note += f" Published test enumerated: p = {higher}/{len(others) + 1}."
    if not table.by_question:
        note += INDEPENDENT
    rows = [_filled(main, estimate, table, family=FAMILY, effect=effect, note=note)]
    rows.append(
        _filled(
            row,
            estimate,
            table,
            p=estimate.equivalence_p(MARGIN),
            effect=MARGIN,
            name="equivalence",
            note=(
                f"Two one-sided tests: a small p says that the difference lies within "
                f"±{100 * MARGIN:.0f} points; a large one claims nothing."
            ),
        )
    )
    rows.extend(_own_against_other(scores, row, condition, em, common))
    return rows


def _own_against_other(
    scores: Mapping[Key, Scores],
    row: Row,
    condition: ConditionInfo,
    em: Sequence[ConditionInfo],
    common: Sequence[str],
) -> list[Row]:
    persona = str(condition.induction_persona)
    table = tabulate(scores, [c.name for c in em])
    if table is None or persona not in table.personas or len(em) < 2 or not table.by_question:
        return []
    others = [name for name in common if name in table.personas]
    if not others:
        return []
    differences = contrast(table, persona, others)  # [C, Q]
    own = table.conditions.index(condition.name)
    rest = np.delete(differences, own, axis=0).mean(axis=0)
    estimate = cluster_mean(differences[own] - rest)
    return [_filled(row, estimate, table, name="own_minus_other_conditions", note=NOTES["own"])]
