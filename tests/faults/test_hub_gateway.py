"""A store behind what Hugging Face documents of its S3 gateway to the Hub's buckets.

https://huggingface.co/docs/hub/storage-buckets-s3, as of 2026-11-30. A relay with these limits
stands before a real S3 server: the namespace in the address, TLS, keys of its own, no checksums
that follow a body, no first version of listings, no delimiter but a slash, restricted names, no
metadata, no copies of parts, conditions on puts alone. Whether it lists unfinished uploads and
removes many objects with a request is not documented, so it is tried with and without.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from conftest import tiny_study
from relay import Relay, Request, faulty
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.errors import UserError
from personaspace.s3.bucket import Bucket
from personaspace.s3.location import parse_s3
from personaspace.store import open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytestmark = [pytest.mark.s3, pytest.mark.slow]
KEY = "HFAKtest"
#: What a name of an object must not be.
FORBIDDEN = re.compile(r"^/|/$|//|\.\./|^\./|\.\.$|\\|\0")
#: Headers that reach the server behind; all others are signed anew or not known.
PASSED = ("content-type", "content-md5", "range", "if-none-match", "if-match")


class Gateway:
    """The relay's rules, and what it refused."""

    def __init__(self, server: SeaweedS3, *, more: bool) -> None:
        self.server, self.more = server, more
        self.refused: list[str] = []
        self.parts = 0
        keys = server.environment
        self.keys = Credentials(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])

    def __call__(self, relay: Relay, request: Request) -> bool:
        why = self.rule_against(request)
        if why is not None:
            self.refused.append(why)
            relay.refuse(501, "NotImplemented")
            return True
        url = urlsplit(request.path)
        self.parts += "partNumber" in url.query
        kept = {n: v for n, v in request.headers.items() if n.lower() in PASSED}
        if request.method in ("GET", "HEAD"):  # conditions are not honoured there
            kept = {n: v for n, v in kept.items() if not n.lower().startswith("if-")}
        request.path = url._replace(path=url.path.removeprefix("/lab")).geturl()
        address = f"{self.server.endpoint}{request.path}"
        signed = AWSRequest(request.method, address, data=request.body, headers=kept)
        S3SigV4Auth(self.keys, "s3", self.server.region).add_auth(signed)
        request.headers = dict(signed.headers.items())
        status, headers, body = relay.forward(request)
        own = {n: v for n, v in headers.items() if "checksum" not in n.lower()}
        relay.answer(status, own, body)
        return True

    def rule_against(self, request: Request) -> str | None:
        """Why the gateway does not take a request; None: it does."""
        url = urlsplit(request.path)
        asked = parse_qs(url.query, keep_blank_values=True)
        headers = {name.lower(): value for name, value in request.headers.items()}
        space, bucket, *name = unquote(url.path).lstrip("/").split("/", 2)
        if space != "lab" or bucket != self.server.bucket:
            return f"{url.path}: no namespace and bucket"
        if f"Credential={KEY}/" not in headers.get("authorization", ""):
            return "a key that is not of the Hub"
        if "aws-chunked" in headers.get("content-encoding", "") or "x-amz-trailer" in headers:
            return "a checksum that follows the body"
        if name and name[0] and FORBIDDEN.search(name[0]):
            return f"the name {name[0]}"
        if "x-amz-copy-source" in headers and "partNumber" in asked:
            return "a copy of a part"
        if not (name and name[0]) and request.method == "GET":
            if "uploads" in asked:
                return None if self.more else "a list of uploads"
            if asked.get("list-type") != ["2"]:
                return "the first version of listings"
            if asked.get("delimiter", ["/"]) != ["/"]:
                return "a delimiter"
        if request.method == "POST" and "delete" in asked and not self.more:
            return "removing many"
        return None


@contextmanager
def behind(gateway: Gateway, certificate: Path, patience: int = 5) -> Iterator[str]:
    """The store's URL with a relay with a gateway's rules between."""
    with faulty(gateway.server, gateway, tls=certificate) as address:
        options = f"endpoint={address}/lab&region=us-east-1&path_style=true&patience={patience}"
        yield f"s3://{gateway.server.bucket}/gateway-{id(gateway)}?{options}"


