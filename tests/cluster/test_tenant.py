"""A study by whoever may only edit a namespace, from nothing to its results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_charts import CHART
from kubernetes import dynamic

from cluster.conftest import Place
from cluster.release import Release
from personaspace.cluster.api import Cluster

pytestmark = pytest.mark.timeout(1500)
#: What the tenant says beside the study; k8s/conductor-rights.yaml names the accounts.
MINE = {
    "rbac": {"create": False},
    "serviceAccount": {
        "create": False,
        "name": "personaspace-stages",
        "conductorName": "personaspace-conductor",
        "pageName": "personaspace-page",
    },
}


def _apply(cluster: Cluster, *items: dict[str, Any]) -> None:
    """As an administrator of the cluster."""
    client = dynamic.DynamicClient(cluster.core.api_client)
    for item in items:
        kind = client.resources.get(api_version=item["apiVersion"], kind=item["kind"])
        kind.create(body=item, namespace=cluster.namespace)


def test_a_study_of_a_tenant_runs_to_its_end(
    place: Place, installed: Callable[[Release], Release]
) -> None:
    cluster = place.cluster
    tenant = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "name": "tenant"}],
    }
    rights = Path(CHART).parents[1] / "k8s" / "conductor-rights.yaml"
    granted = list(yaml.safe_load_all(rights.read_text(encoding="utf-8")))
    for item in granted:
        for subject in item.get("subjects", ()):
            subject["namespace"] = cluster.namespace
    _apply(cluster, tenant, *granted)
    study = {**place.study(), "conditions": place.study()["conditions"][:1]}
    release = installed(place.release("tenant", study, livePage={"enabled": True}, **MINE))
    done = release.install("--kube-as-user", "tenant", "--wait", "--wait-for-jobs", "--timeout=15m")
    assert done.returncode == 0, done.stderr
    assert set(release.states().values()) == {"Complete"}
    assert release.conductor() == "Complete"
    accounts = {pod["spec"]["serviceAccountName"] for pod in release.pods()}
    assert accounts == {"personaspace-stages", "personaspace-conductor"}
    assert b'"conditions"' in place.results(release)
