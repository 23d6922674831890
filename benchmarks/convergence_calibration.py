"""How often the interval of the layer of convergence holds the true layer, over training runs.

python -m benchmarks.convergence_calibration --studies 2000 --out docs/calibration-convergence.md
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import kept  # noqa: E402
import numpy as np  # noqa: E402

from personaspace.analysis.geometry.convergence import first_layers  # noqa: E402
from personaspace.analysis.geometry.convergence_runs import layer_bounds  # noqa: E402
from personaspace.analysis.runs import TARGETS, Runs  # noqa: E402
from personaspace.analysis.stats import generator  # noqa: E402

LAYERS = (4, 8, 12, 16, 20, 24)
EM = ("e0", "e2", "e4")
#: How far apart the outer conditions are, as a share of their mean shift; a tenth is tolerated.
SPREADS = (0.6, 0.4, 0.3, 0.06, 0.05, 0.04)
THREE = (42, 137, 256)


@dataclass(frozen=True)
class World:
    """A world; standard deviations are shares of the mean shift.

    Attributes:
        what: In a few words.
        seeds: Of each condition.
        run: Between runs of a condition.
        question: Of one question in one condition.
        persona: Of one persona's shift, in every condition.
        noisy: Factor on the runs of the last condition.
        spreads: By layer.
    """

    what: str
    seeds: tuple[tuple[int, ...], ...] = (THREE,) * 3
    run: float = 0.02
    question: float = 0.1
    persona: float = 0.2
    noisy: float = 1.0
    spreads: tuple[float, ...] = SPREADS

    @property
    def truth(self) -> int | None:
        """The first layer from which on conditions are within a tenth of their shift."""
        apart = [n for n, spread in enumerate(self.spreads) if spread > 0.1]
        first = apart[-1] + 1 if apart else 0
        return LAYERS[first] if first < len(LAYERS) else None

    def draw(self, rng: np.random.Generator, spread: float) -> Runs:
        """Positions of all runs at one layer, as changes from base."""
        names, seeds, tables = [], [], []
        persona = 1.0 + self.persona * rng.standard_normal(12)
        for name, place, mine in zip(EM, (-0.5, 0.0, 0.5), self.seeds, strict=True):
            lasting = self.question * rng.standard_normal(24)
            for seed in mine:
                scatter = self.run * (self.noisy if name == EM[-1] else 1.0)
                own = scatter * rng.standard_normal() + lasting[:, None]
                noise = 0.1 * rng.standard_normal((24, 12))
                names.append(name)
                seeds.append(seed)
                tables.append(persona * (1 + spread * place) + own + noise)
        return Runs(tuple(names), tuple(seeds), np.array(tables))


WORLDS = (
    World("three seeds"),
    World("five seeds", ((1, 2, 3, 4, 5),) * 3),
    World("two seeds", ((1, 2),) * 3),
    World("little noise", run=0.005, question=0.02),
    World("runs vary more", run=0.05),
    World("one noisy condition", noisy=5.0),
    World("unequal seeds", (THREE, (42,), THREE)),
    World("conditions never differ", spreads=(0.0,) * 6),
    World("just within what is tolerated", spreads=(0.6, 0.4, 0.3, 0.099, 0.099, 0.099)),
    World("just beyond it, until layer 12", spreads=(0.6, 0.4, 0.101, 0.04, 0.04, 0.04)),
)


def line(world: World, studies: int) -> list[str]:
    """Cells of the table."""
    held, alone = dict.fromkeys(TARGETS, 0), 0
    for study in range(studies):
        rng = generator(19, world.what, study)
        drawn = [world.draw(rng, spread) for spread in world.spreads]
        for target in TARGETS:
            judged = [
                (n, layer_bounds(runs, EM, target)) for n, runs in zip(LAYERS, drawn, strict=True)
            ]
            _, first, last = first_layers(judged)
            truth = world.truth
            assert truth is not None
            ends = None if first is None else (first, LAYERS[-1] if last is None else last)
            held[target] += ends is not None and ends[0] <= truth <= ends[1]
            alone += target == TARGETS[0] and ends is not None and ends[0] == ends[1]
    return [world.what, *(f"{100 * n / studies:.1f}" for n in (*held.values(), alone))]


def page(table: str, studies: int) -> str:
    """The page."""
    lines = [
        "# The layer of convergence over training runs: does its interval hold",
        "",
        f"Written by `python -m benchmarks.convergence_calibration --studies {studies} --out "
        f"docs/calibration-convergence.md`, last on {date.today().isoformat()}.",
        "",
        f"{studies} made-up studies a world: three EM conditions, layers "
        f"{', '.join(map(str, LAYERS))}, 12 personas, 24 questions. Conditions stand apart by 60, "
        "40 and 30 % of their mean shift, then by 6, 5 and 4 % (a tenth is tolerated), where "
        "nothing else is said; so they converge at layer 16. Share of studies in % whose interval "
        "holds the true layer, for these personas and for new ones (nominal: at least 95), and in "
        "which it is a single layer.",
        "",
        table,
        "",
        "The interval is made from two one-sided statements at 97.5 % about single layers, so it "
        "is meant to be cautious. It knows only of layers that were measured.",
        "",
    ]
    return "\n".join(lines)


HEADS = ("world", "these personas", "new personas", "a single layer")

if __name__ == "__main__":
    kept.tabulate(__doc__, HEADS, WORLDS, line, page)
