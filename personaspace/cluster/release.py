"""What people do with a release: wait for it, find its results, compute again, cancel."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace.cluster import names
from personaspace.cluster.api import AWAY, Cluster, Outage
from personaspace.cluster.installed import installed
from personaspace.cluster.log_lines import for_people
from personaspace.cluster.states import JobPhase, JobState, Reason, count_of_jobs
from personaspace.cluster.status import alike, find_jobs, jobs_of, rows
from personaspace.cluster.views import job_view
from personaspace.errors import EXIT_FAILURE, EXIT_OK, UserError
from personaspace.pipeline import termination
from personaspace.pipeline.termination import Ending

POLL_SECONDS, SAY_SECONDS = 3.0, 60.0
#: So many reasons why something is queued are told in a line.
_REASONS = 3


def conductor_of(cluster: Cluster, release: str) -> dict[str, Any]:
    """The release's newest conductor Job. Raises UserError if there is none."""
    return jobs_of(cluster, release, stage="conductor")[0]


def last_message(cluster: Cluster, job: str) -> tuple[str, Ending | None]:
    """What a Job's newest ended pod left, for people and for programs; empty if it is gone."""
    pods = cluster.items("pods", label_selector=f"job-name={job}")
    for pod in sorted(pods, key=lambda p: str(p["metadata"]["creationTimestamp"]), reverse=True):
        for container in pod["status"].get("containerStatuses") or ():
            ended = container.get("state", {}).get("terminated")
            if ended and ended.get("message"):
                people, ending = termination.read(ended["message"])
                return "\n".join(map(for_people, people.splitlines())), ending
    return "", None


def wait(
    cluster: Cluster,
    release: str,
    seconds: float | None,
    say: Callable[[str], None],
    targets: Sequence[str] = (),
) -> int:
    """Wait until a release has ended, or some of its Jobs have.

    An API server that is away is waited for.

    Args:
        cluster: Where.
        release: Its name.
        seconds: For so long; None: for ever.
        say: Takes what is to be told.
        targets: Jobs as `status` has them, or their beginnings (`train:x`); none: all of it.

    Returns:
        Exit code: 0 everything complete, 1 something failed or the time is over.

    Raises:
        UserError: There is no such release, or no Job of a target.
    """
    began = said = time.monotonic()
    known, outage = False, Outage(release, say)
    while True:
        now, pause = time.monotonic(), POLL_SECONDS
        try:
            if targets:
                code = _end_of(cluster, release, targets, say)
            else:
                code = _end_of_all(cluster, release, say)
            known = True
            if code is not None:
                return code
            if now - said >= SAY_SECONDS:
                said = now
                say(_standing(cluster, release))
            outage.over()
        except AWAY as error:
            if not known:
                raise
            pause = outage.pause(error)
        if seconds is not None and time.monotonic() - began >= seconds:
            say(f"{release}: has not ended after {seconds:g} s; {_standing_if(cluster, release)}")
            return EXIT_FAILURE
        time.sleep(pause)


def _end_of_all(cluster: Cluster, release: str, say: Callable[[str], None]) -> int | None:
    """How a release ended, in its conductor's words; None: it has not."""
    view = job_view(conductor_of(cluster, release))
    if view.phase is JobPhase.ACTIVE:
        return None
    people, _ = last_message(cluster, view.name)
    say(people or (view.cause and view.cause.text) or f"{release}: {view.phase}")
    return EXIT_OK if view.phase is JobPhase.SUCCEEDED else EXIT_FAILURE


def _end_of(
    cluster: Cluster, release: str, targets: Sequence[str], say: Callable[[str], None]
) -> int | None:
    """How some of a release's Jobs ended; None: not all have. The first that failed decides."""
    found = rows(cluster, release, progress=False)
    mine = {}
    for target in targets:
        of = [row for row in found if f"{row.title}:".startswith(f"{target}:")]
        if not of:
            few = ", ".join(row.title for row in found[:3])
            raise UserError(f"--for {target}: {release} has no such Job (it has {few} …)")
        mine.update({row.title: row for row in of})
    # Without a conductor what waits waits in vain.
    vain = [row for row in mine.values() if row.reason is Reason.NO_CONDUCTOR]
    lost = [row for row in mine.values() if row.state.ended and row.state is not JobState.DONE]
    if lost or vain:
        say("\n".join(f"{row.title}: {row.state}, {row.why}".rstrip(", ") for row in lost or vain))
        return EXIT_FAILURE
    if all(row.state is JobState.DONE for row in mine.values()):
        say(f"{release}: {', '.join(targets)}: {count_of_jobs(len(mine))} complete")
        return EXIT_OK
    return None


