"""Sizes of effects that a test detects, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from personaspace.analysis.power.design import Assumptions, Design, Finding
from personaspace.analysis.power.over_runs import Sampled

#: `effect`, `corrected` and `found` of a finding.
Sizes = dict[str, float | None]

IMPOSSIBLE = "More would be needed than any difference that can be: it cannot be detected."
NEVER = "It cannot reject at this level, whatever the data."
ONE_OF_H1 = "One run: what this run does to the persona by chance counts as effect."
#: A power as far from the wanted one is said.
_FAR = 0.03
ONE_RUN = "One run each: it describes these runs, and what differs between runs counts as effect."


def twice(
    detectable: Callable[[float], float | None], alpha: float, tests: int, scale: float = 1.0
) -> Sizes:
    """Detectable effects at the level itself and at what Holm's first step leaves of it."""
    found = {"effect": detectable(alpha), "corrected": detectable(alpha / tests)}
    return {name: None if value is None else scale * value for name, value in found.items()}


def points(
    metric: str, name: str, what: str, found: Sizes, note: str, guess: Assumptions
) -> Finding:
    """An effect on shares of answers, in points; what exceeds 100 is none."""
    possible = {k: None if v is None or v > 100 else v for k, v in found.items()}
    if possible["effect"] is None:
        note = f"{IMPOSSIBLE} {note}".strip()
    often = possible.get("found")
    if often is not None and abs(often - guess.power) > _FAR:
        note = f"It is found in {100 * often:.0f} % of studies. {note}".strip()
    return Finding(metric, name, what, "points", **possible, note=note)


def sampled(
    test: Sampled, design: Design, guess: Assumptions, tests: int, scale: float = 1.0
) -> Sizes:
    """What a t-test detects, and how often that is found in other studies."""
    sizes = twice(partial(test.detectable, power=guess.power), design.alpha, tests)
    found = None if sizes["effect"] is None else test.found(sizes["effect"], design.alpha)
    scaled = {name: None if value is None else scale * value for name, value in sizes.items()}
    return scaled | {"found": found}
