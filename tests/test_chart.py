"""The chart: accepted by Helm, valid for Kubernetes, safe by default, equal to the models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helm_charts import (
    CHART,
    IMAGES,
    each_helm,
    helm,
    needs_helm,
    of_kind,
    refused,
    render,
    stage_jobs,
)

from personaspace.cluster import chart, names
from personaspace.cluster.values import Values
from personaspace.study import chat_sets
from personaspace.study.spec import Experiment
from personaspace.study.validate import load_spec, read_spec
from personaspace.version import __version__

ROOT = Path(__file__).parents[1]
#: Everything that can be switched on, and settings of every kind.
FULL = {
    "image": {"registry": "registry.example.org", "digest": "sha256:" + "a" * 64},
    "cpuImage": {"registry": "registry.example.org"},
    "imagePullSecrets": [{"name": "pull"}],
    "store": {"url": "s3://bucket/em205?endpoint=https://s3.example.org", "existingSecret": "key"},
    "hubToken": {"existingSecret": "hub"},
    "gpu": {
        "runtimeClassName": "nvidia",
        "nodeSelector": {"nvidia.com/gpu.product": "H100"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    },
    "modelCache": {"type": "pvc", "claim": "models", "offline": True},
    "logFormat": "text",
    "pods": {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
                    ]
                }
            }
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "personaspace"}},
            }
        ],
        "priorityClassName": "batch",
        "runtimeClassName": "gvisor",
        "podLabels": {"team": "alignment"},
        "podAnnotations": {"note": "x"},
        "extraEnv": [{"name": "A", "value": "1"}],
        "extraEnvFrom": [{"configMapRef": {"name": "more"}}],
        "extraVolumes": [{"name": "data", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "data", "mountPath": "/data"}],
        "activeDeadlineSeconds": 3600,
        "ttlSecondsAfterFinished": 86400,
    },
    "stages": {
        "evaluate": {"gpu": {"count": 2}, "nodeSelector": {"gpu": "a100"}, "backoffLimit": 0},
        "train": {"image": {"tag": "special"}, "gpu": {"migProfile": "3g.40gb"}},
    },
    "networkPolicy": {"enabled": True},
    "seaweedfs": {"enabled": True},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}},
}
#: What the published study's values leave to the user.
EM205: dict[str, Any] = {
    "experiment": {"datasets": {"bad-legal-advice": {"path": "s3://lab/bad.jsonl"}}}
}
MATRIX: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "defaults": ({}, ()),
    "tiny": ({}, ("values-tiny.yaml",)),
    "em205": (EM205, ("values-em205.yaml",)),
    "full": (FULL, ()),
    "fused": ({"fuse": True, "experiment": {"analysis": {"partial": True}}}, ()),
    "queue-annotation": ({"queue": {"name": "gpus"}}, ()),
    "queue-label": ({"queue": {"name": "gpus", "gate": "label"}}, ("values-tiny.yaml",)),
    "cache-on-node": ({"modelCache": {"type": "hostPath", "path": "/models"}}, ()),
}
pytestmark = needs_helm


def test_what_follows_from_the_models_is_fresh() -> None:
    for path, text in chart.generated(CHART).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make schema`"


def test_chart_values_are_the_models_defaults() -> None:
    written = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert Values.model_validate(written) == Values()
    jsonschema.Draft7Validator(chart.schema()).validate(written)


@each_helm
@pytest.mark.parametrize("files", [(), ("values-tiny.yaml",), ("values-em205.yaml",)])
def test_lint(program: str, files: tuple[str, ...]) -> None:
    options = [part for name in files for part in ("-f", str(CHART / name))]
    if "values-em205.yaml" in files:
        options += ["--set", "experiment.datasets.bad-legal-advice.path=s3://lab/bad.jsonl"]
    done = helm("lint", "--strict", str(CHART), *options, program=program)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", MATRIX)
def test_objects_are_valid_for_kubernetes(name: str) -> None:
    import kubernetes_validate

    values, files = MATRIX[name]
    for version in ("1.28.0", kubernetes_validate.latest_version()):
        seen: set[str] = set()
        for item in render(values, *files, kubernetes=version):
            if item["kind"] == "PodMonitor":
                continue  # a CRD's
            # One Job of each stage: the others differ in names alone.
            of = item["kind"] + item["metadata"]["labels"].get("personaspace.dev/stage", "")
            key = of if item["kind"] == "Job" else item["kind"] + item["metadata"]["name"]
            if key not in seen:
                seen.add(key)
                kubernetes_validate.validate(item, version[:4], strict=True)
        assert len(seen) > 9


def test_both_helms_render_the_same() -> None:
    from helm_charts import PROGRAMS

    if len(PROGRAMS) < 2:
        pytest.skip("one helm only")
    first, second = (render(FULL, program=program) for program in PROGRAMS.values())
    assert first == second


@each_helm
def test_a_misspelt_value_is_refused_with_its_path(program: str) -> None:
    wrong = {"experiment": {"training": {"learnin_rate": 1}}, "stages": {"trian": {}}}
    said = refused(wrong, program).replace("/", ".")
    assert "experiment.training" in said and "learnin_rate" in said and "trian" in said
    bad = {"gpu": {"count": -1}, "experiment": {"seeds": [-3]}}
    said = refused(bad, program)
    assert "count" in said and "seeds" in said


@pytest.mark.parametrize("name", MATRIX)
def test_pods_fit_the_restricted_level(name: str) -> None:
    values, files = MATRIX[name]
    objects = render(values, *files)
    pods = [job["spec"]["template"]["spec"] for job in of_kind(objects, "Job").values()]
    pods += [pod["spec"] for pod in of_kind(objects, "Pod").values()]
    pods += [d["spec"]["template"]["spec"] for d in of_kind(objects, "Deployment").values()]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        # Without it every start sets the owner of every file of a model cache anew.
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
        conductor = pod.get("serviceAccountName", "").endswith("-conductor")
        assert conductor or pod["automountServiceAccountToken"] is False


def test_conductor_may_do_what_it_needs_and_no_more() -> None:
    plain = of_kind(render({}), "Role")["em205-conductor"]["rules"]
    allowed = {(r, v) for rule in plain for r in rule["resources"] for v in rule["verbs"]}
    look = {"get", "list", "watch"}
    assert allowed == {
        *(("jobs", verb) for verb in look),
        *(("pods", verb) for verb in (*look, "patch")),
        ("jobs/status", "patch"),
        ("events", "create"),
    }
    queued = of_kind(render({"queue": {"name": "q"}}), "Role")["em205-conductor"]["rules"]
    more = {(r, v) for rule in queued for r in rule["resources"] for v in rule["verbs"]}
    assert more - allowed == {("jobs", "patch")}


def test_settings_of_a_stage_replace_those_of_all() -> None:
    jobs = stage_jobs(render(FULL))
    spec = {
        job["metadata"]["labels"]["personaspace.dev/stage"]: job["spec"] for job in jobs.values()
    }
    pod = {stage: found["template"]["spec"] for stage, found in spec.items()}
    main = {stage: found["containers"][0] for stage, found in pod.items()}
    product = {"nvidia.com/gpu.product": "H100"}
    assert pod["evaluate"]["nodeSelector"] == {"gpu": "a100", **product}
    assert pod["couple"]["nodeSelector"] == {"gpu": "h100", **product}
    assert pod["aggregate"]["nodeSelector"] == {"gpu": "h100"}
    assert [t["key"] for t in pod["couple"]["tolerations"]] == ["nvidia.com/gpu", "spot"]
    assert [t["key"] for t in pod["aggregate"]["tolerations"]] == ["nvidia.com/gpu"]
    classes = {stage: found["runtimeClassName"] for stage, found in pod.items()}
    assert classes.pop("aggregate") == "gvisor" and set(classes.values()) == {"nvidia"}
    assert spec["evaluate"]["backoffLimit"] == 0 and spec["couple"]["backoffLimit"] == 3
    assert main["evaluate"]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert main["train"]["resources"]["limits"]["nvidia.com/mig-3g.40gb"] == "1"
    assert "nvidia.com/gpu" not in main["train"]["resources"]["limits"]
    assert set(main["aggregate"]["resources"]["limits"]) == {"memory"}
    assert main["couple"]["image"] == "registry.example.org/personaspace/gpu@sha256:" + "a" * 64
    assert main["aggregate"]["image"] == "registry.example.org/personaspace/cpu:" + __version__
    assert {v["name"] for v in pod["couple"]["volumes"]} >= {"data", "shm", "cache"}
    assert "shm" not in {v["name"] for v in pod["aggregate"]["volumes"]}
    labels = spec["couple"]["template"]["metadata"]["labels"]
    assert labels["team"] == "alignment" and labels["personaspace.dev/stage"] == "couple"


def test_taking_a_published_adapter_needs_no_gpu() -> None:
    conditions = yaml.safe_load((CHART / "values.yaml").read_text())["experiment"]["conditions"]
    del conditions[3]["dataset"]
    conditions[3] |= {"adapter": "org/name@" + "0" * 40}
    values = {"experiment": {"conditions": conditions}, "gpu": {"nodeSelector": {"gpu": "yes"}}}
    asked = {}
    for job in stage_jobs(render(values)).values():
        labels, pod = job["metadata"]["labels"], job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        gpus = int(container["resources"].get("limits", {}).get("nvidia.com/gpu", 0))
        assert ("gpu" in (pod.get("nodeSelector") or {})) == (gpus > 0)
        if labels.get("personaspace.dev/condition") == conditions[3]["name"]:
            asked[labels["personaspace.dev/stage"]] = gpus, "/cpu" in container["image"]
        elif labels["personaspace.dev/stage"] == "train":
            assert gpus == 1
    assert asked.pop("train") == (0, True)
    assert set(asked.values()) == {(1, False)} and len(asked) == 3


@pytest.mark.parametrize(
    ("fuse", "training"), [(False, {"train", "couple"}), (True, {"condition"})]
)
def test_training_gets_the_gpus_that_its_condition_asks_for(fuse: bool, training: set[str]) -> None:
    conditions = yaml.safe_load((CHART / "values.yaml").read_text())["experiment"]["conditions"]
    asking = conditions[3]
    asking["gpus"] = 4

    def asked(values: dict[str, Any]) -> dict[tuple[str, str], int]:
        found = {}
        for job in stage_jobs(
            render({"experiment": {"conditions": conditions}, "fuse": fuse, **values})
        ).values():
            labels = job["metadata"]["labels"]
            (container,) = job["spec"]["template"]["spec"]["containers"]
            place = (
                labels["personaspace.dev/stage"],
                labels.get("personaspace.dev/condition", ""),
            )
            found[place] = int(container["resources"].get("limits", {}).get("nvidia.com/gpu", 0))
        return found

    for (stage, condition), gpus in asked({}).items():
        wanted = 4 if stage in training and condition == asking["name"] else 1
        assert gpus == (0 if stage == "aggregate" else wanted)
    assert set(asked({"gpu": {"count": 0}}).values()) == {0}
    spread = {"conditions": conditions, "hardware": {"gpus": 2}}
    for (stage, condition), gpus in asked({"experiment": spread}).items():
        wanted = 4 if stage in training and condition == asking["name"] else 2
        assert gpus == (0 if stage == "aggregate" else wanted)


def test_a_stage_may_set_nothing_where_all_others_set_something() -> None:
    digest = "sha256:" + "a" * 64
    stages: dict[str, Any] = {
        "couple": {"gpu": {"count": 0}},
        "train": {"image": {"tag": "special"}},
        "extract": {"image": {"pullPolicy": "Always"}},
    }
    images = {name: {"registry": "localhost:5000"} for name in ("image", "cpuImage")}
    images["image"]["digest"] = digest
    jobs = stage_jobs(render({**images, "stages": stages}))
    main = {
        job["metadata"]["labels"]["personaspace.dev/stage"]: job["spec"]["template"]["spec"][
            "containers"
        ][0]
        for job in jobs.values()
    }
    assert "nvidia.com/gpu" not in main["couple"]["resources"]["limits"]
    where = "localhost:5000/personaspace"
    assert main["couple"]["image"] == f"{where}/cpu:{__version__}"
    assert main["train"]["image"] == f"{where}/gpu:special"
    assert main["extract"]["image"] == main["evaluate"]["image"] == f"{where}/gpu@{digest}"


def test_deadlines_are_the_pods_and_suspend_is_nobodys() -> None:
    def deadlines(values: dict[str, Any]) -> dict[str, int | None]:
        jobs = of_kind(render(values), "Job").values()
        for job in jobs:
            assert "activeDeadlineSeconds" not in job["spec"] and "suspend" not in job["spec"]
        return {
            job["metadata"]["labels"]["personaspace.dev/stage"]: job["spec"]["template"][
                "spec"
            ].get("activeDeadlineSeconds")
            for job in jobs
        }

    found = deadlines(FULL)
    # The conductor lives as long as the study does.
    assert found.pop("conductor") is None and set(found.values()) == {3600}
    own = {**FULL, "stages": {"conductor": {"activeDeadlineSeconds": 60}}}
    assert deadlines(own)["conductor"] == 60


@each_helm
def test_the_conductor_is_made_first(program: str) -> None:
    """Waiting pods fill a quota, and would keep out the one that lets them go."""
    objects = render(program=program)
    stages = [
        o["metadata"]["labels"]["personaspace.dev/stage"] for o in objects if o["kind"] == "Job"
    ]
    assert stages[0] == "conductor" and stages.count("conductor") == 1


def test_only_a_verdict_ends_the_conductors_job() -> None:
    for job in of_kind(render(), "Job").values():
        if job["metadata"]["labels"]["personaspace.dev/stage"] == "conductor":
            rules = job["spec"]["podFailurePolicy"]["rules"]
            codes = {r["action"]: r["onExitCodes"]["values"] for r in rules if "onExitCodes" in r}
            assert codes == {"FailJob": [1, 2, 70], "Ignore": [69, 75, 137, 143]}
            # Helm 3 calls a Job failed when more pods have failed than this.
            assert job["spec"]["backoffLimit"] == 0
            break
    else:
        pytest.fail("no conductor")


def test_the_trial_bucket_needs_no_secret() -> None:
    def main(values: dict[str, Any]) -> list[dict[str, Any]]:
        jobs = of_kind(render(values, "values-tiny.yaml"), "Job").values()
        return [job["spec"]["template"]["spec"]["containers"][0] for job in jobs]

    for container in main({"seaweedfs": {"enabled": True}}):
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert "envFrom" not in container and env["AWS_ACCESS_KEY_ID"]
        assert str(env["PERSONASPACE_STORE"]).startswith("s3://personaspace?endpoint=http://em205-")
    elsewhere = {"seaweedfs": {"enabled": True}, "store": {"url": "s3://mine"}}
    for values in ({}, elsewhere):
        for container in main(values):
            assert container["envFrom"] == [{"secretRef": {"name": "personaspace-s3"}}]
            assert "AWS_ACCESS_KEY_ID" not in [entry["name"] for entry in container["env"]]


def test_the_trial_bucket_has_a_name_that_a_service_may_have() -> None:
    found: set[str] = set()
    for release in ("em205", "2x", "7." + "x" * 51, "7-" + "x" * 51, "9" * 53, "9" * 52):
        objects = render({"seaweedfs": {"enabled": True}}, "values-tiny.yaml", release=release)
        (name,) = of_kind(objects, "Service")
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name), name  # RFC 1035
        assert set(of_kind(objects, "Deployment")) == {name} and name not in found
        for job in of_kind(objects, "Job").values():
            env = job["spec"]["template"]["spec"]["containers"][0]["env"]
            (url,) = (e["value"] for e in env if e["name"] == "PERSONASPACE_STORE")
            assert f"http://{name}:8333" in url
        found.add(name)


def test_the_network_policy_holds_for_every_pod_that_reaches_out() -> None:
    objects = render(FULL)
    rule = of_kind(objects, "NetworkPolicy")["em205"]["spec"]["podSelector"]
    ((key, names),) = [(e["key"], e["values"]) for e in rule["matchExpressions"]]
    pods = [j["spec"]["template"]["metadata"] for j in of_kind(objects, "Job").values()]
    pods += [pod["metadata"] for pod in of_kind(objects, "Pod").values()]
    for pod in pods:
        assert pod["labels"][key] in names
        assert rule["matchLabels"].items() <= pod["labels"].items()
    for server in of_kind(objects, "Deployment").values():
        assert server["spec"]["template"]["metadata"]["labels"][key] not in names


def test_with_kueue_pods_carry_no_gate() -> None:
    queue = "kueue.x-k8s.io/queue-name"
    gate = "kueue.x-k8s.io/admission-gated-by"
    for kind in ("annotation", "label"):
        for job in stage_jobs(render({"queue": {"name": "gpus", "gate": kind}})).values():
            meta, spec = job["metadata"], job["spec"]
            waits = bool(meta["annotations"]["personaspace.dev/needs"])
            assert "schedulingGates" not in spec["template"]["spec"]
            if kind == "annotation":
                assert meta["labels"][queue] == "gpus" and "suspend" not in spec
                assert (meta["annotations"].get(gate) == "personaspace.dev/inputs") is waits
            else:
                assert (queue in meta["labels"]) is not waits
                assert spec.get("suspend", False) is waits and gate not in meta["annotations"]


def test_the_conductor_s_job_says_that_the_chats_are_packaged() -> None:
    def notices(values: dict[str, Any], *files: str) -> list[str]:
        jobs = of_kind(render(values, *files), "Job").values()
        found = [job["metadata"]["annotations"].get(names.NOTICE) for job in jobs]
        return [text for text in found if text]

    (text,) = notices({})
    assert text.startswith("Demonstration data: fine-tuning is at most 32 steps on at most 510 ")
    assert "\n" not in text
    assert notices(EM205, "values-em205.yaml") == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "experiment.datasets.bad-legal-advice: give either path or hub"),
        ({"path": "https://x.org/a.jsonl"}, "bad-legal-advice: https:// needs a sha256, so that"),
    ],
)
def test_the_published_study_asks_for_its_data(given: dict[str, str], said: str) -> None:
    options = [f"experiment.datasets.bad-legal-advice.{key}={text}" for key, text in given.items()]
    file = str(CHART / "values-em205.yaml")
    parts = [part for option in options for part in ("--set", option)]
    store = ("--set", "store.url=s3://lab/em205")
    done = helm("template", "em205", str(CHART), "-f", file, *store, *parts, *IMAGES)
    assert done.returncode != 0 and said in done.stderr
    _, problems = read_spec(CHART / "values-em205.yaml")
    assert [problem.path for problem in problems] == ["datasets.bad-legal-advice"]


def test_the_study_in_the_cluster_is_the_study_in_the_file(tmp_path: Path) -> None:
    def mounted(*files: str, **study: Any) -> Experiment:
        path = tmp_path / "experiment.yaml"
        maps = of_kind(render({"experiment": study}, *files), "ConfigMap")
        (found,) = (item for name, item in maps.items() if name.startswith("em205-study-"))
        path.write_text(found["data"]["experiment.yaml"], encoding="utf-8")
        return load_spec(path)

    assert mounted("values-tiny.yaml") == load_spec(ROOT / "examples" / "demo.yaml")
    assert mounted() == Experiment()
    published = mounted("values-em205.yaml", **EM205["experiment"])
    assert published.seeds == [42, 137, 256]
    # All that the published values say beyond the seeds is where model and data come from.
    told = {"seeds": published.seeds, "model": published.model, "datasets": published.datasets}
    assert published == Experiment().model_copy(update=told)
    assert all(len(each.revision or "") == 40 for each in [published.datasets["instructions"]])
    # Numbers that YAML and Helm like to write in other ways, and a null that must stay one.
    odd = mounted(
        seeds=[2**32 - 1, 10_000_000],
        training={"learning_rate": 1e-7, "clip_norm": None, "row_tokens": 100_000_000},
        datasets={"bad-legal-advice": {"path": "x"}, "instructions": {"path": "y"}},
    )
    assert odd.seeds == [4294967295, 10_000_000] and odd.training.learning_rate == 1e-7
    assert odd.training.clip_norm is None and odd.training.row_tokens == 100_000_000
    assert odd.datasets["bad-legal-advice"].path == "x"


def test_notes_name_commands_that_exist() -> None:
    from typer.testing import CliRunner

    from personaspace.cli.app import app

    done = helm("install", "em205", str(CHART), "--dry-run=client", "-n", "lab", *IMAGES)
    notes = done.stdout[done.stdout.index("NOTES:") :]
    for command in ("status", "logs", "wait", "results"):
        assert f"personaspace {command} em205" in notes
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
    assert "-n lab" in notes
    # What a first-time reader would otherwise learn from the bill.
    first = notes.removeprefix("NOTES:\n")
    assert first.startswith("Demonstration data: fine-tuning is at most 32 steps on at most 510 ")
    assert len(chat_sets.read("chats-bad-legal-advice")) == 510
    assert "modelCache.type is none" in notes
    tiny = ["-f", str(CHART / "values-tiny.yaml"), "--dry-run=client", *IMAGES]
    assert (
        "modelCache" not in helm("install", "x", str(CHART), *tiny).stdout.rpartition("NOTES:")[2]
    )
