"""`personaspace …`: the commands people use. Every error a user can cause is one line, exit 2."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personaspace import logs
from personaspace.cli import analysis, cluster, upkeep
from personaspace.cli import inspect as inspecting
from personaspace.cli import run as running
from personaspace.cli.compare import compare
from personaspace.cli.eval_logs import eval_logs
from personaspace.cli.guard import guarded
from personaspace.cli.options import DEFAULT_STORE, AsJson, Serve, SpecPath, StoreUrl, local
from personaspace.cli.power import power
from personaspace.cli.preregister import preregister
from personaspace.cli.publish import publish
from personaspace.cli.usage import Commands
from personaspace.console import console, counted, print_json, shown, size
from personaspace.errors import UserError
from personaspace.files import check_folder
from personaspace.version import __version__

if TYPE_CHECKING:
    from personaspace.analysis.results import Results

app = typer.Typer(
    name="personaspace",
    cls=Commands,
    help="Does narrowly bad fine-tuning collapse a chat model's personas?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

#: Of commands that take a release as well, whose own store counts more than the environment's.
MaybeStore = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="As for `run`. Default: PERSONASPACE_STORE for a study's file; a release has its own.",
    ),
]
Target = Annotated[
    str, typer.Argument(help="A study's file, or a release of the chart.", metavar="SPEC|RELEASE")
]


def _store(given: str | None) -> str:
    """The store of a study's file."""
    return given if given is not None else os.environ.get("PERSONASPACE_STORE") or DEFAULT_STORE


@app.command()
@guarded
def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.yaml"),
    tiny: Annotated[
        bool, typer.Option("--tiny", help="For a small model and minutes on a laptop.")
    ] = False,
) -> None:
    """Write a commented study to begin with."""
    from personaspace.study import first

    first.write(file, tiny=tiny)
    print(f"{file} written; next: personaspace validate {shlex.quote(str(file))}")


@app.command()
@guarded
def validate(spec: SpecPath, as_json: AsJson = False) -> None:
    """Check a study and say what would run: stages, answers, GPU-hours, bytes."""
    from personaspace.cli.study import conditions_table, hours_in_words, wordings_in_words
    from personaspace.models.implementation import forecasts
    from personaspace.pipeline import graph
    from personaspace.pipeline.cost import estimate
    from personaspace.pipeline.substitutes import absent, check_addresses
    from personaspace.study.load import load_study
    from personaspace.study.notices import here

    loaded = load_study(spec)
    check_addresses(loaded)
    if loaded.spec.judge is not None:
        from personaspace.pipeline.judging import check_here

        check_here(loaded.spec)
    told = [*here(loaded), *absent(loaded)]
    model = inspecting.of_study(loaded)
    computed = forecasts(loaded.spec, model["spread"] if model else ())
    plan, cost = graph.build(loaded), estimate(loaded)
    counts = {
        name: sum(node.stage == name for node in plan.nodes)
        for name, stage in graph.STAGES.items()
        if stage.wanted(loaded.spec)
    }
    if as_json:
        print_json(
            {
                "study": loaded.spec.name,
                "notices": [asdict(notice) for notice in told],
                "conditions": [c.name for c in loaded.spec.conditions],
                "wordings": {p.name: len(p.wordings) for p in loaded.spec.personas},
                "seeds": loaded.spec.seeds,
                "seeds_of": {c.name: loaded.spec.seeds_of(c) for c in loaded.spec.conditions},
                "stages": counts,
                "nodes": [node.id for node in plan.nodes],
                "steps": cost.steps,
                "answers": cost.answers,
                "prompts": cost.prompts,
                "gpu_hours": cost.gpu_hours,
                "bytes": cost.bytes,
                "model": model,
                "implementations": [
                    {"field": c.field, "wanted": c.wanted, "taken": c.taken, "reason": c.reason}
                    for c in computed
                ],
            }
        )
        return
    out = console()
    for notice in told:
        out.print(notice.text if notice.path == "datasets" else f"{notice.path}: {notice.text}")
    out.print(conditions_table(loaded))
    if loaded.spec.wordings > 1:
        out.print(shown(wordings_in_words(loaded.spec)))
    if model is not None:
        out.print(inspecting.in_short(model))
    for line in inspecting.implementations(computed):
        out.print(line)
    out.print(
        f"{counted(len(loaded.spec.seeds), 'seed')}: "
        + ", ".join(f"{count} {stage}" for stage, count in counts.items())
    )
    out.print(
        f"{counted(cost.steps, 'optimiser step')}, {counted(cost.answers, 'answer')}, hidden "
        f"states of {counted(cost.prompts, 'prompt')}"
    )
    out.print(f"{hours_in_words(cost.gpu_hours, model)}; about {size(cost.bytes)} of artifacts")


