"""The few things that the conductor writes: one patch each, none of a field that Helm owns.

Every patch may be sent twice, by two conductors or after a lost answer, with the same end.
"""

from __future__ import annotations

from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace.cluster import names
from personaspace.cluster.api import TIMEOUT, Cluster
from personaspace.cluster.states import Cause
from personaspace.cluster.views import JobView, PodView

_OPTIONS: dict[str, Any] = {
    "_preload_content": False,
    "_request_timeout": TIMEOUT,
    "field_manager": "personaspace-conductor",
}


def lift_gate(cluster: Cluster, pod: PodView) -> None:
    """Let a pod be scheduled; gates of others stay. A pod that is gone is none to release.

    Raises:
        ApiException: As the API server says.
    """
    body = {
        "metadata": {"uid": pod.uid},
        "spec": {"schedulingGates": [{"$patch": "delete", "name": names.GATE}]},
    }
    _unless_gone(cluster.core.patch_namespaced_pod, pod.name, cluster.namespace, body)


def lift_kueue_gate(cluster: Cluster, job: JobView, queue: str, gate: str) -> None:
    """Let Kueue take a Job: take our gate off, or add the label of the queue. Not `suspend`."""
    body: Any
    if gate == "label":
        body = {"metadata": {"labels": {names.KUEUE_QUEUE: queue}}}
    else:
        path = "/metadata/annotations/" + names.KUEUE_GATE.replace("/", "~1")
        others = [gate for gate in job.kueue_gates.split(",") if gate != names.GATE]
        body = [{"op": "test", "path": path, "value": job.kueue_gates}]
        if others:
            body.append({"op": "replace", "path": path, "value": ",".join(others)})
        else:
            body.append({"op": "remove", "path": path})
    _unless_gone(cluster.batch.patch_namespaced_job, job.name, cluster.namespace, body)


def end_job(cluster: Cluster, job: JobView, cause: Cause, now: str) -> None:
    """Mark a Job as one that fails, so that the Job controller ends it as failed.

    This is the condition by which the controller itself ends a Job. It needs no more than leave to
    patch the Job's status: nothing is deleted, no pod is started to fail, and Helm sees a failure.

    Args:
        cluster: Where.
        job: What to end.
        cause: Why; its reason is what `status` and the next conductor read, its text is for people.
        now: Time, RFC 3339.
    """
    condition = {
        "type": "FailureTarget",
        "status": "True",
        "reason": str(cause.reason),
        "message": cause.text[:1024],
        "lastTransitionTime": now,
        "lastProbeTime": now,
    }
    status: dict[str, Any] = {"conditions": [condition]}
    if not job.begun:
        # The API server takes no finished Job that never began, as one that Kueue never let begin.
        status["startTime"] = now
    body = {"status": status}
    _unless_gone(cluster.batch.patch_namespaced_job_status, job.name, cluster.namespace, body)


def _spend(answer: Any) -> None:
    """Read an answer to its end, so that its connection can be used again."""
    answer.drain_conn()
    answer.release_conn()


def _unless_gone(patch: Any, name: str, namespace: str, body: Any) -> None:
    try:
        _spend(patch(name, namespace, body, **_OPTIONS))
    except ApiException as error:
        # 409: another object has the name by now (the body names a uid).
        if error.status not in (404, 409):
            raise


def tell_event(cluster: Cluster, pod: str, reason: str, message: str, now: str) -> None:
    """Leave a warning at a pod, for `kubectl get events`."""
    body = {
        "metadata": {"generateName": f"{pod[:200]}.", "namespace": cluster.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": pod,
            "namespace": cluster.namespace,
        },
        "reason": reason,
        "message": message[:1000],
        "type": "Warning",
        "source": {"component": "personaspace-conductor"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    _spend(cluster.core.create_namespaced_event(cluster.namespace, body, **_OPTIONS))
