"""`personaspace results RELEASE` where the bucket's address means something in the cluster only."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from made_results import least_results
from seaweed import SeaweedS3
from stand_in_api import Api, complete, job, pod, run, study
from store_places import use

from personaspace.cluster.api import connect
from personaspace.cluster.reachability import check_reachable
from personaspace.cluster.release import store_url
from personaspace.errors import UserError
from personaspace.store import open_store

KEY = "aggregate/0123456789abcdef"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys of the tester's; what a command sets stays in its test."""
    use({}, monkeypatch)
    monkeypatch.setattr(os, "environ", dict(os.environ))


def release(api: Api, store: str, **env: str) -> None:
    """A finished study with this store."""
    study(api)
    found = job("aggregate", "", "*", state="Complete")
    pairs = {"PERSONASPACE_STORE": store, **env}
    container = {"env": [{"name": name, "value": value} for name, value in pairs.items()]}
    found["spec"]["template"]["spec"]["containers"] = [container]
    api.objects["jobs"][-2] = found
    ended = complete(aggregate=KEY)
    api.objects["pods"][-2] = pod("aggregate", "", phase="Succeeded", containerStatuses=ended)


def said(*arguments: str) -> str:
    shown = run("results", "em205", *arguments)
    assert shown.exit_code == 2 and shown.stderr.count("\n") == 1, shown.stderr
    return str(shown.stderr.strip())


def test_the_trial_bucket_is_reached_by_two_commands(api: Api, tmp_path: Path) -> None:
    url = "s3://personaspace?endpoint=http://em205-seaweedfs:8333&region=us-east-1"
    keys = {"AWS_ACCESS_KEY_ID": "trial", "AWS_SECRET_ACCESS_KEY": "trial"}
    release(api, url, **keys)
    assert said() == (
        "em205: its bucket's server em205-seaweedfs:8333 can only be reached inside the cluster: "
        "keep `kubectl port-forward -n lab service/em205-seaweedfs 8333` running and, in another "
        "terminal, run `AWS_ACCESS_KEY_ID=trial AWS_SECRET_ACCESS_KEY=trial "
        "personaspace results em205 -n lab "
        "--store 's3://personaspace?endpoint=http://127.0.0.1:8333&region=us-east-1'`"
    )
    config = tmp_path / "my config"
    config.write_bytes(Path(os.environ["KUBECONFIG"]).read_bytes())
    found = said("--json", "-n", "there", "--kubeconfig", str(config), "--context", "here")
    where = f"-n there --kubeconfig '{config}' --context here"
    assert f"`kubectl port-forward {where} service/em205-seaweedfs 8333`" in found
    assert f"personaspace results em205 {where} --store" in found and found.endswith("' --json`")


def test_the_command_that_is_told_gives_the_results(
    api: Api, s3_server: SeaweedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if its port were forwarded: under the Service's name nobody knows it here.
    use(s3_server.environment, monkeypatch)
    with open_store(s3_server.url("inside")) as store, store.writer(KEY) as writer:
        (writer.folder / "results.json").write_text(least_results("of-the-release"))
        writer.commit({"fingerprint": "f"})
    service = s3_server.endpoint.replace("127.0.0.1", "em205-minio")
    release(api, s3_server.url("inside", endpoint=service))
    found = said("--json")
    told = re.findall("`([^`]+)`", found)
    port = s3_server.endpoint.rpartition(":")[2]
    assert told[0] == f"kubectl port-forward -n lab service/em205-minio {port}"
    assert "with the bucket's keys in the environment" in found
    assert "AWS_" not in found and "writer-" not in found
    program, *arguments = shlex.split(told[1])
    assert program == "personaspace"
    shown = run(*arguments)
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.output)["study"] == "of-the-release"


def test_the_releases_own_settings_are_stronger_than_its_secret(api: Api) -> None:
    release(api, "s3://bucket/x", AWS_REGION="of-the-pods")
    container = api.objects["jobs"][-2]["spec"]["template"]["spec"]["containers"][0]
    container["envFrom"] = [{"secretRef": {"name": "s3"}}]
    secret = {"AWS_REGION": "of-the-secret", "AWS_ACCESS_KEY_ID": "key"}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in secret.items()}
    api.objects["secrets"] = [{"metadata": {"name": "s3"}, "data": data}]
    assert store_url(connect(), "em205") == "s3://bucket/x"
    assert (os.environ["AWS_REGION"], os.environ["AWS_ACCESS_KEY_ID"]) == ("of-the-pods", "key")


@pytest.mark.parametrize(
    ("server", "forward", "here"),
    [
        ("http://minio.s3.svc:9000", "-n s3 service/minio 9000", "http://127.0.0.1:9000"),
        ("https://minio.s3.svc.cluster.local", "-n s3 service/minio 8443:443", "127.0.0.1:8443"),
        ("http://minio", "-n lab service/minio 8080:80", "http://127.0.0.1:8080"),
    ],
)
def test_a_bucket_of_ones_own_in_the_cluster(server: str, forward: str, here: str) -> None:
    with pytest.raises(UserError) as caught:
        check_reachable(f"s3://bucket/x?endpoint={server}", "em205", "lab", [])
    assert f"`kubectl port-forward {forward}`" in str(caught.value)
    assert here in str(caught.value) and "-n lab --store" in str(caught.value)


def test_the_address_may_stand_in_the_environment() -> None:
    os.environ["AWS_ENDPOINT_URL"] = "http://em205-seaweedfs:8333"
    with pytest.raises(UserError, match="port-forward -n lab service/em205-seaweedfs 8333"):
        check_reachable("s3://bucket/x", "em205", "lab", [])


@pytest.mark.parametrize(
    "url",
    [
        "folder",
        "s3://bucket/x",
        "s3://bucket/x?endpoint=http://127.0.0.1:1",
        "s3://bucket/x?endpoint=http://[::1]:1",
        "s3://bucket/x?endpoint=http://localhost:1",
        "s3://bucket/x?endpoint=https://no.such.example",
    ],
)
def test_other_addresses_are_left_alone(url: str) -> None:
    check_reachable(url, "em205", "lab", [])


def test_in_the_cluster_the_name_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def known(*host: Any) -> list[Any]:
        asked.append(host)
        return [host]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    check_reachable("s3://bucket/x?endpoint=http://em205-seaweedfs:8333", "em205", "lab", [])
    assert asked == [("em205-seaweedfs", None)]
