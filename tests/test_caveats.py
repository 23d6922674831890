"""What the data warn of."""

from __future__ import annotations

from typing import Any

import pytest

from personaspace.analysis.caveats import CaveatCode, caveats
from personaspace.analysis.control import assessed
from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import (
    PersonaInfo,
    QuestionsInfo,
    RateRow,
    StudyCondition,
    TrainingRow,
)
from personaspace.analysis.rows import Row

COUNTED = {"condition": "e0", "seed": 1, "degenerate": 0, "total": 100}
#: A source that passes the positive control.
FINE = RateRow(**COUNTED, persona="confab", hits=55, separated=60)


def results(**parts: Any) -> Results:
    """A study that nothing is to be said against, but for the parts."""
    kinds = [("base", "base"), ("benign", "benign"), ("e0", "em")]
    whole = {
        "study": "s",
        "seeds": [1, 2],
        "source": "confab",
        "conditions": [StudyCondition(name=n, label=n.upper(), kind=k) for n, k in kinds],
        "rates": [FINE],
    }
    return assessed(Results(**{**whole, **parts}))


def told(found: Results, *unseen: str) -> list[tuple[CaveatCode, str | None]]:
    return [(caveat.code, caveat.condition) for caveat in caveats(found, unseen)]


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert told(results(), "unseen?") == []


@pytest.mark.parametrize(
    "hits, separated, rare, never",
    [(2, 1, True, True), (2, 60, True, False), (55, 0, False, False)],
)
def test_a_source_that_rarely_marks_is_named_and_why(
    hits: int, separated: int, rare: bool, never: bool
) -> None:
    source = RateRow(**COUNTED, persona="confab", hits=hits, separated=separated)
    villain = RateRow(**COUNTED, persona="villain", hits=90, separated=0)
    found = results(rates=[source, villain])
    assert told(found, "unseen?") == [(CaveatCode.SOURCE_RARELY_MARKS, "e0")] * rare
    words = [caveat.text for caveat in caveats(found, {"unseen?"})]
    assert any("Only 1.0% of its answers have the separator" in line for line in words) == never
    assert all(line.startswith("E0: ") for line in words), "a condition's label"


def test_each_warning_has_its_code() -> None:
    em = [StudyCondition(name=f"e{n}") for n in range(3)]
    assert told(results(seeds=[1]), "q") == [(CaveatCode.ONE_SEED, None)]
    assert told(results(conditions=em), "q") == [
        (CaveatCode.FEW_CONDITIONS, None),
        (CaveatCode.NO_BENIGN, None),
    ]
    assert told(results()) == [(CaveatCode.SEEN_QUESTIONS, None)]
    assert told(results(rates=[])) == [], "without answers no question was asked"
    broken = RateRow(**{**COUNTED, "degenerate": 40}, persona="confab", hits=55, separated=60)
    assert told(results(rates=[broken]), "q") == [(CaveatCode.DEGENERATE_ANSWERS, "e0")]
    losses = {"condition": "e0", "stage": "train", "loss_first": 1.0}
    rose = TrainingRow(**losses, steps=2, loss_last=1.2)
    fell = TrainingRow(**losses, steps=2, loss_last=0.5)
    once = TrainingRow(**losses, steps=1, loss_last=2.0)
    assert told(results(training=[fell, rose, once]), "q") == [(CaveatCode.LOSS_ROSE, "e0")]
    row = Row("M1", "recommended", "a", 3, "e0", 1, name="spread", warning="It is odd.")
    assert told(results(geometry=[row]), "q") == [(CaveatCode.FAILED_ASSUMPTION, None)]


@pytest.mark.parametrize(
    "several, words",
    [
        (1, "Of 3 personas 1 has several wordings (p0); what is said of the others"),
        (2, "Of 3 personas 2 have several wordings (p0, p1); what is said of the other is"),
    ],
)
def test_one_of_something_is_told_as_one(several: int, words: str) -> None:
    personas = [
        PersonaInfo(name=f"p{n}", prompts=["x", "y"] if n < several else []) for n in range(3)
    ]
    (said,) = caveats(results(personas=personas), {"q"})
    assert said.code == CaveatCode.WORDINGS and said.text.startswith(words)


@pytest.mark.parametrize("left, words", [(1, "1 has no theme"), (2, "2 have no theme")])
def test_questions_without_a_theme_are_counted(left: int, words: str) -> None:
    asked = QuestionsInfo(stage="evaluation", count=20, themes=12, unthemed=left)
    (said,) = caveats(results(questions=[asked]), {"q"})
    assert words in said.text
