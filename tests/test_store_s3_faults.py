"""S3 servers that go away, lose answers, are busy, or are none; clients that die."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from relay import Relay, Request, faulty
from store_places import KEY, complaint, objects, put_one, use
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.errors import StoreUnavailable
from personaspace.store import open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytest_plugins = ["seaweed", "store_fixtures"]

MIB = 1024 * 1024


# --- servers that go away --------------------------------------------------------------------


@pytest.mark.long
def test_a_server_that_restarts_during_an_upload_costs_only_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from seaweed import SeaweedS3

    with SeaweedS3() as server:
        use(server.environment, monkeypatch)
        with open_store(server.url("x"), tmp_path) as store:
            store.check()
            content = os.urandom(48 * MIB)
            with ThreadPoolExecutor(1) as pool:
                upload = pool.submit(put_one, store, content)
                # Some parts are through, others not.
                _wait_for(lambda: _parts(server) >= 1)
                server.kill()
                assert not upload.done()
                time.sleep(0.5)
                server.start()
                manifest = upload.result(timeout=120)
            assert store.find(KEY) == manifest
            assert len(objects(server, "x")) == 2
        with open_store(server.url("x")) as store:
            assert (store.fetch(KEY) / "file.bin").read_bytes() == content


def _wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _parts(server: SeaweedS3) -> int:
    found = server.client.list_multipart_uploads(Bucket=server.bucket)
    for upload in found.get("Uploads", []):
        where = {"Bucket": server.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        return len(server.client.list_parts(**where).get("Parts", []))
    return 0


KILLED = """
import sys
from personaspace.store import open_store
with open_store(sys.argv[1]).writer(sys.argv[2]) as writer:
    (writer.folder / "0-first").write_bytes(b"first")
    with (writer.folder / "1-second").open("wb") as file:
        file.truncate(512 * 2**20)
    writer.commit({})
