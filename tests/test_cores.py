"""Statistics shared by several processes: alike to the byte, one error, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from conftest import Finished
from planted import STUDY, world, write
from refusals import cli
from safetensors.numpy import load_file, save_file

from personaspace.activations.files import open_activations
from personaspace.analysis import cores
from personaspace.analysis.geometry import GeometryResult, analyse_geometry
from personaspace.analysis.geometry import analysis as geometry_analysis
from personaspace.analysis.geometry.cells import group_files
from personaspace.analysis.rows import to_dicts
from personaspace.errors import UserError

DRAWS: dict[str, Any] = {"permutations": 200, "bootstrap": 100}


def several_runs(folder: Path) -> list[Path]:
    """Two seeds and two layers; the second seed lacks a persona, and has no second one in b."""
    paths = write(folder, world(layers=2, personas=5, questions=9), methods=("a", "b"))
    more = world(layers=2, personas=5, questions=9, seed=1)
    valid = {name: np.ones((5, 9), bool) for name in STUDY}
    valid["benign"][0] = False
    return paths + write(folder, more, methods=("a",), seed=137, valid=valid)


def everything(found: GeometryResult) -> str:
    parts = [to_dicts(found.rows), found.notes, found.cosines.to_csv()]
    parts += [[each.model_dump() for each in found.dimensions]]
    parts += [[each.model_dump() for each in found.robustness]]
    return json.dumps(parts) + repr(found.spaces)


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    paths = several_runs(tmp_path)
    told: dict[int, list[int]] = {1: [], 3: []}
    found = {
        count: everything(
            analyse_geometry(
                paths, **DRAWS, robust_at=("a", 0), processes=count, advance=told[count].append
            )
        )
        for count in (1, 3)
    }
    assert found[1] == found[3]
    assert "is left out for method a, seed 137" in found[1] and '"lda"' in found[1]
    assert told[1] == told[3] == [1] * 6
    assert found[1] != everything(analyse_geometry(paths, **DRAWS, seed=7))


@pytest.mark.slow
def test_results_of_a_study_are_the_same_bytes(finished_study: Finished, tmp_path: Path) -> None:
    """As it ran, in one process, and by three; only the spec itself, as it is kept, says so."""
    store = tmp_path / "store"
    shutil.copytree(finished_study.store, store)
    before = _files(store)
    shutil.rmtree(next(store.glob("**/results.json")).parents[1])
    path = finished_study.spec.with_name("three-cores.yaml")
    values = {**finished_study.values, "hardware": {"cores": 3}}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    done = cli("run", path, "--store", str(store), "--only", "aggregate")
    assert done.exit_code == 0, done.output
    after = _files(store)
    assert after.keys() == before.keys() and len(after) > 5
    assert [str(name) for name in after if after[name] != before[name]] == ["provenance.json"]
    one, three = (json.loads(files[Path("provenance.json")]) for files in (before, after))
    assert three["spec"]["hardware"].pop("cores") == 3
    assert one["spec"]["hardware"].pop("cores") is None and one == three


def _files(store: Path) -> dict[Path, bytes]:
    """What aggregate made."""
    [made] = [path.parent for path in store.glob("**/results.json")]
    return {p.relative_to(made): p.read_bytes() for p in made.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_an_error_is_that_of_the_first_cell_in_one_line(tmp_path: Path) -> None:
    paths = several_runs(tmp_path)
    for path in (paths[1], paths[-1]):
        tensors, about = load_file(path), open_activations(path)
        tensors["activations"][2, 3, 1] = np.nan
        metadata = {
            "personas": json.dumps(about.personas),
            "questions": json.dumps(about.questions),
            "layers": json.dumps(about.layers),
        }
        save_file(tensors, path, metadata)
    said = []
    for count in (1, 3):
        with pytest.raises(UserError) as caught:
            analyse_geometry(paths, **DRAWS, processes=count)
        said.append(str(caught.value))
    assert said[0] == said[1] and "layer 1 hold NaN or infinity" in said[0]
    refused = cli("geometry", tmp_path, "--jobs", "2", "--permutations", "50")
    assert refused.exit_code == 2 and refused.output.strip().endswith(said[0])
    assert _no_workers(os.getpid())


def _no_workers(pid: int) -> bool:
    """Whether no process of the pool is left; its tracker of semaphores stays with us."""
    mine = psutil.Process(pid).children(recursive=True)
    return not any("popen_loky" in " ".join(child.cmdline()) for child in mine)


#: No guard around what it does, as people write scripts.
SCRIPT = """
import sys, time
import personaspace
print("begun", flush=True)
table = personaspace.geometry(sys.argv[1], permutations=50, bootstrap=20, jobs=2)
print(len(table))
"""


@pytest.mark.slow
def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    several_runs(tmp_path / "files")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "files"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    begun, count = done.stdout.split()
    assert begun == "begun" and int(count) > 100 and done.stderr == ""


#: A stage that looks at nothing, as aggregate: its processes tell who they are, and sleep.
STUCK = """
import os, sys, time
from pathlib import Path
from personaspace import interrupt
from personaspace.analysis import cores
from personaspace.errors import Interrupted
def work(folder, number):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)
interrupt.install()
try:
    with interrupt.breakable(), cores.shared(work, sys.argv[1], range(8), 2) as found:
        list(found)
