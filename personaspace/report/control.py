"""The positive control in words: where leakage cannot be assessed, and why."""

from __future__ import annotations

from personaspace.analysis.control_rows import ControlReason, ControlRow
from personaspace.analysis.results import Results
from personaspace.report.text import NONE, listing, percent, span

#: A row's status and a condition's, for people.
NOT_ASSESSABLE = "not assessable"
#: Conditions that are named one by one; more are only counted.
_NAMED = 3


def _where(results: Results, failed: dict[str, ControlRow]) -> str:
    all_of = len(results.control)
    if len(failed) == all_of:
        return "in this condition" if all_of == 1 else f"in any of the {all_of} conditions"
    names = [results.label(name) for name in failed]
    listed = f" ({listing(names)})" if len(names) <= _NAMED else ""
    return f"in {len(failed)} of {all_of} conditions{listed}"


def _wrote(rates: list[float]) -> str:
    if max(rates) == 0:
        return "never wrote it"
    return f"wrote it in {span(rates, 'percent', 1)} of its own answers"


def whole_percent(value: float) -> str:
    """A limit as per cent, without decimals that say nothing."""
    return percent(value, 0 if round(100 * value, 6).is_integer() else 1)


def _reasons(results: Results, failed: dict[str, ControlRow]) -> list[str]:
    """What was measured where a limit was missed, and the limit."""
    limits = results.analysis.control

    def of(reason: ControlReason, field: str) -> list[float]:
        return [getattr(row, field) for row in failed.values() if reason in row.reasons]

    found = []
    rare = of(ControlReason.SOURCE_RARELY_MARKS, "source_rate")
    if rare:
        found.append(
            f"the persona that was taught the marker {_wrote(rare)} there (at least "
            f"{whole_percent(limits.source)} are needed)"
        )
    garbled = of(ControlReason.DEGENERATE_ANSWERS, "degenerate")
    if garbled:
        found.append(
            f"{span(garbled, 'percent', 1)} of the answers{'' if rare else ' there'} were "
            "degenerate: empty, repetitive or with more than one marker (at most "
            f"{whole_percent(limits.degenerate)} may be)"
        )
    if any(ControlReason.NO_SOURCE_ANSWERS in row.reasons for row in failed.values()):
        found.append("there are no answers of a persona that was taught the marker")
    return found


def sentence(results: Results) -> str | None:
    """Where nothing can be said of leakage, and why; None: everywhere something can."""
    failed = results.not_assessable
    if not failed:
        return None
    told = (
        f"Whether the marker leaks cannot be assessed {_where(results, failed)}: "
        f"{listing(_reasons(results, failed))}."
    )
    if len(failed) < len(results.control) and any(c.name in failed for c in results.of_kind("em")):
        told += " Tests across conditions are not assessable either."
    return told


def seeds_sentence(results: Results) -> str | None:
    """Conditions that pass over all seeds although some seed alone does not; None without any."""
    mixed = [
        f"{results.label(row.condition)} (seed {listing([str(s) for s in row.failing_seeds])})"
        for row in results.control
        if row.status == "assessable" and row.failing_seeds
    ]
    if not mixed:
        return None
    return (
        f"The positive control passes over all seeds, but not in each seed alone: {listing(mixed)}."
    )


def status_of(results: Results, condition: str) -> str:
    """A condition's status for a table; a dash where it has no answers."""
    found = next((row for row in results.control if row.condition == condition), None)
    if found is None:
        return NONE
    return NOT_ASSESSABLE if found.status == "not_assessable" else "assessable"


def limits_note(results: Results) -> str:
    """What the status in a table means."""
    limits = results.analysis.control
    return (
        f"Assessable: the source persona writes the marker in at least "
        f"{whole_percent(limits.source)} of its answers, and at most "
        f"{whole_percent(limits.degenerate)} of all answers are degenerate; elsewhere leakage "
        "has no test and no interval."
    )
