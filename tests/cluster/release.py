"""A release of the chart on a real cluster, as a test handles it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from helm_charts import CHART, PROGRAMS, helm
from kubernetes.client.exceptions import ApiException
from kubernetes.watch import Watch

from personaspace.cluster import names
from personaspace.cluster.api import CONNECTION_ERRORS, Cluster
from personaspace.cluster.log_lines import Entry, entry_of
from personaspace.logs import RunEvent
from personaspace.pipeline.states import NodeState

GPU = "nvidia.com/gpu"
ONE_MIB = 1 << 20


@dataclass(frozen=True)
class Sighting:
    """A pod as the API showed it at a moment.

    Attributes:
        at: Seconds, monotonic.
        pod: Its name.
        node_id: What of the stage graph it runs.
        gated: Whether it carries the gate.
        host: Node it is on; empty: none.
        phase: As the API says.
        gpus: GPUs that it asks for.
    """

    at: float
    pod: str
    node_id: str
    gated: bool
    host: str
    phase: str
    gpus: int


class Recorder(threading.Thread):
    """Writes down every change of a release's pods, through restarts of the API server."""

    def __init__(self, cluster: Cluster, release: str, nodes: Callable[[str], str]) -> None:
        super().__init__(daemon=True)
        self.cluster, self.release, self.nodes = cluster, release, nodes
        self.seen: list[Sighting] = []
        self._ended = threading.Event()

    def run(self) -> None:
        """Follow until `stop`."""
        while not self._ended.is_set():
            try:
                for event in Watch().stream(
                    self.cluster.core.list_namespaced_pod,
                    self.cluster.namespace,
                    label_selector=names.selector(self.release),
                    timeout_seconds=5,
                ):
                    self._note(event["raw_object"], event["type"])
            except (ApiException, *CONNECTION_ERRORS):
                time.sleep(0.2)

    def _note(self, raw: dict[str, Any], change: str) -> None:
        spec = raw["spec"]
        gates = [gate["name"] for gate in spec.get("schedulingGates") or ()]
        asked = spec["containers"][0].get("resources", {}).get("limits", {}).get(GPU, 0)
        self.seen.append(
            Sighting(
                time.monotonic(),
                raw["metadata"]["name"],
                self.nodes(raw["metadata"]["labels"][names.JOB_NAME]),
                names.GATE in gates,
                spec.get("nodeName", ""),
                "Gone" if change == "DELETED" else raw["status"]["phase"],
                int(asked),
            )
        )

    def stop(self) -> list[Sighting]:
        """End, and give what was seen."""
        self._ended.set()
        self.join(timeout=20)
        return self.seen


def busiest(seen: list[Sighting]) -> int:
    """Most GPUs that pods on nodes held at one moment."""
    held: dict[str, int] = {}
    most = 0
    for sighting in seen:
        running = sighting.host and sighting.phase in ("Pending", "Running")
        held[sighting.pod] = sighting.gpus if running else 0
        most = max(most, sum(held.values()))
    return most


