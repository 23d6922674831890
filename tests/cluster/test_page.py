"""The live page as a Deployment: by its own account it reads a release to its end, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes.client import AuthorizationV1Api

from cluster.conftest import Place
from cluster.release import Release

pytestmark = pytest.mark.timeout(1200)


def _ask(release: Release, path: str, **query: str) -> str:
    """Something of the page, through the API server and the Service."""
    space = release.cluster.namespace
    # The client's own method takes a question mark for a part of the path.
    answer, _, _ = release.cluster.core.api_client.call_api(
        f"/api/v1/namespaces/{space}/services/{release.name}-page:http/proxy/{path}",
        "GET",
        query_params=list(query.items()),
        auth_settings=["BearerToken"],
        _preload_content=False,
    )
    return str(answer.data.decode())


def _may(release: Release, verb: str, resource: str, group: str = "", sub: str = "") -> bool:
    """Whether the page's account may do this in its namespace."""
    space = release.cluster.namespace
    what = {"namespace": space, "verb": verb, "resource": resource, "group": group}
    body = {
        "spec": {
            "user": f"system:serviceaccount:{space}:{release.name}-page",
            "resourceAttributes": {**what, "subresource": sub},
        }
    }
    asked = AuthorizationV1Api(release.cluster.core.api_client)
    return bool(asked.create_subject_access_review(body).status.allowed)


def test_it_shows_a_release_from_its_start_to_its_end(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    study = {**place.study(), "conditions": place.study()["conditions"][:2]}
    release = installed(place.release("seen", study))
    assert release.install().returncode == 0
    jobs = {name: raw["metadata"]["uid"] for name, raw in release.jobs().items()}
    release.values["livePage"] = {"enabled": True}
    done = release.install("--wait", "--timeout", "5m")  # in the middle of a run
    assert done.returncode == 0, done.stderr
    assert {name: raw["metadata"]["uid"] for name, raw in release.jobs().items()} == jobs

    assert release.name in json.loads(_ask(release, "state.json"))["study"]
    assert "<html" in _ask(release, "")

    def cells() -> dict[str, dict[str, Any]]:
        found = json.loads(_ask(release, "state.json"))
        assert not found.get("trouble"), found["trouble"]
        return {cell["node"]: cell for cell in found["cells"]}

    assert set(release.wait_ended().values()) == {"Complete"}
    release.wait(lambda: {c["look"] for c in cells().values()} == {"done"}, 60, "the page's end")
    assert {"train:benign:42", "evaluate:base:42", "aggregate"} <= set(cells())
    # A curve comes from lines that are ten seconds apart: a training this short may have none.
    assert isinstance(json.loads(_ask(release, "losses.json", node="train:benign:42")), list)
    assert _may(release, "list", "jobs", "batch") and _may(release, "get", "pods", sub="log")
    for verb, resource, group in (
        ("get", "secrets", ""),
        ("list", "secrets", ""),
        ("patch", "pods", ""),
        ("create", "pods", ""),
        ("delete", "jobs", "batch"),
        ("patch", "jobs", "batch"),
        ("get", "deployments", "apps"),
    ):
        assert not _may(release, verb, resource, group), (verb, resource)
    # Nothing of the study counts it as a pod of its own.
    assert all("personaspace.dev/stage" in pod["metadata"]["labels"] for pod in release.pods())