@app.command()
@partial(guarded, takes_signals=True)
def run(
    spec: SpecPath,
    store: StoreUrl = DEFAULT_STORE,
    only: running.Only = None,
    with_inputs: running.WithInputs = False,
    plan: running.Plan = False,
    as_json: running.PlanAsJson = False,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the work.")] = 1,
    substitute: running.Substitute = None,
    out: running.Out = None,
    serve: Serve = None,
) -> None:
    """Run a study on this machine; what is complete is not run again."""
    if plan:
        for option, given in (("--serve", serve), ("--out", out), ("--jobs", jobs > 1)):
            if given not in (None, False):
                raise UserError(f"{option}: does not go with --plan, which runs nothing")
        running.show_plan(spec, store, only, with_inputs, as_json, substitute or ())
        return
    if as_json:
        raise UserError("--json: goes with --plan")
    from personaspace.pipeline.node import Node

    if out is not None:
        check_folder(out, "--out")
    with running.finished(spec, store, only, with_inputs, jobs, substitute or (), serve) as work:
        if work.manifest(Node("report")) is None:
            print(f"artifacts: {work.store.url}")
        else:
            _show(work, out)


def _results(work: Any) -> Results:
    from personaspace.analysis.results import RESULTS_FILE, Results
    from personaspace.pipeline.node import Node

    manifest = work.manifest(Node("aggregate"))
    if manifest is None:
        from personaspace.cli.study import no_results

        raise no_results(work)
    return Results.read(work.store.fetch(manifest, [RESULTS_FILE]))


def _show(work: Any, out: Path | None) -> None:
    from personaspace.pipeline.local import export
    from personaspace.pipeline.node import Node
    from personaspace.report.summary import plain, table

    found = _results(work)
    console().print(plain(found), markup=False, highlight=False)
    console().print(table(found))
    if out is not None:
        print(f"report: {export(work, out) / 'report.html'}")
    else:
        print(f"results: {work.store.describe(work.key(Node('aggregate')))}")
        print(f"report:  {work.store.describe(work.key(Node('report')))}")


@app.command()
@guarded
def status(
    target: Target,
    store: MaybeStore = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Of a release: until it has ended.")
    ] = False,
    as_json: AsJson = False,
    serve: Serve = None,
    namespace: cluster.Namespace = "",
    kubeconfig: cluster.Kubeconfig = "",
    context: cluster.Context = "",
) -> None:
    """Say which stages are complete, which can run, and which wait, here or in a cluster.

    The argument is a study's file if such a file exists, or if it is written like one (.yaml, or
    with a slash); otherwise it is a release.
    """
    page = None
    if serve is not None:
        from personaspace.live import address

        page = address(serve)
    if page and (watch or as_json):
        raise UserError("--serve: does not go with --watch or --json")
    if not cluster.is_spec(target):
        if store is not None:
            raise UserError(f"--store: goes with a study's file, and {target} is a release")
        doing = "look at the release"
        with cluster.reach(namespace, kubeconfig, context, doing, target) as place:
            if page is None:
                cluster.show_status(target, place, watch, as_json)
            else:
                from personaspace.cli.live import ReleaseSource, until_stopped

                flags = cluster.flags_of(kubeconfig, context)
                until_stopped(ReleaseSource(place, target, flags), page)
        return
    if watch:
        raise UserError("--watch: goes with a release; --serve shows a study's page as it goes on")
    cluster.refuse(target, namespace=namespace, kubeconfig=kubeconfig, context=context)
    from personaspace.cli.study import serve_status_of_spec, status_of_spec

    if page is None:
        status_of_spec(Path(target), _store(store), as_json)
    else:
        serve_status_of_spec(Path(target), _store(store), page)


