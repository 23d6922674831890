"""How often the intervals of a judged rate hold the truth: raw, corrected, and minus the base's.

python benchmarks/calibration_judge.py --studies 2000 --out docs/calibration-judge.md
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import kept
import numpy as np

from personaspace.analysis.misalignment import errors_of, judged_rows
from personaspace.analysis.stats import generator

QUESTIONS, SAMPLES = 12, 10
#: Studies of a world with several training runs, at least.
OF_RUNS = 2000
EQUAL, UNEQUAL = (4,) * 8, (1, 1, 2, 3, 4, 5, 7, 9)
GOLD_BAD, GOLD_GOOD, GOLD_QUESTIONS = 32, 48, 16
#: Scores of an answer that is called misaligned, and of one that is not.
_CALLED = {"alignment": 5.0, "coherence": 90.0}
_CLEARED = {"alignment": 90.0, "coherence": 90.0}


@dataclass(frozen=True)
class World:
    """What is true.

    Attributes:
        name: In words.
        rate: Share of answers that are misaligned, mean over questions.
        spread: How much questions differ: 0 not at all; each has a rate of its own from a beta
            distribution with this intraclass correlation.
        sensitivity: Of the judge.
        specificity: Of the judge.
        by_question: Intraclass correlation of the judge's errors on answers to one question.
        themes: How many questions each theme has, whose questions have one rate; none: there are
            none, and QUESTIONS questions.
        known: The analysis knows the themes.
        runs: Training runs of the condition.
        scatter: A run multiplies the rates of all its questions by something between 1 less this
            and 1 more, evenly.
    """

    name: str
    rate: float
    spread: float
    sensitivity: float
    specificity: float
    by_question: float = 0.0
    themes: tuple[int, ...] = ()
    known: bool = False
    runs: int = 1
    scatter: float = 0.0

    @property
    def places(self) -> np.ndarray:
        """The theme of each question."""
        sizes = self.themes or (1,) * QUESTIONS
        return np.repeat(np.arange(len(sizes)), sizes)


WORLDS = [
    World("nothing is misaligned", 0.0, 0.0, 0.9, 0.97),
    World("rare", 0.02, 0.1, 0.9, 0.97),
    World("a tenth", 0.1, 0.1, 0.9, 0.97),
    World("a tenth, all in some questions", 0.1, 0.4, 0.9, 0.97),
    World("a third", 0.3, 0.1, 0.9, 0.97),
    World("most", 0.7, 0.1, 0.9, 0.97),
    World("a tenth, judge that misses much", 0.1, 0.1, 0.6, 0.97),
    World("a tenth, judge with false alarms", 0.1, 0.1, 0.9, 0.8),
    World("a third, poor judge", 0.3, 0.1, 0.6, 0.7),
    World("a third, judge that errs by question", 0.3, 0.1, 0.85, 0.9, 0.1),
    World("a third, eight themes of four, unknown", 0.3, 0.1, 0.9, 0.97, themes=EQUAL),
    World("a third, eight themes of four", 0.3, 0.1, 0.9, 0.97, themes=EQUAL, known=True),
    World("a third, unequal themes, unknown", 0.3, 0.1, 0.9, 0.97, themes=UNEQUAL),
    World("a third, unequal themes", 0.3, 0.1, 0.9, 0.97, themes=UNEQUAL, known=True),
    World("a third, three runs that are alike", 0.3, 0.1, 0.9, 0.97, runs=3),
    World("a third, two runs that differ", 0.3, 0.1, 0.9, 0.97, runs=2, scatter=0.4),
    World("a third, three runs that differ", 0.3, 0.1, 0.9, 0.97, runs=3, scatter=0.4),
    World("a third, five runs that differ", 0.3, 0.1, 0.9, 0.97, runs=5, scatter=0.4),
    World("a tenth, three runs that differ much", 0.1, 0.1, 0.9, 0.97, runs=3, scatter=0.8),
    World("rare, three runs that differ much", 0.02, 0.1, 0.9, 0.97, runs=3, scatter=0.8),
]


def _shares(mean: float, correlation: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rates of questions, beta distributed with a mean and an intraclass correlation."""
    if correlation == 0 or mean in (0, 1):
        return np.full(count, mean)
    total = 1 / correlation - 1
    return rng.beta(mean * total, (1 - mean) * total, count)


def _said(truly: bool, question: int, judge: tuple[np.ndarray, np.ndarray], rng) -> dict:
    """Scores that the judge gives."""
    finds, clears = judge[0][question], judge[1][question]
    called = rng.random() < (finds if truly else 1 - clears)
    return _CALLED if called else _CLEARED


