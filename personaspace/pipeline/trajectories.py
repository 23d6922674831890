"""What aggregate says of doses: each measure over the steps of training, beside the whole one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from personaspace.analysis.results import Results
from personaspace.analysis.results_parts import TrajectoryRow
from personaspace.analysis.rows import Row
from personaspace.analysis.stats import adjust
from personaspace.pipeline.context import Context
from personaspace.pipeline.design import leakage_of
from personaspace.pipeline.stages.evaluate import SCORES
from personaspace.pipeline.tables import Scores, folders_of, read
from personaspace.study.inputs import Dose

#: Metric and name of what is followed: as the study's own rows have it.
FOLLOWED = {
    ("M1", "raw_cosine_delta"),
    ("M2", "displacement"),
    ("M3", "lda_delta"),
    ("bystander_mean", None),
}
METRICS = ("M1", "M2", "M3", "bystander_mean", "source")
FAMILY = "trajectories"
#: Of leakage's tests, which are not looked at here.
_DRAWS = {"permutations": 100, "bootstrap": 100}


def trajectories(
    context: Context, results: Results, measured: Mapping[str, float]
) -> list[TrajectoryRow]:
    """Rows of every dose and, where a condition has doses, of its whole training.

    Args:
        context: With the inputs of doses among the others.
        results: Of the whole trainings.
        measured: Cosine to the assistant by condition, as for the study's own leakage.
    """
    doses = {dose.name: dose for dose in context.spec.doses()}
    if not doses:
        return []
    tested: list[tuple[Dose, Row]] = []
    for step in sorted({dose.step for dose in doses.values()}):
        here = {name: dose for name, dose in doses.items() if dose.step == step}
        found = [*_geometry(context, here, results), *_leakage(context, here, measured)]
        tested.extend((here[str(row.condition)], row) for row in found if _followed(row))
    rows = adjust([replace(row, family=FAMILY, seed=None) for _, row in tested], {FAMILY})
    at_doses = [
        _row(dose.of, dose.step, row, whole=False)
        for (dose, _), row in zip(tested, rows, strict=True)
    ]
    names = {dose.of for dose in doses.values()}
    every = [*at_doses, *_source(context, doses), *_whole(results, names)]
    order = [condition.name for condition in results.ordered_conditions]
    return sorted(
        every, key=lambda row: (METRICS.index(row.metric), order.index(row.condition), row.step)
    )


def _followed(row: Row) -> bool:
    named = (row.metric, row.name) in FOLLOWED and row.variant == "recommended"
    return named and row.target == "these_personas" and row.condition is not None


def _row(condition: str, step: int, row: Row, *, whole: bool) -> TrajectoryRow:
    return TrajectoryRow(
        condition=condition,
        step=step,
        whole=whole,
        metric=row.metric,
        name=row.name or row.metric,
        method=row.method,
        layer=row.layer,
        value=row.value,
        ci95=row.ci95,
        p=None if whole else row.p,
        p_bh=None if whole else row.p_bh,
        p_holm=None if whole else row.p_holm,
        n=row.n,
        run_variation=row.run_variation,
    )


def _geometry(context: Context, here: Mapping[str, Dose], results: Results) -> list[Row]:
    from personaspace.activations.files import find_activations
    from personaspace.analysis.geometry.steps import rows_at_step

    spec = context.spec
    base, axis = spec.base_condition().name, spec.axis_condition()
    files: dict[str, list[Path]] = {}
    for node, folder in folders_of(context, "extract").items():
        if node.condition in {base, axis, *here}:
            files.setdefault(node.condition, []).extend(find_activations(folder)[0])
    if base not in files or not files.keys() & here.keys():
        return []
    return rows_at_step(
        [path for paths in files.values() for path in paths],
        set(here),
        base=base,
        axis=axis if axis in files else None,
        assistant=spec.analysis.assistant,
        place=(spec.analysis.method, results.headline_layer or 0),
        seed=spec.analysis.seed,
        themes=context.study.extraction_themes,
    )


def _leakage(
    context: Context, here: Mapping[str, Dose], measured: Mapping[str, float]
) -> Iterator[Row]:
    """Bystanders' leakage, as if the study had stopped training there."""
    base = context.spec.base_condition().name
    scores: Scores = {}
    named: dict[str, str] = {}
    for node, folder in folders_of(context, "evaluate").items():
        if node.condition in here:
            named[here[node.condition].of] = node.condition
            scores[here[node.condition].of, node.seed] = read(folder / SCORES)
        elif node.condition == base:
            scores[base, node.seed] = read(folder / SCORES)
    if not named:
        return
    study = context.study
    rows = leakage_of(context.spec, scores, study.unseen, _DRAWS, measured, study.evaluation_themes)
    for row in rows:
        if row.metric == "bystander_mean" and row.condition in named:
            yield replace(row, condition=named[row.condition])


def _source(context: Context, doses: Mapping[str, Dose]) -> list[TrajectoryRow]:
    """How often the source persona writes the marker: whether coupling worked at all."""
    from personaspace.analysis.stats import wilson

    counts: dict[tuple[str, int, bool], list[tuple[int, int]]] = {}
    whole = {dose.of for dose in doses.values()}
    steps = _steps(context)
    measured = {n.condition for n in folders_of(context, "evaluate")} & doses.keys()
    for node, folder in folders_of(context, "evaluate").items():
        dose = doses.get(node.condition)
        if dose is None and (node.condition not in whole or not measured):
            continue
        persona = read(folder / SCORES)["per_persona"].get(context.spec.coupling.source)
        if persona is None:
            continue
        name, step = (dose.of, dose.step) if dose else (node.condition, steps[node.condition])
        counts.setdefault((name, step, dose is None), []).append(
            (persona["hits"], persona["total"])
        )
    rows = []
    for (name, step, last), each in counts.items():
        hits, total = (sum(pair[place] for pair in each) for place in (0, 1))
        rows.append(
            TrajectoryRow(
                condition=name,
                step=step,
                whole=last,
                metric="source",
                name="source",
                value=hits / total if total else None,
                # Several runs scatter more than their answers do.
                ci95=wilson(hits, total) if len(each) == 1 and total else None,
                n=len(each),
            )
        )
    return rows


def _steps(context: Context) -> dict[str, int]:
    """Steps of each whole training."""
    from personaspace.pipeline.context import TRAINING_LOG

    return {
        node.condition: len(read(folder / TRAINING_LOG)["steps"])
        for node, folder in folders_of(context, "train").items()
    }


def _whole(results: Results, names: Iterable[str]) -> Sequence[TrajectoryRow]:
    """What the study's own rows say of the whole trainings at the headline place."""
    steps = {row.condition: row.steps for row in results.training if row.stage == "train"}
    place = (results.headline_method, results.headline_layer)
    known = set(names)
    return [
        _row(str(row.condition), steps[str(row.condition)] or 0, row, whole=True)
        for row in results.rows
        if _followed(row)
        and row.condition in known & steps.keys()
        and (row.method is None or (row.method, row.layer) == place)
    ]
