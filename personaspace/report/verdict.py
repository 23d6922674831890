"""The verdict: a few plain lines that say what the study found, and what it cannot say.

Each answers one question in words that need no statistics, with its number and interval behind
them. A line says what was measured; where an interval holds zero it says that no difference was
shown, which is not that there is none.
"""

from __future__ import annotations

from personaspace.analysis.primary import primary_row
from personaspace.analysis.results import Results
from personaspace.analysis.rows import Row, Target
from personaspace.report import lay, noticed, setting, wordings
from personaspace.report.endpoint import primary
from personaspace.report.lay import COSINES, OPEN, PERSONAS, SHARES, THESE_RUNS, Line
from personaspace.report.text import (
    bound,
    count,
    decimals,
    listing,
    number,
    percent,
    span,
)

_SCALE = " on a scale of 0 to 1"
_OURS: tuple[Target, Target] = ("these_personas", "new_personas")


def verdict(results: Results) -> list[Line]:
    """The lines that the results allow, in order; what they cannot say comes last."""
    found = [
        setting.done(results),
        _primary(results),
        _wordings(results),
        setting.learned(results),
        _closer(results),
        _harm(results),
        _persona(results),
        _placebo(results),
    ]
    said = [line for line in found if line is not None]
    doubts = _doubts(results) if said else None
    ranges = any(OPEN in line.answer for line in said)
    return [*said, *([doubts] if doubts else []), _limits(results, ranges)]


def _doubts(results: Results) -> Line | None:
    """Data that hold what is measured, and assumptions that fail for the rows told above."""
    rows = [row for row in behind(results) if row.warning]
    known = noticed.doubts(results)
    if not (rows or known):
        return None
    reasons: dict[str, list[str]] = {}
    for row in rows:
        place = results.label(row.condition) if row.condition else "all harmful trainings together"
        if row.against and row.condition:
            place += f" less {results.label(row.against)}"
        places = reasons.setdefault(row.warning or "", [])
        if place not in places:
            places.append(place)
    told = [f"{reason} ({listing(places[:4])})" for reason, places in reasons.items()]
    return Line("Is there a reason to doubt these answers?", " ".join([*known, *told[:3]]))


def behind(results: Results) -> list[Row]:
    """The rows that the lines are made of."""
    found: list[Row | None] = [*_changes(results, "em")]
    found += [primary_row(results)] if results.primary is not None else []
    for metric, name in (
        ("M1", "em_mean_minus_benign"),
        ("M1", "em_mean_benign_share"),
        ("bystander_contrast", "em_mean_minus_benign"),
    ):
        found += [row for target in _OURS if (row := _row(results, metric, name, target))]
    return [row for row in found if row is not None]


def _primary(results: Results) -> Line | None:
    info = results.primary
    if info is None:
        return None
    return Line("What was this study to find out?", primary(results, plainly=True))


def _wordings(results: Results) -> Line | None:
    told = wordings.sentence(results)
    return Line("In how many ways were personas told who they are?", told) if told else None


def _row(results: Results, metric: str, name: str, target: Target) -> Row | None:
    """The row over all runs at the headline place that is about no single condition."""
    rows = results.geometry if metric.startswith("M") else results.leakage
    place = (results.headline_method, results.headline_layer)
    wanted = (metric, "recommended", name, target, None)
    for row in rows:
        if (row.metric, row.variant, row.name, row.target, row.condition) == wanted and (
            row.method is None or (row.method, row.layer) == place
        ):
            return row if row.value is not None else None
    return None


def _clear(results: Results, row: Row) -> bool:
    """Shown to differ from 0, at the study's level.

    The primary endpoint by its p, all else by the p that Benjamini and Hochberg's correction gives
    it within its family.
    """
    p = row.p if row is primary_row(results) or row.p_bh is None else row.p_bh
    if p is not None:
        return p <= results.analysis.alpha
    return row.ci95 is not None and (row.ci95[0] > 0 or row.ci95[1] < 0)


