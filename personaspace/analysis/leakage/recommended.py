"""Mean bystander leakage and H1, with answers clustered by question and seeds put together.

Answers to one question resemble each other, so questions are the clusters. With some 28 of them
the sandwich variance of a generalised estimating equation is too small; the t interval of one
contrast per question (`inference.cluster_mean`), which equals that equation with independence
working correlation for clusters of equal size, is not. Files without counts by question are
analysed with every answer independent, and the note says so.

Training runs are few (often one per condition). With one, what differs between runs of a condition
is in none of these intervals; with several, H1's runs and questions are both samples. Shape
suffixes: R training runs, C conditions, P personas, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from statsmodels.stats.proportion import proportion_effectsize

from personaspace.analysis.by_question import warning_of
from personaspace.analysis.leakage.pooled import (
    by_wording,
    run_tables,
    share_over_runs,
)
from personaspace.analysis.leakage.published import FAMILY, SECONDARY, not_evaluable
from personaspace.analysis.leakage.scores import (
    ConditionInfo,
    Key,
    Scores,
    Table,
    tabulate,
)
from personaspace.analysis.ranges import within
from personaspace.analysis.rows import Row
from personaspace.analysis.runs import Runs
from personaspace.analysis.stats import (
    Array,
    Estimate,
    clustered_wilson,
    wilson,
)
from personaspace.analysis.themes import ONE_THEME, of_one_theme

#: Differences smaller than this count as none in the equivalence test.
MARGIN = 0.05

INDEPENDENT = (
    "There are no counts by question: answers are treated as independent, which makes p too small "
    "and intervals too narrow."
)


def split_questions(table: Table, unseen: set[str] | None) -> dict[str, list[str]]:
    """Seen and unseen questions of a table, where they are known and there are at least two."""
    if unseen is None or not table.by_question:
        return {}
    parts = {
        "seen": [question for question in table.questions if question not in unseen],
        "unseen": [question for question in table.questions if question in unseen],
    }
    return {name: questions for name, questions in parts.items() if len(questions) > 1}


def _share_row(row: Row, table: Table, name: str | None) -> Row:
    hits, totals = table.counts
    if table.by_question:
        interval = clustered_wilson(hits, totals)
    else:
        interval = wilson(hits.sum(), totals.sum())
    return replace(
        row,
        value=float(hits.sum() / totals.sum()),
        ci95=interval,
        n=table.samples if table.by_question else int(totals.sum()),
        name=name,
        warning=_theme_warning(table) if table.by_question else INDEPENDENT,
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
        runs = run_tables(scores, [condition.name], mine, kind)
        rows.extend(share_over_runs(_share_row(row, everyone, name), runs))
        if kind != "hits":
            continue
        shared = [name for name in common if name in mine]
        if shared:
            runs = run_tables(scores, [condition.name], shared)
            whole = _share_row(row, table.pick(shared), "common_set")
            rows.extend(share_over_runs(whole, runs)[:1])
        neutral = [name for name in mine if name not in negatives]
        if neutral and len(neutral) < len(mine):
            runs = run_tables(scores, [condition.name], neutral)
            whole = _share_row(row, table.pick(neutral), "without_negatives")
            rows.extend(share_over_runs(whole, runs)[:1])
        for part, questions in split_questions(table, unseen).items():
            runs = run_tables(scores, [condition.name], mine, questions=questions)
            whole = _share_row(row, everyone.pick(questions=questions), part)
            rows.extend(share_over_runs(whole, runs)[:1])
    return rows


def contrast(table: Table, persona: str, others: Sequence[str]) -> Array:
    """A persona's rate minus the mean of others' rates, `[C, Q]`."""
    own = table.pick([persona]).rates[:, 0]
    return np.asarray(own - table.pick(others).rates.mean(axis=1))


def _warning(table: Table, values_Q: Array) -> str | None:
    """The first assumption of a clustered test that fails, if any."""
    if not table.by_question:
        return INDEPENDENT
    return warning_of(values_Q) or _theme_warning(table)


def _theme_warning(table: Table) -> str | None:
    return ONE_THEME if of_one_theme(table.questions, table.themes) else None


def _contrast_estimate(table: Table, persona: str, others: Sequence[str]) -> Estimate:
    """The contrast of a one-condition table, every answer independent: no counts by question."""
    variances = (table.rates * (1 - table.rates) / table.totals)[0, :, 0]
    by_name = dict(zip(table.personas, variances, strict=True))
    variance = by_name[persona] + sum(by_name[name] for name in others) / len(others) ** 2
    value = float(contrast(table, persona, others)[0, 0])
    return Estimate(value, math.sqrt(variance), math.inf)


def clustered(values_RQ: Array, values_RWQ: Array | None = None) -> Estimate:
    """Mean of contrasts by training run and question: runs and questions are both samples.

    One run: questions alone, the run taken as given.

    Args:
        values_RQ: Of all wordings together.
        values_RWQ: Of each, which are a sample too; None: personas have one.
    """
    runs = Runs(
        ("",) * len(values_RQ),
        tuple(range(len(values_RQ))),
        values_RQ[:, :, None],
        wordings=None if values_RWQ is None else values_RWQ[:, :, :, None],
    )
    return runs.contrast({"": 1.0}, "these_personas").estimate


def _filled(
    row: Row, estimate: Estimate, table: Table, reach: float = 1.0, **values: object
) -> Row:
    n = table.samples if table.by_question else int(table.totals.sum())
    ends = within(estimate.interval, -reach, reach)
    filled = replace(row, value=estimate.value, p=estimate.p, ci95=ends, n=n)
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
    """H1 of one EM condition: difference to the other conditions, plain difference, equivalence.

    The first is the test: what a persona leaks in every condition cancels out in it, while the
    plain difference rejects wherever personas differ at all. It needs other conditions and counts
    by question; without them the plain difference is the test. Effect: Cohen's h between the
    induction persona's rate and the mean of the others.
    """
    row = Row("H1", "recommended", condition=condition.name, seed=seed)
    main = replace(row, name="induction_minus_others")
    persona = condition.induction_persona
    mine = {key: entry for key, entry in sorted(scores.items()) if key[0] == condition.name}
    reasons = [not_evaluable(entry, persona, source) for entry in mine.values()]
    table = tabulate(scores, [condition.name])
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None or table is None:
        return [replace(main, note=reason)]
    others = [name for name in table.personas if name not in (source, persona)]
    if table.by_question:

        def contrasts(of: Mapping[Key, Scores]) -> Array:
            return _by_run(of, [condition.name], table, str(persona), others)[:, 0]

        values = contrasts(mine)
        estimate = clustered(values, by_wording(mine, contrasts))
        warning = _warning(table, values.mean(axis=0))
    else:
        estimate, warning = _contrast_estimate(table, str(persona), others), INDEPENDENT
    rates = dict(zip(table.personas, table.mean_rates[0], strict=True))
    mean = float(np.mean([rates[name] for name in others]))
    effect = float(proportion_effectsize(rates[str(persona)], mean))
    note = None
    if len(mine) == 1:
        # Under the published test every persona is as likely to be the induction one.
        higher = 1 + sum(rates[name] >= rates[str(persona)] for name in others)
        note = f"Published test enumerated: p = {higher}/{len(others) + 1}."
    filled = _filled(main, estimate, table, effect=effect, warning=warning)
    filled = replace(filled, run_variation=len(mine) > 1)
    own = _own_against_other(scores, row, condition, em, common)
    placebo = _placebo(rates, [name for name in common if name in others], source, filled.value)
    note = " ".join(part for part in (note, placebo) if part) or None
    family = SECONDARY if own else FAMILY
    rows = [*own, replace(filled, family=family, note=note)]
    rows.append(
        replace(
            filled,
            p=estimate.equivalence_p(MARGIN),
            effect=MARGIN,
            name="equivalence",
            family=SECONDARY,
            note=f"The margin is ±{100 * MARGIN:.0f} points; two one-sided tests.",
        )
    )
    return rows


def _placebo(
    rates: Mapping[str, float], never: Sequence[str], source: str, value: float | None
) -> str | None:
    """The same difference for personas that no condition was trained under; None below two."""
    if len(never) < 2 or value is None:
        return None
    known = {name: rate for name, rate in rates.items() if name != source}
    whole = sum(known.values())
    found = [known[name] - (whole - known[name]) / (len(known) - 1) for name in never]
    far = sum(abs(each) >= abs(value) for each in found)
    return (
        f"Of {len(found)} personas that no condition was trained under, {far} differ from the "
        f"others as much ({100 * min(found):.1f} to {100 * max(found):.1f} points)."
    )


def _by_run(
    scores: Mapping[Key, Scores],
    names: Sequence[str],
    table: Table,
    persona: str,
    others: Sequence[str],
) -> Array:
    """The contrast `[run, C, Q]` on the table's questions, each training run on its own.

    Args:
        scores: Of these conditions; every seed in all of them.
        names: Conditions along axis C.
        table: Over all runs together: its questions and personas are those that all share.
        persona: Whose rate it is.
        others: Whose mean rate is subtracted.
    """
    seeds = sorted({training_seed for _, training_seed in scores})
    parts = [
        tabulate({key: entry for key, entry in scores.items() if key[1] == s}, names) for s in seeds
    ]
    return np.stack(
        [
            contrast(part.pick(questions=table.questions), persona, others)
            for part in parts
            if part is not None
        ]
    )


def _own_against_other(
    scores: Mapping[Key, Scores],
    row: Row,
    condition: ConditionInfo,
    em: Sequence[ConditionInfo],
    common: Sequence[str],
) -> list[Row]:
    """Its excess in its own condition less that in the others, over all runs."""
    persona, names = str(condition.induction_persona), [c.name for c in em]
    table = tabulate(scores, names)
    if table is None or persona not in table.personas or len(em) < 2 or not table.by_question:
        return []
    others = [name for name in common if name in table.personas and name != persona]
    if not others:
        return []
    keys = [key for key in sorted(scores) if key[0] in names]

    def tables(of: Mapping[Key, Scores]) -> Array:
        found = [_by_run({key: of[key]}, [key[0]], table, persona, others)[0, 0] for key in keys]
        return np.stack(found)[:, :, None]

    runs = Runs(
        tuple(c for c, _ in keys),
        tuple(s for _, s in keys),
        tables(scores),
        wordings=by_wording(scores, tables),
    )
    weights = dict.fromkeys(names, -1 / (len(names) - 1)) | {condition.name: 1.0}
    found = runs.contrast(weights, "these_personas")
    differences = contrast(table, persona, others)
    own = names.index(condition.name)
    change = differences[own] - np.delete(differences, own, axis=0).mean(axis=0)
    warning = found.warning or _warning(table, change)
    filled = _filled(row, found.estimate, table, 2.0, name="own_minus_other_conditions")
    return [replace(filled, warning=warning, run_variation=found.run_variation, family=FAMILY)]