"""


def test_killed_in_the_middle_of_an_upload(
    server: SeaweedS3, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-c", KILLED, server.url(prefix), KEY]
    with subprocess.Popen(command) as child:
        try:
            _wait_for(lambda: any(name.endswith("0-first") for name in objects(server, prefix)))
        finally:
            child.kill()
    assert child.returncode < 0
    with open_store(server.url(prefix)) as store:
        assert store.find(KEY) is None
        manifest = put_one(store)
        # One more where the upload in parts of the second file had begun.
        assert store.sweep(minutes=0).orphans in (1, 2)
        assert (store.fetch(KEY) / "file.bin").read_bytes() == b"content"
    left = objects(server, prefix)
    assert sorted(left) == [f"{KEY}/{manifest.data}/file.bin", f"{KEY}/manifest.json"]


# --- servers that answer badly ---------------------------------------------------------------


def test_where_conditions_are_not_implemented_a_look_has_to_do(
    server: SeaweedS3, prefix: str
) -> None:
    refused = []

    def fault(relay: Relay, request: Request) -> bool:
        if {"If-None-Match", "If-Match"} & request.headers.keys():
            refused.append(request.path)
            relay.refuse(501, "NotImplemented")
            return True
        return False

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint)) as store,
    ):
        first = put_one(store)
        with store.writer(KEY) as writer:
            assert writer.commit({}) == first
            assert writer.won is False
        second = put_one(store, b"second", replace=True)
        assert store.find(KEY) == second
    assert len(refused) == 1, "asked once, then remembered"
    assert len(objects(server, prefix)) == 2


@pytest.mark.parametrize("replace", [False, True])
def test_a_put_whose_answer_is_lost_is_still_ours(
    server: SeaweedS3, prefix: str, replace: bool
) -> None:
    with open_store(server.url(prefix)) as store:
        former = put_one(store, b"former") if replace else None
    lost: list[int] = []

    def fault(relay: Relay, request: Request) -> bool:
        if request.is_manifest_put() and not lost:
            lost.append(relay.forward(request)[0])
            relay.hang_up()
            return True
        return False

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint)) as store,
        store.writer(KEY) as writer,
    ):
        (writer.folder / "file.bin").write_bytes(b"mine")
        manifest = writer.commit({}, replace=replace)
        assert writer.won is True
    assert lost == [200]
    assert former is None or former.data != manifest.data
    with open_store(server.url(prefix)) as store:
        assert store.find(KEY) == manifest
        assert (store.fetch(KEY) / "file.bin").read_bytes() == b"mine"
    assert len(objects(server, prefix)) == 2, "and the former one's files are gone"


def test_files_stay_when_nobody_knows_whether_the_manifest_arrived(
    server: SeaweedS3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    puts: list[int] = []

    def fault(relay: Relay, request: Request) -> bool:
        if request.is_manifest_put():
            puts.append(relay.forward(request)[0])
            relay.hang_up()
            return True
        return False

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint) + "&patience=0") as store,
    ):
        assert "connection to" in complaint(lambda: put_one(store))
    assert puts == [200]
    with open_store(server.url(prefix)) as store:
        assert (store.fetch(KEY) / "file.bin").read_bytes() == b"content"


def test_busy_answers_are_tried_again_and_then_named(
    server: SeaweedS3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = iter([True] * 2)

    def twice(relay: Relay, request: Request) -> bool:
        if request.method == "PUT" and next(busy, False):
            relay.refuse(503, "SlowDown")
            return True
        return False

    with (
        faulty(server, twice) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint) + "&patience=0") as store,
    ):
        put_one(store)
        assert store.list() == [KEY]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")

    def always(relay: Relay, request: Request) -> bool:
        if request.method == "PUT":
            relay.refuse(503, "SlowDown")
        return request.method == "PUT"

    with (
        faulty(server, always) as endpoint,
        open_store(server.url(f"{prefix}/busy", endpoint=endpoint) + "&patience=1") as store,
        pytest.raises(StoreUnavailable, match=r"could not write to bucket .*HTTP 503"),
    ):
        put_one(store)
    assert objects(server, f"{prefix}/busy") == []


def test_a_busy_server_is_asked_again_at_the_start(
    server: SeaweedS3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stays busy is no mistake of the user's (69), one that does not answer may be (2)."""
    left = 5

    def busy(relay: Relay, request: Request) -> bool:
        nonlocal left
        if request.method != "DELETE" or not left:
            return False
        left -= 1
        relay.refuse(503, "SlowDown")
        return True

    with (
        faulty(server, busy) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint)) as store,
    ):
        store.check()
    assert left == 0 and objects(server, prefix) == []
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)

    def always(relay: Relay, request: Request) -> bool:
        relay.refuse(503, "SlowDown")
        return True

    with faulty(server, always) as endpoint:
        command = ["verify", "--store", server.url(prefix, endpoint=endpoint) + "&patience=1"]
        assert CliRunner().invoke(app, command).exit_code == 69
    assert CliRunner().invoke(app, command).exit_code == 2


def test_a_download_that_breaks_off_is_begun_again(server: SeaweedS3, prefix: str) -> None:
    content = os.urandom(MIB)
    with open_store(server.url(prefix)) as store:
        put_one(store, content)
    broken: list[int] = []

    def fault(relay: Relay, request: Request) -> bool:
        if request.method == "GET" and "file.bin" in request.path and len(broken) < 2:
            status, headers, body = relay.forward(request)
            broken.append(status)
            relay.answer(status, headers, body[: len(body) // 2])
            relay.hang_up()
            return True
        return False

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint)) as store,
    ):
        assert (store.fetch(KEY) / "file.bin").read_bytes() == content
    assert broken == [200, 200]


def test_something_that_is_no_s3_server(server: SeaweedS3, prefix: str) -> None:
    def fault(relay: Relay, request: Request) -> bool:
        relay.answer(200, {"Content-Type": "text/html"}, b"<html>Welcome<br></html>")
        return True

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint)) as store,
    ):
        message = complaint(store.check)
    assert f"{endpoint} could not list bucket {server.bucket}" in message


def test_a_server_that_never_answers_is_given_up_soon(server: SeaweedS3) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with open_store(server.url("x", endpoint=endpoint)) as store:
            begun = time.monotonic()
            assert f"{endpoint} does not answer in time" in complaint(store.check)
            assert time.monotonic() - begun < 20