def _changes(results: Results, kind: str) -> list[Row]:
    names = {condition.name for condition in results.conditions if condition.kind == kind}
    place = ("M1", "raw_cosine", "these_personas", results.headline_method, results.headline_layer)
    return [
        row
        for row in results.geometry
        if (row.metric, row.name, row.target, row.method, row.layer) == place
        and row.condition in names
        and row.delta is not None
    ]


def _in_how_many(some: int, all_of: int) -> str:
    """Of the trainings on harmful data."""
    if all_of == 1:
        return "after training on harmful data"
    if some == all_of:
        every = "both" if all_of == 2 else f"all {all_of}"
        return f"after {every} trainings on harmful data"
    return f"after {some} of {all_of} trainings on harmful data"


def _closer(results: Results) -> Line | None:
    em = _changes(results, "em")
    if not em or em[0].base is None:
        return None
    asked = "Did the model's personas become more alike?"
    base = em[0].base
    mean = sum(row.delta or 0.0 for row in em) / len(em)
    clear = [row for row in em if row.p is not None and _clear(results, row)]
    rose = sum(1 for row in clear if (row.delta or 0) > 0)
    fell = sum(1 for row in clear if (row.delta or 0) < 0)
    digits = decimals([base, base + mean], apart=True)
    moved = (
        f"Before training, two {PERSONAS} have on average a likeness of {number(base, digits)} "
        "inside the model, where 1 is identical and 0 unrelated; after training on harmful data "
        f"{number(base + mean, digits)}."
    )
    if rose and not fell:
        answer = f"Yes, {_in_how_many(rose, len(em))}. {moved}"
    elif fell and not rose:
        answer = f"No: they became less alike {_in_how_many(fell, len(em))}. {moved}"
    elif rose and fell:
        where = f"{_in_how_many(rose, len(em))}, less alike after {fell}"
        answer = f"Not in one direction: more alike {where}. {moved}"
    else:
        answer = f"That is not clear. {moved}"
    part = _row(results, "M1", "em_mean_benign_share", "these_personas")
    if part is not None and part.value is not None and part.value > 0 and rose and not fell:
        ends = ""
        if part.ci95:
            ends = f" ({lay.left_open(part, span(part.ci95, 'percent', 0, apart=True))})"
        if part.value <= 1:
            answer += (
                f" Training on harmless data brings about {percent(part.value, 0)} of that change "
                f"as well{ends}."
            )
        elif part.ci95 is not None and part.ci95[0] > 1:
            answer += " Training on harmless data changes them more than that."
        else:
            answer += (
                " Training on harmless data changes them as much: "
                f"{percent(part.value, 0)} of that change{ends}."
            )
    return Line(asked, answer)


def _harm(results: Results) -> Line | None:
    asked = "What do harmful data add to harmless ones?"
    row, wider = (_row(results, "M1", "em_mean_minus_benign", target) for target in _OURS)
    if row is None:
        single = [
            each
            for each in results.geometry
            if (each.metric, each.name, each.target) == ("M1", "em_minus_benign", "these_personas")
            and (each.method, each.layer) == (results.headline_method, results.headline_layer)
        ]
        row, wider = (single[0], None) if len(single) == 1 else (None, None)
    if row is None or row.value is None:
        return None
    clear = _clear(results, row)
    moved = lay.difference(row, COSINES, "", "alike", "after harmless ones", clear, _SCALE)
    if clear:
        what = (
            "more than chance explains"
            if row.run_variation
            else "a difference between these training runs, which another training might not show"
        )
        answer = (
            f"After harmful data the personas of this study are {moved}: "
            f"{'very little, but ' * lay.nothing_to_see(row, COSINES)}{what}."
        )
    else:
        answer = (
            "No difference in how alike personas become is shown. Measured: after harmful data "
            f"they are {moved}."
        )
    if wider is not None and clear:
        ends = lay.allowed(wider, COSINES)
        answer += (
            " The same is to be expected of other personas."
            if _clear(results, wider)
            else f" That it would hold for other personas is not shown{f' ({ends})' * bool(ends)}."
        )
    leak = _row(results, "bystander_contrast", "em_mean_minus_benign", "these_personas")
    if leak is not None and leak.ci95 and leak.value is not None:
        clear = _clear(results, leak)
        often = lay.difference(
            leak, SHARES, " percentage points", "often", "after harmless ones", clear
        )
        answer += (
            f" Roles that were never taught the marker write it after harmful data {often}"
            f"{'' if clear else ', so no difference is shown'}."
        )
    return Line(asked, answer)