def _standing_if(cluster: Cluster, release: str) -> str:
    """Where the Jobs are, if the API says so now."""
    try:
        return _standing(cluster, release)
    except AWAY:
        return "the Kubernetes API does not answer"


def _standing(cluster: Cluster, release: str) -> str:
    """How many Jobs are where, and what cannot run and why, in a line."""
    found = rows(cluster, release, progress=False)
    states = [row.state for row in found if row.stage != "conductor"]
    missed = states.count(JobState.FAILED) + states.count(JobState.NOT_RUN)
    queued = alike(row for row in found if row.state is JobState.QUEUED)
    told = [
        f"; {titles[-1]}{f' and {len(titles) - 1} more' * (len(titles) > 1)}: {state}, {why}"
        for (state, why), titles in queued.items()
    ]
    # The conductor, which all else waits for, comes last.
    return (
        f"{states.count(JobState.DONE)} of {len(states)} Jobs done, {missed} failed or not run"
        + "".join(told[-_REASONS:])
    )


def artifact_keys(cluster: Cluster, release: str) -> dict[str, str]:
    """Keys of the finished study's aggregate and report, by stage.

    Its pod says so; where that is gone (with its node, or at the end of its Job's time), they
    follow from the study as it was installed.

    Raises:
        UserError: It has not finished, or neither pod nor study can be read.
    """
    jobs = find_jobs(cluster, release, stage="aggregate")
    if jobs and job_view(jobs[0]).phase is not JobPhase.SUCCEEDED:
        raise UserError(
            f"{release}: no results yet; `personaspace status {release}` says what is missing"
        )
    _, ending = last_message(cluster, jobs[0]["metadata"]["name"]) if jobs else ("", None)
    if ending is not None and "aggregate" in ending.artifacts:
        return dict(ending.artifacts)
    known = installed(cluster, release)
    lost = f"{release}: the pod of its aggregate Job is gone"
    if known is None:
        jobs_of(cluster, release)
        raise UserError(f"{lost}; use `personaspace results SPEC --store …`")
    try:
        return known.artifact_keys()
    except UserError as error:
        raise UserError(
            f"{lost}, and its study cannot be read here ({str(error).splitlines()[0]}); use "
            "`personaspace results SPEC --store …` where its files are"
        ) from None


