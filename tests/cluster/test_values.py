"""The matrix of values, and an install by whoever may only edit: what a real API server says."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_matrix import MATRIX, SMALL
from helm_charts import CHART, IMAGES, PROGRAMS, helm, render
from kubernetes import dynamic

from personaspace.cluster.api import Cluster

KUBECTL = shutil.which("kubectl")
TENANT = ("--kube-as-user", "tenant")
Make = Callable[[str], Cluster]


@pytest.fixture(scope="module")
def objects_of(api: Cluster) -> dynamic.DynamicClient:
    return dynamic.DynamicClient(api.core.api_client)


@pytest.mark.parametrize("name", MATRIX)
def test_the_server_takes_what_the_schema_takes(
    name: str, objects_of: dynamic.DynamicClient, space: Cluster
) -> None:
    """Applied on the server, as Helm 4 does, without being kept."""
    for item in render({"experiment": SMALL, **MATRIX[name]}):
        # Of a pod by itself the server asks that its account is there; Jobs have the same template.
        if item["kind"] in ("PodMonitor", "Pod"):
            continue
        kind = objects_of.resources.get(api_version=item["apiVersion"], kind=item["kind"])
        kind.server_side_apply(
            body=item,
            name=item["metadata"]["name"],
            namespace=space.namespace,
            field_manager="tests",
            query_params=[("dryRun", "All"), ("fieldValidation", "Strict")],
        )


@pytest.fixture(scope="module")
def space(make_namespace: Make) -> Cluster:
    """A namespace of the `privileged` level, as some of the matrix use a folder of the node."""
    cluster = make_namespace("values")
    labels = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "warn")}
    cluster.core.patch_namespace(cluster.namespace, {"metadata": {"labels": labels}})
    return cluster


@pytest.mark.parametrize("program", sorted(PROGRAMS.values()))
def test_whoever_may_only_edit_installs_from_nothing(
    program: str, make_namespace: Make, objects_of: dynamic.DynamicClient
) -> None:
    cluster = make_namespace("tenant")
    binding = {
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "name": "tenant"}],
    }
    kind = objects_of.resources.get(api_version="rbac.authorization.k8s.io/v1", kind="RoleBinding")
    kind.create(body=binding, namespace=cluster.namespace)

    def install(values: dict[str, Any]) -> Any:
        given = json.dumps({"experiment": SMALL, "networkPolicy": {"enabled": True}, **values})
        where = ("-n", cluster.namespace, *TENANT)
        return helm(
            "upgrade", "--install", "em", str(CHART), *where, *IMAGES, "-f", "-",
            program=program, input=given,
        )  # fmt: skip

    refused = install({})
    assert refused.returncode != 0 and "forbidden" in refused.stderr and "roles" in refused.stderr
    rights = Path(CHART).parents[1] / "k8s" / "conductor-rights.yaml"
    for item in yaml.safe_load_all(rights.read_text(encoding="utf-8")):
        for subject in item.get("subjects", ()):
            subject["namespace"] = cluster.namespace
        kind = objects_of.resources.get(api_version=item["apiVersion"], kind=item["kind"])
        kind.create(body=item, namespace=cluster.namespace)
    accounts = {"name": "personaspace-stages", "conductorName": "personaspace-conductor"}
    mine = {"rbac": {"create": False}, "serviceAccount": {"create": False, **accounts}}
    done = install(mine)
    assert done.returncode == 0, done.stderr
    assert install(mine).returncode == 0, "an upgrade"
    assert len(cluster.batch.list_namespaced_job(cluster.namespace).items) == 9


@pytest.mark.skipif(not KUBECTL, reason="kubectl is not installed")
@pytest.mark.parametrize("name", ["eight GPUs", "Kueue by annotation", "a live page"])
@pytest.mark.parametrize("program", sorted(PROGRAMS.values()))
def test_what_is_applied_again_is_unchanged(
    program: str, name: str, make_namespace: Make, tmp_path: Path
) -> None:
    """As docs/gitops.md says: by kubectl, twice, and then on the server by another manager."""
    cluster = make_namespace("gitops")
    values = {"experiment": SMALL, **MATRIX[name], "check": {"enabled": False}}
    where = ("-n", cluster.namespace)
    done = helm(
        "template", "em", str(CHART), *where, *IMAGES, "-f", "-",
        program=program, input=json.dumps(values),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file = tmp_path / "em.yaml"
    file.write_text(done.stdout, encoding="utf-8")

    def apply(*more: str) -> set[str]:
        assert KUBECTL
        said = subprocess.run(
            [KUBECTL, "apply", *where, "-f", str(file), *more],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        return {line.rsplit(" ", 1)[-1] for line in said.stdout.splitlines()}

    assert apply() == {"created"}
    assert apply() == {"unchanged"}
    assert apply("--server-side", "--field-manager=argocd") == {"serverside-applied"}
