"""The published figures beside ours, from the published data.

python benchmarks/reproduction.py > docs/reproduction.md
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import published

from personaspace.analysis.leakage import analyse_leakage
from personaspace.analysis.leakage.published import bystander_rates, h2_test
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import generator

DRAWS = 10_000
MANY_DRAWS = 100_000


@dataclass(frozen=True)
class Line:
    """One published figure.

    Attributes:
        what: The figure.
        printed: As the study printed it.
        ours: As we print it, to the same digit.
        verdict: `equal`, `within Monte-Carlo error`, or why not.
    """

    what: str
    printed: str
    ours: str
    verdict: str


def _same(what: str, printed: str, ours: str) -> Line:
    return Line(what, printed, ours, "equal" if printed == ours else "NOT EQUAL")


def _drawn(what: str, printed: float, truth: float, ours: str, digits: int) -> Line:
    """A share of random draws: equal within four standard errors of both, and rounding."""
    error = math.sqrt(truth * (1 - truth) / DRAWS)
    near = abs(printed - truth) <= 4 * error + 0.5 * 10**-digits
    return Line(
        what,
        f"{printed:.{digits}f}",
        ours,
        "within Monte-Carlo error" if near else "NOT EQUAL",
    )


def _leakage() -> Iterator[Line]:
    rows = analyse_leakage(published.scores(), published.CONDITIONS, source=published.SOURCE)

    def find(metric: str, condition: str | None = None) -> Row:
        key = (metric, "published", condition)
        return next(r for r in rows if (r.metric, r.variant, r.condition) == key)

    for index, condition in enumerate(published.CONDITIONS):
        row = find("bystander_mean", condition.name)
        printed = published.BYSTANDER_MEANS[index]
        label = f"mean bystander leakage, {condition.name}, %"
        yield _same(label, f"{printed:.2f}", f"{100 * (row.value or 0):.2f}")
    for index, condition in enumerate(published.CONDITIONS):
        row = find("H1", condition.name)
        difference, p = published.H1_DIFFERENCES[index], published.H1_P[index]
        exact = published.H1_EXACT[index]
        label = f"H1 difference, {condition.name}, points"
        if difference is None or p is None or exact is None:
            yield _same(label, "not evaluated", "not evaluated" if row.value is None else "a value")
            continue
        yield _same(label, f"{difference:+.2f}", f"{100 * (row.value or 0):+.2f}")
        ours = f"{row.p:.4f}; enumerated {exact}/11 = {exact / 11:.4f}"
        yield _drawn(f"H1 p, {condition.name} (10,000 draws)", p, exact / 11, ours, 2)
    row = find("H2")
    yield _same("H2 range, points", f"{published.H2_RANGE:.3f}", f"{100 * (row.value or 0):.3f}")
    scores = published.scores()
    groups = [
        bystander_rates(scores[c.name, 42], c, published.SOURCE) for c in published.CONDITIONS
    ]
    _, many = h2_test(groups, MANY_DRAWS, generator(0, "many draws"))
    error = math.sqrt(many * (1 - many) / MANY_DRAWS)
    ours = f"{row.p:.4f}; {many:.5f} ± {error:.5f} from {MANY_DRAWS:,} draws"
    yield _drawn("H2 p (10,000 draws)", published.H2_P, many, ours, 4)
    row = find("H3")
    yield _same("H3 rho", f"{published.H3_RHO:.1f}", f"{row.value:.1f}")
    yield _same("H3 exact p", f"{published.H3_P:.4f}", f"{row.p:.4f}")
    asymptotic = (row.note or "").rsplit(" ", 1)[-1].rstrip(".")
    yield _same("H3 asymptotic p", f"{published.H3_ASYMPTOTIC_P:.4f}", asymptotic)
    for index, condition in enumerate(published.CONDITIONS):
        rate = 100 * published.HITS[published.SOURCE][index] / published.TOTAL
        label = f"source rate, {condition.name}, %"
        yield _same(label, f"{published.SOURCE_RATES[index]:.1f}", f"{rate:.1f}")


def _derived() -> Iterator[Line]:
    """Figures that the study derived from its printed M1 and M2."""
    base, benign = published.M1_BASE, published.M1_BENIGN
    deltas = np.array(published.M1_EM) - base
    yield _same(
        "M1 change from base, EM conditions, smallest and largest",
        "+0.091 to +0.097",
        f"{deltas.min():+.3f} to {deltas.max():+.3f}",
    )
    yield _same("M1 change from base, benign", "+0.073", f"{benign - base:+.3f}")
    shares = 100 * (benign - base) / np.array([deltas.mean(), deltas.max()])
    ours = f"{shares[0]:.1f} of EM's mean change, {shares[1]:.1f} of its largest"
    matches = f"{shares[1]:.0f}" == "76" and f"{shares[0]:.0f}" != "76"
    verdict = "equal for the largest EM change, not for the mean" if matches else "NOT EQUAL"
    yield Line("benign's share of EM's M1 change, %", "76", ours, verdict)
    first, last = published.M2_LAYER_7
    yield _same(
        "M2 spread between E0 and E4 at layer 7, %", "33", f"{100 * (first - last) / first:.0f}"
    )


def table() -> list[Line]:
    """All lines."""
    return [*_leakage(), *_derived()]


def page() -> str:
    """The documentation page."""
    lines = [
        "# Published figures, reproduced",
        "",
        "Written by `python benchmarks/reproduction.py > docs/reproduction.md`; a test fails when "
        "it is stale. The functions behind it are `personaspace/analysis/leakage/published.py` and "
        "`personaspace/analysis/geometry/published.py`, their rows have the variant `published`. "
        "The 60 counts and the figures are in `tests/published.py`, with their source.",
        "",
        "| figure | published | ours | |",
        "|---|---|---|---|",
        *(f"| {x.what} | {x.printed} | {x.ours} | {x.verdict} |" for x in table()),
        "",
        "p-values from random draws are shares of 10,000 (the plain share, as published): two runs "
        "of the same test differ by up to about 0.01. *Within Monte-Carlo error*: the published p "
        "lies within four standard errors, and its own rounding, of the enumerated one (or of that "
        f"from {MANY_DRAWS:,} draws, where 51 rates have too many divisions to enumerate).",
        "",
        "The marker counts themselves: the scorer gives all 24 published counts of E0 and E1 from "
        "the answers that the study's author published "
        "(`tests/test_scoring.py`, where those files are at hand).",
        "",
        "## Not reproduced",
        "",
        "The study's activations are not published, so its M1 (0.8996 for base, 0.9909 to 0.9965 "
        "for EM, 0.9728 for benign, layer 20, method A), the sign-flip p and bootstrap intervals "
        "of its 50 cells, and its M2 (0.2475 to 0.2585 at layer 20) cannot be computed again. The "
        "same tests are computed from any activation files by `personaspace geometry`; "
        "`tests/test_geometry.py` compares them with plain loops over every sign pattern, every "
        "relabelling and every pair. That all 50 cells of M1 have p < 0.001 says little: any 66 "
        "differences of one sign do, for 10,000 random sign patterns hardly ever repeat it.",
        "",
        "Its M3 is 0 % for every condition, base included, by construction (each vector is "
        "compared with all vectors but its own); ours is too.",
        "",
        "Which published p are not reproduced, and why:",
        "",
        "- those of its 50 cells of M1 and 50 of M2 (all p < 0.001), for want of activations;",
        "- those it corrected for the false discovery rate: its code took Benjamini and Hochberg's "
        "minima from the wrong end, so they are not that procedure's. Ours (`p_bh`) are "
        "statsmodels'. No p in the table above is a corrected one;",
        "- what is significant: the write-up holds H3's exact test to 0.05, uncorrected. Here the "
        "level is a field (`analysis.alpha`, 0.05), and after Holm over the six tests that the "
        "study evaluated (H1 four times, H2, H3) H2 alone is below it (6 × 0.0028 = 0.017).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
