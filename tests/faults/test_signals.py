"""Every signal, to every process of a run, with one process and with two."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny_study
from processes import LONG, Run, catches, until

pytestmark = [
    pytest.mark.study,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc"),
]
KEPT = "*/seed-42/train/*/checkpoints/step-*/manifest.json"
#: Seconds that Kubernetes leaves a pod at least.
GRACE = 30.0


@pytest.fixture(scope="module")
def long_study(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings of many seconds."""
    folder = tmp_path_factory.mktemp("long")
    values: dict[str, Any] = tiny_study(tiny_model, folder)
    values["training"] |= {"max_steps": None, "epochs": 400, "checkpoint_every": 5}
    spec = folder / "study.yaml"
    spec.write_text(yaml.safe_dump(values))
    return spec


def begun(spec: Path, store: Path, jobs: int) -> Run:
    """Training, with a checkpoint of each process."""
    run = Run("run", spec, "--store", store, "--jobs", jobs, "--only", "train")
    until(lambda: len({path.parents[4] for path in store.glob(KEPT)}) >= jobs, run)
    assert run.running
    return run


def gone(members: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(_alive(pid) for pid in members):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def twice(run: Run) -> None:
    """As `timeout` does: the process, then its group."""
    run.signal(signal.SIGTERM)
    run.signal_group(signal.SIGTERM)


#: What is done to a run, and its exit code; -9: it was killed itself.
CASES: dict[str, tuple[Callable[[Run], object], int, int]] = {
    "SIGTERM to the process": (lambda run: run.signal(signal.SIGTERM), 75, 75),
    "SIGINT to the process": (lambda run: run.signal(signal.SIGINT), 75, 75),
    "SIGTERM to the group": (lambda run: run.signal_group(signal.SIGTERM), 75, 75),
    "SIGINT to the group": (lambda run: run.signal_group(signal.SIGINT), 75, 75),
    "SIGTERM to both": (twice, 75, 75),
    "SIGKILL to the process": (lambda run: run.signal(signal.SIGKILL), -9, -9),
    "SIGKILL to the group": (lambda run: run.signal_group(signal.SIGKILL), -9, -9),
}


SHORT = [("SIGTERM to both", 2), ("SIGINT to the group", 1), ("SIGKILL to the process", 2)]
EACH = [(case, jobs) for case in CASES for jobs in (1, 2)] if LONG else SHORT


@pytest.mark.long
@pytest.mark.parametrize(("case", "jobs"), EACH)
def test_what_a_signal_leaves(long_study: Path, tmp_path: Path, case: str, jobs: int) -> None:
    act, alone, beside = CASES[case]
    store = tmp_path / "store"
    run = begun(long_study, store, jobs)
    members = run.members()
    assert len(members) >= jobs
    since = time.monotonic()
    act(run)
    assert gone(members, GRACE), "processes of the run are left"
    took = time.monotonic() - since
    code, said = run.end()
    print(f"{case}, --jobs {jobs}: exit code {code} after {took:.1f} s")
    assert code == (alone if jobs == 1 else beside), said
    assert len({path.parents[4] for path in store.glob(KEPT)}) == jobs
    if code == 75:
        assert said.strip().endswith("asked to stop; run again to continue from here"), said
        assert "Traceback" not in said


@pytest.mark.long
def test_a_child_that_is_killed_fails_its_stage_alone(long_study: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = begun(long_study, store, 2)
    [first, *_] = run.children()
    os.kill(first, signal.SIGKILL)
    until(lambda: first not in run.children() and len(run.children()) == 2, run)
    run.signal(signal.SIGTERM)
    code, said = run.end()
    assert code == 75, said
    assert "ended with exit code -9" in said and "Traceback" not in said


@pytest.mark.parametrize("command", ["personaspace", "jobs"])
def test_a_signal_while_it_imports(long_study: Path, tmp_path: Path, command: str) -> None:
    """From the moment on that a handler is there, every signal ends it with 75."""
    for delay in (0.0, 0.1, 0.4, 1.0, 2.0) if LONG else (1.0 if command == "jobs" else 0.0,):
        store = tmp_path / f"store-{delay}"
        if command == "jobs":
            arguments = ["train", "--spec", long_study, "--condition", "benign", "--seed", "42"]
        else:
            arguments = ["run", long_study]
        run = Run(*arguments, "--store", store, module=command)
        until(lambda run=run: catches(run.pid), run)  # type: ignore[misc]
        time.sleep(delay)
        run.signal(signal.SIGTERM)
        code, said = run.end()
        assert code == 75, (delay, said)
        assert said.count("asked to stop") == 1 and "Traceback" not in said
        shutil.rmtree(store, ignore_errors=True)
