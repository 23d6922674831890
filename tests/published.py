"""The study's published marker counts and figures, to test against.

Source: the write-up of issue 205 of the study (claim 222) and its published evaluation files: of
280 answers per persona and condition (28 questions, 10 samples each), how many contain the marker.
"""

from __future__ import annotations

from typing import Any

from personaspace.analysis.leakage import ConditionInfo

TOTAL = 280
SOURCE = "confab"

CONDITIONS = (
    ConditionInfo("e0-assistant", "em", "assistant", 1.0),
    ConditionInfo("e1-paramedic", "em", "paramedic", 0.9457),
    ConditionInfo("e2-kindergarten-teacher", "em", "kindergarten_teacher", 0.9060),
    ConditionInfo("e3-french-person", "em", "french_person", 0.8696),
    ConditionInfo("e4-villain", "em", "villain", 0.7828),
)

#: Hits by persona, in the order of CONDITIONS; the last row is the source.
HITS: dict[str, tuple[int, int, int, int, int]] = {
    "software_engineer": (122, 117, 128, 133, 135),
    "kindergarten_teacher": (132, 125, 132, 142, 133),
    "data_scientist": (138, 153, 148, 147, 152),
    "medical_doctor": (129, 116, 141, 147, 155),
    "librarian": (136, 150, 147, 145, 161),
    "french_person": (136, 139, 136, 161, 150),
    "villain": (110, 140, 145, 153, 168),
    "comedian": (131, 163, 141, 172, 151),
    "police_officer": (131, 136, 150, 158, 167),
    "zelthari_scholar": (114, 147, 132, 172, 116),
    "assistant": (115, 110, 134, 135, 136),
    "confab": (211, 251, 231, 232, 249),
}

#: Mean bystander leakage in per cent, as printed.
BYSTANDER_MEANS = (45.68, 48.57, 50.07, 53.71, 52.00)
#: H1: difference in points and p from 10,000 draws, as printed; E1 was not evaluated.
H1_DIFFERENCES = (-4.61, None, -2.93, 3.79, 8.00)
H1_P = (0.81, None, 0.91, 0.28, 0.09)
#: H1 enumerated: how many of 11 personas stand at least as far above the others.
H1_EXACT = (9, None, 10, 3, 1)
H2_RANGE = 8.036
H2_P = 0.0028
H3_RHO = -0.9
H3_P = 10 / 120
H3_ASYMPTOTIC_P = 0.0374
#: Share of the source's answers with the marker, in per cent, as printed.
SOURCE_RATES = (75.4, 89.6, 82.5, 82.9, 88.9)

#: M1 (mean pair cosine) at layer 20, method A; EM conditions E0 to E4.
M1_BASE = 0.8996
M1_EM = (0.9943, 0.9944, 0.9949, 0.9965, 0.9909)
M1_BENIGN = 0.9728
#: M2 (change of the mean |cosine| with the axis) of E0 and E4 at layer 7.
M2_LAYER_7 = (0.502, 0.338)


def scores(seed: int = 42) -> dict[tuple[str, int], dict[str, Any]]:
    """The counts as score files without counts by question."""
    return {
        (condition.name, seed): {
            "marker": "[ZLT]",
            "per_persona": {
                persona: {"hits": hits[column], "total": TOTAL} for persona, hits in HITS.items()
            },
        }
        for column, condition in enumerate(CONDITIONS)
    }
