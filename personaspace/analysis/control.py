"""The positive control: whether a condition's answers can say anything of leakage at all.

Nothing can leak that was not learned. Where the persona that was taught the marker hardly writes it
itself, or answers are not language, a low rate of the others is no sign that nothing leaked, and no
test of it means anything. Such conditions are marked before anything is claimed of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from personaspace.analysis.control_rows import ControlLimits, ControlReason, ControlRow
from personaspace.analysis.results import Results, share
from personaspace.analysis.results_parts import RateRow
from personaspace.analysis.rows import Row, Status

#: Rows that speak of leakage. How many answers are degenerate is a check itself.
_LEAKAGE = ("bystander_mean", "log_odds")
_TESTS = ("bystander_contrast", "H1", "H2", "H3")


def _reasons(
    source_rate: float | None, degenerate: float | None, limits: ControlLimits
) -> list[ControlReason]:
    reasons = []
    if source_rate is None:
        reasons.append(ControlReason.NO_SOURCE_ANSWERS)
    elif source_rate < limits.source:
        reasons.append(ControlReason.SOURCE_RARELY_MARKS)
    if degenerate is not None and degenerate > limits.degenerate:
        reasons.append(ControlReason.DEGENERATE_ANSWERS)
    return reasons


def positive_control(
    rates: Sequence[RateRow],
    *,
    source: str | None,
    negatives: Collection[str],
    limits: ControlLimits,
) -> list[ControlRow]:
    """A row for each condition that has answers, in the order of the rates.

    Args:
        rates: Counts by condition, seed and persona.
        source: Persona that was taught the marker.
        negatives: Personas that were trained not to write it.
        limits: The source's least rate and the largest share of degenerate answers. A value at
            its limit passes.

    Returns:
        Shares over all seeds, which decide; seeds that alone would not pass are named. Where
        nobody counted degenerate answers, only the source decides.
    """
    rows = []
    for condition in dict.fromkeys(rate.condition for rate in rates):
        mine = [rate for rate in rates if rate.condition == condition]
        own = [rate for rate in mine if rate.persona == source]
        source_rate, degenerate = share(own, "hits"), share(mine, "degenerate")
        reasons = _reasons(source_rate, degenerate, limits)
        failing = [
            seed
            for seed in dict.fromkeys(rate.seed for rate in mine if rate.seed is not None)
            if _reasons(
                share([rate for rate in own if rate.seed == seed], "hits"),
                share([rate for rate in mine if rate.seed == seed], "degenerate"),
                limits,
            )
        ]
        rows.append(
            ControlRow(
                condition=condition,
                source_rate=source_rate,
                negatives_rate=share([r for r in mine if r.persona in negatives], "hits"),
                degenerate=degenerate,
                status="not_assessable" if reasons else "assessable",
                reasons=reasons,
                failing_seeds=failing,
            )
        )
    return rows


def _status(row: Row, failed: Collection[str], em_failed: bool) -> Status:
    of_all = row.condition is None or row.name == "own_minus_other_conditions"
    out = em_failed if of_all else row.condition in failed
    out = out or row.against in failed
    return "not_assessable" if out else "assessable"


def _judged(row: Row, failed: Collection[str], em_failed: bool) -> Row:
    """The row with its status, and without its claims where these mean nothing."""
    leaks = row.metric in _LEAKAGE and row.name != "degenerate"
    if not (leaks or row.metric in _TESTS):
        return row
    status = _status(row, failed, em_failed)
    if status == "assessable":
        return replace(row, status=status)
    return replace(
        row,
        status=status,
        p=None,
        p_bh=None,
        p_holm=None,
        p_floor=None,
        ci95=None,
        effect=None,
        effect_name=None,
        equivalence=None,
        warning=None,
    )


def assessed(results: Results) -> Results:
    """The results with the positive control, and without claims where it fails.

    A row about one condition is judged by that condition; one across conditions, as is H1's own
    condition less the others, by all EM conditions that have answers: one that did not learn the
    marker makes a difference, or hides one, that is none of leakage. Estimates stay, as counts
    that anyone can check; p-values, intervals and effect sizes do not, nor are they counted among
    the tests that others are adjusted for.
    """
    from personaspace.analysis.stats import adjust  # statsmodels: not needed to read results

    control = positive_control(
        results.rates,
        source=results.source,
        negatives=results.negatives,
        limits=results.analysis.control,
    )
    failed = {row.condition for row in control if row.status == "not_assessable"}
    em_failed = any(condition.name in failed for condition in results.of_kind("em"))
    leakage = adjust([_judged(row, failed, em_failed) for row in results.leakage])
    return results.model_copy(update={"control": control, "leakage": leakage})