@pytest.fixture
def hub_keys(s3_server: SeaweedS3, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> SeaweedS3:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate / "cert.pem"))
    for what in ("REQUEST_CHECKSUM_CALCULATION", "RESPONSE_CHECKSUM_VALIDATION"):
        monkeypatch.setenv(f"AWS_{what}", "when_required")
    return s3_server


@pytest.mark.parametrize("more", [True, False])
def test_artifacts_live_in_a_bucket_of_the_hub(
    more: bool, hub_keys: SeaweedS3, certificate: Path, tmp_path: Path
) -> None:
    gateway = Gateway(hub_keys, more=more)
    large = bytes(range(256)) * 4096 * 20  # 20 MiB: three parts
    with behind(gateway, certificate) as url, open_store(url, cache=tmp_path / "one") as store:
        store.check()
        with store.writer("e4-villain/seed-1/train/aa") as writer:
            (writer.folder / "adapter").mkdir()
            (writer.folder / "adapter" / "weights.safetensors").write_bytes(large)
            (writer.folder / "names: with @, + and ü.json").write_text("{}")
            made = writer.commit({"stage": "train"})
        assert gateway.parts == 3
        with open_store(url, cache=tmp_path / "other") as other:
            found = other.find(made.key)
            assert found is not None and found.digest == made.digest
            folder = other.fetch(found)
            assert (folder / "adapter" / "weights.safetensors").read_bytes() == large
            assert other.list() == [made.key]
        # Of two writers the server refuses the second.
        both = threading.Barrier(2)
        ends: list[bool | None] = []

        def write() -> None:
            with open_store(url) as mine, mine.writer("base/seed-1/extract/bb") as writer:
                (writer.folder / "one.json").write_text("{}")
                both.wait()
                writer.commit({})
                ends.append(writer.won)

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(bool, ends)) == [False, True]
        swept = store.sweep(minutes=0, keep=lambda key: key == made.key)
        assert swept.artifacts == ["base/seed-1/extract/bb"] and swept.uploads_listed is more
        assert store.list() == [made.key]
        store.delete(made.key)
        assert list(Bucket(parse_s3(url)).items("")) == []
    assert set(gateway.refused) == (set() if more else {"a list of uploads", "removing many"})


@pytest.mark.study
def test_a_stage_runs_on_a_bucket_of_the_hub(
    hub_keys: SeaweedS3, certificate: Path, tiny_model: Path, tmp_path: Path
) -> None:
    gateway = Gateway(hub_keys, more=False)
    (spec := tmp_path / "study.yaml").write_text(yaml.safe_dump(tiny_study(tiny_model, tmp_path)))
    with behind(gateway, certificate) as url:

        def personaspace(*words: str) -> str:
            done = CliRunner().invoke(app, [*words, "--store", url])
            assert done.exit_code == 0, done.output
            return done.output

        personaspace("run", str(spec), "--only", "train:benign")
        again = personaspace("run", str(spec), "--only", "train:benign", "--plan")
        assert "0 of 1 stage would run, 1 is complete" in again
        assert "1 artifact, all sound" in personaspace("verify")
        said = personaspace("gc", str(spec), "--dry-run")
        assert "this server does not list any" in said and said.startswith("0 artifacts")
    assert set(gateway.refused) <= {"a list of uploads", "removing many"}


def test_checksums_that_follow_a_body_are_refused_and_not_sent_to_the_hub(
    hub_keys: SeaweedS3, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    gateway = Gateway(hub_keys, more=True)
    with (
        behind(gateway, certificate, patience=0) as url,
        open_store(url) as store,
        pytest.raises(UserError, match="NotImplemented"),
    ):
        store.check()
    assert set(gateway.refused) == {"a checksum that follows the body"}
    # Of its own address it is known, whatever the environment says.
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported")
    for address, wanted, given in (
        ("s3.hf.co/lab", "when_required", True),
        ("s3.hf.co/lab", "when_required", False),
        ("s3.example.org", None, True),
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{address}")
        place = f"s3://bucket/x?endpoint=https://{address}" if given else "s3://bucket/x"
        config = Bucket(parse_s3(place))._client.meta.config
        for what in ("request_checksum_calculation", "response_checksum_validation"):
            assert getattr(config, what) == (wanted or "when_supported")
