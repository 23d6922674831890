"""Fixtures for tests on a real cluster: whatever KUBECONFIG names.

    make test-cluster                     a kind cluster of its own, where docker is
    python -m pytest tests/cluster        the cluster of KUBECONFIG; see docs/cluster.md

| variable | meaning |
|---|---|
| `PERSONASPACE_TEST_HOST` | address of this host by which pods reach the tests' S3 server |
| `PERSONASPACE_TEST_IMAGE` | the CPU image, there already: `repository:tag` |
| `PERSONASPACE_TEST_RESTART_API` | command that restarts the API server; without it none does |
| `PERSONASPACE_TEST_KILL` | command: SIGKILL to pod `$POD_UID`; without it pods are deleted |
| `PERSONASPACE_TEST_KUEUE_READY` | seconds of Kueue's `waitForPodsReady`, where it is on |
| `PERSONASPACE_TEST_KEEP` | keep namespaces and bucket's data, to look at them |
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import build_tiny_model, tiny_study
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from seaweed import SeaweedS3

from cluster.release import GPU, Release, mount_folder
from personaspace.cluster.api import CONNECTION_ERRORS, Cluster, connect
from personaspace.errors import UserError
from personaspace.version import __version__

KEEP = bool(os.environ.get("PERSONASPACE_TEST_KEEP"))
IMAGE = os.environ.get("PERSONASPACE_TEST_IMAGE", f"personaspace/cpu:{__version__}")
#: Sums are rounded alike only with the same number of threads.
ONE_THREAD = [{"name": "OMP_NUM_THREADS", "value": "1"}]
RESTRICTED = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")
}


def _reach() -> Cluster:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG names no cluster (make test-cluster brings one, where docker is)")
    try:
        cluster = connect()
        cluster.core.list_node(_request_timeout=5)
    except (UserError, ApiException, *CONNECTION_ERRORS) as error:
        pytest.skip(f"the cluster of KUBECONFIG cannot be reached: {str(error).splitlines()[0]}")
    return cluster


@pytest.fixture(scope="session")
def api() -> Cluster:
    """The cluster."""
    return _reach()


def has_kueue(api: Cluster) -> bool:
    """Whether Kueue's own definitions are there."""
    found = client.ApisApi(api.core.api_client).get_api_versions().groups
    return any(group.name == "kueue.x-k8s.io" for group in found)


@pytest.fixture(scope="session")
def gpus(api: Cluster) -> int:
    """GPUs, real or pretended, of the node that has most."""
    found = [
        int(node["status"]["allocatable"].get(GPU, 0))
        for node in api.core.api_client.sanitize_for_serialization(api.core.list_node())["items"]
    ]
    if not max(found):
        pytest.skip(f"no node offers {GPU}; k8s/gpus.md says how one pretends")
    return max(found)


@pytest.fixture(scope="session")
def bucket() -> Iterator[SeaweedS3]:
    """An S3 server on this host that pods reach."""
    address = os.environ.get("PERSONASPACE_TEST_HOST")
    if not address:
        pytest.skip("PERSONASPACE_TEST_HOST: no address by which pods reach this host")
    with SeaweedS3(address) as server:
        yield server


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model and a study's chats in one folder, small enough for a ConfigMap."""
    folder = tmp_path_factory.mktemp("small")
    build_tiny_model(folder, hidden=32, vocabulary=600)
    return folder


def small_study(folder: Path) -> dict[str, Any]:
    """Base and two trained conditions, on the small model; writes its chats beside it."""
    study = tiny_study(folder, folder)
    keep = ("base", "benign", "e0-assistant")
    study["conditions"] = [c for c in study["conditions"] if c["name"] in keep]
    return study


