"""From the environment to a running conductor, and from its end to an exit code and a table."""

from __future__ import annotations

import os
import random
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace import interrupt
from personaspace.cluster import names
from personaspace.cluster.api import Cluster, api_errors, connect
from personaspace.cluster.conductor import plan
from personaspace.cluster.conductor.loop import Conductor
from personaspace.cluster.conductor.patches import CONNECTIONS
from personaspace.cluster.conductor.reconcile import Decision
from personaspace.cluster.log_lines import Trouble
from personaspace.cluster.states import Cause, JobPhase, JobState, Reason, count_of_jobs, told
from personaspace.cluster.views import job_view, pod_view
from personaspace.errors import EXIT_CRASH, EXIT_FAILURE, Interrupted, UserError, one_line
from personaspace.logs import RunEvent, as_json, log_line
from personaspace.pipeline import metrics, termination
from personaspace.pipeline.termination import Code, Ending, take_signals
from personaspace.store import open_store

if TYPE_CHECKING:
    from prometheus_client.core import Metric

RETRY_SECONDS, LONGEST_RETRY = 5.0, 60.0
#: A conductor that crashed starts again so often, after so many seconds, doubled each time.
CRASHES, CRASH_SECONDS = 3, 10.0
_CRASHED = "PERSONASPACE_CRASHES"


@dataclass(frozen=True)
class Settings:
    """What a conductor is told; see jobs/conductor.py and the chart's values."""

    release: str
    jobs: Path
    spec: Path
    store: str
    namespace: str = ""
    queue: str = ""
    queue_gate: str = "annotation"
    patience: float = 600.0
    pod: str = ""


def say(text: str, event: str = "message", **fields: Any) -> None:
    """A line in the log."""
    # One write, so that lines of several threads do not mix.
    sys.stdout.write(log_line(text, event, **fields) + "\n")
    sys.stdout.flush()


def conduct(settings: Settings) -> None:
    """Run a release's conductor.

    Ends the process: 0 everything complete, 1 something failed or was not run, 2 the study or the
    cluster's permissions are wrong, 69 the API is away, 70 a crash, 75 asked to stop.
    """
    try:
        _conduct(settings)
    except Exception as error:
        termination.write_error("conductor", error)
        if isinstance(error, UserError | Interrupted):
            raise
        # 1 is the verdict that something failed, after which no other conductor starts.
        _tell_crash(error)
        _start_again()
        raise SystemExit(EXIT_CRASH) from None


def _tell_crash(error: Exception) -> None:
    """The traceback, in one line where lines are JSON."""
    if as_json():
        text = f"conductor: {one_line(error)}"
        say(text, event=RunEvent.ERROR, traceback=traceback.format_exc())
    else:
        traceback.print_exc()


def _start_again() -> None:
    """Become a new process after a crash, which may pass. Returns when that was tried enough.

    Not left to the Job: Helm 3 takes one for failed when more pods failed than its backoffLimit, so
    the conductor's is 0, and whatever is no verdict must not count.
    """
    crashes = int(os.environ.get(_CRASHED, 0))
    if crashes >= CRASHES:
        return
    interrupt.pause(CRASH_SECONDS * 2**crashes)
    os.environ[_CRASHED] = str(crashes + 1)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606


def _conduct(settings: Settings) -> None:
    take_signals()
    with interrupt.breakable():  # it keeps nothing, and may end at any moment
        _watch_over(settings)


def _watch_over(settings: Settings) -> None:
    cluster = connect(settings.namespace, pool=CONNECTIONS + 8)
    try:
        study = _load_plan(settings)
        place = open_store(settings.store)
    except UserError as error:
        _end_all(cluster, settings.release, str(error))
        raise
    say(
        f"conductor of {settings.release}: {count_of_jobs(len(study.jobs))} in {cluster.namespace}",
        event=RunEvent.START,
        jobs=len(study.jobs),
    )
    with place as store:
        conductor = Conductor(
            cluster,
            settings.release,
            study,
            store,
            say,
            settings.queue,
            settings.queue_gate,
            settings.patience,
            settings.pod,
        )
        with metrics.served(say, Jobs(conductor)):
            decision = conductor.run()
    _verdict(conductor, decision)


