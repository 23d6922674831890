"""`personaspace status|logs|wait|rerun|results|cancel RELEASE`: a study in a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from personaspace.cluster.states import JobState, Reason, count_of_jobs
from personaspace.console import console, duration, print_json, shown, stage_table
from personaspace.errors import UserError

if TYPE_CHECKING:
    from personaspace.cluster.api import Cluster
    from personaspace.cluster.status import JobRow

Release = Annotated[str, typer.Argument(help="A release of the chart.", metavar="RELEASE")]
Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="Of the release; default: the context's.")
]
Kubeconfig = Annotated[str, typer.Option(help="Default: KUBECONFIG, or ~/.kube/config.")]
Context = Annotated[str, typer.Option(help="Of the kubeconfig; default: the current one.")]
Chart = Annotated[Path, typer.Option(help="The chart of the release.")]
CHART = Path("charts/experiment")
REFRESH_SECONDS = 5.0
_STYLES = {
    JobState.DONE: "green",
    JobState.RUNNING: "yellow",
    JobState.STARTING: "yellow",
    JobState.FAILED: "red bold",
    JobState.NOT_RUN: "red",
    JobState.GONE: "dim",
}
#: For what a Job may wait without anybody noticing that it waits in vain.
_IN_VAIN = (Reason.CONDUCTOR, Reason.NO_CONDUCTOR)


def is_spec(target: str) -> bool:
    """Whether a command's argument means a file: it is one, or it is written like one."""
    looks = target.endswith((".yaml", ".yml", ".json")) or "/" in target
    return looks or Path(target).is_file()


def flags_of(kubeconfig: str, context: str) -> list[str]:
    """What names a cluster besides the environment, as kubectl takes it too."""
    pairs = (("--kubeconfig", kubeconfig), ("--context", context))
    return [part for name, value in pairs if value for part in (name, value)]


def refuse(target: str, **of_cluster: str) -> None:
    """Refuse a cluster's options where the argument is a study's file. Raises UserError."""
    for option, named in of_cluster.items():
        if named:
            raise UserError(f"--{option}: goes with a release, and {target} is a study's file")


@contextmanager
def reach(
    namespace: str, kubeconfig: str, context: str, doing: str, target: str = ""
) -> Iterator[Cluster]:
    """A cluster, with its errors in one line; `target` might have been meant as a file's name."""
    from personaspace.cluster.api import api_errors, connect

    try:
        cluster = connect(namespace, kubeconfig, context)
    except UserError as error:
        if not target or kubeconfig or context or os.environ.get("KUBECONFIG"):
            raise
        text = f"{target}: not a file, and no cluster to look for such a release in: {error}"
        raise UserError(text) from None
    with api_errors(cluster, doing):
        yield cluster


def show_status(release: str, cluster: Cluster, watch: bool, as_json: bool) -> None:
    """Print a release's table, once or until it has ended."""
    from personaspace.cluster.api import AWAY, Outage
    from personaspace.cluster.status import rows

    if as_json:
        print_json([row.as_json() for row in rows(cluster, release)])
        return
    out = console()
    if not watch:
        out.print(_table(release, rows(cluster, release)))
        return
    found = rows(cluster, release)
    with Live(console=out, auto_refresh=False) as live:
        outage = Outage(release, lambda text: out.print(Text(shown(text), style="red")))
        while True:
            live.update(_table(release, found), refresh=True)
            if all(row.state.ended for row in found):
                return
            time.sleep(REFRESH_SECONDS)
            try:
                found = rows(cluster, release)
                outage.over()
            except AWAY as error:
                time.sleep(outage.pause(error))


def _table(release: str, found: list[JobRow]) -> Group:
    """Condition by stage, then why what is not done is not done."""
    from personaspace.cluster.status import alike

    table = stage_table(((r.stage, r.condition, r.seed, _cell(r)) for r in found), release)
    # What waits comes last: it may wait for what is said before.
    told = sorted(filter(_is_told, found), key=lambda row: row.state is JobState.WAITING)
    lines = [
        Text(shown(f"{_several(titles)}: {state}, {why}".rstrip(", ")))
        for (state, why), titles in alike(told).items()
    ]
    notices = [Text(shown(row.notice)) for row in found if row.notice]
    return Group(*notices, table, *lines)


def _is_told(row: JobRow) -> bool:
    """Whether a row says more than that it waits for its inputs, or is done."""
    if row.state is JobState.WAITING:
        return row.reason in _IN_VAIN
    if row.state is JobState.RUNNING:
        return row.progress is not None
    return row.state in (JobState.FAILED, JobState.NOT_RUN, JobState.QUEUED, JobState.GONE)


def _several(titles: list[str]) -> str:
    """Up to three by name: fifty Jobs may wait for the same."""
    if len(titles) <= 3:
        return ", ".join(titles)
    return f"{', '.join(titles[:2])} and {len(titles) - 2} others"


def _cell(row: JobRow) -> Text:
    text = row.state_told
    if row.ran is not None and row.state in (JobState.RUNNING, JobState.DONE):
        text += f" {duration(row.ran)}"
    return Text(text, style=_STYLES.get(row.state, ""))


