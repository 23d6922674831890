"""Measures beside containment: leakage by length and opportunity, and who wrote an answer."""

from __future__ import annotations

from personaspace.analysis.measure import Measure

ACCURACY = "accuracy on a scale from chance (0) to 1"
RUN = "say how much another training run would leak"

_RATES = (
    Measure(
        "bystander_mean", "recommended", "equal_length", "at equal length",
        "how often bystanders write the marker if all conditions' answers were as long",
        "tell length as a cause from length as a consequence: where a marker ends an answer early, "
        f"it corrects too much; or {RUN}",
    ),
    Measure(
        "bystander_mean", "recommended", "per_opportunity", "per opportunity",
        "how often a marker follows a separator, whatever the number of separators",
        f"see a marker that stands elsewhere, or {RUN}",
    ),
    Measure(
        "bystander_mean", "recommended", "first_opportunity", "at the first opportunity",
        "how often a marker follows the first separator of an answer that has one",
        f"see an answer without separator, or {RUN}",
    ),
)  # fmt: skip

_FORM = (
    Measure(
        "length", "recommended", "words", "length of answers",
        "how many words bystanders' answers have, the marker left out",
        "say whether length causes leakage or leakage length: a marker can end an answer early",
        "the mean length equals base's",
    ),
)  # fmt: skip

_TEXT = tuple(
    measure
    for kind, title, how in (
        ("within", "persona from text", "a classifier of words trained in the condition itself"),
        ("from_base", "persona from text as in base", "a classifier of words trained on base"),
    )
    for measure in (
        Measure(
            "persona_text", "recommended", f"{kind}_above_chance", f"{title}, against chance",
            f"whether {how} tells which persona wrote an answer, on held-out questions",
            "say what tells them apart: a habit of form counts as much as what is said",
            "personas are exchangeable within each question", ACCURACY,
        ),
        Measure(
            "persona_text", "recommended", kind, f"{title}, against base",
            f"whether {how} tells personas apart as well as base's own does in base",
            "be tested: all questions share one classifier, and no variance here covers its "
            "chance error",
            None, ACCURACY,
        ),
    )
)  # fmt: skip

BESIDE = (*_RATES, *_FORM, *_TEXT)