def _of_comparisons(clear: int, of: int) -> str:
    """How many comparisons show a difference."""
    if of == 1:
        return "the two such trainings differ by more than chance explains"
    return (
        f"{clear} of {of} comparisons of two such trainings show{'s' * (clear == 1)} a difference "
        "beyond chance, all of them taken into account"
    )


def _persona(results: Results) -> Line | None:
    place = ("M1", "raw_cosine_pair", "these_personas")
    pairs = [
        row
        for row in results.geometry
        if (row.metric, row.name, row.target) == place
        and (row.method, row.layer) == (results.headline_method, results.headline_layer)
    ]
    leaks = [
        row
        for row in results.leakage
        if (row.name, row.target) == ("bystander_pair", "these_personas") and row.p is not None
    ]
    if not (pairs or leaks):
        return None
    asked = "Does it matter which persona the harmful data were trained under?"
    parts = []
    leaking = "how often roles that were never taught the marker write it"
    for rows, what in ((pairs, "how alike personas become"), (leaks, leaking)):
        if not rows:
            continue
        clear = sum(_clear(results, row) for row in rows)
        bounds = [row.equivalence for row in rows if row.p is not None]
        most = None if None in bounds else max((b for b in bounds if b is not None), default=None)
        if clear:
            parts.append(
                f"In {what}, {_of_comparisons(clear, len(rows))}."
                + ("" if rows[0].run_variation else " Another training might not show it.")
            )
        else:
            ruled = "; large differences are not ruled out"
            if most is not None:
                size = (
                    f"{bound(100 * most, 1)} percentage points"
                    if rows is leaks
                    else f"{bound(most)}{_SCALE}"
                )
                size += f" are ruled out{f' {THESE_RUNS}' * (rows[0].run_variation is False)}"
                ruled = f"; differences above {size}, with a 5\u00a0% risk of being wrong"
            parts.append(f"In {what}, no difference between such trainings is shown{ruled}.")
    return Line(asked, " ".join(parts))


def _placebo(results: Results) -> Line | None:
    """How often the tests tell two harmless trainings apart: the study's own false alarms."""
    rows = [
        row
        for row in results.rows
        if row.family == "placebo" and row.p is not None and row.target == "these_personas"
    ]
    if not rows:
        return None
    alpha = results.analysis.alpha
    found = sum(1 for row in rows if (row.p or 0.0) <= alpha)
    once = ""
    if not any(row.run_variation for row in rows):
        once = (
            " Each was trained once, so that what sets any two training runs apart is found as "
            "well, here and in every other comparison."
        )
    return Line(
        "How often do these tests find a difference where there is none?",
        f"Two trainings on harmless data were compared by {count(len(rows), 'test')}, and "
        f"{found} ({percent(found / len(rows))}) found a difference; about "
        f"{percent(alpha, 0)} are to be expected by chance. They share their training runs, so "
        f"that they tend to be right or wrong together.{once}",
    )


def _limits(results: Results, ranges: bool) -> Line:
    runs = sorted(set(results.runs.values())) if results.seeds else []
    found = [f"Whether other models than {results.model.name}, or other data, behave the same."]
    if results.single_runs:
        found.append(
            "Whether another training run would give the same: every version of the model was "
            "trained once, and no range given here counts that chance."
        )
    elif runs:
        times = count(runs[-1], "time")
        times = f"{runs[0]} to {times}" if len(runs) > 1 else times
        found.append(
            f"Small differences: every version of the model was trained {times}, which leaves room "
            "for chance."
        )
    if not results.of_kind("benign"):
        found.append("How much of the change any training would bring: there is no harmless arm.")
    if ranges:
        found.append(
            f"What {OPEN} above is a range that holds the truth in about 95 of 100 such studies."
        )
    return Line("What can this study not say?", " ".join(found))
