"""Buckets whose address means something in their cluster only, and the way to them from here."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from personaspace.errors import UserError
from personaspace.s3.location import S3Location
from personaspace.store.location import parse_location

#: Key of the chart's own bucket, which checks none.
_TRIAL = "trial"


def check_reachable(
    url: str,
    release: str,
    namespace: str,
    where: list[str],
    command: Sequence[str] | None = None,
) -> None:
    """Look whether the address of a release's bucket is known here.

    Args:
        url: The release's store; keys of its bucket are in the environment.
        release: Its name.
        namespace: Where it is.
        where: What else names the cluster, as kubectl and `personaspace` take it.
        command: What was asked for: a command's name, the release, its options; None: its results.

    Raises:
        UserError: It is a Service of the cluster, and no such name is known here. Says the two
            commands by which it is read.
    """
    location = parse_location(url)
    if not isinstance(location, S3Location):
        return
    server = urlsplit(location.endpoint or os.environ.get("AWS_ENDPOINT_URL") or "")
    host = server.hostname or ""
    service = _service(host, namespace)
    if service is None or _is_known(host):
        return
    name, space = service
    port = server.port or (443 if server.scheme == "https" else 80)
    local = port if port >= 1024 else 8000 + port
    ports = str(port) if local == port else f"{local}:{port}"
    forward = ["kubectl", "port-forward", "-n", space, *where, f"service/{name}", ports]
    store = replace(location, endpoint=f"{server.scheme}://127.0.0.1:{local}").url
    command = command or ["results", release]
    asked, options = command[:2], command[2:]
    again = ["personaspace", *asked, "-n", namespace, *where, "--store", store, *options]
    # No other key may be shown.
    trial = os.environ.get("AWS_ACCESS_KEY_ID") == _TRIAL
    keys = f"AWS_ACCESS_KEY_ID={_TRIAL} AWS_SECRET_ACCESS_KEY={_TRIAL} " if trial else ""
    note = "" if trial else " with the bucket's keys in the environment"
    raise UserError(
        f"{release}: its bucket's server {server.netloc} can only be reached inside the cluster: "
        f"keep `{shlex.join(forward)}` running and, in another terminal{note}, run "
        f"`{keys}{shlex.join(again)}`"
    )


def _service(host: str, namespace: str) -> tuple[str, str] | None:
    """Name and namespace of the Service that a host name stands for in a cluster; None: of none."""
    parts = host.split(".")
    if len(parts) == 1 and host not in ("", "localhost"):
        return host, namespace
    return (parts[0], parts[1]) if parts[2:3] == ["svc"] else None


def _is_known(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False