def store_url(cluster: Cluster, release: str) -> str:
    """Where the release keeps artifacts; credentials come along unless the environment has some.

    Raises:
        UserError: Neither the release nor its secret says.
    """
    jobs = find_jobs(cluster, release, stage="aggregate")
    known = None if jobs else installed(cluster, release)
    if known:
        plain, url = {}, known.store
        secrets = [known.secret] if known.secret else []
    else:
        job = jobs[0] if jobs else jobs_of(cluster, release, stage="aggregate")[0]
        container = job["spec"]["template"]["spec"]["containers"][0]
        plain = {e["name"]: e["value"] for e in container["env"] if "value" in e}
        url = plain.get("PERSONASPACE_STORE", "")
        secrets = [e["secretRef"]["name"] for e in container.get("envFrom", ()) if "secretRef" in e]
    mine = any(name in os.environ for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"))
    if not mine:  # the chart's own bucket has its keys here
        os.environ |= {name: value for name, value in plain.items() if name.startswith("AWS_")}
    if secrets and not (url and mine):
        try:
            data = cluster.core.read_namespaced_secret(secrets[0], cluster.namespace).data or {}
        except ApiException:
            data = {}
        for name, value in data.items():
            text = base64.b64decode(value).decode()
            if name == "PERSONASPACE_STORE":
                url = url or text
            elif name.startswith("AWS_") and not mine and name not in plain:
                os.environ[name] = text
    if not url:
        raise UserError(f"{release}: neither its Jobs nor its secret name its store; give --store")
    return url


# --- computing again ------------------------------------------------------------------------------


def _helm(*arguments: str, **options: Any) -> str:
    program = shutil.which("helm")
    if program is None:
        raise UserError(
            "helm is not on PATH; a release belongs to Helm, and only Helm can change it"
        )
    done = subprocess.run(  # noqa: S603
        [program, *arguments], capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        # Helm has no other form for it.
        _, _, text = done.stderr.rpartition("Error: ")
        lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
        raise UserError(f"helm {arguments[0]}: {'; '.join(lines) or 'failed'}")
    output: str = done.stdout
    return output


def helm_options(namespace: str, kubeconfig: str, context: str) -> list[str]:
    """The cluster's options as Helm takes them."""
    pairs = (("--namespace", namespace), ("--kubeconfig", kubeconfig), ("--kube-context", context))
    return [part for name, value in pairs if value for part in (name, value)]


def rerun_values(old: dict[str, Any], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The release's reruns with one more; an older one of the same stages gives way to it."""
    same = ("condition", "stage", "seed")
    kept = [
        entry
        for entry in old.get("experiment", {}).get("rerun", [])
        if any(entry.get(name) != wanted.get(name) for name in same)
    ]
    return [*kept, wanted]


def upgrade(
    release: str, chart: Path, options: list[str], reruns: list[dict[str, Any]] | None
) -> None:
    """`helm upgrade` with the release's own values, and reruns if given. Raises UserError."""
    arguments = ["upgrade", release, str(chart), "--reset-then-reuse-values", *options]
    values = {} if reruns is None else {"experiment": {"rerun": reruns}}
    _helm(*arguments, "-f", "-", input=json.dumps(values))


def values_of(release: str, options: list[str]) -> dict[str, Any]:
    """What the release's user gave. Raises UserError if Helm has no such release."""
    found: dict[str, Any] = (
        json.loads(_helm("get", "values", release, "-o", "json", *options)) or {}
    )
    return found


def compute_again(
    release: str, chart: Path, options: list[str], stages: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Ask for stages to be computed again. Returns all reruns of the release."""
    if not (chart / "Chart.yaml").is_file():
        raise UserError(f"--chart {chart}: not a chart, as it has no Chart.yaml")
    values = values_of(release, options)
    nonce = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    found = (values.get("experiment") or {}).get("rerun") or []
    for stage in stages:
        found = rerun_values({"experiment": {"rerun": found}}, {**stage, "nonce": nonce})
    upgrade(release, chart, options, found)
    return list(found)


def delete_failed(cluster: Cluster, release: str) -> list[str]:
    """Delete failed Jobs and the ended conductor, so that an upgrade makes them anew.

    An aggregate that did without some of them (`analysis.partial`) is made anew as well, and what
    was published of it.
    """
    gone = []
    jobs = jobs_of(cluster, release)
    lost = any(
        job_view(raw).phase is JobPhase.FAILED
        and raw["metadata"]["labels"][names.STAGE] not in ("conductor", "publish")
        for raw in jobs
    )
    for raw in jobs:
        stage, phase = raw["metadata"]["labels"][names.STAGE], job_view(raw).phase
        again = stage == "conductor" or (stage in ("aggregate", "publish") and lost)
        if phase is JobPhase.FAILED or (again and phase is not JobPhase.ACTIVE):
            _delete(cluster, raw["metadata"]["name"])
            gone.append(raw["metadata"]["name"])
    return gone


def cancel(cluster: Cluster, release: str) -> list[str]:
    """Delete what has not ended, the conductor first. Returns the Jobs' names."""
    jobs = sorted(
        jobs_of(cluster, release),
        key=lambda raw: raw["metadata"]["labels"][names.STAGE] != "conductor",
    )
    gone = []
    for raw in jobs:
        if job_view(raw).phase is JobPhase.ACTIVE:
            _delete(cluster, raw["metadata"]["name"])
            gone.append(raw["metadata"]["name"])
    return gone


def _delete(cluster: Cluster, job: str) -> None:
    try:
        cluster.batch.delete_namespaced_job(job, cluster.namespace, propagation_policy="Background")
    except ApiException as error:
        if error.status != 404:
            raise
