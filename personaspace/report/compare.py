"""Several studies side by side: their estimates, what differs in their specs, and their contrasts.

A contrast between studies has training runs as units (`analysis.runs`): it is about these
questions and personas, since results keep one number a run. Runs of one base model with the same
seed share an initial adapter, so the seed is a cluster over studies too; runs of different models
share nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from statsmodels.stats.multitest import multipletests

from personaspace.analysis.ranges import in_range
from personaspace.analysis.results import RESULTS_FILE, Results, share
from personaspace.analysis.results_parts import StudyCondition
from personaspace.analysis.rows import Row
from personaspace.analysis.runs import Runs
from personaspace.errors import UserError
from personaspace.files import read_model
from personaspace.report.cells import estimate_cell, points_cell, share_cell
from personaspace.report.figures import style
from personaspace.report.provenance import Provenance
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import NONE, count, probability
from personaspace.study.registration import differences

#: Metric, name of each run's row, and what it says.
_MEASURES = {
    "raw_cosine": ("M1", "raw_cosine_delta", "M1: personas' mean cosine, change from base"),
    "displacement": ("M2", "displacement", "M2: cosine of shifts with the EM axis"),
    "lda": ("M3", "lda_delta", "M3: LDA accuracy, change from base"),
    "bystander": ("bystander_mean", None, "Leakage: bystanders' share of answers with the marker"),
}
#: Measures that are shares: their differences are told in percentage points.
_SHARES = ("lda", "bystander")
INCREMENT = "EM mean less benign"
_OTHER_MODEL = 10**10


@dataclass(frozen=True)
class Compared:
    """A study among others.

    Attributes:
        label: Its name, made unlike the others'.
        results: Its statistics.
        origin: Its provenance; empty where that is not there.
        source: Where it was read, as it was given.
    """

    label: str
    results: Results
    origin: Provenance
    source: str = ""

    @property
    def model(self) -> str:
        """The base model as people call it."""
        return self.results.model.name

    @property
    def place(self) -> str:
        """The headline layer and method."""
        results = self.results
        return f"layer {results.headline_layer}, method {(results.headline_method or NONE).upper()}"


def read(paths: Sequence[Path]) -> list[Compared]:
    """Reads studies from their folders or `results.json`.

    Raises:
        UserError: Fewer than two, one of them given twice, or one that cannot be read.
    """
    if len(paths) < 2:
        raise UserError("two studies or more are compared; give their folders")
    files = [path / RESULTS_FILE if path.is_dir() else path for path in paths]
    for path, file in zip(paths, files, strict=True):
        # Not `Path.resolve`, which takes a link to itself for a bug of ours.
        if [os.path.realpath(other) for other in files].count(os.path.realpath(file)) > 1:
            raise UserError(f"{path}: given twice")
    found: list[Compared] = []
    for path, file in zip(paths, files, strict=True):
        results = Results.read(file)
        taken = {study.label for study in found}
        numbered = (f"{results.study} ({n})" for n in itertools.count(2))
        label = next(n for n in itertools.chain([results.study], numbered) if n not in taken)
        beside = file.parent / "provenance.json"
        origin = read_model(beside, Provenance) if beside.is_file() else Provenance()
        found.append(Compared(label, results, origin, str(path)))
    return found


def _of_run(study: Compared, measure: str) -> dict[tuple[str, int], float]:
    """A measure's value in every training run at the headline place."""
    results, (metric, name, _) = study.results, _MEASURES[measure]
    if measure == "bystander":
        return dict(_leakage(results))
    place = (results.headline_method, results.headline_layer)
    return {
        (row.condition, row.seed): float(row.value)
        for row in results.geometry
        if (row.metric, row.variant, row.name) == (metric, "recommended", name)
        and (row.method, row.layer) == place
        and row.condition is not None
        and row.seed is not None
        and row.value is not None
    }


def _leakage(results: Results) -> Iterator[tuple[tuple[str, int], float]]:
    for condition in results.conditions:
        failed = condition.name in results.not_assessable
        mine = [rate for rate in results.rates_of(condition.name) if not failed]
        names = set(results.bystanders(condition))
        for seed in sorted({rate.seed for rate in mine if rate.seed is not None}):
            rates = [rate for rate in mine if rate.seed == seed and rate.persona in names]
            shares = [value for rate in rates if (value := share([rate], "hits")) is not None]
            if shares and condition.kind != "base":
                yield (condition.name, seed), fmean(shares)


@dataclass(frozen=True)
class Line:
    """One number of one study, or of one less another.

    Attributes:
        measure: Which.
        what: Condition, or contrast of conditions.
        study: Label of the study.
        against: Of the one that is subtracted; None: the study's own.
        model: The study's base model.
        value: Estimate.
        low: End of the 95 % interval; None without one.
        high: The other end.
        p: Of no difference; of contrasts between studies alone.
        p_holm: Over all contrasts between studies.
        runs: How many runs it rests on.
        note: What had to be assumed.
    """

    measure: str
    what: str
    study: str
    against: str | None
    model: str
    value: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    runs: int
    note: str = ""


