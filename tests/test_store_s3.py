"""S3 alone: large files, the cache, settings that are wrong."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.utils import parse_timestamp
from relay import Relay, Request, faulty
from store_places import KEY, complaint, objects, put_one, use

from personaspace.errors import StoreUnavailable
from personaspace.s3 import bucket
from personaspace.store import open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytest_plugins = ["seaweed", "store_fixtures"]

MIB = 1024 * 1024


# --- transfer and cache ----------------------------------------------------------------------


def test_a_large_file_goes_and_comes_in_parts(server: SeaweedS3, prefix: str) -> None:
    content = os.urandom(20 * MIB + 17)
    with open_store(server.url(prefix)) as store:
        manifest = put_one(store, content)
    name = f"{prefix}/{KEY}/{manifest.data}/file.bin"
    etag = server.client.head_object(Bucket=server.bucket, Key=name)["ETag"]
    assert etag.endswith('-3"'), "20 MiB are three parts of at most 8 MiB"
    with open_store(server.url(prefix)) as store:
        assert (store.fetch(KEY) / "file.bin").read_bytes() == content


def test_what_is_in_the_cache_is_checked_and_not_fetched_again(
    server: SeaweedS3, prefix: str, tmp_path: Path
) -> None:
    with open_store(server.url(prefix)) as store:
        manifest = put_one(store)
    cache = tmp_path / "cache"
    with open_store(server.url(prefix), cache) as store:
        first = store.fetch(KEY) / "file.bin"
    assert first.is_relative_to(cache)
    with open_store(server.url(prefix), cache) as store:
        first.write_bytes(b"CONTENT")
        assert (store.fetch(KEY) / "file.bin").read_bytes() == b"content", "damage is mended"
        name = f"{prefix}/{KEY}/{manifest.data}/file.bin"
        server.client.delete_object(Bucket=server.bucket, Key=name)
        assert (store.fetch(KEY) / "file.bin").read_bytes() == b"content"
        first.write_bytes(b"CONTENT")
        assert "file.bin is missing" in complaint(lambda: store.fetch(KEY))
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["file.bin"]


def test_own_output_is_not_downloaded(server: SeaweedS3, prefix: str) -> None:
    with open_store(server.url(prefix)) as store:
        manifest = put_one(store)
        name = f"{prefix}/{KEY}/{manifest.data}/file.bin"
        server.client.delete_object(Bucket=server.bucket, Key=name)
        assert (store.fetch(KEY) / "file.bin").read_bytes() == b"content"


def test_a_damaged_download_never_gets_its_name(
    server: SeaweedS3, prefix: str, tmp_path: Path
) -> None:
    with open_store(server.url(prefix)) as store:
        manifest = put_one(store)
    name = f"{prefix}/{KEY}/{manifest.data}/file.bin"
    server.client.put_object(Bucket=server.bucket, Key=name, Body=b"CONTENT")
    with open_store(server.url(prefix), tmp_path) as store:
        message = complaint(lambda: store.fetch(KEY))
    assert f"artifact {KEY}: file file.bin is corrupt" in message
    assert f"s3://{server.bucket}/{name}" in message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_close_removes_a_cache_of_our_own(server: SeaweedS3, prefix: str) -> None:
    with open_store(server.url(prefix)) as store:
        put_one(store)
        folder = store.fetch(KEY)
        assert folder.is_dir()
    assert not folder.exists()


def test_the_prefix_keeps_two_studies_apart(server: SeaweedS3, prefix: str) -> None:
    with (
        open_store(server.url(f"{prefix}/a")) as one,
        open_store(server.url(f"{prefix}/a-b")) as two,
        open_store(server.url(prefix)) as above,
    ):
        put_one(one, b"one")
        put_one(two, b"two")
        assert one.list() == two.list() == [KEY]
        assert (one.fetch(KEY) / "file.bin").read_bytes() == b"one"
        assert above.list("a") == [f"a/{KEY}"]
        assert one.describe(KEY) == f"s3://{server.bucket}/{prefix}/a/{KEY}"
        one.delete(KEY)
        assert two.list() == [KEY]


def test_sweep_drops_uploads_that_never_ended(server: SeaweedS3, prefix: str) -> None:
    name = f"{prefix}/{KEY}/data-{uuid.uuid4().hex}/file.bin"
    server.client.create_multipart_upload(Bucket=server.bucket, Key=name)

    def pending() -> int:
        found = server.client.list_multipart_uploads(Bucket=server.bucket, Prefix=f"{prefix}/")
        return len(found.get("Uploads", []))

    assert pending() == 1
    with open_store(server.url(prefix)) as store:
        store.sweep(minutes=60)
        assert pending() == 1
        store.sweep("e5", minutes=0)
        assert pending() == 1
        store.sweep(KEY, minutes=0)
    assert pending() == 0


def test_the_server_and_region_may_come_from_the_environment(
    server: SeaweedS3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_REGION", server.region)
    with open_store(f"s3://{server.bucket}/{prefix}") as store:
        store.check()
        put_one(store)
        assert store.url == f"s3://{server.bucket}/{prefix}"
    assert f"{KEY}/manifest.json" in objects(server, prefix)


# --- wrong settings --------------------------------------------------------------------------


def test_a_bucket_that_is_not_there(server: SeaweedS3) -> None:
    url = server.url("x").replace(f"//{server.bucket}/", "//nowhere/")
    with open_store(url) as store:
        expected = f"bucket nowhere does not exist at {server.endpoint}"
        for act in (store.check, lambda: store.find(KEY), lambda: put_one(store), store.list):
            assert complaint(act) == expected


def test_a_bucket_deleted_in_the_middle_is_named_where_a_file_is_fetched(
    server: SeaweedS3, prefix: str
) -> None:
    bucket = f"doomed-{uuid.uuid4().hex[:8]}"
    server.client.create_bucket(Bucket=bucket)
    url = server.url(prefix).replace(f"//{server.bucket}/", f"//{bucket}/")
    with open_store(url) as store:
        put_one(store)
    with open_store(url) as store:
        manifest = store.find(KEY)
        assert manifest is not None
        server.client.delete_bucket(Bucket=bucket)
        expected = f"bucket {bucket} does not exist at {server.endpoint}"
        # A file begins with HEAD, whose 404 does not say of what.
        for act in (lambda: store.fetch(manifest), lambda: store.fetch(KEY)):
            assert complaint(act) == expected


def test_a_missing_file_is_not_taken_for_a_missing_bucket_where_one_may_not_list(
    server: SeaweedS3, prefix: str
) -> None:
    with open_store(server.url(prefix)) as store:
        manifest = put_one(store)
    name = f"{prefix}/{KEY}/{manifest.data}/file.bin"
    server.client.delete_object(Bucket=server.bucket, Key=name)

    def fault(relay: Relay, request: Request) -> bool:
        listing = request.method == "GET" and "list-type=2" in request.path
        if listing:
            relay.refuse(403, "AccessDenied")
        return listing

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint)) as store,
    ):
        assert "file file.bin is missing" in complaint(lambda: store.fetch(manifest))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "not-secret-4713"}, "secret key does not belong"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "access key is unknown"),
    ],
)
def test_wrong_credentials(
    server: SeaweedS3,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    reason: str,
) -> None:
    use({**server.environment, **changed}, monkeypatch)
    with open_store(server.url(prefix)) as store:
        for act in (store.check, lambda: store.find(KEY), lambda: put_one(store), store.list):
            message = complaint(act)
            assert f"credentials for bucket {server.bucket} at {server.endpoint}" in message
            assert reason in message


def test_no_credentials(server: SeaweedS3, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    use({k: v for k, v in server.environment.items() if k not in keys}, monkeypatch)
    with open_store(server.url(prefix)) as store:
        assert f"no credentials for bucket {server.bucket}" in complaint(store.check)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in complaint(lambda: open_store(server.url(prefix)).check())


def test_credentials_that_may_only_read(
    server: SeaweedS3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(server.url(prefix)) as store:
        put_one(store)
    use(server.reader_environment, monkeypatch)
    with open_store(server.url(prefix)) as store:
        store.check(write=False)
        assert (store.fetch(KEY) / "file.bin").read_bytes() == b"content"
        expected = f"do not permit to write to bucket {server.bucket}"
        assert expected in complaint(store.check)
        assert expected in complaint(lambda: put_one(store, key="other"))
        assert "do not permit to delete" in complaint(lambda: store.delete(KEY))
        assert store.list() == [KEY]


def test_no_server_is_found_out_fast(server: SeaweedS3) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.monotonic()
    with open_store(f"s3://bucket/x?endpoint=http://127.0.0.1:{port}&patience=2") as store:
        with pytest.raises(StoreUnavailable) as caught:
            store.check()
        expected = f"no S3 server answers at http://127.0.0.1:{port} (bucket bucket)"
        assert str(caught.value) == expected
        assert complaint(lambda: store.find(KEY)) == expected
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is empty"),
        ("gs://bucket/x", "unknown scheme"),
        ("file://host/x", "looks like file:///folder"),
        ("s3://", "not a bucket name"),
        ("s3://key:secret-4711@bucket/x", "store s3://bucket/x: not a bucket name"),
        ("s3://bucket/x?endpont=http://h", "option endpont is unknown or empty"),
        ("s3://bucket/x?secret_key=secret-4711", "option secret_key is unknown"),
        ("s3://bucket/x?region=", "option region is unknown or empty"),
        ("s3://bucket/x?endpoint=127.0.0.1:8333", "endpoint is not a plain http"),
        ("s3://bucket/x?endpoint=http://u:secret-4711@h", "endpoint is not a plain http"),
        ("s3://bucket/x?endpoint=http://h:port", "endpoint is not a plain http"),
        ("s3://bucket/x?path_style=maybe", "path_style is true or false"),
        ("s3://bucket/x?patience=-1", "patience is a number"),
        ("s3://bucket/../x", "may not be a part"),
        ("s3://bucket/a//b", "may not be a part"),
        ("s3://bucket/x#part", "nothing may follow"),
        ("s3://[bucket/x", "store s3://"),
    ],
)
def test_urls_that_cannot_be_read(url: str, message: str) -> None:
    assert message in complaint(lambda: open_store(url))


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/a/b",
        "s3://bucket/a?endpoint=http://127.0.0.1:8333&region=eu-1&path_style=true",
        "s3://bucket/a?endpoint=http://[::1]:8333&path_style=false&patience=2.5",
    ],
)
def test_the_url_of_a_store_opens_it_again(url: str) -> None:
    with open_store(url) as store:
        assert store.url == url


def test_a_slash_at_the_end_changes_nothing() -> None:
    for url in ("s3://bucket/", "s3://bucket/a/b/"):
        with open_store(url) as store:
            assert store.url == url.rstrip("/")


@pytest.mark.parametrize(
    "value",
    ["2026-11-30T10:10:10.123Z", "2026-11-30T10:10:10+02:00", "2026-11-30T10:10:10",
     "Mon, 30 Nov 2026 10:10:10 GMT", "1700000000", 1700000000, 1.5],
)  # fmt: skip
def test_times_are_those_that_botocore_reads(value: str | float) -> None:
    assert bucket._time(value) == parse_timestamp(value)
