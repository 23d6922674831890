"""What aggregate counts and writes beside its statistics: rates, losses, tidy tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import (
    RateRow,
    TrainingRow,
)
from personaspace.analysis.rows import to_dicts
from personaspace.behaviour.coherence import coherence
from personaspace.pipeline.context import ANSWERS, TRAINING_LOG, TRAINS, Context
from personaspace.pipeline.node import Node
from personaspace.pipeline.stages.evaluate import FINISHES

if TYPE_CHECKING:
    import pandas as pd

    from personaspace.analysis.geometry import GeometryResult

#: With what a spreadsheet begins a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
#: Counts of evaluate, by condition and seed.
Scores = dict[tuple[str, int], dict[str, Any]]
#: Texts by condition and seed, then persona and question.
Answers = dict[tuple[str, int], dict[str, dict[str, list[str]]]]


def read(path: Path) -> Any:
    """A JSON file of an input."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_answers(
    folders: Mapping[Node, Path], personas: Sequence[str], questions: Sequence[str]
) -> Answers:
    """Answers of every run in the study's order, whichever the runs were asked in."""
    return {
        (node.condition, node.seed): {
            name: _in_order(asked, questions)
            for name, asked in _in_order(read(folder / ANSWERS), personas).items()
        }
        for node, folder in folders.items()
        if (folder / ANSWERS).is_file()
    }


def _in_order(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: found[name] for name in (*(n for n in names if n in found), *found)}


def folders_of(context: Context, stage: str) -> dict[Node, Path]:
    """Inputs of one stage."""
    return {node: path for node, path in context.inputs.items() if node.stage == stage}


def rate_rows(scores: Scores, answers: Answers, separator: str) -> list[RateRow]:
    """Counts of each condition, seed and persona."""
    columns = ("hits", "terminal", "degenerate", "total", "rate", "ci95")
    return [
        RateRow(
            condition=condition,
            seed=seed,
            persona=persona,
            # Where coupling taught the marker: whether a model gets there is not trained.
            separated=sum(
                separator in text
                for texts in answers[condition, seed][persona].values()
                for text in texts
            ),
            **{column: counts[column] for column in columns},
        )
        for (condition, seed), entry in scores.items()
        for persona, counts in entry["per_persona"].items()
    ]


def training_rows(context: Context) -> list[TrainingRow]:
    """Losses of each training run."""
    rows = []
    for node, folder in context.inputs.items():
        if node.stage not in TRAINS:
            continue
        log = read(folder / TRAINING_LOG)
        steps = log["steps"]
        if not steps:  # a published adapter
            continue
        rows.append(
            TrainingRow(
                condition=node.condition,
                seed=node.seed,
                stage=node.stage,
                steps=len(steps),
                loss_first=steps[0]["loss"],
                loss_last=steps[-1]["loss"],
                examples=log["examples"],
                tokens=sum(step["tokens"] for step in steps),
            )
        )
    return rows


def _answers(context: Context, answers: Answers) -> pd.DataFrame:
    import pandas as pd

    from personaspace.behaviour.marker import ends_with_marker, has_marker

    marker, unseen = context.spec.coupling.marker, context.study.unseen
    rows = []
    for node, folder in folders_of(context, "evaluate").items():
        ends = read(folder / FINISHES)
        for persona, questions in answers[node.condition, node.seed].items():
            for question, texts in questions.items():
                for sample, text in enumerate(texts):
                    cut = ends[persona][question][sample] == "length"
                    measure = coherence(text, marker=marker)
                    rows.append(
                        {
                            "condition": node.condition,
                            "seed": node.seed,
                            "persona": persona,
                            "question": question,
                            "sample": sample,
                            "text": text,
                            "hit": has_marker(text, marker),
                            "terminal": ends_with_marker(text, marker),
                            "degenerate": measure.degenerate,
                            "repetition": measure.repetition,
                            "finish": "length" if cut else "stop",
                            "seen": question not in unseen,
                        }
                    )
    return pd.DataFrame(rows)


def _table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows with the ends of their interval as two columns, the last."""
    import pandas as pd

    table = pd.DataFrame(records)
    if not table.empty:
        ends = table.pop("ci95").tolist()
        table["ci95_low"], table["ci95_high"] = (
            [None if pair is None else pair[side] for pair in ends] for side in (0, 1)
        )
    return table


def write_tables(
    context: Context, geometry: GeometryResult, results: Results, answers: Answers
) -> None:
    """Writes `tables/`, each as parquet and CSV."""
    import pandas as pd

    folder = context.out / "tables"
    folder.mkdir()
    logs = [
        pd.DataFrame(read(path / TRAINING_LOG)["steps"]).assign(
            condition=node.condition, seed=node.seed, stage=node.stage
        )
        for node, path in context.inputs.items()
        if node.stage in TRAINS
    ]
    tables = {
        "rows": _table(to_dicts(results.rows)),
        "rates": _table([rate.model_dump() for rate in results.rates]),
        "forms": pd.DataFrame([row.model_dump() for row in results.forms]),
        "cosines": geometry.cosines,
        "training": pd.concat(logs, ignore_index=True) if logs else pd.DataFrame(),
        "answers": _answers(context, answers),
    }
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
        harmless(table).to_csv(folder / f"{name}.csv", index=False)


def harmless(table: pd.DataFrame) -> pd.DataFrame:
    """For CSV: texts that a spreadsheet would take for a formula begin with an apostrophe."""
    from pandas.api.types import is_numeric_dtype

    safe = table.copy(deep=False)
    for name in table.columns:
        if not is_numeric_dtype(table[name]):
            safe[name] = table[name].map(_no_formula)
    return safe


def _no_formula(value: Any) -> Any:
    formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if formula else value
