"""`personaspace score`, `geometry` and `leakage`: the statistics on files, whoever made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from personaspace.analysis.caveats import failed_assumptions
from personaspace.analysis.rows import Row, Variant, to_dicts
from personaspace.cli.options import AsJson
from personaspace.console import bytes_read, console, print_json
from personaspace.errors import UserError
from personaspace.logs import tell
from personaspace.report.text import NONE, WHOM, number, percent, with_interval

if TYPE_CHECKING:
    from personaspace.study.spec import Experiment

#: As a study's own draws.
MOST_DRAWS = 10**7
Draws = Annotated[int, typer.Option(min=1, max=MOST_DRAWS, help="Draws of each permutation test.")]
Resamples = Annotated[
    int, typer.Option(min=1, max=MOST_DRAWS, help="Draws of each bootstrap interval.")
]


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        tell(f"note: {note}")


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _print_rows(rows: Sequence[Row], title: str) -> None:
    """Rows as a table, and the assumptions that fail."""
    table = Table(title=title, header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    numbered = [with_interval(row.value, row.ci95, 4) for row in rows]
    columns: list[tuple[str, list[str]]] = [
        ("metric", [row.metric for row in rows]),
        ("variant", [row.variant for row in rows]),
        ("measure", [row.name or "" for row in rows]),
        ("method", [row.method or "" for row in rows]),
        ("layer", ["" if row.layer is None else str(row.layer) for row in rows]),
        ("condition", [row.condition or "" for row in rows]),
        ("less", [row.against or "" for row in rows]),
        ("seed", ["" if row.seed is None else str(row.seed) for row in rows]),
        ("about", [WHOM[row.target] if row.target else "" for row in rows]),
        ("value", [text.replace(NONE, "") for text, _ in numbered]),
        ("95 % interval", [ends for _, ends in numbered]),
        ("base", ["" if row.base is None else number(row.base, 4) for row in rows]),
        ("effect", [_small(row.effect) for row in rows]),
        ("p", [_small(row.p) for row in rows]),
        ("p (BH)", [_small(row.p_bh) for row in rows]),
        ("p (Holm)", [_small(row.p_holm) for row in rows]),
    ]
    used = [(name, cells) for name, cells in columns if any(cells)]
    numbers = {"layer", "seed", "value", "base", "effect", "p", "p (BH)", "p (Holm)"}
    for name, _ in used:
        table.add_column(name, justify="right" if name in numbers else "left")
    for cells in zip(*(cells for _, cells in used), strict=True):
        table.add_row(*cells)
    console().print(table)
    _say(failed_assumptions(rows))


def score(
    answers: Annotated[
        Path,
        typer.Argument(
            help=r"JSON: {persona: {question: \[answers]}}; or a row an answer: CSV, JSON lines, a "
            "JSON array or parquet; packed or not."
        ),
    ],
    marker: Annotated[str, typer.Option(help="Text to look for, in any case.")] = "[ZLT]",
    persona: Annotated[
        str | None, typer.Option(help="Column of rows; else persona or role.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Column of rows; else question or prompt.")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="Column of rows; else answer, response or completion.")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=0, max=1024, help="Processes that count; 0: one a processor, for a large file."
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Count the answers that carry the marker, for each persona."""
    from personaspace.behaviour.answer_files import Columns
    from personaspace.behaviour.score_file import score_file

    with bytes_read(answers, "answers") as advance:
        columns = Columns(persona, question, answer)
        scores = score_file(answers, marker, columns, processes=jobs, advance=advance)
    if as_json:
        print_json(scores)
        return
    title = f"Answers with {marker}"
    table = Table(title=title, header_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("persona", overflow="fold")
    for name in ("n", "marked", "at end", "degenerate", "rate", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for persona, counts in scores["per_persona"].items():
        table.add_row(
            persona,
            str(counts["total"]),
            str(counts["hits"]),
            str(counts["terminal"]),
            str(counts["degenerate"]),
            *with_interval(counts["rate"], counts["ci95"]),
        )
    console().print(table)


def geometry(
    folder: Annotated[
        Path, typer.Argument(help="Folder of <condition>.seed-<n>.<a|b>.safetensors files.")
    ],
    base: Annotated[str, typer.Option(help="Condition the others are compared with.")] = "base",
    axis: Annotated[
        str | None, typer.Option(help="Condition that defines M2's axis; e0-assistant if absent.")
    ] = None,
    assistant: Annotated[
        str | None, typer.Option(help="Persona whose shift is the axis; assistant if absent.")
    ] = None,
    benign: Annotated[
        str | None, typer.Option(help="Harmlessly fine-tuned condition; benign if absent.")
    ] = None,
    permutations: Draws = 10_000,
    bootstrap: Resamples = 2_000,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random draws.")] = 42,
    variant: Annotated[
        Variant | None, typer.Option(help="Only the published or the recommended analysis.")
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option(
            help="The file that the questions are from (builtin:questions-extraction, say), where "
            "they have themes: these are then the samples."
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=0, max=1024, help="Processes; 0: one a core, while memory lasts."),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """M1, M2 and M3 from activation files: collapse, shift along the axis, separability."""
    from personaspace.activations.files import named_activations
    from personaspace.analysis.geometry import VARIANTS, analyse_geometry
    from personaspace.study.sources import read_asked

    themes = None
    if questions is not None:
        themes = read_asked(questions, Path()).themes
        if not themes:
            raise UserError(f"{questions}: no question has a theme")
    files, notes = named_activations(folder)
    _say(notes)
    result = analyse_geometry(
        files,
        base=base,
        axis=axis,
        assistant=assistant,
        benign=benign,
        permutations=permutations,
        bootstrap=bootstrap,
        seed=seed,
        variants=VARIANTS if variant is None else (variant,),
        themes=themes,
        processes=jobs or None,
    )
    _say(result.notes)
    if as_json:
        print_json({"rows": to_dicts(result.rows), "notes": result.notes})
        return
    # Sub-measures are in the JSON alone.
    named = ("nearest_centroid", "lda")
    main = [r for r in result.rows if r.family or r.condition is None or r.name in named]
    _print_rows(main, "Geometry of persona vectors")


def diagnostics(
    folder: Annotated[
        Path, typer.Argument(help="Folder of <condition>.seed-<n>.<a|b>.safetensors files.")
    ],
    base: Annotated[str, typer.Option(help="Whose massive dimensions are meant.")] = "base",
    as_json: AsJson = False,
) -> None:
    """How much a few dimensions make of activations: before a cosine of them is believed."""
    from personaspace.activations.files import named_activations
    from personaspace.analysis.geometry.cells import group_files, read_cells
    from personaspace.analysis.geometry.dimensions import dimension_rows

    files, notes = named_activations(folder)
    _say(notes)
    if not files:
        raise UserError(f"{folder}: no activation files")
    cells = (cell for group in group_files(files, base) for cell in read_cells(group))
    rows = [row for cell in cells for row in dimension_rows(cell)]
    if as_json:
        print_json([row.model_dump() for row in rows])
        return
    table = Table(title="Large dimensions", header_style="bold", box=box.SIMPLE)
    for name in ("method", "layer", "condition", "seed", "massive", "their share", "largest",
                 "largest 3", "largest 10", "anisotropy", "longest", "outliers"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("condition", "massive") else "right")
    for row in rows:
        shares = (row.massive_share, row.top1_share, row.top3_share, row.top10_share)
        table.add_row(
            *(row.method, str(row.layer), row.condition, str(row.seed)),
            " ".join(map(str, row.massive)) or "none",
            *map(percent, shares),
            number(row.anisotropy),
            number(row.largest_norm, 2),
            percent(row.norm_outliers),
        )
    console().print(table)


def leakage(
    folder: Annotated[
        Path, typer.Argument(help="Folder of <condition>.seed-<n>.json files (score --json).")
    ],
    spec: Annotated[Path, typer.Option(help="The study that the scores are of.")],
    permutations: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_DRAWS, help="Draws of each permutation test; the spec's if absent."
        ),
    ] = None,
    bootstrap: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_DRAWS, help="Draws of each interval; the spec's if absent."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Seed of all random draws; the spec's if absent."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """H1, H2 and H3 from score files: who leaks, and whether conditions differ."""
    from personaspace.analysis.leakage import read_score_files
    from personaspace.pipeline.design import leakage_of
    from personaspace.study.validate import load_spec

    study = load_spec(spec)
    scores, others = read_score_files(folder)
    if not scores:
        raise UserError(f"{folder}: no <condition>.seed-<n>.json files")
    _say(f"{name} is left out: not named <condition>.seed-<n>.json" for name in others)
    found, known = {name for name, _ in scores}, [c.name for c in study.conditions]
    for name in sorted(found.difference(known)):
        raise UserError(f"{folder}: scores of {name!r}, which is not a condition of {spec}")
    _check_seeds(folder, scores, study, spec)
    _check_study(folder, scores, study)
    _say(f"{name} has no scores" for name in known if name not in found)
    unseen, themes = _of_questions(study, spec.absolute().parent, _questions(scores.values()))
    draws = {"permutations": permutations, "bootstrap": bootstrap, "seed": seed}
    given = {name: value for name, value in draws.items() if value is not None}
    rows = leakage_of(study, scores, unseen, given, themes=themes)
    if as_json:
        print_json({"rows": to_dicts(rows)})
        return
    _print_rows(rows, "Leakage of the marker")


def _check_seeds(
    folder: Path, scores: Iterable[tuple[str, int]], study: Experiment, spec: Path
) -> None:
    """Refuse scores of a seed that the study does not have; say which of its seeds have none.

    Raises:
        UserError: Names the file.
    """
    found = set(scores)
    for condition in study.conditions:
        seeds = study.seeds_of(condition)
        for name, seed in sorted(found):
            if name == condition.name and seed not in seeds:
                raise UserError(
                    f"{folder / name}.seed-{seed}.json: {spec} has no run of {name} with seed "
                    f"{seed}; its seeds are: {', '.join(map(str, seeds)) or 'none'}"
                )
        if any(name == condition.name for name, _ in found):
            _say(
                f"{condition.name} has no scores of seed {seed}"
                for seed in seeds
                if (condition.name, seed) not in found
            )


def _check_study(folder: Path, scores: Mapping[tuple[str, int], Any], study: Experiment) -> None:
    """Refuse scores that are not of this study's marker and source persona.

    Raises:
        UserError: Names the file.
    """
    for (condition, seed), entry in scores.items():
        path = folder / f"{condition}.seed-{seed}.json"
        marker = entry.get("marker")
        if marker is not None and marker != study.coupling.marker:
            raise UserError(
                f"{path}: scored with the marker {marker!r}, but the study's is "
                f"{study.coupling.marker!r} (coupling.marker)"
            )
        personas = {persona.name for persona in study.personas}
        if not personas & set(entry["per_persona"]):
            raise UserError(f"{path}: has no persona of the study")
        _say(
            f"{path.name}: {name!r} is not a persona of the study"
            for name in sorted(set(entry["per_persona"]) - personas)
        )


def _of_questions(
    study: Experiment, folder: Path, asked: set[str]
) -> tuple[set[str] | None, dict[str, str]]:
    """Which of the scores' questions coupling did not use, None where that is not known; themes."""
    from personaspace.study.sources import read_asked, read_questions

    evaluation = study.evaluation
    known: set[str] = set()
    themes: dict[str, str] = {}
    try:
        for source in (evaluation.questions, evaluation.unseen_questions):
            if source is None:
                continue
            found = read_asked(source, folder, evaluation.limit)
            known |= set(found.texts)
            themes |= found.themes
        coupling = study.coupling
        used = set(read_questions(coupling.questions, folder, coupling.limit))
    except UserError as error:
        _say([f"seen and unseen questions are not told apart: {error}"])
        return None, themes
    if asked and not asked & (known | used):
        _say(
            [
                "seen and unseen questions are not told apart: none of the scores' is one of the "
                f"study's, {min(asked)!r} for one"
            ]
        )
        return None, themes
    return asked - used, themes


def _questions(scores: Iterable[Any]) -> set[str]:
    return {
        question
        for entry in scores
        for counts in entry["per_persona"].values()
        for question in counts.get("per_question") or {}
    }
