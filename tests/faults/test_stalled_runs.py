"""SIGTERM to a run whose bucket says nothing any more: it ends in time, and another one goes on."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from processes import LONG, Run, until
from relay import Request, Stall, faulty
from store_places import contents

from personaspace.interrupt import SAME_REQUEST_SECONDS, TIDY_SECONDS
from personaspace.pipeline.termination import GRACE, Code
from personaspace.store import open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytest_plugins = ["seaweed", "store_fixtures"]
pytestmark = pytest.mark.long

#: What the runs here are told that they have; a third of it is not for servers.
SECONDS = 12.0
BOUND = SECONDS * 2 / 3
#: A step of the training on a busy machine, and the way out of it.
SLACK = 20.0
#: Until the first checkpoint, on such a machine.
START = 300.0
GO_ON = "run again to continue from here"


def _put(of: str, request: Request) -> bool:
    path = urlsplit(request.path).path
    return request.method == "PUT" and of in path and "/data-" in path


#: What the run asks for when the bucket says nothing any more, and whether its stop waits for that.
STALLS: dict[str, tuple[Callable[[Request], bool], bool]] = {
    "the first look": (lambda it: "list-type=2" in it.path, False),
    "a manifest": (lambda it: it.method == "GET" and it.path.endswith("/manifest.json"), True),
    "a checkpoint": (lambda it: _put("/checkpoints/", it), True),
    "a checkpoint's manifest": (
        lambda it: it.is_manifest_put() and "/checkpoints/" in it.path,
        True,
    ),
    "the artifact": (lambda it: _put("/train/", it) and "/checkpoints/" not in it.path, True),
    "an input": (lambda it: it.method == "HEAD" and "/train/" in it.path, False),
}
SHORT = [("a checkpoint", "run", 2), ("the artifact", "jobs", 1)]
EACH = [(at, "run", jobs) for at in STALLS for jobs in (1, 2)]
EACH += [(at, "jobs", 1) for at in STALLS if at != "an input"]


class Stalled(Stall):
    """From the first of certain requests on, nothing at all is answered."""

    def __init__(self, stalls: Callable[[Request], bool]) -> None:
        super().__init__(lambda it: self.reached.is_set() or stalls(it), seconds=300)

    @contextmanager
    def between(self, server: SeaweedS3) -> Iterator[str]:
        with faulty(server, self) as endpoint:
            try:
                yield endpoint
            finally:
                self.over.set()


def _command(command: str, spec: Path, jobs: int, only: str) -> tuple[str, list[object]]:
    if command == "run":
        return "personaspace", ["run", spec, "--only", only, "--jobs", jobs]
    return "jobs", [only, "--spec", spec, "--condition", "benign", "--seed", 42]


@pytest.mark.parametrize(("at", "command", "jobs"), EACH if LONG else SHORT)
def test_a_stop_does_not_wait_for_a_bucket_that_says_nothing(
    server: SeaweedS3,
    prefix: str,
    study_dict: dict[str, Any],
    write_spec: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    at: str,
    command: str,
    jobs: int,
) -> None:
    stalls, waits = STALLS[at]
    study_dict["training"] |= {"max_steps": 6, "checkpoint_every": 2}
    spec = write_spec(study_dict)
    message, scratch = tmp_path / "message", tmp_path / "scratch"
    scratch.mkdir()
    own = server.url(prefix)
    if at == "an input":
        Run("run", spec, "--store", own, "--only", "train", environment=server.environment).end()
    stalled = Stalled(stalls)
    module, arguments = _command(command, spec, jobs, "extract" if at == "an input" else "train")
    told = {
        **server.environment,
        GRACE: str(SECONDS),
        "TMPDIR": str(scratch),
        "PERSONASPACE_TERMINATION_LOG": str(message),
    }
    with stalled.between(server) as endpoint:
        through = server.url(prefix, endpoint=endpoint)
        run = Run(*arguments, "--store", through, environment=told, module=module)
        try:
            until(stalled.reached.is_set, run, START)
            time.sleep(0.5)
            since = time.monotonic()
            run.signal_group(signal.SIGTERM)
            code, said = run.end(100)
            took = time.monotonic() - since
            members = run.members()
        finally:
            run.kill()
    print(f"{command} --jobs {jobs}, {at}: exit code {code} after {took:.1f} s\n{said}")
    assert code == 75, said
    assert took < (BOUND if waits else 0) + TIDY_SECONDS + SLACK
    assert "Traceback" not in said and said.count("asked to stop") >= 1
    last = said.strip().splitlines()[-1]
    who = f"bucket {server.bucket} at {endpoint}"
    words = f"asked to stop, but {who} does not answer, so nothing more was saved"
    assert last.endswith(f"{words if waits else 'asked to stop'}; {GO_ON}"), said
    assert not members, "processes are left"
    assert not list(scratch.glob("personaspace-*")), "what was brought is not left behind"
    if command == "jobs":
        ending = json.loads(message.read_text().splitlines()[-1])
        assert ending["code"] == Code.INTERRUPTED
    _goes_on(server, spec, own, tmp_path)


def _goes_on(server: SeaweedS3, spec: Path, own: str, folder: Path) -> None:
    """Another run ends with what an undisturbed one gives, and with nothing half-written."""
    for store in (own, str(folder / "undisturbed")):
        run = Run("run", spec, "--store", store, "--only", "train", environment=server.environment)
        code, said = run.end(300)
        assert code == 0, said
    with open_store(own) as found, open_store(str(folder / "undisturbed")) as wanted:
        found.sweep(minutes=0)
        keys = [key for key in wanted.list() if "/logs/" not in key]
        assert [key for key in found.list() if "/train/" in key and "/logs/" not in key] == keys
        for key in keys:
            name = "adapter/adapter_model.safetensors"
            assert contents(found.fetch(key))[name] == contents(wanted.fetch(key))[name]


def test_a_second_signal_ends_it_at_once(
    server: SeaweedS3,
    prefix: str,
    study_dict: dict[str, Any],
    write_spec: Callable[[dict[str, Any]], Path],
) -> None:
    stalled = Stalled(STALLS["a checkpoint"][0])
    spec = write_spec(study_dict)
    with stalled.between(server) as endpoint:
        store = server.url(prefix, endpoint=endpoint)
        told = {**server.environment, GRACE: "300"}
        run = Run("run", spec, "--store", store, "--only", "train", environment=told)
        try:
            until(stalled.reached.is_set, run, START)
            run.signal(signal.SIGTERM)
            time.sleep(SAME_REQUEST_SECONDS + 0.5)
            assert run.running
            since = time.monotonic()
            run.signal(signal.SIGTERM)
            code, said = run.end(60)
        finally:
            run.kill()
    assert code == -signal.SIGTERM and "Traceback" not in said
    assert time.monotonic() - since < SLACK