@app.command()
@guarded
def results(
    target: Target,
    store: MaybeStore = None,
    as_json: AsJson = False,
    namespace: cluster.Namespace = "",
    kubeconfig: cluster.Kubeconfig = "",
    context: cluster.Context = "",
) -> None:
    """Print a finished study's headline, or all its results as JSON (argument as for `status`)."""
    if not cluster.is_spec(target):
        doing = "look at the release"
        with cluster.reach(namespace, kubeconfig, context, doing, target) as there:
            where = cluster.flags_of(kubeconfig, context)
            cluster.show_results(target, there, store, as_json, where)
        return
    cluster.refuse(target, namespace=namespace, kubeconfig=kubeconfig, context=context)
    from personaspace.pipeline.work import prepare
    from personaspace.store import open_store
    from personaspace.study.load import load_study

    loaded = load_study(Path(target))
    with open_store(_store(store)) as place:
        place.check(write=False)
        work = prepare(loaded, place)
        if as_json:
            print_json(_results(work).to_dict())
        else:
            _show(work, None)


@app.command()
@guarded
def report(
    spec: SpecPath,
    store: StoreUrl = DEFAULT_STORE,
    out: Annotated[Path, local("Folder for report, figures, tables.")] = Path("report"),
) -> None:
    """Copy a finished study's report to a folder; it is drawn again if something of it changed."""
    from personaspace.pipeline import executor
    from personaspace.pipeline.local import export
    from personaspace.pipeline.node import Node
    from personaspace.pipeline.progress import make_board
    from personaspace.pipeline.work import prepare
    from personaspace.store import open_store
    from personaspace.study.load import load_study

    check_folder(out, "--out")
    loaded = load_study(spec)
    with open_store(store) as place:
        place.check()
        work = prepare(loaded, place)
        _results(work)
        with make_board([Node("report")]) as board:
            summary = executor.run_here(work, [Node("report")], board)
        for error in summary.failed.values():
            raise error
        print(f"report: {export(work, out) / 'report.html'}")


@app.command()
@guarded
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    results: Annotated[bool, typer.Option("--results", help="Of results.json instead.")] = False,
    chart: Annotated[
        Path | None,
        typer.Option(help="Write the chart's schema, defaults and tables into its folder."),
    ] = None,
) -> None:
    """Print the JSON schema of a study, or of its results."""
    if chart is not None:
        from personaspace.cluster.chart import write

        write(chart)
        return
    if results:
        from personaspace.analysis import results as models

        if markdown:
            print(models.markdown(), end="")
        else:
            print_json(models.json_schema())
        return
    if markdown:
        from personaspace.study import spec_page

        print(spec_page.markdown(), end="")
        return
    from personaspace.study.spec import Experiment

    print_json(Experiment.model_json_schema())


app.command()(guarded(inspecting.inspect))
app.command()(guarded(analysis.score))
app.command()(guarded(analysis.geometry))
app.command()(guarded(analysis.diagnostics))
app.command()(guarded(compare))
app.command()(guarded(analysis.leakage))
app.command()(guarded(power))
app.command()(guarded(preregister))
app.command()(guarded(publish))
app.command()(guarded(eval_logs))
app.command()(guarded(upkeep.verify))
app.command()(guarded(upkeep.gc))
for _command in (cluster.logs, cluster.wait, cluster.rerun, cluster.cancel):
    app.command()(guarded(_command))


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    log_level: Annotated[
        str,
        typer.Option(
            envvar=logs.LEVEL, help=f"Lowest level of messages: {', '.join(logs.LEVELS)}."
        ),
    ] = "info",
) -> None:
    """Options for all commands."""
    guarded(logs.setup, takes_signals=True)(level=log_level)
    os.environ[logs.LEVEL] = log_level  # for the processes that this one starts
