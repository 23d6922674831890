"""What of the values is Kubernetes' own: merged by name, and refused where its server would."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helm_charts import each_helm, needs_helm, of_kind, refused, render, stage_jobs

from personaspace.study.spec import Experiment
from personaspace.study.validate import examine

pytestmark = needs_helm
#: Rendered three times as fast as the published one.
SMALL = {"conditions": [{"name": "base"}, {"name": "x", "dataset": "instructions"}]}


def pods(values: dict[str, Any], program: str = "") -> list[dict[str, Any]]:
    objects = render({"experiment": SMALL, **values}, program=program)
    found = [job["spec"]["template"]["spec"] for job in of_kind(objects, "Job").values()]
    assert len(found) == 9
    return found


@each_helm
def test_what_the_user_names_too_is_the_user_s_once(program: str) -> None:
    mine = {"HF_HOME": "/data/hf", "TRITON_CACHE_DIR": "/scratch/triton", "AWS_REGION": "x"}
    values = {
        "extraEnv": [{"name": name, "value": value} for name, value in mine.items()],
        "extraVolumes": [
            {"name": "tmp", "persistentVolumeClaim": {"claimName": "scratch"}},
            {"name": "data", "emptyDir": {}},
        ],
        "extraVolumeMounts": [
            {"name": "data", "mountPath": "/cache/"},
            {"name": "tmp", "mountPath": "/scratch"},
        ],
    }
    for pod in pods({"pods": values}, program):
        container = pod["containers"][0]
        env = [entry["name"] for entry in container["env"]]
        assert len(env) == len(set(env)) and "HOME" in env
        assert mine.items() <= {e["name"]: e.get("value") for e in container["env"]}.items()
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert len(volumes) == len(pod["volumes"]) and "study" in volumes
        assert volumes["tmp"]["persistentVolumeClaim"] == {"claimName": "scratch"}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounts["/cache/"] == "data" and "/cache" not in mounts and mounts["/tmp"] == "tmp"


def _from(**source: Any) -> dict[str, Any]:
    return {"name": "A", "valueFrom": source}


def _rule(action: str, codes: list[int], **more: Any) -> dict[str, Any]:
    on = {"operator": "In", "values": codes, **more}
    return {"podFailurePolicy": {"rules": [{"action": action, "onExitCodes": on}]}}


_KEY = {"name": "s", "key": "k"}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
#: Settings of pods that an API server would refuse, or that would break the chart's own, and what
#: Helm's words must hold.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "number": ({"extraEnv": [{"name": "A", "value": 1}]}, "extraEnv"),
    "name": ({"extraEnv": [{"name": "A B", "value": "1"}]}, "extraEnv"),
    "no name": ({"extraEnv": [{"value": "1"}]}, "extraEnv"),
    "two values": (
        {"extraEnv": [{"name": "A", "value": "1", "valueFrom": {}}]},
        "extraEnv",
    ),
    "twice": ({"extraEnv": [{"name": "A"}, {"name": "A"}]}, 'extraEnv[1].name: "A" is listed'),
    "own": ({"extraEnv": [{"name": "PERSONASPACE_JOBS"}]}, "extraEnv[0].name: "),
    "no source": ({"extraVolumes": [{"name": "a"}]}, "extraVolumes"),
    "two sources": (
        {"extraVolumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}]},
        "extraVolumes",
    ),
    "source": ({"extraVolumes": [{"name": "a", "emptydir": {}}]}, "extraVolumes"),
    "volume's name": ({"extraVolumes": [{"name": "A", "emptyDir": {}}]}, "extraVolumes"),
    "own volume": ({"extraVolumes": [{"name": "study", "emptyDir": {}}]}, "extraVolumes[0].name: "),
    "no volume": (
        {"extraVolumeMounts": [{"name": "a", "mountPath": "/a"}]},
        'pods.extraVolumeMounts[0].name: there is no volume "a"',
    ),
    "path": ({"extraVolumeMounts": [{"name": "tmp", "mountPath": "a:b"}]}, "extraVolumeMounts"),
    "same path": (
        {
            "extraVolumeMounts": [
                {"name": "tmp", "mountPath": "/a"},
                {"name": "tmp", "mountPath": "/a/"},
            ]
        },
        "extraVolumeMounts[1].mountPath: ",
    ),
    "own path": (
        {"extraVolumeMounts": [{"name": "tmp", "mountPath": "/etc/personaspace"}]},
        "extraVolumeMounts[0].mountPath: ",
    ),
    "operator": ({"tolerations": [{"operator": "In"}]}, "tolerations"),
    "affinity": ({"affinity": {"nodeAffinty": {}}}, "affinity"),
    "amount": ({"resources": {"requests": {"memory": "32 GB"}}}, "resources"),
    "shm": ({"shmSize": "8 Gi"}, "shmSize"),
    "label": ({"podLabels": {"a": "b c"}}, "podLabels"),
    "class": ({"priorityClassName": "High"}, "priorityClassName"),
    "less than is asked for": (
        {"resources": {"limits": {"memory": "16Gi"}}},
        "pods.resources.requests.memory: 32Gi is more than its limit, 16Gi",
    ),
    "label of ours": (
        {"podLabels": {"app.kubernetes.io/name": "mine"}},
        "pods.podLabels: app.kubernetes.io/name is the chart's own",
    ),
    "key of a secret": ({"extraEnv": [_from(secretKeyRef={"name": "s", "key": "a b"})]}, "key"),
    "two sources of a value": (
        {"extraEnv": [_from(secretKeyRef=_KEY, configMapKeyRef=_KEY)]},
        "extraEnv",
    ),
    "no source of a value": ({"extraEnv": [_from()]}, "extraEnv"),
    "upwards on the node": (
        {"extraVolumes": [{"name": "a", "hostPath": {"path": "/x/../y"}}]},
        "hostPath",
    ),
    "upwards in a volume": (
        {"extraVolumeMounts": [{"name": "tmp", "mountPath": "/a", "subPath": "../b"}]},
        "subPath",
    ),
    "toleration of no key": ({"tolerations": [{"operator": "Equal", "value": "x"}]}, "tolerations"),
    "toleration for a time": (
        {"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 5}]},
        "tolerations",
    ),
    "spread": ({"topologySpreadConstraints": [{**_SPREAD, "maxSkew": 0}]}, "maxSkew"),
    "spread's word": (
        {"topologySpreadConstraints": [{**_SPREAD, "whenUnsatisfiable": "Never"}]},
        "whenUnsatisfiable",
    ),
    "no terms": (
        {"affinity": {"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": []}}}},
        "nodeSelectorTerms",
    ),
    "action": (_rule("FailIndex", [3]), "action"),
    "container": (_rule("Count", [3], containerName="other"), "containerName"),
    "success is no failure": (_rule("Count", [0]), "onExitCodes"),
    "codes": (_rule("Count", [3, 3]), "onExitCodes"),
    "policy": ({"podFailurePolicy": {"rules": [{"onExitCodes": {}}]}}, "podFailurePolicy"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_the_server_would_refuse_is_refused_with_its_path(fault: str) -> None:
    settings, said = REFUSED[fault]
    assert said in refused({"experiment": SMALL, "pods": settings})


@each_helm
def test_so_is_what_stands_elsewhere(program: str) -> None:
    egress = {"to": [{"ipBlock": {"cidr": "10.0.0.0"}}], "ports": [{"port": 99999}]}
    values = {
        "queue": {"name": "GPU queue"},
        "podMonitor": {"interval": "30"},
        "hubToken": {"key": "my token"},
        "judgeKey": {"key": "a/b"},
        "modelCache": {"path": "/models/../x"},
        "networkPolicy": {"egress": [egress]},
    }
    said = refused({"experiment": SMALL, **values}, program).replace("/", ".")
    for place in ("queue.name", "podMonitor.interval", "hubToken.key", "judgeKey.key"):
        assert place in said
    for place in ("modelCache.path", "ipBlock.cidr", "ports.0.port"):
        assert place in said
    small = {"limits": {"memory": "64Mi"}}
    own = {"app.kubernetes.io/instance": "mine"}
    values = {
        "check": {"resources": small},
        "livePage": {"resources": small},
        "seaweedfs": {"resources": small},
        "stages": {
            "aggregate": {"resources": {"requests": {"cpu": 3}, "limits": {"cpu": "2500m"}}}
        },
        "serviceAccount": {"labels": own},
        "podMonitor": {"labels": own},
    }
    said = refused({"experiment": SMALL, **values}, program)
    for place in ("check", "livePage", "seaweedfs"):
        assert re.search(rf"{place}\.resources\.requests\.memory: \S+ is more than its limit", said)
    assert "stages.aggregate.resources.requests.cpu: 3 is more than its limit, 2500m" in said
    for place in ("serviceAccount", "podMonitor"):
        assert f"{place}.labels: app.kubernetes.io/instance is the chart's own" in said


def test_amounts_are_compared_as_kubernetes_counts_them() -> None:
    requests = {"cpu": "2500m", "memory": "1.5Gi", "ephemeral-storage": "1e9"}
    limits = {"cpu": 2.5, "memory": 1610612736, "ephemeral-storage": "1G"}
    assert pods({"pods": {"resources": {"requests": requests, "limits": limits}}})


def test_an_image_s_empty_parts_are_the_chart_s_own() -> None:
    parts = {"repository": None, "tag": None, "pullPolicy": None, "registry": "r.example.org"}
    values = {"image": parts, "cpuImage": parts}
    given = {name: {"registry": "r.example.org"} for name in values}
    assert render({"experiment": SMALL, **values}) == render({"experiment": SMALL, **given})


def test_a_stage_s_settings_are_looked_at_too() -> None:
    stage = {
        "extraVolumeMounts": [{"name": "a", "mountPath": "/a"}],
        "extraEnv": [{"name": "B"}] * 2,
    }
    said = refused({"experiment": SMALL, "stages": {"couple": stage}})
    assert 'stages.couple.extraVolumeMounts[0].name: there is no volume "a"' in said
    assert 'stages.couple.extraEnv[1].name: "B" is listed twice' in said


@each_helm
def test_an_empty_section_is_its_defaults(program: str) -> None:
    sections = ("evaluation", "coupling", "training", "extraction", "model", "analysis", "seeds")
    empty: dict[str, Any] = dict.fromkeys(
        ("gpu", "store", "pods", "stages", "queue", "modelCache", "seaweedfs", "podMonitor")
    )
    empty |= dict.fromkeys(("networkPolicy", "serviceAccount", "conductor", "judgeKey"))
    study = {"experiment": {**SMALL, **dict.fromkeys(sections)}}
    assert render({**empty, **study}, program=program) == render({"experiment": SMALL})
    # Of what Kubernetes takes, a null leaves a part out, as anywhere in Helm.
    open_shift = {"podSecurityContext": {"runAsUser": None}, "pods": {"resources": None}}
    for pod in pods(open_shift, program):
        assert "runAsUser" not in pod["securityContext"] and pod["securityContext"]["fsGroup"]


def test_an_empty_section_is_its_defaults_in_a_study_too() -> None:
    spec, problems = examine({"evaluation": None, "coupling": {"recipe": None}, "figures": None})
    assert problems == [] and spec == Experiment()


@each_helm
def test_gpus_may_be_claimed(program: str) -> None:
    values: dict[str, Any] = {
        "gpu": {"deviceClass": "gpu.nvidia.com", "deviceSelectors": ["device.driver == 'x'"]},
        "stages": {"train": {"gpu": {"count": 4}}, "couple": {"gpu": {"deviceClass": ""}}},
        "experiment": SMALL,
    }
    values["stages"]["couple"]["gpu"]["deviceSelectors"] = []
    objects = render(values, program=program)
    templates = of_kind(objects, "ResourceClaimTemplate")
    counts = {}
    for job in stage_jobs(objects).values():
        stage = job["metadata"]["labels"]["personaspace.dev/stage"]
        pod = job["spec"]["template"]["spec"]
        resources = pod["containers"][0].get("resources", {})
        if stage in ("couple", "aggregate"):
            assert "resourceClaims" not in pod and "claims" not in resources
            continue
        (claim,) = pod["resourceClaims"]
        assert resources["claims"] == [{"name": claim["name"]}]
        assert "nvidia.com/gpu" not in resources.get("limits", {})
        devices = templates[claim["resourceClaimTemplateName"]]["spec"]["spec"]["devices"]
        (request,) = devices["requests"]
        assert request["exactly"]["deviceClassName"] == "gpu.nvidia.com"
        assert request["exactly"]["selectors"] == [{"cel": {"expression": "device.driver == 'x'"}}]
        counts[stage] = request["exactly"]["count"]
    assert counts == {"train": 4, "extract": 1, "evaluate": 1}
    assert len(templates) == 2


def test_what_says_nothing_of_claims_is_refused() -> None:
    said = refused({"experiment": SMALL, "gpu": {"deviceSelectors": ["true"]}})
    assert "gpu.deviceSelectors: need deviceClass" in said
    both = {"train": {"gpu": {"deviceClass": "x", "migProfile": "1g.10gb"}}}
    said = refused({"experiment": SMALL, "stages": both})
    assert "stages.train.gpu.migProfile: a claimed slice is named in deviceSelectors" in said


def test_images_come_from_a_registry_that_is_named() -> None:
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({}, ("image.registry", "cpuImage.registry")),
        ({"gpu": {"count": 0}}, ("cpuImage.registry",)),
        ({"image": {"repository": "mine/gpu"}}, ("image.registry", "cpuImage.registry")),
        ({"cpuImage": {"digest": "sha256:" + "a" * 64}}, ("image.registry",)),
    ]
    for values, wanted in cases:
        said = refused({"experiment": SMALL, **values}, "", "--namespace", "lab")
        assert set(re.findall(r"(\w+\.registry): ", said)) == set(wanted)
    local = {"repository": "localhost/gpu"}
    here = {"pullPolicy": "Never"}
    assert stage_jobs(render({"experiment": SMALL, "image": local, "cpuImage": here}))
