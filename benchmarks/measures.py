"""What each measure says of made-up answers whose leakage has one known cause.

python benchmarks/measures.py --runs 10
python benchmarks/measures.py --runs 200 --jobs 2 --out docs/measures.md
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from answer_worlds import CONDITIONS, EM, PERSONAS, WORLDS, answers  # noqa: E402

from personaspace.analysis.form.analysis import rates_of  # noqa: E402
from personaspace.analysis.form.answers import sheet_of  # noqa: E402
from personaspace.analysis.leakage.across import clustered_range  # noqa: E402
from personaspace.analysis.stats import generator  # noqa: E402

NAMES = {
    "marked": "containment",
    "equal_length": "at equal length",
    "per_opportunity": "per opportunity",
    "first_opportunity": "first opportunity",
}
DRAWS = 399
#: Text of the page that the table stands in, up to here.
MARK = "<!-- planted -->"


def study(task: tuple[str, int]) -> list[tuple[float, float]]:
    """Difference of the last and first EM condition, and H2's p, for each measure."""
    world, number = task
    forms = answers(generator(11, world, number), WORLDS[world])
    sheet = sheet_of(forms, EM, PERSONAS)
    assert sheet is not None
    found = []
    for name in NAMES:
        rates = rates_of(sheet)[name]
        rng = generator(12, world, number, name)
        test = clustered_range(rates.pseudo_CQ, DRAWS, 20, rng)
        found.append((float(rates.value_C[-1] - rates.value_C[0]), test.p))
    return found


def table(runs: int, jobs: int) -> list[str]:
    """The Markdown table: worlds down, measures across."""
    heads = ["conditions differ in", *NAMES.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * len(NAMES)]
    with ProcessPoolExecutor(jobs) as pool:
        for world in WORLDS:
            tasks = [(world, number) for number in range(runs)]
            found = np.array(list(pool.map(study, tasks, chunksize=5)))
            change, p = 100 * found[:, :, 0], found[:, :, 1]
            cells = [
                f"{change[:, column].mean():+.1f} ± "
                f"{196 * change[:, column].std(ddof=1) / 100 / np.sqrt(runs):.1f} "
                f"({100 * (p[:, column] <= 0.05).mean():.0f} %)"
                for column in range(len(NAMES))
            ]
            lines.append("| " + " | ".join([world, *cells]) + " |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Prints the table; with `--out` puts it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = table(options.runs, options.jobs)
    if options.out is None:
        return
    text = options.out.read_text(encoding="utf-8")
    before, _, after = text.partition(MARK)
    _, _, rest = after.partition(MARK)
    made = (
        f"`python benchmarks/measures.py --runs {options.runs} --out {options.out}`, "
        f"{date.today().isoformat()}; {len(CONDITIONS) - 1} EM conditions, {len(PERSONAS)} "
        "personas, 28 questions, 10 samples."
    )
    options.out.write_text(
        f"{before}{MARK}\n{made}\n\n" + "\n".join(lines) + f"\n{MARK}{rest}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