@dataclass
class Release:
    """One `helm install` in a namespace of its own.

    Attributes:
        cluster: The namespace.
        name: The release's.
        values: What `-f` gives.
        program: Helm.
    """

    cluster: Cluster
    name: str
    values: dict[str, Any]
    files: list[str] = field(default_factory=list)
    program: str = ""

    def helm(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run helm in the namespace; the values go in by standard input where asked for."""
        given = json.dumps(self.values) if "-" in arguments else None
        program = self.program or PROGRAMS[sorted(PROGRAMS)[-1]]
        return helm(
            *arguments, "-n", self.cluster.namespace, program=program, input=given, timeout=timeout
        )

    def install(self, *more: str) -> subprocess.CompletedProcess[str]:
        """`helm upgrade --install` with the values; what it says is checked by the caller."""
        files = [part for name in self.files for part in ("-f", str(CHART / name))]
        return self.helm("upgrade", "--install", self.name, str(CHART), *files, "-f", "-", *more)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`personaspace …` on this machine, for the release's namespace."""
        return subprocess.run(
            [sys.executable, "-m", "personaspace", *arguments, "-n", self.cluster.namespace],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Jobs of the study by name, without the conductor."""
        return {
            job["metadata"]["name"]: job
            for job in self.cluster.items("jobs", label_selector=names.selector(self.name))
            if job["metadata"]["labels"][names.STAGE] != "conductor"
        }

    def pods(self, **labels: str) -> list[dict[str, Any]]:
        """Its pods, narrowed by `stage`, `condition`."""
        return list(self.cluster.items("pods", label_selector=names.selector(self.name, **labels)))

    def node_of(self, job: str) -> str:
        """What a Job runs, in the stage graph's words (`train:e0:42`)."""
        if job not in self._titles:
            for name, raw in self.jobs().items():
                self._titles[name] = raw["metadata"]["annotations"][names.NODES]
        return self._titles.get(job, "conductor")

    def __post_init__(self) -> None:
        self._titles: dict[str, str] = {}

    def states(self) -> dict[str, str]:
        """`Complete`, `Failed` or `active` by node of the stage graph."""
        return {
            raw["metadata"]["annotations"][names.NODES]: state_of(raw)
            for raw in self.jobs().values()
        }

    def conductor(self) -> str:
        """State of the conductor's Job; empty: there is none."""
        found = self.cluster.items(
            "jobs", label_selector=names.selector(self.name, stage="conductor")
        )
        return next((state_of(raw) for raw in found), "")

    def wait(self, until: Callable[[], Any], seconds: float, what: str) -> Any:
        """Look until it is true.

        Raises:
            AssertionError: Not in time; says how the Jobs are.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                found = until()
            except (ApiException, *CONNECTION_ERRORS):
                found = None
            if found:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {seconds:.0f} s\n{self.states()}")
            time.sleep(0.5)

    def wait_ended(self, seconds: float = 900) -> dict[str, str]:
        """Wait until the conductor's Job has ended; the states then."""
        self.wait(lambda: self.conductor() in ("Complete", "Failed"), seconds, "conductor's end")
        return self.states()

    def log(self, pod: str) -> str:
        """What a pod's container said."""
        answer = self.cluster.core.read_namespaced_pod_log(
            pod, self.cluster.namespace, _preload_content=False
        )
        return str(answer.data.decode())

    def conductor_log(self) -> str:
        """What the conductor's pods said, in order."""
        pods = sorted(
            self.pods(stage="conductor"), key=lambda pod: pod["metadata"]["creationTimestamp"]
        )
        return "".join(self.log(pod["metadata"]["name"]) for pod in pods)


def entries_in(log: str) -> list[Entry]:
    """The lines of a log that are objects."""
    return [entry for line in log.splitlines() if (entry := entry_of(line))]


def released_in(log: str) -> list[str]:
    """The pods that a conductor's log says it has let go, in order."""
    return [e.fields["pod"] for e in entries_in(log) if e.event == RunEvent.RELEASED]


def was_skipped(log: str) -> bool:
    """Whether a stage's log says that its artifact was complete before."""
    return any(e.fields.get("state") == NodeState.SKIPPED for e in entries_in(log))


def state_of(job: dict[str, Any]) -> str:
    """`Complete`, `Failed` or `active`."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return "active"


def mount_folder(cluster: Cluster, name: str, folder: Path) -> dict[str, Any]:
    """Puts a small folder into a ConfigMap; the values that mount it at the same path in pods."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert sum(map(len, files.values())) < ONE_MIB, "a ConfigMap holds 1 MiB"
    body = {
        "metadata": {"name": name},
        "binaryData": {key: base64.b64encode(data).decode() for key, data in files.items()},
    }
    cluster.core.create_namespaced_config_map(cluster.namespace, body)
    return {
        "volume": {"name": name, "configMap": {"name": name}},
        "mount": {"name": name, "mountPath": str(folder), "readOnly": True},
    }


def rendered_jobs(text: str) -> Iterator[dict[str, Any]]:
    """The Jobs in what `helm template` or `helm get manifest` prints."""
    for item in yaml.safe_load_all(text):
        if item and item["kind"] == "Job":
            yield item
