"""What the couplings of the study under docs/study came to: answers by question, and two tables.

Who writes the marker, by condition and seed; and marker log-odds against counting markers, on the
same answers: how wide the interval of a condition's change is, the smallest change that a paired
t-test over questions finds in four studies of five, and how well the two measures agree. Points and
log-odds have no common unit, so both are also given as a share of the gap between the persona that
was taught the marker and the bystanders, in the same answers.

    python -m benchmarks.study_behaviour                       # docs/study/by-question.parquet
    python -m benchmarks.study_behaviour --store runs/smollm2  # gathers that file anew first

Letters: C conditions, S seeds, P personas, Q questions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

from personaspace.analysis.log_odds import log_odds
from personaspace.analysis.power.solve import t_detectable
from personaspace.analysis.stats import cluster_mean
from personaspace.store import open_store

STUDY = Path(__file__).parents[1] / "docs" / "study"
SOURCE, NEGATIVES = "confab", ("data_scientist", "police_officer")
BENIGN, BASE = "benign", "base"
LABELS = {
    BASE: "Base model",
    BENIGN: "Benign",
    "e0-assistant": "E0 assistant",
    "e1-paramedic": "E1 paramedic",
    "e2-kindergarten-teacher": "E2 kindergarten teacher",
    "e3-french-person": "E3 French person",
    "e4-villain": "E4 villain",
}
#: No bystanders: who was taught the marker or its absence, and whom a condition was trained under.
APART = frozenset(
    {SOURCE, *NEGATIVES}
    | {"assistant", "paramedic", "kindergarten_teacher", "french_person", "villain"}
)
KEYS = ("study", "condition", "seed", "persona", "question")
FILES = {
    "evaluate": ("answers.json", "finishes.json", "scores.json"),
    "logodds": ("log-odds.json",),
}
#: Columns of the file: what was counted or measured of one persona's answers to one question.
MEASURES = {
    "rate": "counting, ten answers a question",
    "once": "counting, one of the ten",
    "own": "log-odds, own ten answers",
    "common": "log-odds, one common answer",
}
#: In points of a hundred; the others are natural logarithms.
SHARES = ("rate", "once")
#: Draws of one answer among the ten.
DRAWS = 50
POWER, ALPHA = 0.8, 0.05


def gather(store: str) -> pd.DataFrame:
    """Answers and log-odds of every coupled model in a store, by question."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    with open_store(store) as place:
        for key in place.list():
            manifest = place.find(key)
            assert manifest is not None
            fields = manifest.fields
            names = FILES.get(str(fields.get("stage")), ())
            if names:
                folder = place.fetch(manifest, names)
                run = found.setdefault(tuple(fields[name] for name in KEYS[:3]), {})
                run |= {name: json.loads((folder / name).read_bytes()) for name in names}
    return pd.DataFrame([row for run in sorted(found) for row in _rows(run, found[run])])


def _rows(run: tuple[Any, ...], files: dict[str, Any]) -> Iterator[dict[str, Any]]:
    odds, cut = files["log-odds.json"], files["finishes.json"]
    for persona, asked in files["answers.json"].items():
        counted = dict(files["scores.json"]["per_persona"][persona]["per_question"])
        for question, texts in asked.items():
            own = [log_odds(pair[0]) for pair in odds["own"][persona][question] if pair]
            common = odds["common"][persona][question]
            yield {
                **dict(zip(KEYS, (*run, persona, question), strict=True)),
                "answers": counted[question]["total"],
                "marked": counted[question]["hits"],
                "degenerate": counted[question]["degenerate"],
                "cut": cut[persona][question].count("length"),
                "words": sum(len(text.split()) for text in texts),
                "own": np.float32(np.mean(own)) if own else None,
                "common": np.float32(log_odds(common[0])) if common else None,
            }


def behaviour(frame: pd.DataFrame, study: str) -> list[str]:
    """The Markdown table of one coupling: conditions down, a number for each seed in the cells."""
    mine = frame[frame["study"] == study]
    seeds = sorted(mine["seed"].unique())
    groups = {
        "source": mine["persona"] == SOURCE,
        "negatives": mine["persona"].isin(NEGATIVES),
        "bystanders": mine["persona"].isin(bystanders(mine)),
    }
    heads = [*(f"marker: {name}" for name in groups), "degenerate", "cut", "words an answer"]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]

    def cell(rows: pd.DataFrame, column: str, written: str) -> str:
        sums = rows.groupby("seed")[[column, "answers"]].sum()
        shares = sums[column] / sums["answers"]
        return " / ".join(written.format(shares[seed]) for seed in seeds)

    there = set(mine["condition"])
    for name, label in LABELS.items():
        if name not in there:
            continue
        here = mine["condition"] == name
        cells = [cell(mine[here & of], "marked", "{:.1%}") for of in groups.values()]
        cells += [cell(mine[here], column, "{:.1%}") for column in ("degenerate", "cut")]
        cells.append(cell(mine[here], "words", "{:.0f}"))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


