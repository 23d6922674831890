"""`personaspace power`: what a study could find, before it runs."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from personaspace.analysis.power import Assumptions, Design, Plan
from personaspace.cli.options import AsJson, SpecPath
from personaspace.console import console, percent, print_json
from personaspace.errors import UserError
from personaspace.pipeline.design import planned
from personaspace.report.text import sized

DEFAULT = Assumptions()


def _check(rate: float, wanted: float, **deviations: float) -> None:
    for name, value in (("--rate", rate), ("--power", wanted)):
        if not 0 < value < 1:
            raise UserError(f"{name}: {value:g} is not between 0 and 1")
    for name, value in deviations.items():
        if not 0 <= value < math.inf:
            raise UserError(f"--{name.replace('_', '-')}: {value:g} is not a number from 0")


def _check_share(value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"--theme-share: {value:g} is not from 0 to 1")


def _runs(design: Design) -> str:
    counts = sorted({len(seeds) for seeds in design.layout.values()}) or [design.seeds]
    span = " to ".join(str(count) for count in sorted({counts[0], counts[-1]}))
    return f"{span} training run{'s' if counts[-1] > 1 else ''} each"


def _print(made: Plan, name: str) -> None:
    design, guess = made.design, made.assumptions
    out = console()
    out.print(
        Text(name, style="bold")
        + f": {design.em} EM conditions{', benign' if design.benign else ''}, "
        f"{_runs(design)}, {design.personas} personas × "
        f"{design.questions} questions ({design.unseen} unseen) × {design.samples} samples"
    )
    out.print(
        f"Assumed: rate {guess.rate:g}, standard deviations {guess.run_sd:g} between runs, "
        f"{guess.persona_run_sd:g} of a persona in a run, {guess.question_sd:g} of a question in a "
        "condition (defaults: published counts)."
    )
    if design.themes:
        out.print(
            f"The evaluation's questions come in {len(design.themes)} themes, which are the "
            f"samples; {percent(guess.theme_share)} of the variance between questions is taken to "
            "be theirs."
        )
    table = Table(box=box.SIMPLE, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("test", no_wrap=True)
    table.add_column("what")
    for column in (
        f"smallest effect found in {percent(guess.power)}",
        "found again",
        "after Holm, at worst",
        "p floor",
    ):
        table.add_column(column, justify="right")
    table.add_column("notes")
    notes: dict[str, int] = {}
    for finding in made.findings:
        unit = f" {finding.unit}" if finding.unit else ""

        def shown(value: float | None, unit: str = unit) -> str:
            return "none" if value is None else f"{sized(value)}{unit}"

        table.add_row(
            f"{finding.metric} {finding.name}",
            finding.what,
            shown(finding.effect),
            "" if finding.found is None else percent(finding.found, 0),
            ""
            if finding.effect is None and finding.corrected is None
            else shown(finding.corrected),
            "" if finding.floor is None else f"{finding.floor:.2g}",
            str(notes.setdefault(finding.note, len(notes) + 1)) if finding.note else "",
        )
    out.print(table)
    for note, number in notes.items():
        out.print(f"{number}. {note}")
    drawn = made.drawn
    near, far = (drawn.error(count) for count in (drawn.t_tests, drawn.ranges))
    out.print(
        "\nSmallest effect: what a test finds in so many studies of this design; none: no "
        "effect is found so often. After Holm: the same if the test has to pass the "
        "strictest correction for several tests. p floor: the least p that the test can "
        "give. sd: standard deviations."
    )
    out.print(
        "Found again: how often a test finds this effect in other drawn studies "
        f"({drawn.t_tests:,}, of H2 {drawn.ranges:,}: at 80 % good to {near:.1f} and {far:.1f} "
        "points)."
    )
    for warning in made.warnings:
        out.print(Text("• ", style="yellow") + warning)


def power(
    spec: SpecPath,
    rate: Annotated[float, typer.Option(help="Mean share of marked answers.")] = DEFAULT.rate,
    run_sd: Annotated[
        float, typer.Option(help="Standard deviation between training runs (share of answers).")
    ] = DEFAULT.run_sd,
    persona_run_sd: Annotated[
        float, typer.Option(help="Standard deviation of one persona in one training run.")
    ] = DEFAULT.persona_run_sd,
    question_sd: Annotated[
        float, typer.Option(help="Standard deviation of one question in one condition.")
    ] = DEFAULT.question_sd,
    persona_sd: Annotated[
        float, typer.Option(help="Standard deviation of a geometry measure's change over personas.")
    ] = DEFAULT.persona_sd,
    wanted: Annotated[
        float, typer.Option("--power", help="Wanted probability to detect an effect.")
    ] = DEFAULT.power,
    theme_share: Annotated[
        float,
        typer.Option(help="Share of the variance between questions that is their themes'."),
    ] = DEFAULT.theme_share,
    as_json: AsJson = False,
) -> None:
    """Say which effects a study could detect, before anything runs."""
    _check(
        rate, wanted, run_sd=run_sd, persona_run_sd=persona_run_sd, question_sd=question_sd,
        persona_sd=persona_sd,
    )  # fmt: skip
    _check_share(theme_share)
    from personaspace.study.validate import load_spec

    experiment = load_spec(spec)
    guess = Assumptions(rate, run_sd, persona_run_sd, question_sd, persona_sd, wanted, theme_share)
    made = planned(experiment, spec.absolute().parent, guess)
    if as_json:
        found: dict[str, Any] = {"study": experiment.name} | made.to_dict()
        print_json(found)
        return
    _print(made, experiment.name)
