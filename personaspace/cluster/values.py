"""The chart's values, as pydantic models: schema, defaults and table come from here.

Names are Kubernetes' own where there is one. What Kubernetes defines (tolerations, volumes, a
security context) is passed through as it is, and follows Kubernetes' own definitions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt
from pydantic.alias_generators import to_camel

from personaspace.cluster import kubernetes_types as k8s
from personaspace.study.spec import Experiment

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
        None, description="CPU and memory; GPUs come from `gpu`."
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
        None, description="First rule that matches wins; 2 is the user's mistake."
    )


def _policy() -> Passed:
    return {
        "rules": [
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            {
                "action": "FailJob",
                "onPodConditions": [],  # the OpenAPI schema of 1.28 wants it in every rule
                "onExitCodes": {
                    "containerName": "stage",
                    "operator": "In",
                    "values": [2],
                },
            },
        ]
    }


class Defaults(Settings):
    """Settings of the pods of all stages."""

    resources: k8s.Resources | None = Field(
        {
            "requests": {"cpu": "4", "memory": "32Gi"},
            "limits": {"memory": "64Gi"},
        },
        description="CPU and memory; GPUs come from `gpu`.",
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
        description="First rule that matches wins; 2 is the user's mistake.",
    )


class Stages(Part):
    """What differs from `pods`, stage by stage."""

    train: Settings = Settings()
    extract: Settings = Settings()
    couple: Settings = Settings()
    evaluate: Settings = Settings()
    judge: Settings = Settings()
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


class Store(Part):
    """The bucket for artifacts."""

    url: str = Field(
        "",
        pattern=r"^(s3://[^@]+|file:///.*|/.*)?$",
        description="s3://bucket/prefix?endpoint=…; empty: PERSONASPACE_STORE of the secret.",
    )
    existing_secret: k8s.ObjectName = Field(
        "personaspace-s3",
        description="Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if wanted, "
        "AWS_ENDPOINT_URL, AWS_REGION, PERSONASPACE_STORE; empty: workload identity.",
    )


class HubToken(Part):
    """Token for gated models and data sets."""

    existing_secret: k8s.ObjectName = Field("", description="Secret that holds the token.")
    key: str = Field("HF_TOKEN", min_length=1, description="Its key in the secret.")


class JudgeKey(Part):
    """Key of the judge's server, for `experiment.judge.key_env`."""

    existing_secret: k8s.ObjectName = Field("", description="Secret that holds the key.")
    key: str = Field("", description="Its key in the secret; empty: the variable's name.")


class ModelCache(Part):
    """Where base models are kept between pods."""

    type: Literal["none", "pvc", "hostPath"] = Field(
        "none",
        description="none: every pod downloads the model into its own scratch space "
        "(`ephemeral-storage`); pvc or hostPath: once.",
    )
    claim: k8s.ObjectName = Field("", description="Existing PersistentVolumeClaim (ReadWriteMany).")
    path: str = Field("", description="Folder on the node.")
    offline: StrictBool = Field(False, description="Use only what the cache or the image holds.")


class ServiceAccount(Part):
    """Identity of the stages' pods (they get no API token)."""

    annotations: k8s.Annotations = Field({}, description="Workload identity, such as a role's ARN.")
    labels: k8s.Labels = Field({}, description="Workload identity, where it goes by label.")


class Queue(Part):
    """Kueue. With a name, Kueue owns `suspend`, and pods carry no scheduling gate."""

    name: str = Field("", max_length=63, description="LocalQueue; empty: no Kueue.")
    gate: Literal["annotation", "label"] = Field(
        "annotation",
        description="What holds a Job back: Kueue's admission gate (0.19 and later), or a queue "
        "label that comes late.",
    )


class NetworkPolicy(Part):
    """Who the pods may talk to."""

    enabled: StrictBool = Field(False, description="Nothing in, and out only what is named here.")
    egress: list[k8s.Egress] = Field(
        [{"ports": [{"port": 443, "protocol": "TCP"}, {"port": 6443, "protocol": "TCP"}]}],
        description="Besides DNS and the bucket of `seaweedfs`: API server, S3, hub.",
    )


class Seaweedfs(Part):
    """An S3 server in the cluster, for trying things out. Its data goes with its pod."""

    enabled: StrictBool = Field(
        False, description="Holds the artifacts, without any secret, unless `store.url` is given."
    )
    image: Image = Image(registry="docker.io", repository="chrislusf/seaweedfs", tag="4.48")
    resources: k8s.Resources = Field(
        {"requests": {"cpu": "100m", "memory": "256Mi"}}, description="CPU and memory."
    )
    size: k8s.Amount = Field("10Gi", description="Limit of its scratch volume.")


class PodMonitor(Part):
    """For the Prometheus operator: the conductor's counts."""

    enabled: StrictBool = Field(False, description="Needs the PodMonitor CRD.")
    labels: k8s.Labels = Field({}, description="By which a Prometheus finds it.")
    interval: str = Field("30s", description="Between two scrapes.")


class Conductor(Part):
    """How the conductor behaves."""

    patience_seconds: Seconds = Field(
        600,
        description="How long a bucket may be wrong, data sets away or a deleted Job gone before "
        "what needs them ends.",
    )
    metrics_port: Annotated[StrictInt, Field(ge=1024, le=65535)] = Field(
        9400, description="Where `podMonitor` finds the counts."
    )


class Values(Part):
    """All values of the chart."""

    experiment: Experiment = Field(
        Experiment(), description="The study, as in a study's YAML: docs/spec.md."
    )
    fuse: StrictBool = Field(
        False, description="One Job per condition and seed that runs all its stages, model loaded."
    )
    log_format: Literal["json", "text"] = Field(
        "json",
        description="json: one object a line, from which `status` reads how far a stage is, and "
        "which `logs` prints as plain lines; text: plain lines.",
    )
    image: Image = Field(
        Image(repository="personaspace/gpu"), description="Of pods that have a GPU."
    )
    cpu_image: Image = Field(
        Image(repository="personaspace/cpu"), description="Of pods that have none."
    )
    image_pull_secrets: list[k8s.PullSecret] = Field([], description="As in a pod: [{name: …}].")
    store: Store = Store()
    hub_token: HubToken = HubToken()
    judge_key: JudgeKey = JudgeKey()
    model_cache: ModelCache = ModelCache()
    gpu: Gpu = Gpu()
    pods: Defaults = Field(Defaults(), description="Settings of all stages' pods.")
    stages: Stages = Stages()
    queue: Queue = Queue()
    conductor: Conductor = Conductor()
    service_account: ServiceAccount = ServiceAccount()
    network_policy: NetworkPolicy = NetworkPolicy()
    seaweedfs: Seaweedfs = Seaweedfs()
    pod_monitor: PodMonitor = PodMonitor()
    pod_security_context: k8s.PodSecurity = Field(
        {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        description="Of every pod; fits the `restricted` Pod Security level.",
    )
    security_context: k8s.ContainerSecurity = Field(
        {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        description="Of every container.",
    )
    global_: Passed | None = Field(
        None, alias="global", description="Helm's own, for parent charts; not used."
    )