def _load_plan(settings: Settings) -> plan.JobPlan:
    """The plan; what may pass (a hub that is away) is waited for.

    Raises:
        PlanFailedError: The spec is wrong, or patience is over.
    """
    if not settings.store:
        raise plan.PlanFailedError(
            "no store: set the chart's store.url, or PERSONASPACE_STORE in the secret", final=True
        )
    began, pause = time.monotonic(), RETRY_SECONDS
    while True:
        try:
            return plan.load(settings.spec, settings.jobs)
        except plan.PlanFailedError as error:
            if error.final or time.monotonic() - began + pause > settings.patience:
                raise
            text = f"cannot read the study, trying again: {error}"
            say(text, event=RunEvent.TROUBLE, trouble=Trouble.STUDY)
            interrupt.pause(pause * random.uniform(0.7, 1.0))
            pause = min(LONGEST_RETRY, pause * 2)


def _end_all(cluster: Cluster, release: str, why: str) -> None:
    """Without a plan nothing can be released: end what has not started, so that nobody waits."""
    from datetime import UTC, datetime

    from personaspace.cluster.conductor import actions

    cause, ended = Cause(Reason.STUDY_INVALID, why), 0
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with api_errors(cluster, "end Jobs"):
        pods = map(pod_view, cluster.items("pods", label_selector=names.selector(release)))
        started = {pod.job for pod in pods if pod.live and not pod.gated}
        for raw in cluster.items("jobs", label_selector=names.selector(release)):
            conducts = raw["metadata"]["labels"].get(names.STAGE) == "conductor"
            job = job_view(raw)
            if not conducts and job.phase is JobPhase.ACTIVE and job.name not in started:
                actions.end_job(cluster, job, cause, now)
                ended += 1
    say(
        f"conductor of {release}: ended {count_of_jobs(ended)} that had not started; fix the "
        f"study with `helm upgrade`, then start them again with `personaspace rerun {release} "
        "--failed`",
        ended=ended,
    )


def _verdict(conductor: Conductor, decision: Decision) -> None:
    """Say how it ended. Raises SystemExit if something failed."""
    study, total = conductor.plan, len(conductor.plan.jobs)
    if not decision.failed:
        text = f"all {total} Jobs complete"
        say(f"conductor of {conductor.release}: {text}", event=RunEvent.END, state=JobState.DONE)
        termination.write(text, Ending(node="conductor", code=Code.COMPLETE, text=text))
        return
    fates = {name: conductor.fate(name, cause) for name, cause in decision.failed.items()}
    text = f"{len(fates)} of {total} Jobs failed or did not run"
    say(f"conductor of {conductor.release}: {text}", event=RunEvent.END, state=JobState.FAILED)
    width = max(len(study.title(name)) for name in fates)
    lines = [
        f"  {study.title(name):<{width}}  {told(state, cause.text)}"
        for name, (state, cause) in fates.items()
    ]
    if as_json():
        for name, (state, cause) in fates.items():
            conductor.tell_end(name, state, cause)
    else:
        print("\n".join(lines), flush=True)
    # The count last, as a message that is too long keeps its last line.
    ending = Ending(node="conductor", code=Code.JOBS_FAILED, text=text)
    termination.write("\n".join([*lines, text]), ending)
    raise SystemExit(EXIT_FAILURE)


class Jobs:
    """Reads a conductor for Prometheus.

    Args:
        conductor: Whose.
    """

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def collect(self) -> Iterator[Metric]:
        """Counts of Jobs by where they are, and of patches."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        me = self._conductor
        found = me.decision
        jobs = GaugeMetricFamily("personaspace_jobs", "Jobs of the release.", labels=["state"])
        for name, count in (
            ("done", len(found.done)),
            ("failed", len(found.failed)),
            ("waiting", len(found.waiting)),
            ("started", len(me.world.started() & set(me.plan.jobs))),
        ):
            jobs.add_metric([name], count)
        yield jobs
        text = "Patches that the conductor sent."
        yield CounterMetricFamily("personaspace_patches", text, value=me.patches)