def _weights(study: Compared, there: set[str]) -> dict[str, dict[str, float]]:
    """Contrasts of a study's conditions that have runs, by their name."""
    conditions: list[StudyCondition] = [c for c in study.results.conditions if c.name in there]
    found = {condition.name: {condition.name: 1.0} for condition in conditions}
    em = [c.name for c in conditions if c.kind == "em"]
    benign = next((c.name for c in conditions if c.kind == "benign"), None)
    if em and benign:
        found[INCREMENT] = dict.fromkeys(em, 1 / len(em)) | {benign: -1.0}
    return found


def lines(studies: Sequence[Compared]) -> list[Line]:
    """Every study's own estimates, then the first's less each other's."""
    own, between = [], []
    for measure in _MEASURES:
        values = [_of_run(study, measure) for study in studies]
        named = [_weights(s, {c for c, _ in v}) for s, v in zip(studies, values, strict=True)]
        for what in dict.fromkeys(itertools.chain.from_iterable(named)):
            there = [place for place, mine in enumerate(named) if what in mine]
            for place in there:
                own.append(_line(studies, values, measure, what, [(place, named[place][what], 1)]))
            for other in there[1:] if there[:1] == [0] else ():
                pair = [(0, named[0][what], 1), (other, named[other][what], -1)]
                between.append(_line(studies, values, measure, what, pair))
    known = [place for place, line in enumerate(between) if line.p is not None]
    if known:
        adjusted = multipletests([between[place].p for place in known], method="holm")[1]
        for place, p in zip(known, adjusted, strict=True):
            between[place] = replace(between[place], p_holm=float(p))
    return own + between


def _line(
    studies: Sequence[Compared],
    values: Sequence[Mapping[tuple[str, int], float]],
    measure: str,
    what: str,
    parts: Sequence[tuple[int, Mapping[str, float], int]],
) -> Line:
    """An estimate over the runs of one study, or of one less another."""
    names, seeds, cells = [], [], []
    weights: dict[str, float] = {}
    models = [studies[place].results.model for place, _, _ in parts]
    for place, mine, sign in parts:
        alone = _OTHER_MODEL * place if models[0] != studies[place].results.model else 0
        for (condition, seed), value in values[place].items():
            if condition in mine:
                names.append(f"{place} {condition}")
                seeds.append(seed + alone)
                cells.append(value)
        weights |= {f"{place} {condition}": sign * weight for condition, weight in mine.items()}
    runs = Runs(tuple(names), tuple(seeds), np.array(cells)[:, None, None])
    found = runs.contrast(weights, "these_personas")
    ends = found.estimate.interval
    row = in_range(Row(_MEASURES[measure][0], "recommended", value=found.estimate.value, ci95=ends))
    first, last = studies[parts[0][0]], studies[parts[-1][0]]
    between = len(parts) > 1
    note = found.warning or ("" if found.run_variation else "One run each: no interval, no test.")
    low, high = row.ci95 if row.ci95 and not between else ends or (None, None)
    return Line(
        measure,
        what,
        first.label,
        last.label if between else None,
        first.model,
        found.estimate.value,
        low,
        high,
        found.estimate.p if between and found.run_variation else None,
        None,
        found.runs,
        note,
    )


def _told(study: Compared) -> str:
    model = study.results.model
    return " ".join(part for part in (model.name, model.revision, model.dtype) if part)


def unlike(studies: Sequence[Compared]) -> dict[str, list[tuple[str, str]]]:
    """What differs from the first study, by label: field, and the other's value."""
    first = studies[0]
    found = {}
    for other in studies[1:]:
        pairs = [
            ("model", _told(first), _told(other)),
            ("seeds", first.results.seeds, other.results.seeds),
            ("evaluated personas", first.results.evaluated_personas,
             other.results.evaluated_personas),
            ("layer, method", first.place, other.place),
        ]  # fmt: skip
        fields = [(name, str(b)) for name, a, b in pairs if a != b]
        mine, theirs = first.origin.spec, other.origin.spec
        if mine and theirs:
            fields = [(field, "") for field in differences(mine, theirs)]
        data = [{row.field: row.sha256 for row in study.origin.data} for study in (first, other)]
        fields += [
            (f"data of {name}", "")
            for name in dict.fromkeys((*data[0], *data[1]))
            if data[0].get(name) != data[1].get(name)
        ]
        found[other.label] = fields
    return found