except Interrupted:
    sys.exit(Interrupted.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_us_at_once(tmp_path: Path, number: signal.Signals) -> None:
    script, told = tmp_path / "stuck.py", tmp_path / "told"
    script.write_text(STUCK, encoding="utf-8")
    told.mkdir()
    process = subprocess.Popen([sys.executable, script, told], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(told.iterdir())) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    workers = [psutil.Process(int(path.name)) for path in told.iterdir()]
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (75 if number == signal.SIGTERM else -number), said
    gone, left = psutil.wait_procs(workers, timeout=30)
    assert len(gone) == 2 and not left
    assert "Traceback" not in said
    # Of a killed process, joblib's own says which semaphores it frees.
    assert number == signal.SIGKILL or said == ""


def _killed(_: None, number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_a_killed_process_is_told() -> None:
    with (
        pytest.raises(RuntimeError, match="one of 2 processes was killed, mostly for want of"),
        cores.shared(_killed, None, range(3), 2) as found,
    ):
        list(found)


def test_one_process_does_what_is_asked_for_and_no_more() -> None:
    done: list[int] = []

    def work(common: int, task: int) -> int:
        done.append(task)
        return common + task

    with cores.shared(work, 10, range(5), 1) as found:
        assert next(found) == 10
    assert done == [0]


def test_as_many_processes_as_cores_and_memory_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: 6)
    monkeypatch.setattr(cores, "free_memory", lambda: 10 * cores.BARE)
    assert cores.worthwhile(100, 0) == 6  # 8 have room
    assert cores.worthwhile(100, cores.BARE) == 4
    assert cores.worthwhile(100, 50 * cores.BARE) == 1
    assert [cores.worthwhile(most, 0) for most in (0, 1, 3)] == [1, 1, 3]

    [group] = group_files(write(tmp_path, world(personas=12, questions=24)), "base")
    assert geometry_analysis._processes([group], None) == 1  # not worth a process's start
    assert geometry_analysis._processes([group] * 90, None) == 2
    assert geometry_analysis._processes([group], 5) == 1
    assert geometry_analysis._processes([group] * 9, 5) == 5
    assert geometry_analysis._processes([], None) == geometry_analysis._processes([], 4) == 1


def test_memory_is_the_containers_where_that_has_less(tmp_path: Path) -> None:
    free = cores.free_memory(tmp_path)
    assert free > 1 << 20
    (tmp_path / "memory.stat").write_text("anon 1048576\nfile 99999999\n", encoding="ascii")
    (tmp_path / "memory.max").write_text("3145728\n", encoding="ascii")
    assert cores.free_memory(tmp_path) == 2 << 20
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert cores.free_memory(tmp_path) > 3 << 20
    assert 1 <= cores.usable() <= len(os.sched_getaffinity(0))


class Meeting:
    """A process that reads it waits until a second one reads it, too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        (self.folder / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(self.folder.iterdir())) < 2:
            assert time.monotonic() < deadline, "alone"
            time.sleep(0.05)


def _readers(common: tuple[Meeting, bytes], _: int) -> int:
    return len(list(common[0].folder.iterdir()))


@pytest.mark.slow
def test_processes_start_beside_each_other(tmp_path: Path) -> None:
    """Not each after the one before has read what all need: 80 s of a study's 31 processes."""
    more_than_a_pipe_holds = bytes(1 << 20)
    common = (Meeting(tmp_path), more_than_a_pipe_holds)
    with cores.shared(_readers, common, range(4), 2) as found:
        assert list(found) == [2] * 4


def test_no_place_for_what_processes_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with (
        pytest.raises(UserError, match=r"gone: cannot be written to \(No such file or directory\)"),
        cores.shared(_killed, None, range(3), 2) as found,
    ):
        list(found)