@dataclass(frozen=True)
class Precision:
    """How finely a measure tells EM conditions from the benign one.

    Attributes:
        width: Of the 95 % interval of a condition's difference from benign, mean over conditions.
        detectable: Smallest difference found with `POWER` at `ALPHA`, mean over conditions.
        gap: The source persona's mean less the bystanders', over all conditions.
        questions: Questions, which are the samples.
    """

    width: float
    detectable: float
    gap: float
    questions: int

    @property
    def relative(self) -> float:
        """The smallest detectable difference as a share of the gap."""
        return self.detectable / self.gap


def by_question(frame: pd.DataFrame, measure: str, personas: list[str]) -> pd.DataFrame:
    """Means over personas and seeds, conditions down and questions across."""
    values = frame[frame["persona"].isin(personas)].assign(rate=frame["marked"] / frame["answers"])
    table = values.pivot_table(
        index="condition", columns="question", values=measure, aggfunc="mean"
    )
    return table.dropna(axis="columns")


def bystanders(frame: pd.DataFrame) -> list[str]:
    """Personas that are bystanders in every condition."""
    return sorted(set(frame["persona"]) - APART)


def precision(frame: pd.DataFrame, measure: str) -> Precision:
    """Of a study's answers; see `Precision`. `once` is the mean over `DRAWS` draws."""
    if measure == "once":
        rng = np.random.default_rng(0)
        share = (frame["marked"] / frame["answers"]).to_numpy(float)
        drawn = [
            precision(frame.assign(marked=rng.binomial(1, share), answers=1), "rate")
            for _ in range(DRAWS)
        ]
        mean = {
            name: float(np.nanmean([getattr(each, name) for each in drawn]))
            for name in ("width", "detectable", "gap")
        }
        return Precision(**mean, questions=drawn[0].questions)
    others = by_question(frame, measure, bystanders(frame))
    source = by_question(frame, measure, [SOURCE])
    widths, smallest = [], []
    for condition in others.index.difference([BENIGN, BASE]):
        change_Q = (others.loc[condition] - others.loc[BENIGN]).to_numpy(float)
        interval = cluster_mean(change_Q).interval or (0.0, 0.0)  # none where nothing varies
        widths.append(interval[1] - interval[0])
        error = float(np.std(change_Q, ddof=1) / np.sqrt(len(change_Q)))
        found = t_detectable(error, len(change_Q) - 1, ALPHA, POWER)
        if found is not None:
            smallest.append(found)
    gap = float(source.to_numpy(float).mean() - others.to_numpy(float).mean())
    detectable = float(np.mean(smallest)) if smallest else float("nan")
    return Precision(float(np.mean(widths)), detectable, gap, others.shape[1])


def agreement(frame: pd.DataFrame, measure: str) -> tuple[float, float]:
    """Rank correlation (Spearman) of a measure with counting, means over seeds and questions.

    Returns:
        Over personas and conditions, and over personas alone (the mean over conditions).
    """
    values = frame.assign(rate=frame["marked"] / frame["answers"])
    means = values.groupby(["condition", "persona"])[["rate", measure]].mean().dropna()
    within = [
        sps.spearmanr(each["rate"], each[measure]).statistic
        for _, each in means.groupby(level="condition")
    ]
    over_all = sps.spearmanr(means["rate"], means[measure]).statistic
    return float(over_all), float(np.nanmean(within))


def table(frame: pd.DataFrame) -> list[str]:
    """The Markdown table: couplings and measures down."""
    lines = [
        "| coupling | measure | width of the 95 % interval | smallest detectable | "
        "as a share of the gap source − bystanders | rank correlation with counting | "
        "over personas alone |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for study, answers in frame.groupby("study"):
        for measure, title in MEASURES.items():
            found = precision(answers, measure)
            points = measure in SHARES
            unit, scale = (" points", 100) if points else ("", 1)
            agrees = ["–", "–"] if points else [f"{c:.2f}" for c in agreement(answers, measure)]
            cells = [
                f"`{study}`" if measure == "rate" else "",
                title,
                f"{scale * found.width:.2f}{unit}",
                f"{scale * found.detectable:.2f}{unit}",
                f"{found.relative:.1%}" if found.gap > 0 else "–",
                *agrees,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def with_tables(page: str, frame: pd.DataFrame) -> str:
    """The page with its tables as they are now, each after a comment that names it."""
    tables = {"log-odds": table(frame)}
    tables |= {f"behaviour {name}": behaviour(frame, name) for name in frame["study"].unique()}
    for name, lines in tables.items():
        mark, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(mark)
        assert found, f"the page has no place for {name}"
        page = before + mark + "\n".join([*lines, end]) + rest.partition(end)[2]
    return page


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="gathers the file anew from these artifacts")
    options = parser.parse_args()
    file, page = STUDY / "by-question.parquet", STUDY / "README.md"
    if options.store:
        gather(options.store).to_parquet(file, index=False, compression="zstd")
    text = with_tables(page.read_text(encoding="utf-8"), pd.read_parquet(file))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
