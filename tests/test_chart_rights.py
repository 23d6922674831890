"""What people who run clusters ask of the chart: rights, names, GPUs, failures, notes, GitOps."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_charts import (
    CHART,
    IMAGES,
    helm,
    needs_helm,
    of_kind,
    refused,
    render,
    stage_jobs,
)

pytestmark = needs_helm
K8S = CHART.parents[1] / "k8s"
SMALL = {"experiment": {"conditions": [{"name": "base"}, {"name": "x", "dataset": "instructions"}]}}
#: Kinds that the cluster role `edit` of Kubernetes 1.36 may make.
EDIT = {"Job", "ConfigMap", "ServiceAccount", "Pod", "Deployment", "Service", "NetworkPolicy"}


def by_stage(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The Job of the trained condition, and those of the study, by stage."""
    return {
        job["metadata"]["labels"]["personaspace.dev/stage"]: job["spec"]
        for job in of_kind(render({**SMALL, **values}), "Job").values()
        if job["metadata"]["labels"].get("personaspace.dev/condition", "x") == "x"
    }


def test_whoever_may_only_edit_installs_after_an_administrator() -> None:
    applied = list(yaml.safe_load_all((K8S / "conductor-rights.yaml").read_text(encoding="utf-8")))
    accounts = list(of_kind(applied, "ServiceAccount"))
    names = dict(zip(("name", "conductorName", "pageName"), accounts, strict=True))
    page = {"livePage": {"enabled": True}}
    mine = {"rbac": {"create": False}, "serviceAccount": {"create": False, **names}, **page}
    objects = render({**SMALL, **mine, "networkPolicy": {"enabled": True}})
    assert {item["kind"] for item in objects} <= EDIT - {"ServiceAccount"}
    for job in of_kind(objects, "Job").values():
        conductor = job["metadata"]["labels"]["personaspace.dev/stage"] == "conductor"
        account = job["spec"]["template"]["spec"]["serviceAccountName"]
        assert account == names["conductorName" if conductor else "name"]
    # What the administrator grants is what the chart would have.
    (page_account,) = (
        item["spec"]["template"]["spec"]["serviceAccountName"]
        for item in of_kind(objects, "Deployment").values()
    )
    assert page_account == names["pageName"]
    roles, bindings = (of_kind(applied, kind) for kind in ("Role", "RoleBinding"))
    granted = list(of_kind(render({**SMALL, **page}), "Role").values())
    assert [role["rules"] for role in roles.values()] == [role["rules"] for role in granted]
    for binding, account in zip(bindings.values(), ("conductorName", "pageName"), strict=True):
        assert binding["subjects"][0]["name"] == names[account]
        assert binding["roleRef"]["name"] == names[account] and names[account] in roles
    said = refused({**SMALL, "serviceAccount": {"create": False}})
    assert "serviceAccount: create is false" in said
    accounts_given = {"create": False, "name": "s", "conductorName": "c"}
    said = refused({**SMALL, **page, "serviceAccount": accounts_given})
    assert "so pageName must name an account" in said


