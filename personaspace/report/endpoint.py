"""The primary endpoint in words, and what was registered before the study ran."""

from __future__ import annotations

from personaspace.analysis.primary import primary_row
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import PrimaryInfo
from personaspace.analysis.rows import Row
from personaspace.report.lay import COSINES, PERSONAS, SHARES, Scale, amount
from personaspace.report.text import WITHIN, p_phrase, span, with_interval

_MEASURES = {
    "raw_cosine": "how alike personas are (mean cosine)",
    "spread": "how far personas lie apart",
    "split_half": "how far personas lie along the axis of harmful training (cosine)",
    "displacement": "how far personas moved along the axis of harmful training (cosine)",
    "nearest_centroid": "how well personas can be told apart (nearest centroid)",
    "lda": "how well personas can be told apart (linear rule)",
    "bystander": "how often personas write a marker that they were never taught",
}
_MINE = f"the model's {PERSONAS}"
#: What each measure says, for who knows no statistics.
PLAINLY = {
    "raw_cosine": f"how alike {_MINE} are inside it, where 1 is identical and 0 unrelated",
    "spread": f"how far {_MINE} lie apart inside it",
    "split_half": f"how far {_MINE} lie in the direction in which harmful data move it",
    "displacement": f"how far {_MINE} moved in the direction in which harmful data move it",
    "nearest_centroid": "how often what goes on inside the model tells which role it plays",
    "lda": "how often what goes on inside the model tells which role it plays",
    "bystander": "how often roles write a marker that they were never taught",
}


def what(results: Results, info: PrimaryInfo) -> str:
    """The comparison, without its outcome."""
    mine = "the mean of the harmful conditions"
    if info.condition is not None:
        mine = results.label(info.condition)
    place = f" at layer {info.layer}" if info.layer is not None else ""
    whom = ", for personas like these" if info.target == "new_personas" else ""
    return f"{_MEASURES[info.measure]}{place}: {mine} less {results.label(info.against)}{whom}"


def primary(results: Results, plainly: bool = False) -> str:
    """Comparison and outcome, in a sentence or two.

    Args:
        plainly: For who knows no statistics.
    """
    info = results.primary
    assert info is not None
    words = _asked(results, info) if plainly else what(results, info)
    words = words[0].upper() + words[1:]
    row = primary_row(results)
    if row is None or row.value is None:
        return f"{words}. It could not be computed."
    if row.status == "not_assessable":
        return f"{words}. It cannot be assessed: the marker was not learned where it had to be."
    clear = row.p is not None and row.p <= results.analysis.alpha
    shown = "a difference is shown"
    if not clear:
        shown = "no difference is shown, which is not that there is none"
    elif row.run_variation is False:
        shown = "a difference between these training runs, which another training might not show"
    shares = info.metric in ("M3", "bystander_contrast")
    scale, unit = (SHARES, " percentage points") if shares else (COSINES, "")
    if plainly:
        return f"{words}. The answer: {amount(row, scale, unit, clear)}; {shown}."
    p = f", {p_phrase(row.p)}" if row.p is not None else ""
    return f"{words}. The answer: {_size(row, scale, unit)}{p}; {shown}."


def _asked(results: Results, info: PrimaryInfo) -> str:
    """The comparison for who knows none of its words."""
    mine = "after all trainings on harmful data together"
    if info.condition is not None:
        mine = f"after the training {results.label(info.condition)}"
    place = f", measured in layer {info.layer} of the model" if info.layer is not None else ""
    whom = ", for personas like these" if info.target == "new_personas" else ""
    with_what = f"{mine}, compared with {results.label(info.against)}{whom}"
    return f"{PLAINLY[info.measure]}{place}: {with_what}"


def _size(row: Row, scale: Scale, unit: str) -> str:
    """Estimate and interval in the measure's unit."""
    ends = None
    if row.ci95 is not None:
        ends = (scale.factor * row.ci95[0], scale.factor * row.ci95[1])
    value = scale.factor * (row.value or 0.0)
    words, _ = with_interval(value, ends, scale.digits, sign=True, unit=unit)
    if ends is None:
        return words
    within = f"{WITHIN}, " if row.run_variation is False else ""
    told = span(ends, digits=scale.digits, apart=True)
    return f"{words} ({within}95\u00a0% interval {told})"


def registered(results: Results) -> str:
    """Whether what ran is what was registered."""
    page = results.registration
    if page is None:
        return "Nothing was registered before the study ran, as far as this report knows."
    return (
        f"Registered: {page.source} registers this very study (spec and data, digest "
        f"{page.digest[:12]}), so what ran is what was registered."
    )


def sentences(results: Results) -> list[str]:
    """For the headline: the endpoint's outcome, or that there is none."""
    if results.primary is None:
        return []
    return [
        f"Primary endpoint, decided before the study ran. {primary(results)} {registered(results)} "
        "All other tests are exploratory and corrected within their families."
    ]


def note(results: Results) -> str:
    """For the details: how its tests are to be read."""
    if results.primary is not None:
        return registered(results)
    return (
        "No primary endpoint was named, so every test is exploratory, corrected within its "
        "family; the answers at the top count what Benjamini and Hochberg's correction leaves. "
        f"{registered(results)}"
    )
