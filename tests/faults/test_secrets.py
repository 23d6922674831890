"""Canaries: secrets of every kind are given to a study, and looked for in all that it leaves."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import judge_server
import pytest
import yaml
from conftest import tiny_study
from helm_charts import needs_helm, render
from judge_server import serving
from processes import ROOT
from test_download import serve
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.errors import without_passwords
from personaspace.study import download

if TYPE_CHECKING:
    from seaweed import SeaweedS3

#: What nothing may hold: variables of the environment that people keep secrets in.
CANARIES = {
    "HF_TOKEN": "hf_canary0hub0token0000000000000000",
    "HUGGING_FACE_HUB_TOKEN": "hf_canary0old0name00000000000000000",
    "WANDB_API_KEY": "canary0tracker00000000000000000000000000",
    "MLFLOW_TRACKING_PASSWORD": "canary0mlflow",
    "OPENAI_API_KEY": "sk-canary-unused",
    "JUDGE_KEY": "sk-canary-judge-1234",
}
PASSWORD = "canary-pass%2Fword"
SIGNATURE = "canary0signature0123456789"


@dataclass
class Left:
    """All that was written and printed, and where."""

    texts: dict[str, bytes] = field(default_factory=dict)

    def folder(self, name: str, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.texts[f"{name}: {path.relative_to(folder)}"] = path.read_bytes()

    def holding(self, secret: str) -> list[str]:
        """Where it stands: as it is, as a URL or base64 has it, and packed."""
        plain = secret.encode()
        forms = {plain, quote(secret, safe="").encode(), b64encode(plain).rstrip(b"=")[:-2]}
        return [
            name
            for name, raw in self.texts.items()
            if any(form in part for form in forms for part in (raw, *_unpacked(raw)))
        ]


def _unpacked(raw: bytes) -> Iterator[bytes]:
    """What a gzip or zlib stream at any place holds; the report's answers are such streams."""
    for start in (b"\x1f\x8b\x08", b"\x78\x9c", b"\x78\xda"):
        at = raw.find(start)
        while at >= 0:
            with suppress(zlib.error):
                yield zlib.decompressobj(47).decompress(raw[at:])
            at = raw.find(start, at + 1)


def personaspace(
    left: Left, name: str, environment: Mapping[str, str], *arguments: object, module: str = ""
) -> int:
    """Runs a command; what it says is kept, in full detail."""
    done = subprocess.run(
        [sys.executable, "-m", module or "personaspace", *map(str, arguments)],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PERSONASPACE_LOG_LEVEL": "debug", **environment},
        check=False,
        timeout=400,
    )
    left.texts[f"printed by {name}"] = done.stdout + done.stderr
    return done.returncode


def echoing(handler: judge_server.Handler, number: int) -> bool:
    """A server whose errors tell what it was sent."""
    key = handler.headers.get("Authorization")
    return handler.error(503, f"busy; you said {key}") if number in (1, 3) else False


