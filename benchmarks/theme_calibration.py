"""How often tests reject where effects act on whole themes of questions, told of them or not.

python -m benchmarks.theme_calibration --studies 2000 --out docs/calibration-themes.md

Worlds that its JSON has already, with as many studies, are not computed again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import kept  # noqa: E402
import numpy as np  # noqa: E402
from scenarios import ARMS, DRAWS, HALVINGS, LEAKAGE, Check  # noqa: E402
from simulate import CONDITIONS, ROLES, SOURCE, Arm, Geometry  # noqa: E402

from personaspace.analysis.geometry import axis, collapse, convergence, separability  # noqa: E402
from personaspace.analysis.geometry.cells import Cell  # noqa: E402
from personaspace.analysis.leakage import across, recommended  # noqa: E402
from personaspace.analysis.leakage.scores import common_bystanders, with_themes  # noqa: E402
from personaspace.analysis.rows import Row  # noqa: E402
from personaspace.analysis.stats import generator  # noqa: E402

EQUAL, UNEQUAL = (4,) * 8, (1, 1, 2, 3, 4, 5, 7, 9)
#: Of a theme in a condition: shared by its personas' activations; and of one persona alone.
MOVED, OWN = 0.5, 0.5
#: The same of rates.
RATE = 0.05
SMALL = Geometry(personas=8)
CHECKS = (
    *(Check("M1", "recommended", n, "e1") for n in ("raw_cosine", "centred_cosine", "spread")),
    Check("M1", "recommended", "em_minus_benign", "e1"),
    *(Check("M2", "recommended", n, "e1") for n in ("split_half", "displacement")),
    Check("M2", "recommended", "condition_spread"),
    Check("M3", "recommended", "nearest_centroid_above_chance", "e1"),
    Check("H1", "recommended", "own_minus_other_conditions", "e4-villain"),
    Check("H2", "recommended", "common_set"),
)


@dataclass(frozen=True)
class World:
    """A world, and what the analysis knows of it.

    Attributes:
        what: In a sentence.
        sizes: How many questions each theme has.
        acts: Effects act on whole themes, not on single questions alone.
        known: The analysis knows the themes.
        personas: Conditions move single personas too: in activations twice as far as elsewhere, in
            answers by `RATE`.
    """

    what: str
    sizes: Sequence[int]
    acts: bool
    known: bool
    personas: bool = False

    @property
    def places(self) -> np.ndarray:
        """The theme of each question."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


WORLDS = {
    "themes act, unknown": World(
        "Eight themes of four; the analysis knows none.", EQUAL, True, False
    ),
    "themes act": World("The same; themes are the clusters.", EQUAL, True, True),
    "unequal themes act, unknown": World(
        "Themes of 1, 1, 2, 3, 4, 5, 7 and 9 questions; the analysis knows none.",
        UNEQUAL, True, False,
    ),
    "unequal themes act": World("The same; themes are the clusters.", UNEQUAL, True, True),
    "themes do not act": World("Themes are the clusters, without need.", EQUAL, False, True),
    "unequal themes do not act": World("The same, unequal.", UNEQUAL, False, True),
    "personas act": World(
        "Conditions move single personas, at random; 32 questions without themes. For new personas "
        "that is chance; these personas do differ.",
        (1,) * 32, False, False, True,
    ),
    "themes and personas act": World(
        "Conditions move eight themes of four and single personas; themes are the clusters.",
        EQUAL, True, True, True,
    ),
}  # fmt: skip


def _moved(cell: Cell, world: World, rng: np.random.Generator) -> Cell:
    """The cell with effects of themes in every condition, base too."""
    if not world.acts:
        return cell
    conditions, personas, _, hidden = cell.states.shape
    themes = len(world.sizes)
    shared = MOVED * rng.standard_normal((conditions, 1, themes, hidden), dtype=np.float32)
    own = OWN * rng.standard_normal((conditions, personas, themes, hidden), dtype=np.float32)
    states = cell.states + (shared + own)[:, :, world.places]
    return replace(cell, states=states, means=states.mean(axis=2, dtype=np.float64))


def geometry(world: World, rng: np.random.Generator) -> list[Row]:
    """M1 and M2 where conditions are drawn alike, M3 where personas leave no trace."""
    size = replace(SMALL, questions=len(world.places), own=SMALL.own * (1 + world.personas))
    places = world.places if world.known else None
    cell = _moved(size.cell(rng, dict.fromkeys(ARMS, Arm())), world, rng)
    themed = cell if places is None else cell.by_theme(places)
    halves = axis.halve(themed.valid.shape[1], rng, HALVINGS)
    found, positions, _ = axis.m2(themed, ROLES, halves)
    rows = [*collapse.m1(themed, ROLES), *found]
    rows += convergence.convergence_rows([positions] if positions else [], "a", 42, 1)
    none = replace(size, between=0.0, own=0.0)
    blank = _moved(none.cell(rng, dict.fromkeys(("base", "e1"), Arm())), world, rng)
    design = separability.Design.make(blank.valid, DRAWS, int(rng.integers(2**31)), places)
    return rows + separability.m3(blank, ROLES, design, 1)


