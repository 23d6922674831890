"""What the chart's values say of pods: images, GPUs, and the settings of each stage's."""

from __future__ import annotations

import signal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt
from pydantic.alias_generators import to_camel

from personaspace.cluster import kubernetes_types as k8s
from personaspace.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR

_REGISTRY = r"^([a-z0-9][-a-zA-Z0-9._:/]*)?$"
_REPOSITORY = r"^[a-z0-9][-a-zA-Z0-9._:/]*$"
_TAG = r"^([a-zA-Z0-9_][-a-zA-Z0-9_.]{0,127})?$"
_DIGEST = r"^(sha256:[0-9a-f]{64})?$"
Passed = dict[str, Any]
Seconds = Annotated[StrictInt, Field(ge=1)]


class Part(BaseModel):
    """Base of every part of the values: camelCase names, unknown ones are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


class Image(Part):
    """A container image."""

    registry: str = Field(
        "",
        pattern=_REGISTRY,
        description="Registry's host, and a path if it has one: required, unless `repository` "
        "begins with a host, `digest` pins the image, or `pullPolicy` is Never.",
    )
    repository: Annotated[str, Field(pattern=_REPOSITORY)] = Field(description="Its name there.")
    tag: str = Field("", pattern=_TAG, description="Empty: the chart's appVersion.")
    digest: str = Field("", pattern=_DIGEST, description="Pins the image; wins over the tag.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"


class ImageParts(Part):
    """Parts of an image that differ."""

    registry: str | None = Field(None, pattern=_REGISTRY)
    repository: str | None = Field(None, pattern=_REPOSITORY)
    tag: str | None = Field(None, pattern=_TAG)
    digest: str | None = Field(None, pattern=_DIGEST)
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None


class Gpu(Part):
    """What the GPU stages ask for. Pods without a GPU take `cpuImage`."""

    count: Annotated[StrictInt, Field(ge=0, le=64)] = Field(
        1, description="GPUs of a pod, of one that trains at least its condition's `gpus`; 0: CPUs."
    )
    resource: str = Field(
        "nvidia.com/gpu",
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        description="Extended resource.",
    )
    mig_profile: str = Field(
        "",
        pattern=r"^([0-9]+g\.[0-9]+gb(\.me)?)?$",
        description="A MIG slice instead of whole GPUs, such as 3g.40gb.",
    )
    device_class: k8s.ObjectName = Field(
        "",
        description="Device class, such as gpu.nvidia.com, of which pods claim GPUs (dynamic "
        "resource allocation, Kubernetes 1.34 or newer) instead of asking for `resource`.",
    )
    device_selectors: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        description="CEL expressions that each claimed device must meet: a kind of GPU, a memory, "
        "a slice. Needs `deviceClass`.",
    )
    runtime_class_name: k8s.ObjectName = Field(
        "",
        description="Runtime class of pods with a GPU, such as nvidia; pods without keep theirs.",
    )
    node_selector: k8s.Labels = Field(
        {}, description="Besides the pods' own, of pods with a GPU: a kind of GPU."
    )
    tolerations: list[k8s.Toleration] = Field(
        [], description="Besides the pods' own, of pods with a GPU: taints of GPU nodes."
    )


class Settings(Part):
    """Settings of a pod; where a stage sets one, it replaces that of `pods` as a whole."""

    image: ImageParts | None = Field(None, description="Parts of an image that differ.")
    gpu: Gpu | None = Field(None, description="GPUs of this stage's pods.")
    resources: k8s.Resources | None = Field(
        None,
        description="CPU and memory of a pod with one GPU or none; with more it gets as many "
        "times as much. GPUs come from `gpu`.",
    )
    node_selector: k8s.Labels | None = Field(
        None, description="Labels of nodes; a kind of GPU belongs to `gpu.nodeSelector`."
    )
    tolerations: list[k8s.Toleration] | None = Field(
        None, description="Of taints; those of GPU nodes belong to `gpu.tolerations`."
    )
    affinity: k8s.Affinity | None = Field(None, description="As in a pod.")
    topology_spread_constraints: list[k8s.Spread] | None = Field(None, description="As in a pod.")
    priority_class_name: k8s.ObjectName | None = Field(
        None, description="An existing PriorityClass."
    )
    runtime_class_name: k8s.ObjectName | None = Field(
        None, description="An existing RuntimeClass; that of GPUs belongs to `gpu`."
    )
    pod_labels: k8s.Labels | None = Field(None, description="More labels of the pods.")
    pod_annotations: k8s.Annotations | None = Field(None, description="Annotations of the pods.")
    extra_env: list[k8s.Env] | None = Field(
        None,
        description="Environment variables; yours come before the chart's of the same name.",
    )
    extra_env_from: list[k8s.EnvFrom] | None = Field(
        None, description="From config maps or secrets."
    )
    extra_volumes: list[k8s.Volume] | None = Field(
        None,
        description="As in a pod: data sets, a CA; yours come before the chart's of the "
        "same name (`tmp`, `cache`, `shm`).",
    )
    extra_volume_mounts: list[k8s.Mount] | None = Field(
        None,
        description="Where these are seen; yours come before the chart's at the same path.",
    )
    shm_size: k8s.Amount | None = Field(
        None, description="Size of /dev/shm (memory of the pod); empty: the runtime's 64 MiB."
    )
    active_deadline_seconds: Seconds | None = Field(
        None,
        description="Of one attempt, counted from the pod's start; waiting is free. That of `pods` "
        "is not the conductor's.",
    )
    backoff_limit: Annotated[StrictInt, Field(ge=0, le=100)] | None = Field(
        None, description="Retries before the stage has failed."
    )
    ttl_seconds_after_finished: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None, description="Remove the finished Job after so long; null: keep it."
    )
    termination_grace_period_seconds: Seconds | None = Field(
        None, description="Time to write a checkpoint when the pod is asked to leave."
    )
    pod_failure_policy: k8s.FailurePolicy | None = Field(
        None,
        description="First rule that matches wins. 2 is the user's mistake; 75 and 143 are a pod's "
        "that was asked to stop, and count where a deadline may have asked.",
    )


def _exit(action: str, *codes: int) -> Passed:
    codes_in = {"containerName": "stage", "operator": "In", "values": list(codes)}
    return {"action": action, "onExitCodes": codes_in}


def _policy() -> Passed:
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": disrupted},
            _exit("FailJob", EXIT_USER_ERROR),
            # Asked to stop, by whoever deleted the pod: no failure of the stage's.
            _exit("Ignore", EXIT_INTERRUPTED, 128 + signal.SIGTERM),
        ]
    }


class Defaults(Settings):
    """Settings of the pods of all stages."""

    resources: k8s.Resources | None = Field(
        {
            "requests": {"cpu": "4", "memory": "32Gi"},
            "limits": {"memory": "64Gi"},
        },
        description="CPU and memory of a pod with one GPU or none; with more it gets as many "
        "times as much. GPUs come from `gpu`.",
    )
    shm_size: k8s.Amount | None = Field(
        "8Gi", description="Size of /dev/shm (memory of the pod); empty: the runtime's 64 MiB."
    )
    backoff_limit: Annotated[StrictInt, Field(ge=0, le=100)] | None = Field(
        3, description="Retries before the stage has failed."
    )
    termination_grace_period_seconds: Seconds | None = Field(
        120, description="Time to write a checkpoint when the pod is asked to leave."
    )
    pod_failure_policy: k8s.FailurePolicy | None = Field(
        default_factory=_policy,
        description="First rule that matches wins. 2 is the user's mistake; 75 and 143 are a pod's "
        "that was asked to stop, and count where a deadline may have asked.",
    )


class Stages(Part):
    """What differs from `pods`, stage by stage."""

    train: Settings = Settings()
    extract: Settings = Settings()
    couple: Settings = Settings()
    evaluate: Settings = Settings()
    judge: Settings = Settings()
    logodds: Settings = Settings()
    steer: Settings = Settings()
    condition: Settings = Field(
        Settings(), description="The one Job of a condition and seed with `fuse`."
    )
    aggregate: Settings = Field(
        Settings(
            resources={
                "requests": {"cpu": "2", "memory": "8Gi"},
                "limits": {"memory": "16Gi"},
            },
            shm_size="",
        ),
        description="Statistics, figures and report; never a GPU.",
    )
    publish: Settings = Field(
        Settings(
            resources={
                "requests": {"cpu": "500m", "memory": "2Gi"},
                "limits": {"memory": "8Gi"},
            },
            shm_size="",
        ),
        description="Sends the study to the Hub where `experiment.publish` asks for it; never a "
        "GPU.",
    )
    conductor: Settings = Field(
        Settings(
            resources={
                "requests": {"cpu": "100m", "memory": "256Mi"},
                "limits": {"memory": "2Gi"},
            },
            shm_size="",
            termination_grace_period_seconds=30,
        ),
        description="Lets pods start in order; never a GPU. Its failure policy is fixed.",
    )
