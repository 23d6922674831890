"""The chart's values, as pydantic models: schema, defaults and table come from here.

Names are Kubernetes' own where there is one. What Kubernetes defines (tolerations, volumes, a
security context) is passed through as it is, and follows Kubernetes' own definitions.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt

from personaspace.cluster import kubernetes_types as k8s
from personaspace.cluster.pod_settings import Defaults, Gpu, Image, Part, Passed, Seconds, Stages
from personaspace.study.spec import Experiment

#: An absolute path that never goes upwards.
_FOLDER = r"^(/([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+)?)*$"


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
    key: k8s.DataKey = Field("HF_TOKEN", description="Its key in the secret.")


class PublishToken(Part):
    """Token that may write to the Hub, for `experiment.publish`; only that Job's pod has it."""

    existing_secret: k8s.ObjectName = Field(
        "", description="Secret that holds the token; empty: `hubToken`'s."
    )
    key: k8s.DataKey = Field("HF_TOKEN", description="Its key in the secret.")


class JudgeKey(Part):
    """Key of the judge's server, for `experiment.judge.key_env`."""

    existing_secret: k8s.ObjectName = Field("", description="Secret that holds the key.")
    key: k8s.DataKey = Field("", description="Its key in the secret; empty: the variable's name.")


class ModelCache(Part):
    """Where base models are kept between pods."""

    type: Literal["none", "pvc", "hostPath"] = Field(
        "none",
        description="none: every pod downloads the model into its own scratch space "
        "(`ephemeral-storage`); pvc or hostPath: once.",
    )
    claim: k8s.ObjectName = Field("", description="Existing PersistentVolumeClaim (ReadWriteMany).")
    path: str = Field("", pattern=_FOLDER, description="Folder on the node.")
    offline: StrictBool = Field(False, description="Use only what the cache or the image holds.")


class ServiceAccount(Part):
    """Identity of the stages' pods (they get no API token), the conductor's and the live page's."""

    create: StrictBool = Field(True, description="false: both are there, named here.")
    name: k8s.ObjectName = Field("", description="Of the stages; empty: RELEASE-stages.")
    conductor_name: k8s.ObjectName = Field(
        "", description="Of the conductor; empty: RELEASE-conductor."
    )
    page_name: k8s.ObjectName = Field("", description="Of `livePage`; empty: RELEASE-page.")
    annotations: k8s.Annotations = Field({}, description="Workload identity, such as a role's ARN.")
    labels: k8s.Labels = Field({}, description="Workload identity, where it goes by label.")


class Rbac(Part):
    """What the conductor may do."""

    create: StrictBool = Field(
        True,
        description="Make its Role and RoleBinding, which the role `edit` may not; false: an "
        "administrator has applied k8s/conductor-rights.yaml.",
    )


class Check(Part):
    """The pods of `helm test`."""

    enabled: StrictBool = Field(
        True, description="false where something else than Helm applies what it renders."
    )
    resources: k8s.Resources = Field(
        {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "8Gi"}},
        description="CPU and memory; the pod that looks for a GPU asks for one.",
    )


class Queue(Part):
    """Kueue. With a name, Kueue owns `suspend`, and pods carry no scheduling gate."""

    name: str = Field(
        "",
        max_length=63,
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$",
        description="LocalQueue; empty: no Kueue.",
    )
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


class LivePage(Part):
    """What `personaspace status RELEASE --serve` shows, served in the cluster: it may only read."""

    enabled: StrictBool = Field(
        False, description="A Deployment and a Service, RELEASE-page, for a port-forward."
    )
    port: Annotated[StrictInt, Field(ge=1024, le=65535)] = Field(
        8080,
        description="Where it listens. Whoever reaches it sees the study's progress and its pods' "
        "logs: it asks for no password.",
    )
    resources: k8s.Resources = Field(
        {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        description="CPU and memory.",
    )


class Metrics(Part):
    """Numbers of running stages for Prometheus: units done, loss, tokens per second, memory."""

    enabled: StrictBool = Field(
        False, description="Each stage's pod serves them, and the conductor its counts of Jobs."
    )
    port: Annotated[StrictInt, Field(ge=1024, le=65535)] = Field(
        9400, description="Where stages serve /metrics, named `metrics`; without a password."
    )


class Dashboard(Part):
    """A Grafana dashboard of these numbers, in a ConfigMap for its sidecar."""

    enabled: StrictBool = Field(False, description="Needs `metrics` to show anything of stages.")
    labels: k8s.Labels = Field(
        {"grafana_dashboard": "1"}, description="By which the sidecar finds it."
    )
    annotations: k8s.Annotations = Field({}, description="Such as the sidecar's folder.")


class PodMonitor(Part):
    """For the Prometheus operator: the conductor's counts, and with `metrics` those of stages."""

    enabled: StrictBool = Field(False, description="Needs the PodMonitor CRD.")
    labels: k8s.Labels = Field({}, description="By which a Prometheus finds it.")
    interval: str = Field(
        "30s", pattern=r"^([0-9]+(ms|[smhdwy]))+$", description="Between two scrapes."
    )


class Conductor(Part):
    """How the conductor behaves."""

    patience_seconds: Seconds = Field(
        600,
        description="How long a bucket may be wrong, data sets away or a deleted Job gone before "
        "what needs them ends.",
    )
    metrics_port: Annotated[StrictInt, Field(ge=1024, le=65535)] = Field(
        9400, description="Where `podMonitor` finds the conductor's counts."
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
    publish_token: PublishToken = PublishToken()
    judge_key: JudgeKey = JudgeKey()
    model_cache: ModelCache = ModelCache()
    gpu: Gpu = Gpu()
    pods: Defaults = Field(Defaults(), description="Settings of all stages' pods.")
    stages: Stages = Stages()
    queue: Queue = Queue()
    conductor: Conductor = Conductor()
    service_account: ServiceAccount = ServiceAccount()
    rbac: Rbac = Rbac()
    check: Check = Check()
    network_policy: NetworkPolicy = NetworkPolicy()
    seaweedfs: Seaweedfs = Seaweedfs()
    live_page: LivePage = LivePage()
    metrics: Metrics = Metrics()
    pod_monitor: PodMonitor = PodMonitor()
    dashboard: Dashboard = Dashboard()
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
