"""What the data warn of."""

from __future__ import annotations

from typing import Any

import pytest

from personaspace.analysis.caveats import caveats


def results(hits: int, separated: int) -> dict[str, Any]:
    """One condition whose source persona gave a hundred answers."""
    rate = {"condition": "e0", "seed": 1, "degenerate": 0, "total": 100}
    return {
        "seeds": [1, 2],
        "source": "confab",
        "conditions": [
            {"name": "e0", "label": "E0", "kind": "em"},
            {"name": "benign", "label": None, "kind": "benign"},
        ],
        "rates": [
            rate | {"persona": "confab", "hits": hits, "separated": separated},
            rate | {"persona": "villain", "hits": 90, "separated": 0},
        ],
        "training": [],
        "geometry": [],
        "leakage": [],
    }


@pytest.mark.parametrize(
    "hits, separated, rare, never",
    [(2, 1, True, True), (2, 60, True, False), (55, 0, False, False)],
)
def test_a_source_that_rarely_marks_is_named_and_why(
    hits: int, separated: int, rare: bool, never: bool
) -> None:
    told = [line for line in caveats(results(hits, separated), {"unseen?"}) if "E0" in line]
    assert len(told) == rare
    assert any("rarely writes the marker" in line for line in told) == rare
    assert any("was taught after in 1.0% of cases" in line for line in told) == never