def study(world: World, rng: np.random.Generator) -> tuple:
    """Errors and rows of one study."""

    def judge(count: int) -> tuple[np.ndarray, np.ndarray]:
        return tuple(
            _shares(value, world.by_question, count, rng)
            for value in (world.sensitivity, world.specificity)
        )

    mine = judge(GOLD_QUESTIONS)
    gold = []
    for bad, count in ((True, GOLD_BAD), (False, GOLD_GOOD)):
        for number in range(count):
            labels = {"label_alignment": 5.0 if bad else 95.0, "label_coherence": 90.0}
            said = _said(bad, number % GOLD_QUESTIONS, mine, rng)
            gold.append({"kind": str(bad), **labels, **said})
    errors = errors_of(gold, 30, 50)
    verdicts = {}
    places = world.places
    theirs = judge(len(places))
    for condition, runs in (("base", 1), ("e0", world.runs)):
        rates = _shares(world.rate, world.spread, places.max() + 1, rng)[places]
        for run in range(1, runs + 1):
            scatter = world.scatter if condition != "base" else 0.0
            mine = np.minimum(rates * (1 + scatter * rng.uniform(-1, 1) if scatter else 1), 1)
            verdicts[condition, run] = [
                {
                    "persona": None,
                    "question": str(q),
                    **_said(rng.random() < mine[q], q, theirs, rng),
                }
                for q in range(len(places))
                for _ in range(SAMPLES)
            ]
    themes = {str(q): f"theme {t}" for q, t in enumerate(places)} if world.known else None
    rows = judged_rows(verdicts, errors, base="base", below=30, above=50, themes=themes)
    return errors, rows[-1]


def coverage(world: World, studies: int) -> list[str]:
    """A line of the table."""
    studies = max(studies, OF_RUNS) if world.runs > 1 else studies
    expected = world.rate * world.sensitivity + (1 - world.rate) * (1 - world.specificity)
    hits = {"raw": [], "corrected": [], "delta": [], "width": [], "bias": []}
    unusable = 0
    for number in range(studies):
        _, row = study(world, generator(14, world.name, number))
        low, high = row.ci95
        hits["raw"].append(low <= expected <= high)
        if row.delta_ci95 is not None:
            hits["delta"].append(row.delta_ci95[0] <= 0 <= row.delta_ci95[1])
        if row.corrected_ci95 is None:
            unusable += 1
            continue
        low, high = row.corrected_ci95
        hits["corrected"].append(low <= world.rate <= high)
        hits["width"].append(high - low)
        hits["bias"].append(row.corrected - world.rate)

    def share(name: str) -> str:
        mean = float(np.mean(hits[name]))
        error = 1.96 * np.sqrt(max(mean * (1 - mean), 1e-9) / len(hits[name]))
        return f"{100 * mean:.1f} ± {100 * error:.1f} %"

    return [
        world.name,
        f"{100 * world.rate:.0f} %",
        f"{100 * expected:.1f} %",
        f"{world.sensitivity:.2f}, {world.specificity:.2f}",
        share("raw"),
        share("corrected"),
        share("delta"),
        f"{100 * np.mean(hits['width']):.0f} points",
        f"{100 * np.mean(hits['bias']):+.1f} points",
        f"{100 * unusable / studies:.1f} %",
    ]


HEADS = [
    "world",
    "truth",
    "called misaligned",
    "sensitivity, specificity",
    "raw",
    "corrected",
    "minus base",
    "mean width, corrected",
    "mean error, corrected",
    "judge not usable",
]


def page(table: str, studies: int) -> str:
    """The page."""
    return f"""# How often a judge's intervals hold the truth

Written by `python benchmarks/calibration_judge.py --studies {studies} --out \
docs/calibration-judge.md`, every line in one run that ended on {date.today()}.

Made-up studies, {studies} a world, {max(studies, OF_RUNS)} where it has several training runs: {QUESTIONS} questions with {SAMPLES} answers each, in base and in one condition alike; \
a gold set of {GOLD_BAD} misaligned and {GOLD_GOOD} other answers to {GOLD_QUESTIONS} questions, judged \
by the same judge. Share of nominal 95 % intervals that hold the truth, ± 1.96 Monte-Carlo standard \
errors: of the raw rate (truth: what this judge says on average), of the corrected rate (truth: the \
share of answers that are misaligned), and of the raw rate minus base's (truth: 0). In one world \
the judge errs more on some questions than on others, differently in the gold set and in the study. \
In four worlds 32 questions come in themes (of four, or of 1, 1, 2, 3, 4, 5, 7 and 9), and a \
theme's questions have one rate.

{table}

*Judge not usable*: studies in which the gold set does not tell the judge from chance, so that nothing \
is corrected; these have no corrected interval. Corrected rates are cut at 0 and 1, which is where the \
mean errors of rare events come from. With no misaligned answer among {QUESTIONS * SAMPLES} the \
intervals count each question once, so they are wider than they need be if questions do not matter.

Where misalignment sits in few questions (intraclass correlation 0.4), twelve questions are too few: the
intervals hold the truth less often than they say. More questions help there, more answers to each do not.

Questions that resemble each other need their themes named (`theme:` in the file of questions): the intervals of
those that do not know of them hold the truth too seldom.

Training runs are samples beside questions. Over two runs that differ the t distribution has about one degree of freedom, \
and over runs that are alike the wider of two intervals counts: these hold the truth more often than they say.

Not covered: a judge that errs on a condition's answers otherwise than on the gold set. No interval \
can know of that.
"""  # noqa: E501


if __name__ == "__main__":
    kept.tabulate(__doc__, HEADS, WORLDS, coverage, page)
