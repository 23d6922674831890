"""Labels, annotations and gates that chart, conductor and CLI agree on."""

from __future__ import annotations

INSTANCE = "app.kubernetes.io/instance"
APP = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
STAGE = "personaspace.dev/stage"
CONDITION = "personaspace.dev/condition"
SEED = "personaspace.dev/seed"
NODES = "personaspace.dev/nodes"
NEEDS = "personaspace.dev/needs"
#: Of the conductor's Job: what to know of the whole study, for people.
NOTICE = "personaspace.dev/notice"
#: Of the study's ConfigMap: where artifacts are, and the bucket's secret.
STORE = "personaspace.dev/store"
STORE_SECRET = "personaspace.dev/store-secret"  # noqa: S105
#: Scheduling gate of pods whose inputs are not complete; also its name among Kueue's gates.
GATE = "personaspace.dev/inputs"
KUEUE_GATE = "kueue.x-k8s.io/admission-gated-by"
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
JOB_NAME = "batch.kubernetes.io/job-name"


def selector(release: str, **labels: str) -> str:
    """Label selector of a release's Jobs and pods, further narrowed by `stage`, `condition`."""
    keys = {"stage": STAGE, "condition": CONDITION, "seed": SEED}
    parts = [f"{APP}=personaspace", f"{INSTANCE}={release}", STAGE]
    return ",".join(parts + [f"{keys[name]}={value}" for name, value in labels.items()])
