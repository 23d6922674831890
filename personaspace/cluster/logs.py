"""Logs of a condition: all its pods in order, each line with the stage it comes from."""

from __future__ import annotations

import sys
import threading
from typing import Any

from kubernetes.client.exceptions import ApiException
from kubernetes.watch.watch import iter_resp_lines

from personaspace.cluster import names
from personaspace.cluster.api import CONNECTION_ERRORS, Cluster, message_of
from personaspace.cluster.status import ORDER, jobs_of
from personaspace.cluster.views import job_view
from personaspace.errors import UserError

#: Seconds between two looks for new pods.
LOOK_SECONDS = 3.0
_print_lock = threading.Lock()
#: Set when nobody reads what is printed any more (head, less).
_unread = threading.Event()


def _labels(condition: str, stage: str, seed: int | None) -> dict[str, str]:
    if condition in ("aggregate", "conductor"):
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


def _copy(cluster: Cluster, pod: dict[str, Any], prefix: str, follow: bool, tail: int) -> None:
    options: dict[str, Any] = {"tail_lines": tail} if tail >= 0 else {}
    try:
        answer = cluster.core.read_namespaced_pod_log(
            pod["metadata"]["name"],
            cluster.namespace,
            container="stage",
            follow=follow,
            _preload_content=False,
            **options,
        )
        for line in iter_resp_lines(answer):
            with _print_lock:
                sys.stdout.write(f"{prefix} {line}\n")
                sys.stdout.flush()
        answer.release_conn()
    except BrokenPipeError:
        _unread.set()
    except ApiException as error:
        print(f"{prefix} (no log: {message_of(error)})", file=sys.stderr)
    except CONNECTION_ERRORS as error:
        print(f"{prefix} (the log broke off: {type(error).__name__})", file=sys.stderr)


def show(
    cluster: Cluster,
    release: str,
    condition: str,
    stage: str = "",
    seed: int | None = None,
    follow: bool = False,
    tail: int = -1,
) -> None:
    """Print logs.

    Args:
        cluster: Where.
        release: Its name.
        condition: A condition, or `aggregate` or `conductor`.
        stage: Only this stage.
        seed: Only this seed.
        follow: Go on until all these Jobs have ended.
        tail: Last lines of each pod; -1: all.

    Raises:
        UserError: There are no such Jobs, or none has begun.
        BrokenPipeError: Nobody reads on.
    """
    _unread.clear()
    labels = _labels(condition, stage, seed)
    jobs_of(cluster, release, **labels)
    selector = names.selector(release, **labels)
    seen: dict[str, threading.Thread | None] = {}
    while True:
        ended = all(
            job_view(raw).state != "active"
            for raw in cluster.items("jobs", label_selector=selector)
        )
        pods = sorted(cluster.items("pods", label_selector=selector), key=_order)
        count: dict[str, int] = {}
        for pod in pods:
            job = pod["metadata"]["labels"].get("job-name", "")
            count[job] = count.get(job, 0) + 1
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid in seen or not _has_begun(pod):
                continue
            prefix = _prefix(pod, count[pod["metadata"]["labels"].get("job-name", "")] > 1)
            if follow and not _has_ended(pod):
                thread = threading.Thread(
                    target=_copy, args=(cluster, pod, prefix, True, tail), daemon=True
                )
                thread.start()
                seen[uid] = thread
            else:
                seen[uid] = None
                _copy(cluster, pod, prefix, False, tail)
        if _unread.is_set():
            raise BrokenPipeError
        if not follow:
            if not seen:
                raise UserError(
                    f"{condition}: no pod has begun; see `personaspace status {release}`"
                )
            return
        if ended and not any(thread and thread.is_alive() for thread in seen.values()):
            return
        if _unread.wait(LOOK_SECONDS):
            raise BrokenPipeError