def test_the_live_page_may_only_read_and_is_none_of_the_study() -> None:
    assert "Deployment" not in {item["kind"] for item in render(SMALL)}
    objects = render({**SMALL, "livePage": {"enabled": True}, "networkPolicy": {"enabled": True}})
    (deployment,) = of_kind(objects, "Deployment").values()
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    (service,) = of_kind(objects, "Service").values()
    assert service["spec"]["selector"] == labels == deployment["spec"]["selector"]["matchLabels"]
    # What selects the study's pods, as the conductor, `status` and `cancel` do, has not this one.
    assert labels["app.kubernetes.io/name"] != "personaspace"
    role = of_kind(objects, "Role")[f"{service['metadata']['name']}"]
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list"}
    assert not any("secrets" in rule["resources"] for rule in role["rules"])
    (container,) = pod["spec"]["containers"]
    assert "envFrom" not in container and "env" not in container  # no key of a bucket
    assert container["args"][:2] == ["status", "em205"]
    assert "--serve=0.0.0.0:8080" in container["args"]
    (policy,) = of_kind(objects, "NetworkPolicy").values()
    (selected,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert labels["app.kubernetes.io/name"] in selected["values"]
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == {8080}
    # The same Jobs with it and without: a page switched on in the middle of a run starts nothing.
    assert set(of_kind(objects, "Job")) == set(of_kind(render(SMALL), "Job"))
    # A Service's name begins with a letter, and fits, whatever the release is called.
    for release in ("1" + "a" * 52, "b" * 53):
        objects = render({**SMALL, "livePage": {"enabled": True}}, release=release)
        found = of_kind(objects, "Service")
        assert re.fullmatch(r"[a-z][-a-z0-9]{0,61}[a-z0-9]", next(iter(found)))


def test_releases_and_aliases_share_no_name(tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    everything = {
        **SMALL,
        **{name: {"enabled": True} for name in ("seaweedfs", "networkPolicy", "livePage")},
    }
    for release in ("em", "em-conductor", "em-stages", "em-check", "em-seaweedfs", "em-page"):
        objects = render(everything, release=release)
        mine = {(item["kind"], item["metadata"]["name"]) for item in objects}
        assert not mine & seen, release
        seen |= mine
    # A parent that has it twice.
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    twice = [{"name": "experiment", "version": version, "alias": name} for name in ("a", "b")]
    parent = {"apiVersion": "v2", "name": "lab", "version": "1.0.0", "dependencies": twice}
    (tmp_path / "Chart.yaml").write_text(json.dumps(parent), encoding="utf-8")
    shutil.copytree(CHART, tmp_path / "charts" / "experiment")
    own = {**SMALL, **{name: {"registry": "localhost:5000"} for name in ("image", "cpuImage")}}
    done = helm("template", "em", str(tmp_path), "-f", "-", input=json.dumps({"a": own, "b": own}))
    assert done.returncode == 0, done.stderr
    objects = list(filter(None, yaml.safe_load_all(done.stdout)))
    found = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(found) == len(set(found)) and not set(found) & seen
    releases = set()
    for job in of_kind(objects, "Job").values():
        labels = job["metadata"]["labels"]
        if labels["personaspace.dev/stage"] == "conductor":
            env = job["spec"]["template"]["spec"]["containers"][0]["env"]
            (release,) = (e["value"] for e in env if e["name"] == "PERSONASPACE_RELEASE")
            assert release == labels["app.kubernetes.io/instance"]
            releases.add(release)
    assert len(releases) == 2 and all(len(name) <= 53 for name in releases)


def test_cpus_and_memory_follow_the_gpus() -> None:
    pods = {
        "resources": {
            "requests": {"cpu": "500m", "memory": "1.5Gi", "ephemeral-storage": "1e9"},
            "limits": {"memory": "2G", "rdma/hca": 1},
        }
    }
    found = by_stage({"pods": pods, "gpu": {"count": 8}})
    resources = found["train"]["template"]["spec"]["containers"][0]["resources"]
    assert resources == {
        "requests": {"cpu": "4000m", "memory": "12Gi", "ephemeral-storage": "8e9"},
        "limits": {"memory": "16G", "rdma/hca": 1, "nvidia.com/gpu": "8"},
    }
    one = by_stage({"pods": pods})["train"]["template"]["spec"]["containers"][0]["resources"]
    assert one["requests"] == pods["resources"]["requests"]
    # A condition's own count, which is its training's alone.
    study = json.loads(json.dumps(SMALL["experiment"]))
    study["conditions"][1]["gpus"] = 2
    found = by_stage({"experiment": study})
    asked = {
        stage: spec["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"]
        for stage, spec in found.items()
    }
    assert asked["train"] == asked["couple"] == "64Gi" and asked["evaluate"] == "32Gi"


@pytest.mark.parametrize("kind", ["limits", "requests"])
def test_a_count_of_gpus_among_the_resources_is_refused(kind: str) -> None:
    stage = {"resources": {kind: {"nvidia.com/gpu": 4}}}
    said = refused({**SMALL, "stages": {"train": stage}, "pods": stage})
    assert f"stages.train.resources.{kind}: GPUs stand in stages.train.gpu.count" in said
    assert f"pods.resources.{kind}: GPUs stand in gpu.count" in said


def test_the_pods_of_helm_test_are_small_and_may_be_left_out() -> None:
    big = {"gpu": {"count": 8}, "pods": {"nodeSelector": {"gpu": "h100"}}}
    found = of_kind(render({**SMALL, **big}), "Pod")
    plain, gpu = (found[name]["spec"] for name in ("em205-check", "em205-check-gpu"))
    for pod in (plain, gpu):
        resources = pod["containers"][0]["resources"]
        assert resources["requests"] == {"cpu": "100m", "memory": "1Gi"}
        assert resources["limits"].get("nvidia.com/gpu") == ("1" if pod is gpu else None)
        assert pod["nodeSelector"] == {"gpu": "h100"}
    assert not of_kind(render({**SMALL, "check": {"enabled": False}}), "Pod")


def test_what_is_applied_again_is_the_same() -> None:
    """An empty list that the API server drops would be a change at each `kubectl apply`."""
    for job in of_kind(render(SMALL), "Job").values():
        for rule in job["spec"]["podFailurePolicy"]["rules"]:
            assert rule.get("onPodConditions") != []
    rules = [
        rule
        for job in of_kind(render(SMALL, kubernetes="1.28.5"), "Job").values()
        for rule in job["spec"]["podFailurePolicy"]["rules"]
    ]
    # Its OpenAPI schema wants the list in each rule.
    assert rules and all("onPodConditions" in rule for rule in rules)


def test_a_pod_that_was_asked_to_stop_is_no_failure_unless_it_has_a_deadline() -> None:
    def ignored(values: dict[str, Any], stage: str) -> list[int]:
        rules = by_stage(values)[stage]["podFailurePolicy"]["rules"]
        assert rules[1]["action"] == "FailJob" and rules[1]["onExitCodes"]["values"] == [2]
        return [
            code
            for rule in rules
            if rule["action"] == "Ignore"
            for code in rule.get("onExitCodes", {}).get("values", ())
        ]

    assert ignored({}, "train") == ignored({}, "aggregate") == [75, 143]
    deadline = {"stages": {"train": {"activeDeadlineSeconds": 60}}}
    assert ignored(deadline, "train") == [] and ignored(deadline, "couple") == [75, 143]


def test_the_notes_say_what_is_waited_for() -> None:
    def notes(*options: str) -> str:
        done = helm(
            "install",
            "em",
            str(CHART),
            "--dry-run=client",
            "-n",
            "lab",
            *IMAGES,
            *options,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.rpartition("NOTES:")[2]

    said = notes("--set", "hubToken.existingSecret=hub,modelCache.type=pvc,modelCache.claim=models")
    assert "kubectl get -n lab secret/personaspace-s3 secret/hub pvc/models" in said
    assert "What secret/personaspace-s3 holds: AWS_ACCESS_KEY_ID" in said
    assert "kubectl get -n" not in notes("--set", "seaweedfs.enabled=true")
    assert "helm test em -n lab" in said and "helm test" not in notes(
        "--set", "check.enabled=false"
    )


def test_labels_are_those_that_kubernetes_recommends() -> None:
    wanted = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "part-of", "managed-by")}
    for job in stage_jobs(render(SMALL)).values():
        labels = job["metadata"]["labels"]
        assert labels.keys() >= wanted | {"app.kubernetes.io/component"}


def test_the_package_stands_by_itself() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["icon"].startswith("data:image/svg+xml") and about["maintainers"]
    assert about["annotations"]["artifacthub.io/license"] == "Apache-2.0"
    links = re.findall(r"\]\(([^)#]+)", (CHART / "README.md").read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("https://")] == []