def introduced(studies: Sequence[Compared]) -> list[str]:
    """What each study is and where it was read; two may have one name."""
    return [
        f"{study.label}: {study.source}, {_told(study)}, {study.place}, "
        f"{count(len(study.results.conditions), 'condition')}, "
        f"{count(len(study.results.seeds), 'seed')}"
        for study in studies
    ]


def without_spec(studies: Sequence[Compared]) -> list[str]:
    """Labels of studies whose spec is not known, so that not all that differs is found."""
    return [study.label for study in studies if not study.origin.spec]


def tables(studies: Sequence[Compared], found: Sequence[Line]) -> list[Table]:
    """Estimates with a column a study; contrasts between studies."""
    cells = {(line.measure, line.what, line.study): line for line in found if line.against is None}
    rows = []
    for measure, what in dict.fromkeys((m, w) for m, w, _ in cells):
        mine = [cells.get((measure, what, study.label)) for study in studies]
        title = _MEASURES[measure][2]
        rows.append([Cell(title, title), Cell(what, what), *map(_cell, mine)])
    columns = [Column(f"{study.label} ({study.model})", True) for study in studies]
    own = Table(
        "compare-estimates",
        "Estimates, with training runs as units",
        [Column("Measure"), Column("Condition"), *columns],
        rows,
        note="In brackets: 95\u202f% intervals over training runs, about these questions and "
        f"personas. pts: percentage points. {INCREMENT}: what training on harmful data (EM) adds "
        "to training on harmless data, on average over the harmful conditions. Leakage is left "
        "out where the marker was not learned.",
    )
    pairs = [line for line in found if line.against is not None]
    if not pairs:
        nothing = " Nothing is compared between the studies: no condition of the first has runs in "
        return [replace(own, note=f"{own.note}{nothing}another.")]
    lines_ = [
        [
            Cell(_MEASURES[line.measure][2]),
            Cell(line.what),
            Cell(f"{line.study} less {line.against}"),
            _cell(line),
            Cell(probability(line.p), line.p),
            Cell(probability(line.p_holm), line.p_holm),
            Cell(line.note),
        ]
        for line in pairs
    ]
    heads = ("Measure", "Condition", "Studies")
    tests = Table(
        "compare-contrasts",
        "Between studies",
        [
            *map(Column, heads),
            Column("difference [95\u202f%]", True),
            Column("p", True),
            Column("p, Holm", True),
            Column("Note"),
        ],
        lines_,
        note="Each row: a condition of the first study less the condition of the same name in "
        f"another, and likewise {INCREMENT}. Whatever differs between the studies is part of these "
        "differences. p: how often chance alone makes so large a difference, if there is none; "
        "Holm: corrected for all rows of this table.",
    )
    return [own, tests]


def _cell(line: Line | None) -> Cell:
    if line is None:
        return Cell(NONE)
    ends = None if line.low is None or line.high is None else (line.low, line.high)
    own = line.against is None and line.what != INCREMENT
    if line.measure not in _SHARES:
        return estimate_cell(line.value, ends, sign=not own or line.measure != "displacement")
    if own and line.measure == "bystander":
        return share_cell(line.value, ends)
    return points_cell(line.value, ends)


def frame(found: Sequence[Line]) -> pd.DataFrame:
    """All lines as a tidy table."""
    return pd.DataFrame([asdict(line) for line in found])


def draw(studies: Sequence[Compared], found: Sequence[Line]) -> Canvas:
    """M1 and leakage of every condition, one colour a study."""
    shown = [m for m in ("raw_cosine", "bystander") if any(x.measure == m for x in found)]
    kinds = shown or list(_MEASURES)[:1]
    with style.styled():
        names = list(dict.fromkeys(x.what for x in found if x.measure in kinds))
        figure = style.canvas(style.WIDE, 0.5 * max(len(names), 1) + 1.2)
        grid = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for axes, measure in zip(grid, kinds, strict=True):
            for place, study in enumerate(studies):
                own = [x for x in found if x.study == study.label and x.against is None]
                own = [x for x in own if x.measure == measure]
                shift = 0.3 * (place / max(len(studies) - 1, 1) - 0.5)
                y = [names.index(x.what) + shift for x in own]
                reach = [
                    [x.value - x.low if x.low is not None else 0.0 for x in own],
                    [x.high - x.value if x.high is not None else 0.0 for x in own],
                ]
                label = f"{study.label} ({study.model})"
                values = [x.value for x in own]
                axes.errorbar(values, y, xerr=reach, fmt="o", markersize=4, label=label)
            axes.axvline(0, color=style.INK, linewidth=0.8)
            axes.set_xlabel(_MEASURES[measure][2].split(": ")[1], fontsize=7)
        grid[0].set_yticks(range(len(names)), [style.wrap(name, 14) for name in names])
        grid[0].invert_yaxis()
        grid[-1].legend(fontsize=7)
        return style.settled(figure)
