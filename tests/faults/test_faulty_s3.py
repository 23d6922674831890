"""Studies through a proxy that breaks things, before a real S3 server: the same results.

`make test` runs one seed on two conditions; `make test-faults` the whole small study with
`FAULT_RUNS` (40) seeds, and two runs at once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from conftest import Finished, tiny_study
from processes import LONG, Run
from relay import Relay, Request, faulty
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.store import open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytestmark = [pytest.mark.study, pytest.mark.s3, pytest.mark.timeout(1800)]
RUNS = int(os.environ.get("FAULT_RUNS", "40"))
SEEDS = range(RUNS) if LONG else range(1)
#: Of so many requests one meets a fault.
ONE_IN = 8
COMPUTING = [
    word
    for stage in ("train", "extract", "couple", "evaluate", "aggregate")
    for word in ("--only", stage)
]


class Faults:
    """Faults drawn by a seed, and how many there were of each kind."""

    KINDS = (
        "500", "503", "hang up", "reset in the body", "cut body", "flipped bit", "answer lost",
        "written twice", "slow",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, relay: Relay, request: Request) -> bool:
        with self.lock:
            self.counts["calls"] += 1
            kind = self.chance.choice(self.KINDS) if self.chance.randrange(ONE_IN) == 0 else ""
            if kind:
                self.counts[kind] += 1
        if not kind:
            return False
        if kind in ("500", "503"):
            relay.refuse(int(kind), "InternalError" if kind == "500" else "SlowDown")
        elif kind == "hang up":
            relay.hang_up()
        elif kind == "slow":
            time.sleep(1.0)
            relay.answer(*relay.forward(request))
        else:
            self.answer(kind, relay, request)
        return True

    def answer(self, kind: str, relay: Relay, request: Request) -> None:
        """Of the real server, but not as it was."""
        status, headers, body = relay.forward(request)
        if kind == "written twice" and request.method == "PUT":
            status, headers, body = relay.forward(request)
        if kind == "answer lost":
            relay.hang_up()
            return
        if kind == "flipped bit" and request.method == "GET" and "data-" in request.path and body:
            at = len(body) // 2
            body = body[:at] + bytes([body[at] ^ 4]) + body[at + 1 :]
        if kind in ("cut body", "reset in the body") and request.method == "GET" and body:
            headers = {**headers, "Content-Length": str(len(body))}
            relay.answer(status, headers, body[: len(body) // 2])
            if kind == "cut body":
                relay.hang_up()
            else:
                relay.reset()
            return
        relay.answer(status, headers, body)


class Slow:
    """A server far away: each request waits, and bytes go through one after the other.

    Args:
        seed: Of the waiting time of each request (its distribution is exponential).
        wait: Seconds that a request waits, on average.
        rate: Bytes a second of one connection, to the server and from it.
    """

    PIECE = 1 << 14

    def __init__(self, seed: int, wait: float, rate: float) -> None:
        self.chance = random.Random(seed)
        self.wait, self.rate = wait, rate
        self.calls = self.size = 0
        self.lock = threading.Lock()

    def __call__(self, relay: Relay, request: Request) -> bool:
        with self.lock:
            waits = self.chance.expovariate(1 / self.wait)
            self.calls += 1
        time.sleep(waits + len(request.body) / self.rate)
        status, headers, body = relay.forward(request)
        with self.lock:
            self.size += len(request.body) + len(body)
        relay.answer(status, {**headers, "Content-Length": str(len(body))}, body[: self.PIECE])
        for begin in range(self.PIECE, len(body), self.PIECE):
            time.sleep(self.PIECE / self.rate)
            relay.wfile.write(body[begin : begin + self.PIECE])
        return True


@pytest.fixture(scope="module")
def undisturbed(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A study's file, and a store where it ran with nothing in its way."""
    if LONG:
        finished: Finished = request.getfixturevalue("finished_study")
        return finished.spec, finished.store
    folder = tmp_path_factory.mktemp("undisturbed")
    values = tiny_study(tiny_model, folder)
    values["conditions"] = [c for c in values["conditions"] if c["name"] in ("base", "e4-villain")]
    del values["datasets"]["good"]
    spec, store = folder / "study.yaml", folder / "store"
    spec.write_text(yaml.safe_dump(values), encoding="utf-8")
    outcome = CliRunner().invoke(app, ["run", str(spec), "--store", str(store), *COMPUTING])
    assert outcome.exit_code == 0, outcome.output
    return spec, store


@contextmanager
def broken(server: SeaweedS3, seed: int) -> Iterator[tuple[str, Faults]]:
    faults = Faults(seed)
    with faulty(server, faults) as endpoint:
        yield endpoint, faults


