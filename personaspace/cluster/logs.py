"""Logs of a condition: all its pods in order, each line with the stage it comes from."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection
from typing import Any

from kubernetes.client.exceptions import ApiException
from kubernetes.watch.watch import iter_resp_lines
from urllib3.exceptions import ReadTimeoutError

from personaspace.cluster import names
from personaspace.cluster.api import (
    AWAY,
    CONNECTION_ERRORS,
    LOST_SECONDS,
    TIMEOUT,
    Cluster,
    Outage,
    message_of,
)
from personaspace.cluster.kept_logs import KeptLogs
from personaspace.cluster.log_lines import for_people
from personaspace.cluster.states import JobPhase
from personaspace.cluster.status import ORDER, jobs_of
from personaspace.cluster.views import job_view
from personaspace.errors import UserError, one_line

#: Seconds between two looks for new pods.
LOOK_SECONDS = 3.0
#: Pause before a log that ended although its pod has not is asked for again.
AGAIN_SECONDS = 1.0
#: A connection on which nothing came for so long is made anew.
QUIET_SECONDS = 300.0
_print_lock = threading.Lock()
#: Set when nobody reads what is printed any more (head, less).
_unread = threading.Event()


def _labels(condition: str, stage: str, seed: int | None) -> dict[str, str]:
    if condition in ("aggregate", "publish", "conductor"):
        return {"stage": condition}
    found = {"condition": condition}
    if stage:
        found["stage"] = stage
    if seed is not None:
        found["seed"] = str(seed)
    return found


def _order(pod: dict[str, Any]) -> tuple[Any, ...]:
    labels = pod["metadata"]["labels"]
    return (
        ORDER.index(labels[names.STAGE]),
        int(labels.get(names.SEED, -1)),
        str(pod["metadata"]["creationTimestamp"]),
    )


def _prefix(pod: dict[str, Any], several: bool) -> str:
    labels = pod["metadata"]["labels"]
    seed = f" s{labels[names.SEED]}" if names.SEED in labels else ""
    attempt = f" {pod['metadata']['name'][-5:]}" if several else ""
    return f"[{labels[names.STAGE]}{seed}{attempt}]"


def _has_begun(pod: dict[str, Any]) -> bool:
    states = [c.get("state", {}) for c in pod["status"].get("containerStatuses") or ()]
    return any("running" in state or "terminated" in state for state in states)


def _has_ended(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


class _Copy:
    """Prints a pod's log, each line once, however often the connection breaks.

    The API's timestamps say which lines of a log that is read again were printed before: the same
    line at the same nanosecond counts as often as it was printed.
    """

    def __init__(
        self, cluster: Cluster, pod: dict[str, Any], prefix: str, tail: int, raw: bool
    ) -> None:
        self.cluster, self.prefix, self.tail, self.raw = cluster, prefix, tail, raw
        self.pod = pod["metadata"]["name"]
        self._printed: Counter[int] = Counter()
        self._first = ""

    def once(self) -> None:
        """What there is now."""
        try:
            self._read(follow=False)
        except ApiException as error:
            self._complain(f"no log: {message_of(error)}")
        except CONNECTION_ERRORS as error:
            self._complain(f"the log was cut off: {type(error).__name__}")

    def follow(self) -> None:
        """Continue until the pod has ended, through restarts of the API server.

        Raises:
            ApiException: The API continues to forbid it.
        """
        outage = Outage(self.prefix, lambda text: print(text, file=sys.stderr, flush=True))
        ended, until, pause = False, 0.0, 0.0
        while not _unread.wait(pause):
            pause = AGAIN_SECONDS
            try:
                # Asked before: a log that is read to its end after that is whole.
                ended = ended or self._has_ended()
                self._read(follow=not ended)
                if ended:
                    return
                outage.over()
            except ReadTimeoutError:
                pass  # nothing was said for a while, or the connection is dead
            except (ApiException, *CONNECTION_ERRORS) as error:
                until = until or (time.monotonic() + LOST_SECONDS if ended else 0.0)
                over = bool(until) and time.monotonic() > until
                if isinstance(error, ApiException) and (error.status == 404 or over):
                    self._complain(f"no log: {message_of(error)}")  # its node is gone, say
                    return
                pause = outage.pause(error)

    def follow_aside(self) -> None:
        """`follow` in a thread of its own."""
        try:
            self.follow()
        except ApiException as error:
            self._complain(f"no log: {message_of(error)}")

    def _has_ended(self) -> bool:
        answer = self.cluster.core.read_namespaced_pod(
            self.pod, self.cluster.namespace, _preload_content=False, _request_timeout=TIMEOUT
        )
        try:
            return _has_ended(json.loads(answer.data))
        finally:
            answer.release_conn()

    def _read(self, follow: bool) -> None:
        # From the start each time: clocks of the node and of this machine differ.
        options: dict[str, Any] = {} if self._first or self.tail < 0 else {"tail_lines": self.tail}
        answer = self.cluster.core.read_namespaced_pod_log(
            self.pod,
            self.cluster.namespace,
            container="stage",
            follow=follow,
            timestamps=True,
            _preload_content=False,
            _request_timeout=(10, QUIET_SECONDS),
            **options,
        )
        before: Counter[int] = Counter()
        tailed = self._first if self.tail >= 0 else ""
        try:
            for line in iter_resp_lines(answer):
                stamp, _, text = line.partition(" ")
                mark = hash(line)
                before[mark] += 1
                # Up to where a tail began, what is new here came before it.
                if before[mark] > self._printed[mark] and not (tailed and stamp <= tailed):
                    self._printed[mark] += 1
                    self._first = self._first or stamp
                    self._print(text)
        except BrokenPipeError:
            _unread.set()
        finally:
            answer.close()
            answer.release_conn()

    def _print(self, text: str) -> None:
        shown = text if self.raw else for_people(text)
        with _print_lock:
            for line in shown.splitlines() or [""]:
                sys.stdout.write(f"{self.prefix} {line}\n")
            sys.stdout.flush()

    def _complain(self, text: str) -> None:
        print(f"{self.prefix} ({text})", file=sys.stderr)


def show(
    cluster: Cluster,
    release: str,
    condition: str,
    stage: str = "",
    seed: int | None = None,
    follow: bool = False,
    tail: int = -1,
    raw: bool = False,
    kept: KeptLogs | None = None,
) -> None:
    """Print logs.

    Args:
        cluster: Where.
        release: Its name.
        condition: A condition, or `aggregate`, `publish` or `conductor`.
        stage: Only this stage.
        seed: Only this seed.
        follow: Continue until all these Jobs have ended.
        tail: Last lines of each pod; -1: all.
        raw: Lines as they are logged; else those that are JSON read as plain ones would.
        kept: Where logs are of Jobs that have ended and whose pods are gone; not for `follow`.

    Raises:
        UserError: There are no such Jobs, or none has started.
        BrokenPipeError: Nobody reads on.
        ApiException: The API forbids it, or cannot be reached to begin with.
    """
    _unread.clear()
    labels = _labels(condition, stage, seed)
    try:
        jobs_of(cluster, release, **labels)
    except UserError:
        if follow or kept is None or not kept.show((), tail, raw):
            raise
        return
    selector = names.selector(release, **labels)
    seen: dict[str, threading.Thread | None] = {}
    outage = Outage(release, lambda text: print(text, file=sys.stderr, flush=True))
    while True:
        pause = LOOK_SECONDS
        try:
            views = [job_view(raw) for raw in cluster.items("jobs", label_selector=selector)]
            ended = all(view.phase is not JobPhase.ACTIVE for view in views)
            pods = sorted(cluster.items("pods", label_selector=selector), key=_order)
            outage.over()
        except AWAY as error:
            if not follow:
                raise
            views, ended, pods, pause = [], False, [], outage.pause(error)
        _start(cluster, pods, seen, follow, tail, raw)
        if _unread.is_set():
            raise BrokenPipeError
        if not follow:
            told = {pod["metadata"]["labels"].get("job-name", "") for pod in pods}
            over = {view.name for view in views if view.phase is not JobPhase.ACTIVE}
            more = False
            if kept is not None and over - told:
                more = _older(kept, told, bool(seen), tail, raw)
            if not (seen or more):
                raise UserError(
                    f"{condition}: no pod has started yet; see `personaspace status {release}`"
                )
            return
        if ended and not any(thread and thread.is_alive() for thread in seen.values()):
            return
        if _unread.wait(pause):
            raise BrokenPipeError


def _older(kept: KeptLogs, told: Collection[str], others: bool, tail: int, raw: bool) -> bool:
    """Print what Jobs left whose pods are gone; after others, that it fails is only said."""
    try:
        return kept.show(told, tail, raw)
    except UserError as error:
        if not others:
            raise
        print(f"(logs of pods that are gone: {one_line(error)})", file=sys.stderr)
        return False


def _start(
    cluster: Cluster,
    pods: list[dict[str, Any]],
    seen: dict[str, threading.Thread | None],
    follow: bool,
    tail: int,
    raw: bool,
) -> None:
    """Print pods that have ended, and begin to follow those that run."""
    jobs = [pod["metadata"]["labels"].get("job-name", "") for pod in pods]
    for pod, job in zip(pods, jobs, strict=True):
        uid = pod["metadata"]["uid"]
        if uid in seen or not _has_begun(pod):
            continue
        copy = _Copy(cluster, pod, _prefix(pod, jobs.count(job) > 1), tail, raw)
        if follow and not _has_ended(pod):
            thread = threading.Thread(target=copy.follow_aside, daemon=True)
            thread.start()
            seen[uid] = thread
        else:
            seen[uid] = None
            (copy.follow if follow else copy.once)()