@dataclass
class Place:
    """A namespace with the bucket's secret and the small model.

    Attributes:
        cluster: The namespace.
        bucket: The S3 server.
        model: The small model's folder, at the same path here and in pods.
    """

    cluster: Cluster
    bucket: SeaweedS3
    model: Path
    mounts: dict[str, Any]

    def study(self) -> dict[str, Any]:
        """The small study."""
        return small_study(self.model)

    def url(self, prefix: str) -> str:
        """Store of a prefix."""
        return self.bucket.url(prefix)

    def results(self, release: Release) -> bytes:
        """The results as the CLI prints them."""
        spec = self.model.parent / f"{release.name}.yaml"
        spec.write_text(yaml.safe_dump(release.values["experiment"]), encoding="utf-8")
        return _personaspace(
            self.bucket, "results", str(spec), "--store", self.url(release.name), "--json"
        )

    def release(self, name: str, study: dict[str, Any] | None = None, **values: Any) -> Release:
        """A release of the study that is not installed yet."""
        repository, _, tag = IMAGE.rpartition(":")
        image = {"repository": repository, "tag": tag, "pullPolicy": "Never"}
        return Release(
            self.cluster,
            name,
            {
                "experiment": study or self.study(),
                "image": image,
                "cpuImage": image,
                "store": {"url": self.url(name)},
                "gpu": {"count": 0},
                "pods": {
                    "resources": {
                        "requests": {"cpu": "50m", "memory": "256Mi"},
                        "limits": {"memory": "2Gi"},
                    },
                    "shmSize": "",
                    "extraEnv": ONE_THREAD,
                    "extraVolumes": [self.mounts["volume"]],
                    "extraVolumeMounts": [self.mounts["mount"]],
                    "backoffLimit": 1,
                    "terminationGracePeriodSeconds": 20,
                },
                "stages": {
                    name: {
                        "resources": {
                            "requests": {"cpu": "50m", "memory": "128Mi"},
                            "limits": {"memory": "2Gi"},
                        }
                    }
                    for name in ("aggregate", "conductor")
                },
                **values,
            },
        )


@pytest.fixture(scope="session")
def make_namespace(api: Cluster) -> Iterator[Callable[[str], Cluster]]:
    """Makes `restricted` namespaces and removes them at the end."""
    made: list[str] = []

    def make(purpose: str) -> Cluster:
        name = f"ps-{purpose}-{uuid.uuid4().hex[:6]}"
        api.core.create_namespace({"metadata": {"name": name, "labels": RESTRICTED}})
        made.append(name)
        return Cluster(api.core.api_client, name)

    yield make
    for name in made:
        if KEEP:
            print(f"kept namespace {name}")
        else:
            api.core.delete_namespace(name)


@pytest.fixture(scope="module")
def place(
    request: pytest.FixtureRequest,
    make_namespace: Callable[[str], Cluster],
    bucket: SeaweedS3,
    small: Path,
) -> Place:
    """A namespace for a module's tests."""
    purpose = request.module.__name__.rpartition("test_")[2]
    cluster = make_namespace(purpose)
    secret = {"metadata": {"name": "personaspace-s3"}, "stringData": bucket.environment}
    cluster.core.create_namespaced_secret(cluster.namespace, secret)
    small_study(small)
    return Place(cluster, bucket, small, mount_folder(cluster, "small", small))


def _personaspace(bucket: SeaweedS3, *arguments: str) -> bytes:
    """The CLI on this machine, with the pods' number of threads."""
    done = subprocess.run(
        [sys.executable, "-m", "personaspace", *arguments],
        check=False,
        capture_output=True,
        env={**os.environ, **bucket.environment, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="session")
def local_results(
    bucket: SeaweedS3, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """What the small study gives when it runs on this machine."""
    return run_here(bucket, small_study(small), tmp_path_factory.mktemp("local"))


def run_here(bucket: SeaweedS3, study: dict[str, Any], folder: Path) -> bytes:
    """The results of a study that runs on this machine."""
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    where = [str(folder / "study.yaml"), "--store", str(folder / "store")]
    _personaspace(bucket, "run", *where)
    return _personaspace(bucket, "results", *where, "--json")


@pytest.fixture
def installed() -> Iterator[Callable[[Release], Release]]:
    """Remembers releases to be uninstalled when the test ends."""
    releases: list[Release] = []

    def remember(release: Release) -> Release:
        releases.append(release)
        return release

    yield remember
    for release in [] if KEEP else releases:
        release.helm("uninstall", release.name, "--ignore-not-found")
