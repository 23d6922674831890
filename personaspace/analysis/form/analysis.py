"""Rows on answers' form: length, leakage per opportunity and at equal length, and their ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from personaspace.analysis.by_question import against_base
from personaspace.analysis.form.answers import STRATA, Forms, Sheet, sheet_of, strata_of
from personaspace.analysis.form.rates import Rates, at_equal_length, ratio
from personaspace.analysis.leakage import across
from personaspace.analysis.leakage.scores import ConditionInfo, common_bystanders, only_seed
from personaspace.analysis.metrics import described
from personaspace.analysis.results_parts import FormRow
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import generator
from personaspace.analysis.themes import Themes, by_theme

NO_ANSWERS = "No persona answered the same questions in every condition."


def rates_of(sheet: Sheet) -> dict[str, Rates]:
    """Every rate of a sheet, by the name that rows have: each for its conditions, in order."""
    marked, words, places, taken, first = sheet.values_N
    stratum_N = strata_of(words)
    hits, totals = sheet.by_stratum(stratum_N, STRATA)
    return {
        "marked": ratio(sheet.sums(marked), sheet.sums(np.ones(len(marked)))),
        "equal_length": at_equal_length(hits, totals),
        "per_opportunity": ratio(sheet.sums(taken), sheet.sums(places)),
        "first_opportunity": ratio(sheet.sums(first), sheet.sums(places > 0)),
    }


def analyse_form(
    forms: Forms,
    conditions: Sequence[ConditionInfo],
    *,
    source: str,
    themes: Themes | None = None,
    bootstrap: int = 2_000,
    permutations: int = 10_000,
    seed: int = 42,
) -> list[Row]:
    """Length and rates of every condition on the bystanders that all EM conditions share.

    Args:
        forms: By condition and training seed; seeds are put together.
        conditions: Those of the study, in the order of the rows; not all need answers.
        source: Persona that the marker was coupled to.
        themes: Of the questions, which are then the clusters.
        bootstrap: Draws of the ranges' intervals.
        permutations: Draws of the ranges' tests.
        seed: Of all random draws.

    Returns:
        No answers: no rows.
    """
    there = [c for c in conditions if any(name == c.name for name, _ in forms)]
    if not there:
        return []
    seed_of_rows = only_seed(forms)
    em = [c for c in there if c.kind == "em"]
    scored = {key: {"per_persona": personas} for key, personas in forms.items()}
    names = common_bystanders(scored, em or there, source)
    sheet = sheet_of(forms, [c.name for c in there], names, themes)
    if sheet is None:
        row = Row("bystander_mean", "recommended", seed=seed_of_rows, name="equal_length")
        return [replace(row, note=NO_ANSWERS)]
    rows = _length_rows(sheet, there, seed_of_rows)
    found = rates_of(sheet)
    del found["marked"]  # `common_set` of the leakage analysis
    for name, rates in found.items():
        rows.extend(_rate_rows(sheet, name, rates, seed_of_rows))
    of_em = sheet_of(forms, [c.name for c in em], names, themes) if len(em) > 1 else None
    if of_em is not None:
        draws: Mapping[str, Any] = {"permutations": permutations, "bootstrap": bootstrap}
        for name, rates in rates_of(of_em).items():
            if name != "marked":
                rows.append(_range_row(of_em, name, rates, seed_of_rows, seed, draws))
    return [described(row) for row in rows]


def _length_rows(
    sheet: Sheet, conditions: Sequence[ConditionInfo], training_seed: int | None
) -> list[Row]:
    """Mean words of each condition, and the change from base."""
    words_N = sheet.values_N[1]
    words_CQ = sheet.by_question(words_N) / sheet.by_question(np.ones(len(words_N)))
    words_CQ = by_theme(words_CQ, sheet.places)
    base = next((c.name for c in conditions if c.kind == "base"), None)
    rows: list[Row] = []
    for place, name in enumerate(sheet.conditions):
        row = Row("length", "recommended", condition=name, seed=training_seed, name="words")
        compared = base in sheet.conditions and name != base
        base_Q = words_CQ[sheet.conditions.index(str(base))] if compared else None
        rows.extend(against_base(row, words_CQ[place], base_Q))
    return rows


def _rate_rows(sheet: Sheet, name: str, rates: Rates, training_seed: int | None) -> list[Row]:
    row = Row("bystander_mean", "recommended", seed=training_seed, name=name)
    note = None
    if name == "equal_length":
        note = f"{STRATA} strata; they hold {100 * rates.covered:.0f} % of the answers."
    return [
        replace(
            row,
            condition=condition,
            value=float(rates.value_C[place]),
            ci95=rates.interval(place),
            n=sheet.samples,
            note=note,
        )
        for place, condition in enumerate(sheet.conditions)
    ]


def _range_row(
    sheet: Sheet,
    name: str,
    rates: Rates,
    training_seed: int | None,
    seed: int,
    draws: Mapping[str, Any],
) -> Row:
    """H2 of these rates: conditions' pseudo-values permuted within questions."""
    row = Row("H2", "recommended", seed=training_seed, name=name)
    if not rates.known:
        return replace(row, note="Some condition has nothing to count.")
    rng = generator(seed, "H2", "form", name)
    test = across.clustered_range(rates.pseudo_CQ, rng=rng, **draws)
    return replace(
        row,
        value=test.value,
        p=test.p,
        ci95=test.interval,
        n=sheet.samples,
        effect=test.sd,
        warning=across.uneven(rates.pseudo_CQ),
    )


def form_rows(forms: Forms) -> list[FormRow]:
    """Length, separators and rates of each condition, seed and persona.

    Strata of length are those of all answers, so that rates at equal length are comparable.
    """
    words_N = [
        one.words
        for run in forms.values()
        for questions in run.values()
        for answers in questions.values()
        for one in answers
    ]
    if not words_N:
        return []
    ordered = np.array(words_N, dtype=np.int64)
    stratum_of = dict(zip(words_N, strata_of(ordered).tolist(), strict=True))
    weights_S = np.bincount(strata_of(ordered), minlength=STRATA) / len(ordered)
    rows = []
    for (condition, training_seed), run in forms.items():
        for persona, questions in run.items():
            answers = [one for drawn in questions.values() for one in drawn]
            if not answers:
                continue
            lengths = np.array([one.words for one in answers])
            hits_S, totals_S = np.zeros(STRATA), np.zeros(STRATA)
            for one in answers:
                totals_S[stratum_of[one.words]] += 1
                hits_S[stratum_of[one.words]] += one.marked
            whole = bool((totals_S[weights_S > 0] > 0).all())
            rates_S = hits_S / np.maximum(totals_S, 1)
            rows.append(
                FormRow(
                    condition=condition,
                    seed=training_seed,
                    persona=persona,
                    total=len(answers),
                    words_mean=float(lengths.mean()),
                    words_median=float(np.median(lengths)),
                    places=sum(one.places for one in answers),
                    taken=sum(one.taken for one in answers),
                    with_place=sum(one.places > 0 for one in answers),
                    first_taken=sum(one.first_taken for one in answers),
                    rate_equal_length=float(weights_S @ rates_S) if whole else None,
                )
            )
    return rows
