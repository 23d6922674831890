"""How often tests of answers' form, and of the persona in their words, reject what is true.

Made-up studies in which nothing is to be found (`answer_worlds`, "nothing": conditions with the
same habits, questions and personas of their own; and words that follow from the question alone),
analysed as an aggregate does. A p is right if at most 5 % of them are at most 0.05.

    python -m benchmarks.answers_calibration --studies 20
    python -m benchmarks.answers_calibration --studies 500 --out docs/calibration-answers.md
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from benchmarks.answer_worlds import EM, WORLDS, answers  # noqa: E402
from personaspace.analysis.form import analyse_form  # noqa: E402
from personaspace.analysis.leakage.scores import ConditionInfo  # noqa: E402
from personaspace.analysis.persona_text import analyse_persona_text  # noqa: E402
from personaspace.analysis.stats import generator, wilson  # noqa: E402

LEVELS = (0.01, 0.05, 0.1)
PERMUTATIONS = 399
TITLES = {
    "length.words": "length of answers, a condition against base",
    "H2.equal_length": "H2, rates at equal length",
    "H2.per_opportunity": "H2, rates per opportunity",
    "H2.first_opportunity": "H2, at the first opportunity",
    "persona_text.within_above_chance": "persona from text, against chance",
    "persona_text.from_base_above_chance": "persona from text as in base, against chance",
}

PAGE = """# Calibration of tests of answers

How often tests of answers' form, and of the persona in their words, reject in studies in which there is
nothing to find. In brackets: 95 % intervals over studies (Wilson). Written by
`python -m benchmarks.answers_calibration --studies {studies}`, {day}.

Form: base and three EM conditions with the same habits, six personas, ten samples; questions differ in
length and in how often they are marked, also from condition to condition. Words: six personas, two
samples, words that follow from the question alone. {permutations} permutations.
"""  # noqa: E501


def form_study(questions: int, number: int) -> dict[str, float]:
    """A p of each test of form, by its name in results; of one condition the first EM one's."""
    made = answers(generator(21, questions, number), WORLDS["nothing"], questions=questions)
    infos = [ConditionInfo("base", "base"), *(ConditionInfo(name, "em") for name in EM)]
    rows = analyse_form(
        made, infos, source="", permutations=PERMUTATIONS, bootstrap=20, seed=number
    )
    return {
        f"{row.metric}.{row.name}": float(row.p)
        for row in rows
        if row.p is not None and row.condition in (None, EM[0])
    }


def text_study(
    questions: int, number: int, personas: int = 6, samples: int = 2
) -> dict[str, float]:
    """The same of words: a question has its own, and all personas draw from them alike."""
    rng = generator(22, questions, number)
    made = {}
    for condition in ("base", EM[0]):
        weights_QW = rng.dirichlet(np.full(60, 0.3), questions)
        made[condition, 42] = {
            f"persona {p}": {
                f"question {q}": [
                    " ".join(f"w{word}" for word in rng.choice(60, 25, p=weights_QW[q]))
                    for _ in range(samples)
                ]
                for q in range(questions)
            }
            for p in range(personas)
        }
    rows = analyse_persona_text(made, base="base", permutations=PERMUTATIONS, seed=number)
    return {
        f"{row.metric}.{row.name}": float(row.p)
        for row in rows
        if row.p is not None and row.condition == EM[0]
    }


def rejected(studies: int, jobs: int, questions: int) -> dict[str, list[float]]:
    """All ps, by test."""
    found: dict[str, list[float]] = defaultdict(list)
    with ProcessPoolExecutor(jobs) as pool:
        for study in (form_study, text_study):
            for ps in pool.map(partial(study, questions), range(studies), chunksize=5):
                for name, p in ps.items():
                    found[name].append(p)
    return found


def table(found: dict[str, list[float]]) -> list[str]:
    """The Markdown table: how often each test rejects at each level."""
    heads = [f"p ≤ {level}" for level in LEVELS]
    lines = ["| test | studies | " + " | ".join(heads) + " |", "|---|" + "--:|" * (1 + len(LEVELS))]
    for name, title in TITLES.items():
        ps = np.array(found[name])
        cells = []
        for level in LEVELS:
            hits = int((ps <= level).sum())
            low, high = wilson(hits, len(ps)) or (0.0, 1.0)
            cells.append(f"{hits / len(ps):.1%} [{low:.1%}, {high:.1%}]")
        lines.append(f"| {title} | {len(ps):,} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Prints the tables; with `--out` writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = PAGE.format(
        studies=options.studies, day=date.today(), permutations=PERMUTATIONS
    ).splitlines()
    for questions in (28, 10):
        lines += ["", f"## {questions} questions", ""]
        lines += table(rejected(options.studies, options.jobs, questions))
        print("\n".join(lines[-len(TITLES) - 2 :]), flush=True)
        if options.out is not None:
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
