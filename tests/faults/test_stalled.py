"""Ctrl-C while a bucket keeps every request waiting: the command ends at once, all the same."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from processes import Run, until
from relay import Request, Stall, faulty
from store_places import put

from personaspace.interrupt import TIDY_SECONDS
from personaspace.store import open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytest_plugins = ["seaweed", "store_fixtures"]
pytestmark = pytest.mark.slow

#: What the command asks for when the server says nothing any more.
STALLS: dict[str, Callable[[Request], bool]] = {
    "a listing": lambda it: "list-type=2" in it.path and "max-keys=1&" not in it.path,
    "a manifest": lambda it: it.method == "GET" and urlsplit(it.path).path.endswith(".json"),
    "a file": lambda it: it.method in ("GET", "HEAD") and "/data-" in urlsplit(it.path).path,
}
#: A busy machine may take some seconds more; a request that is waited for takes minutes.
SECONDS = TIDY_SECONDS + 10.0
GO_ON = "asked to stop; run again to continue from here"


@pytest.mark.parametrize(
    ("command", "at", "said"),
    [
        ("status", "a manifest", "asked to stop"),
        ("verify", "a listing", GO_ON),
        ("verify", "a file", GO_ON),
        ("gc", "a listing", GO_ON),
        ("gc", "a manifest", GO_ON),
    ],
)
def test_ctrl_c_does_not_wait_for_a_server_that_says_nothing(
    server: SeaweedS3,
    prefix: str,
    study_dict: dict[str, Any],
    write_spec: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    command: str,
    at: str,
    said: str,
) -> None:
    stall = Stall(STALLS[at], seconds=120)
    spec = write_spec(study_dict)
    with open_store(server.url(prefix)) as store:
        for number in range(3):
            put(store, f"base/seed-42/extract/{number:016x}")
    arguments = {"status": (spec,), "verify": (), "gc": (spec, "--older-than", 0)}[command]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with faulty(server, stall) as endpoint:
        store_url = server.url(prefix, endpoint=endpoint)
        environment = {**server.environment, "TMPDIR": str(scratch)}
        run = Run(command, *arguments, "--store", store_url, environment=environment)
        try:
            until(stall.reached.is_set, run)
            time.sleep(0.5)  # all that ask beside each other have asked
            since = time.monotonic()
            run.signal(signal.SIGINT)
            code, line = run.end(60)
            took = time.monotonic() - since
        finally:
            stall.over.set()
            run.kill()
    print(f"{command}, {at}: {took:.1f} s")
    assert (code, line.strip()) == (75, said)
    assert took < SECONDS
    assert not list(scratch.iterdir()), "what was brought is not left behind"
