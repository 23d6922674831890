"""The primary endpoint in words, and what was registered before the study ran."""

from __future__ import annotations

from personaspace.analysis.primary import primary_row
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import PrimaryInfo
from personaspace.analysis.rows import Row
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


def what(results: Results, info: PrimaryInfo) -> str:
    """The comparison, without its outcome."""
    mine = "the mean of the harmful conditions"
    if info.condition is not None:
        mine = results.label(info.condition)
    place = f" at layer {info.layer}" if info.layer is not None else ""
    whom = ", for personas like these" if info.target == "new_personas" else ""
    return f"{_MEASURES[info.measure]}{place}: {mine} less {results.label(info.against)}{whom}"


def primary(results: Results, open_to: str | None = None) -> str:
    """Comparison and outcome, in a sentence or two.

    Args:
        open_to: Words before the ends of its interval, for who knows no statistics: p is left out.
    """
    info = results.primary
    assert info is not None
    words = what(results, info)
    words = words[0].upper() + words[1:]
    row = primary_row(results)
    if row is None or row.value is None:
        return f"{words}. It could not be computed."
    if row.status == "not_assessable":
        return f"{words}. It cannot be assessed: the marker was not learned where it had to be."
    shown = "a difference is shown"
    if row.p is None or row.p > results.analysis.alpha:
        shown = "no difference is shown, which is not that there is none"
    elif row.run_variation is False:
        shown = "a difference between these training runs, which another training might not show"
    p = f", {p_phrase(row.p)}" if row.p is not None and open_to is None else ""
    size = _size(info, row, open_to or "95\u00a0% interval")
    return f"{words}. The answer: {size}{p}; {shown}."


def _size(info: PrimaryInfo, row: Row, before: str) -> str:
    """Estimate and interval in the measure's unit."""
    shares = info.metric in ("M3", "bystander_contrast")
    scale, digits, unit = (100.0, 1, " percentage points") if shares else (1.0, 3, "")
    ends = None if row.ci95 is None else (scale * row.ci95[0], scale * row.ci95[1])
    words, _ = with_interval(scale * (row.value or 0.0), ends, digits, sign=True, unit=unit)
    if ends is None:
        return words
    within = f"{WITHIN}, " if row.run_variation is False else ""
    return f"{words} ({within}{before} {span(ends, digits=digits, apart=True)})"


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