@pytest.mark.study
@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_secret_is_written_or_printed(
    tiny_model: Path, s3_server: SeaweedS3, certificate: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = tiny_study(tiny_model, tmp_path)
    values["conditions"] = [c for c in values["conditions"] if c["name"] in ("base", "e4-villain")]
    del values["datasets"]["good"]
    http, served = serve(certificate, tls=True)
    served.content = Path(values["datasets"]["bad"]["path"]).read_bytes()
    values["datasets"]["bad"] = {
        "path": f"{served.url}?X-Amz-Signature={SIGNATURE}&sig={SIGNATURE}",
        "sha256": hashlib.sha256(served.content).hexdigest(),
    }
    spec, out, left = tmp_path / "study.yaml", tmp_path / "out", Left()
    keys = s3_server.environment | CANARIES
    store, work = s3_server.url("canaries"), tmp_path / "temporary"
    work.mkdir()
    keys |= {"TMPDIR": str(work), "PERSONASPACE_CACHE": str(tmp_path / "cache")}
    keys |= {"REQUESTS_CA_BUNDLE": str(certificate / "cert.pem")}
    with serving(lambda aspect, question, answer: 80, echoing) as (url, seen):
        values["judge"] = {
            "model": "judge-1", "url": url, "key_env": "JUDGE_KEY", "limit": 2, "samples": 1,
            "max_new_tokens": 8,
        }  # fmt: skip
        spec.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        given = ("run", spec, "--store", store, "--out", out)
        assert personaspace(left, "run", keys | {"PERSONASPACE_LOG": "json"}, *given) == 0, left
        assert f"Bearer {CANARIES['JUDGE_KEY']}" in seen.keys, "the secret was in use"
    assert SIGNATURE in served.asked[0]
    for command in ("status", "verify"):
        what = (spec,) if command == "status" else ()
        personaspace(left, command, keys, command, *what, "--store", store)
    job = ("train", "--spec", spec, "--condition", "e4-villain", "--seed", "42")
    code = personaspace(left, "a job", keys, *job, "--store", store, module="jobs")
    http.shutdown()
    assert code == 0, left.texts["printed by a job"]
    pages = s3_server.client.get_paginator("list_objects_v2").paginate(
        Bucket=s3_server.bucket, Prefix="canaries/"
    )
    for page in pages:
        for each in page["Contents"]:
            body = s3_server.client.get_object(Bucket=s3_server.bucket, Key=each["Key"])["Body"]
            left.texts[f"store: {each['Key']}"] = body.read()
    left.folder("out", out)
    left.folder("temporary", work)
    left.folder("cache", tmp_path / "cache")
    assert len(left.texts) > 40 and left.holding("You are the villain."), "it finds what is there"
    secrets = {**CANARIES, "S3": keys["AWS_SECRET_ACCESS_KEY"], "signature": SIGNATURE}
    assert {name: found for name, value in secrets.items() if (found := left.holding(value))} == {}


def test_no_mistake_is_told_with_a_secret(
    study_dict: dict[str, Any],
    write_spec: Callable[..., Path],
    s3_server: SeaweedS3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is said of mistakes, which tend to tell all that they know; in full detail."""
    spec, server, left = write_spec(study_dict), s3_server, Left()
    keys = s3_server.environment | CANARIES | {"PERSONASPACE_LOG_LEVEL": "debug"}

    def said(name: str, environment: Mapping[str, str], *arguments: object) -> int:
        for number, log in enumerate(("", "json")):
            done = CliRunner(env={**keys, **environment, "PERSONASPACE_LOG": log}).invoke(
                app, list(map(str, arguments))
            )
            left.texts[f"{name}, {number}"] = done.output.encode()
            assert "Traceback" not in done.output
            assert done.exception is None or isinstance(done.exception, SystemExit)
        return int(done.exit_code)

    address = server.endpoint.removeprefix("http://")
    with_password = f"http://me:{PASSWORD}@{address}"
    away = "http://127.0.0.1:9"
    places = {
        "password in the option": (f"s3://study/x?endpoint={with_password}&patience=0", {}),
        "password in the environment": (
            "s3://study/x?patience=0&path_style=true",
            {"AWS_ENDPOINT_URL": with_password},
        ),
        "nobody there": (f"s3://study/x?endpoint=http://me:{PASSWORD}@127.0.0.1:9&patience=0", {}),
        "no such bucket": (server.url("x").replace("//study/", "//nowhere/"), {}),
        "a wrong key": (server.url("x"), {"AWS_ACCESS_KEY_ID": "nobody"}),
        "a wrong secret": (server.url("x"), {"AWS_SECRET_ACCESS_KEY": PASSWORD}),
        "a proxy": (
            "s3://study/x?endpoint=http://storage.invalid&patience=0",
            {"HTTP_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9", "HTTPS_PROXY": away},
        ),
    }  # fmt: skip
    for name, (place, environment) in places.items():
        code = said(name, environment, "status", spec, "--store", place)
        # An address with a password does work.
        assert code == (0 if name == "password in the environment" else 2), (name, left.texts)
    study_dict["datasets"]["bad"] = {
        "path": f"https://127.0.0.1:9/a.jsonl?X-Amz-Signature={PASSWORD}", "sha256": "0" * 64,
    }  # fmt: skip
    signed = write_spec(study_dict, "signed.yaml")
    monkeypatch.setattr(download, "PAUSE", 0.01)
    for command in ("validate", "run", "status"):
        assert said(f"{command}, signed", {}, command, signed) == 69
    assert "datasets.bad" in left.texts["run, signed, 0"].decode()
    secrets = {**CANARIES, "S3": keys["AWS_SECRET_ACCESS_KEY"], "password": PASSWORD}
    assert {name: found for name, value in secrets.items() if (found := left.holding(value))} == {}


@pytest.mark.parametrize(
    "name",
    ["X-Amz-Signature", "X-Amz-Security-Token", "X-Goog-Signature", "Signature", "sig", "token",
     "access_token", "api_key", "AWSAccessKeyId"],
)  # fmt: skip
def test_what_signs_an_address_is_left_out(name: str) -> None:
    """Of lines that libraries log as well."""
    line = f'"GET /a/b?download=1&{name}={PASSWORD}&part=2 HTTP/1.1" 403'
    assert PASSWORD not in without_passwords(line)
    assert "download=1" in without_passwords(line) and "part=2" in without_passwords(line)


def test_the_search_finds_what_is_packed() -> None:
    secret = CANARIES["HF_TOKEN"]
    left = Left()
    left.texts["plain"] = f"token {secret}".encode()
    left.texts["gzip"] = b"before" + gzip.compress(secret.encode())
    left.texts["zlib"] = b"before" + zlib.compress(b"x" * 50 + secret.encode())
    left.texts["base64"] = b64encode(json.dumps({"a": 1}).encode()[:6] + secret.encode())
    left.texts["nothing"] = b"hf_canary0"
    assert left.holding(secret) == ["plain", "gzip", "zlib", "base64"]


@needs_helm[0]
@needs_helm[1]
def test_no_object_of_the_chart_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names Secrets, and nothing of the environment of who installs it comes in."""
    for name, value in {**CANARIES, "AWS_SECRET_ACCESS_KEY": PASSWORD}.items():
        monkeypatch.setenv(name, value)
    judge = {"model": "j", "url": "https://judge/v1", "key_env": "JUDGE_KEY"}
    values = {"judgeKey": {"existingSecret": "of-the-judge"}, "experiment": {"judge": judge}}
    rendered = json.dumps(render(values), default=str)
    assert "canary" not in rendered and '"of-the-judge"' in rendered
