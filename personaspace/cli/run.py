"""`personaspace run`: a study on this machine, and what a run would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.table import Table

from personaspace import interrupt, logs
from personaspace.cli.options import local
from personaspace.console import console, counted, print_json, shown, verb
from personaspace.errors import StoreMissing, one_line

if TYPE_CHECKING:
    from personaspace.pipeline.executor import Summary
    from personaspace.pipeline.forecast import Forecast
    from personaspace.pipeline.work import Work

Only = Annotated[
    list[str] | None,
    typer.Option(help="Only these stages: train, train:e4-villain, train:e4-villain:42."),
]
WithInputs = Annotated[
    bool, typer.Option("--with-inputs", help="With --only: what these need as well.")
]
Substitute = Annotated[
    list[str] | None,
    typer.Option(
        help="A store that you trust: what it has is taken from there instead of computed. "
        "Folder, s3://… or hf://owner/name; may be given several times, and goes before those that "
        "the study names (substitutes).",
        metavar="STORE",
    ),
]
Plan = Annotated[
    bool,
    typer.Option("--plan", help="Run nothing: say what would run, why, and for about how long."),
]
Out = Annotated[Path | None, local("Copy results, figures and report to this folder.")]
PlanAsJson = Annotated[bool, typer.Option("--json", help="With --plan: print JSON.")]


@contextmanager
def finished(
    spec: Path,
    store: str,
    only: Sequence[str] | None,
    with_inputs: bool,
    jobs: int,
    substitutes: Sequence[str],
    serve: str | None = None,
) -> Iterator[Work]:
    """Run a study; what was run, while its store is open. `serve`: where a page shows how far.

    Ends the process if a stage failed: 2 if the input was at fault, 69 if something did not answer,
    else 1; where all is computed and only publishing failed, after the results were shown.
    """
    from personaspace.pipeline.local import run_study
    from personaspace.pipeline.termination import take_signals
    from personaspace.store import open_store
    from personaspace.study.load import load_study

    page = None
    if serve is not None:
        from personaspace.cli.live import page_of_run

        page = page_of_run(serve)
    loaded = load_study(spec)
    take_signals()
    with open_store(store) as place:
        work, summary = run_study(
            loaded,
            place,
            only=only or (),
            with_inputs=with_inputs,
            jobs=jobs,
            file=spec,
            substitutes=substitutes,
            watched=page,
        )
        if not summary.computed:
            _fail(summary)
        before = len(summary.skipped)
        ran = counted(len(summary.done), "stage")
        print(f"{ran} ran, {before} {verb(before, 'was', 'were')} complete")
        yield work
        if summary.failed:
            _fail(summary)


def _fail(summary: Summary) -> NoReturn:
    if not logs.as_json():  # the log has said it
        print_failures(summary)
    raise SystemExit(summary.exit_code)


def print_failures(summary: Summary) -> None:
    """What failed and why, as a table on stderr."""
    table = Table(title="what failed", title_justify="left")
    table.add_column("stage")
    table.add_column("why", overflow="fold")
    for node, error in summary.failed.items():
        table.add_row(node.id, shown(one_line(error)))
    for node in summary.blocked:
        table.add_row(node.id, "not run: an input is missing")
    console(stderr=True).print(table)


# --- what would run ------------------------------------------------------------------------------


def show_plan(
    spec: Path,
    store: str,
    only: Sequence[str] | None,
    with_inputs: bool,
    as_json: bool,
    substitutes: Sequence[str],
) -> None:
    """Print which stages would run, why, and for about how long; nothing is written."""
    from personaspace.pipeline import substitutes as taking
    from personaspace.pipeline.forecast import forecast
    from personaspace.pipeline.work import prepare
    from personaspace.store import open_store
    from personaspace.study.load import load_study

    interrupt.release()
    taking.check_named(substitutes)
    with open_store(store) as place:
        with suppress(StoreMissing):  # a first run makes it
            place.check(write=False)
        work = prepare(load_study(spec), place)
        nodes = work.graph.choose(only or (), with_inputs)
        found = forecast(work, nodes)
        substitutes = taking.named(work.study, substitutes)
        with taking.opened(substitutes, place) as others:
            taken = taking.offered(work, [each.node for each in found], others)
    if as_json:
        told = [each.to_dict() for each in found]
        if substitutes:
            places = [{"taken_from": taken.get(each.node)} for each in found]
            told = [each | place for each, place in zip(told, places, strict=True)]
        print_json(told)
        return
    out = console()
    if found:
        out.print(_plan_table(found))
    complete = len(nodes) - len(found)
    out.print(
        f"{len(found)} of {counted(len(nodes), 'stage')} would run, "
        f"{complete} {verb(complete, 'is', 'are')} complete"
    )
    for url, count in Counter(taken.values()).items():
        out.print(f"{count} of them would be taken from {shown(url)}, and not computed")
    for line in _totals([each for each in found if each.node not in taken]):
        out.print(line)


def _plan_table(found: Sequence[Forecast]) -> Table:
    table = Table()
    table.add_column("stage")
    table.add_column("why", overflow="fold")
    table.add_column("about", justify="right")
    groups: dict[tuple[str, str], list[Forecast]] = {}
    for each in found:
        why = str(each.why)
        if each.already is not None:
            why += f" ({each.already})"
        if each.missing:
            missing = ", ".join(need.id for need in each.missing[:3])
            why += f"; would fail: {missing} not complete (--with-inputs brings what is needed)"
        groups.setdefault((each.node.stage, why), []).append(each)
    for (_, why), alike in groups.items():
        titles = [each.node.id for each in alike]
        more = f" and {len(titles) - 3} more" if len(titles) > 3 else ""
        table.add_row(", ".join(titles[:3]) + more, shown(why), _time(alike))
    return table


def _time(alike: Sequence[Forecast]) -> str:
    from personaspace.pipeline.forecast import Basis
    from personaspace.pipeline.progress import roughly

    known = [each.seconds for each in alike if each.seconds is not None]
    if not known:
        return "unknown"
    text = roughly(sum(known))
    return f"{text} on an H100" if alike[0].basis is Basis.H100 else text


def _totals(found: Sequence[Forecast]) -> list[str]:
    from personaspace.pipeline.forecast import Basis
    from personaspace.pipeline.progress import roughly

    of = {basis: [each for each in found if each.basis is basis] for basis in Basis}
    seconds = {basis: sum(each.seconds or 0 for each in of[basis]) for basis in Basis}
    lines = []
    if of[Basis.MEASURED]:
        count, text = len(of[Basis.MEASURED]), roughly(seconds[Basis.MEASURED])
        lines.append(
            f"about {text} on this machine for {count} of them, as long as such stages took before"
        )
    if of[Basis.H100]:
        hours = max(seconds[Basis.H100] / 3600, 0.01)
        lines.append(
            f"about {hours:.2g} hours on one H100 for {len(of[Basis.H100])} of them, from counted "
            "tokens, answers drawn by vLLM (none like them has run on this machine; start-up not "
            "included)"
        )
    if of[Basis.UNKNOWN]:
        lines.append(f"for {len(of[Basis.UNKNOWN])} of them nothing is known of how long they take")
    return lines