def contents(url: str) -> dict[str, str]:
    """What every artifact holds, by key; of the aggregate what no time stands in, no report."""
    found: dict[str, str] = {}
    with open_store(url) as store:
        for key in store.list():
            manifest = store.find(key)
            assert manifest is not None
            store.fetch(manifest)
            if key.startswith("aggregate/"):
                found[key] = manifest.files["results.json"].sha256
            elif not key.startswith("report/"):
                found[key] = manifest.digest
    return found


def uploads(server: SeaweedS3, prefix: str) -> list[Any]:
    found = server.client.list_multipart_uploads(Bucket=server.bucket, Prefix=prefix)
    return list(found.get("Uploads", []))


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_a_study_through_faults_and_stops(
    undisturbed: tuple[Path, Path], s3_server: SeaweedS3, seed: int
) -> None:
    """Stopped and killed at random moments as well, with one process and with two."""
    spec, reference = undisturbed
    chance = random.Random(1000 + seed)
    prefix = f"faults-{seed}"
    stops = 0
    with broken(s3_server, seed) as (endpoint, faults):
        url = s3_server.url(prefix, endpoint=endpoint)
        for attempt in range(12):
            jobs = chance.choice((1, 2))
            run = Run(
                *("run", spec, "--store", url, "--jobs", jobs, *COMPUTING),
                environment=s3_server.environment,
            )
            if attempt < (4 if LONG else 1):
                time.sleep(chance.uniform(3, 25))
                number = chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGKILL))
                chance.choice((run.signal, run.signal_group))(number)
                code, said = run.end(300)
                assert code in (75, 0, 69, -9, -signal.SIGTERM, -signal.SIGINT), said
                stops += 1
            else:
                code, said = run.end(900)
                assert code in (0, 1, 2, 69), said  # 69: the server alone was at fault
            assert "Traceback" not in said, said
            if code == 0:
                break
        assert code == 0, said
        print(f"seed {seed}: {attempt + 1} starts, {stops} stopped, {json.dumps(faults.counts)}")
    for name, value in s3_server.environment.items():
        os.environ[name] = value
    try:
        assert contents(s3_server.url(prefix)) == contents(str(reference))
        with open_store(s3_server.url(prefix)) as store:
            store.sweep(minutes=0)
            left = store.list()
            assert store.sweep(minutes=0).orphans == 0 and uploads(s3_server, prefix) == []
            assert sorted(left) == sorted(contents(str(reference)))
    finally:
        for name in s3_server.environment:
            del os.environ[name]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5) if LONG else [0])
def test_a_study_on_a_server_far_away(
    undisturbed: tuple[Path, Path],
    s3_server: SeaweedS3,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """A slow store costs time alone: no result differs, a stop takes less than 30 s."""
    spec, reference = undisturbed
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    slow = Slow(seed, wait=0.15, rate=250_000)
    prefix = f"slow-{seed}"
    with faulty(s3_server, slow) as endpoint:
        command = ("run", spec, "--store", s3_server.url(prefix, endpoint=endpoint), *COMPUTING)
        run = Run(*command)
        time.sleep(random.Random(seed).uniform(8, 20))
        since = time.monotonic()
        run.signal(signal.SIGTERM)
        code, said = run.end(300)
        took = time.monotonic() - since
        assert code in (75, -signal.SIGTERM) and took < 30, (code, took, said)
        code, said = Run(*command).end(900)
    assert code == 0 and "Traceback" not in said, said
    print(f"seed {seed}: stopped in {took:.1f} s; {slow.calls} calls, {slow.size / 1e6:.1f} MB")
    assert contents(s3_server.url(prefix)) == contents(str(reference))
    assert uploads(s3_server, prefix) == []


@pytest.mark.skipif(not LONG, reason="make test-faults; test_two_runs.py has each moment alone")
@pytest.mark.parametrize("place", ["folder", "s3"] if LONG else [""])
@pytest.mark.parametrize("seed", range(20) if LONG else [0])
def test_two_runs_at_once(
    undisturbed: tuple[Path, Path],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    place: str,
    seed: int,
) -> None:
    spec, reference = undisturbed
    environment: dict[str, str] = {}
    url = str(tmp_path / "store")
    if place == "s3":
        server: SeaweedS3 = request.getfixturevalue("s3_server")
        environment, url = server.environment, server.url(f"two-{seed}")
    command = ("run", spec, "--store", url, *COMPUTING)
    chance = random.Random(seed)
    first = Run(*command, environment=environment)
    time.sleep(chance.uniform(0, 3))
    second = Run(*command, environment=environment)
    ended = [first.end(900), second.end(900)]
    assert [code for code, _ in ended] == [0, 0], ended
    os.environ.update(environment)
    try:
        assert contents(url) == contents(str(reference))
    finally:
        for name in environment:
            del os.environ[name]