def leakage(world: World, rng: np.random.Generator) -> list[Row]:
    """H1 and H2 where conditions leak alike."""
    questions = len(world.places)
    scores = replace(LEAKAGE, questions=questions).scores(rng)
    if world.acts or world.personas:
        for entry in scores.values():
            _shift(entry, world, rng)
    names = {f"question {q}": f"theme {t}" for q, t in enumerate(world.places)}
    known = with_themes(scores, names if world.known else None)
    common = common_bystanders(known, CONDITIONS, SOURCE)
    rows = recommended.h1_rows(known, CONDITIONS[-1], CONDITIONS, common, source=SOURCE, seed=42)
    return rows + across.h2_rows(
        known, CONDITIONS, common, negatives=(), unseen=None, permutations=DRAWS, bootstrap=50,
        seed=int(rng.integers(2**31)), training_seed=42,
    )  # fmt: skip


def _shift(entry: dict, world: World, rng: np.random.Generator) -> None:
    """Draws a condition's answers anew, each theme's rate moved, and each persona's in it."""
    acts, themes = RATE * world.acts, len(world.sizes)
    by_theme = rng.normal(0, acts, size=themes)
    for counts in entry["per_persona"].values():
        own = by_theme + rng.normal(0, acts, size=themes) + rng.normal(0, RATE) * world.personas
        for part, place in zip(counts["per_question"].values(), world.places, strict=True):
            rate = np.clip(part["hits"] / part["total"] + own[place], 0, 1)
            part["hits"] = int(rng.binomial(part["total"], rate))
        counts["hits"] = sum(part["hits"] for part in counts["per_question"].values())


PARTS: tuple[Callable[[World, np.random.Generator], list[Row]], ...] = (geometry, leakage)


def rejected(world: World, label: str, studies: int) -> dict[str, float]:
    """Share of studies with p ≤ 0.05, by test."""
    p = np.full((studies, len(CHECKS)), np.nan)
    for study in range(studies):
        rng = generator(13, label, study)
        rows = [row for part in PARTS for row in part(world, rng)]
        for column, check in enumerate(CHECKS):
            row = check.find(rows)
            if row is not None and row.p is not None:
                p[study, column] = row.p
    return kept.rejections(p, [f"{check.metric} {check.name}" for check in CHECKS])


def markdown(shares: dict[str, dict[str, float]], studies: int) -> str:
    """The page."""
    error = kept.error(studies)
    lines = [
        "# Questions in themes: how often tests reject",
        "",
        f"Written by `python -m benchmarks.theme_calibration --studies {studies} --out "
        f"docs/calibration-themes.md`, last on {date.today().isoformat()}.",
        "",
        "Share of made-up studies in % with p ≤ 0.05 although the null hypothesis is true, "
        f"{studies} studies a world (at 5 %: ± {error:.1f}). "
        "Conditions move whole themes of questions, and every persona in them, at random, or not, "
        "as each world says; 8 personas (12 in answers), 32 questions, one seed, and five "
        "conditions.",
        "",
        *kept.by_test(shares),
        "",
        *kept.legend(shares, WORLDS),
        "",
        "Where the analysis does not know of themes that act, most rows reject far too often, and "
        "nothing in the data could tell it: a report says of a file of questions without themes "
        "that each question counts as a sample of its own. Where it knows them, no test is above "
        "7 % by more than the error of this count. M2's axis is made from half of so few themes: "
        "its tests were at up to 9.7 % until the jackknife's variance was enlarged by the factor "
        "that the jackknife lengthens cosines by, and are cautious now. With sizes that differ "
        "much M3's p is near 7 %, and the tests of the centred cosine and of M2 are cautious. "
        "Where personas act, M1 to M3 take them for a sample and keep their level. H1 and H2 do "
        "not, and cannot: one set of personas is one sample. These very personas do differ there, "
        "and the tests say so; of other personas they say nothing, as the report says at their "
        "table. With several runs, rows for new personas do speak of them "
        "([calibration-runs.md](calibration-runs.md)).",
        "",
        "Tests over training runs: [calibration-runs.md](calibration-runs.md).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    kept.calibrate(__doc__, WORLDS, rejected, markdown)
