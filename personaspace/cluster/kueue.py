"""Why Kueue has not let a Job begin: what it says of the Job's workload."""

from __future__ import annotations

import json
from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace.cluster.api import TIMEOUT, Cluster
from personaspace.cluster.states import Cause, Reason
from personaspace.cluster.waiting import short

_GROUP = "kueue.x-k8s.io"


def held_back(cluster: Cluster) -> dict[str, Cause]:
    """Why Jobs that Kueue has are not admitted, by name.

    Empty where there is no Kueue, or one may not read workloads.
    """
    try:
        version = _get(cluster, f"/apis/{_GROUP}")["preferredVersion"]["groupVersion"]
        found = _get(cluster, f"/apis/{version}/namespaces/{cluster.namespace}/workloads")
    except ApiException:
        return {}
    return {
        owner["name"]: cause
        for raw in found["items"]
        for owner in raw["metadata"].get("ownerReferences") or ()
        if owner["kind"] == "Job" and (cause := _cause(raw))
    }


def _get(cluster: Cluster, path: str) -> dict[str, Any]:
    answer, _, _ = cluster.core.api_client.call_api(
        path,
        "GET",
        header_params={"Accept": "application/json"},
        auth_settings=["BearerToken"],
        _preload_content=False,
        _request_timeout=TIMEOUT,
    )
    found: dict[str, Any] = json.loads(answer.data)
    return found


def _cause(workload: dict[str, Any]) -> Cause | None:
    """What keeps it; None: nothing, or nothing is said."""
    said = {c["type"]: c for c in workload.get("status", {}).get("conditions") or ()}
    if not workload.get("spec", {}).get("active", True):
        return Cause(Reason.NOT_ADMITTED, _text("Kueue has set it aside (`active: false`)", said))
    texts = []
    evicted = said.get("Evicted", {})
    if evicted.get("status") == "True":
        texts.append(f"Kueue took it back: {evicted.get('message', '')}")
    reserved = said.get("QuotaReserved", {})
    if reserved.get("status") == "False" and reserved.get("message") != evicted.get("message"):
        texts.append(f"Kueue: {reserved.get('message', '')}")
    return Cause(Reason.NOT_ADMITTED, short("; ".join(texts))) if texts else None


def _text(what: str, said: dict[str, dict[str, Any]]) -> str:
    """With what Kueue said when it took the quota back."""
    message = said.get("Evicted", {}).get("message", "")
    return short(f"{what}: {message}" if message else what)