def show_results(
    release: str, cluster: Cluster, store: str | None, as_json: bool, where: list[str]
) -> None:
    """Print a finished release's headline, or all its results; `where` names the cluster."""
    from personaspace.analysis.results import RESULTS_FILE, Results
    from personaspace.cluster.reachability import check_reachable
    from personaspace.cluster.release import artifact_keys, store_url
    from personaspace.report.summary import plain, table
    from personaspace.store import open_store

    keys = artifact_keys(cluster, release)
    # Only --store is stronger than what the release says: a shell's PERSONASPACE_STORE may be of
    # another study.
    url = store
    if url is None:
        url = store_url(cluster, release)
        command = ["results", release, *(["--json"] if as_json else [])]
        check_reachable(url, release, cluster.namespace, where, command)
    with open_store(url) as place:
        results = Results.read(place.fetch(keys["aggregate"], [RESULTS_FILE]))
        if as_json:
            print_json(results.to_dict())
            return
        console().print(plain(results), markup=False, highlight=False)
        console().print(table(results))
        print(f"results: {place.describe(keys['aggregate'])}")
        if "report" in keys:
            print(f"report:  {place.describe(keys['report'])}")


def logs(
    release: Release,
    condition: Annotated[
        str, typer.Argument(help="A condition; or aggregate, publish, conductor.")
    ],
    stage: Annotated[str, typer.Option(help="Only this stage.")] = "",
    seed: Annotated[int | None, typer.Option(help="Only this seed.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until they have ended.")] = False,
    tail: Annotated[int, typer.Option(help="Last lines of each pod; -1: all.")] = -1,
    raw: Annotated[bool, typer.Option("--raw", help="Lines as the pods log them (JSON).")] = False,
    store: Annotated[
        str | None, typer.Option(help="Where pods that are gone left theirs; default: its store.")
    ] = None,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
) -> None:
    """Print the logs of a condition's pods, in order, each line with its stage.

    Of Jobs that have ended and whose pods are gone, what they left in the store.
    """
    from personaspace.cluster import logs as reading
    from personaspace.cluster.kept_logs import KeptLogs

    where = flags_of(kubeconfig, context)
    options = (["--stage", stage] if stage else []) + ([] if seed is None else [f"--seed={seed}"])
    command = ["logs", release, condition, *options]
    with reach(namespace, kubeconfig, context, "read logs") as cluster:
        kept = KeptLogs(cluster, release, condition, stage, seed, store, command, where)
        reading.show(cluster, release, condition, stage, seed, follow, tail, raw, kept)


def wait(
    release: Release,
    targets: Annotated[
        list[str] | None,
        typer.Option("--for", help="Jobs as `status` has them: train, train:CONDITION:SEED."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds; default: for ever.")] = None,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
) -> None:
    """Wait until a release, or Jobs of it, have ended; exit code 0: complete, 1: some failed."""
    from personaspace.cluster import release as releases

    def say(text: str) -> None:
        print(shown(text), flush=True)

    with reach(namespace, kubeconfig, context, "wait") as cluster:
        code = releases.wait(cluster, release, timeout, say, targets or [])
    raise SystemExit(code)


def rerun(
    release: Release,
    condition: Annotated[list[str] | None, typer.Option(help="Default: every one.")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Stages to compute again.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Default: every one.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="What failed or did not run.")] = False,
    chart: Chart = CHART,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
) -> None:
    """Compute stages again, with all that follows (--stage), or retry what failed (--failed)."""
    from personaspace.cluster import release as releases

    if bool(stage) == failed:
        raise UserError("rerun: give either --stage STAGE or --failed")
    if not (chart / "Chart.yaml").is_file():
        raise UserError(f"--chart {chart}: not a chart, as it has no Chart.yaml")
    options = releases.helm_options(namespace, kubeconfig, context)
    if failed:
        releases.values_of(release, options)  # nothing is deleted that Helm could not bring back
        with reach(namespace, kubeconfig, context, "rerun") as cluster:
            gone = releases.delete_failed(cluster, release)
        releases.upgrade(release, chart, options, None)
        print(f"{release}: {count_of_jobs(len(gone))} will start again; what is complete stays")
        return
    wanted: list[dict[str, Any]] = []
    for name in stage or []:
        for of in condition or [""]:
            for number in seed or [-1]:
                entry = {"stage": name, "condition": of or None, "seed": number}
                entry["seed"] = None if number < 0 else number
                wanted.append({k: v for k, v in entry.items() if v is not None})
    releases.compute_again(release, chart, options, wanted)
    print(f"{release} will compute again: {', '.join(_words(entry) for entry in wanted)}")


def _words(entry: dict[str, Any]) -> str:
    return ":".join(str(entry[name]) for name in ("stage", "condition", "seed") if name in entry)


def cancel(
    release: Release,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
) -> None:
    """Stop what runs or waits; checkpoints and artifacts stay, `helm upgrade` continues."""
    from personaspace.cluster import release as releases

    with reach(namespace, kubeconfig, context, "cancel") as cluster:
        gone = releases.cancel(cluster, release)
    if not gone:
        raise UserError(f"{release}: nothing is running or waiting")
    stopped = count_of_jobs(len(gone))
    print(f"{release}: stopped {stopped}; `helm upgrade {release}` continues from here")
