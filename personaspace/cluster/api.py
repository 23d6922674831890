"""The Kubernetes API: reaching it, and its errors in one line for people."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from personaspace.errors import UnavailableError, UserError

#: Seconds to connect, and to wait for an answer.
TIMEOUT = (10, 60)
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Cluster:
    """A namespace of a cluster.

    Attributes:
        namespace: Its name.
        batch: API of Jobs.
        core: API of pods, events, config maps.
        server: The API server's address, for messages.
    """

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self.batch = client.BatchV1Api(api)
        self.core = client.CoreV1Api(api)
        self.server = api.configuration.host

    def items(self, what: str, **options: Any) -> Iterator[dict[str, Any]]:
        """All `jobs`, `pods`, `events` or `configmaps`, as plain JSON, page by page."""
        token = None
        while True:
            page = self.page(what, limit=500, _continue=token, **options)
            yield from page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return

    def page(self, what: str, **options: Any) -> dict[str, Any]:
        """One answer of a list call, as plain JSON (models of thousands of objects cost memory)."""
        options = {name: value for name, value in options.items() if value is not None}
        answer = self.lister(what)(
            self.namespace, _preload_content=False, _request_timeout=TIMEOUT, **options
        )
        try:
            found: dict[str, Any] = json.loads(answer.data)
        finally:
            answer.release_conn()
        return found

    def lister(self, what: str) -> Any:
        """The client's list function of a kind."""
        return {
            "jobs": self.batch.list_namespaced_job,
            "pods": self.core.list_namespaced_pod,
            "events": self.core.list_namespaced_event,
            "configmaps": self.core.list_namespaced_config_map,
        }[what]


def connect(namespace: str = "", kubeconfig: str = "", context: str = "", pool: int = 8) -> Cluster:
    """Reach a cluster as kubectl does; in a pod, by its service account.

    Args:
        namespace: Empty: the context's, or the pod's own.
        kubeconfig: Empty: `KUBECONFIG`, or the one in the home folder.
        context: Empty: the current one.
        pool: Connections kept.

    Raises:
        UserError: There is no usable configuration.
    """
    settings = client.Configuration()
    # The client looks at the variable once, when it is imported.
    file = kubeconfig or os.environ.get("KUBECONFIG") or None
    named = "the kubeconfig" + (f" {file}" if file else "")
    found = ""
    try:
        try:
            if kubeconfig or context:
                raise ConfigException
            config.load_incluster_config(settings)
            found = _NAMESPACE.read_text(encoding="utf-8").strip()
        except ConfigException:
            every, active = config.list_kube_config_contexts(file)
            if context:
                active = next((entry for entry in every if entry["name"] == context), None)
            if active is None:
                raise UserError(f"{named} has no context {context}") from None
            config.load_kube_config(file, context or None, settings)
            found = active["context"].get("namespace", "")
    except (ConfigException, OSError, TypeError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot load {named}: {text}") from None
    settings.connection_pool_maxsize = pool
    settings.retries = False
    return Cluster(client.ApiClient(settings), namespace or found or "default")


#: What a request can end in besides an answer.
CONNECTION_ERRORS = (
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
)


@contextmanager
def api_errors(cluster: Cluster, doing: str) -> Iterator[None]:
    """Turn the client's errors into one line.

    Raises:
        UserError: Forbidden, not logged in, not found.
        UnavailableError: The server cannot be reached, or fails.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # of our own output: the client turns those of its connections into others
    except ApiException as error:
        raise _explain(error, cluster, doing) from None
    except CONNECTION_ERRORS as error:
        inner = getattr(error, "reason", None) or error
        text = " ".join(str(inner).split())[:200]
        raise UnavailableError(
            f"the Kubernetes API at {cluster.server} cannot be reached ({text})"
        ) from None


def _explain(error: ApiException, cluster: Cluster, doing: str) -> UserError:
    where = f"in namespace {cluster.namespace}"
    if error.status == 401:
        return UserError(f"cannot {doing} {where}: you are not logged in to {cluster.server}")
    if error.status == 403:
        return UserError(f"cannot {doing} {where}: {message_of(error)}")
    if error.status == 404:
        return UserError(f"cannot {doing} {where}: {message_of(error)}")
    if error.status == 429 or error.status >= 500 or error.status == 0:
        return UnavailableError(f"cannot {doing} {where}: {message_of(error)}")
    return UserError(f"cannot {doing} {where}: HTTP {error.status} {message_of(error)}")


def message_of(error: ApiException) -> str:
    """What the API server says, in one line."""
    try:
        text = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        text = error.reason or error.body or "no answer"
    return " ".join(str(text).split())[:300]


#: For so long an API server that starts may forbid what it will allow, and a release be gone
#: (between deletion and upgrade).
LOST_SECONDS = 60.0
FIRST_PAUSE, LONGEST_PAUSE, SAY_SECONDS = 1.0, 60.0, 60.0
#: What looking at a release can end in while the API server restarts.
AWAY: tuple[type[Exception], ...] = (ApiException, UserError, OSError, *CONNECTION_ERRORS)


class Outage:
    """Bears with an API that is away: says so at once and every minute, and tries ever less often.

    Args:
        what: Who waits, for the message.
        say: Takes the message.
    """

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self.what, self.say = what, say
        self.over()

    def over(self) -> None:
        """The API has answered."""
        self._pause, self._refused, self._said = FIRST_PAUSE, 0.0, -SAY_SECONDS

    def pause(self, error: Exception) -> float:
        """Seconds until the next try.

        Raises:
            Exception: The error itself, if the API answers, and has gone on to say no.
        """
        now = time.monotonic()
        self._refused = (self._refused or now) if _is_answer(error) else 0.0
        if self._refused and now - self._refused >= LOST_SECONDS:
            raise error
        if now - self._said >= SAY_SECONDS:
            self._said = now
            self.say(f"{self.what}: waiting for the Kubernetes API: {_first_line(error)}")
        seconds, self._pause = self._pause, min(LONGEST_PAUSE, self._pause * 2)
        return seconds


def _is_answer(error: Exception) -> bool:
    """Whether the API answered, if not well: there is no such release, or it is forbidden."""
    if isinstance(error, ApiException):
        return error.status in (401, 403)
    return isinstance(error, UserError) and not isinstance(error, UnavailableError)


def _first_line(error: Exception) -> str:
    if isinstance(error, ApiException):
        return message_of(error)
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
