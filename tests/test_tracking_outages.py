"""Trackers' servers that are away at the start, in the middle and at the end of a real stage."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny_study
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.store import open_store
from personaspace.tracking import BACKENDS, Run, trackers

NODE = "train:benign:42"
STEPS = [1, 2, 3, 4]


@pytest.fixture(autouse=True)
def nobody_was_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other tests' trackers."""
    monkeypatch.setattr(trackers, "_silent", set())


class MlflowServer:
    """MLflow's own server (`mlflow server`) over a database in a folder."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.database = f"sqlite:///{folder}/server.db"
        places = ["--backend-store-uri", self.database]
        places += ["--artifacts-destination", str(folder / "artifacts")]
        self._command = [sys.executable, "-m", "mlflow", "server", *places, "--workers", "1"]
        self._command += ["--port", str(self.port)]
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 150
        while not self._healthy():
            assert self._process.poll() is None and time.monotonic() < until, self._log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """Away at once, as a machine is that was lost."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    pytest.importorskip("mlflow")
    pytest.importorskip("flask", reason="the server of MLflow is not installed")
    found = MlflowServer(tmp_path_factory.mktemp("mlflow-server"))
    found.start()
    try:
        yield found
    finally:
        found.kill()


@contextmanager
def then(
    before: Mapping[str, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Do something right before MLflow is told a step (`step 3`), or that a run is over (`end`)."""
    begin: Any = BACKENDS["mlflow"]

    class Watched(begin):  # type: ignore[misc]
        def log(self, values: Mapping[str, float], step: int | None) -> None:
            before.get(f"step {step}", lambda: None)()
            super().log(values, step)

        def end(self, failed: bool) -> None:
            before.get("end", lambda: None)()
            super().end(failed)

    with monkeypatch.context() as patched:
        patched.setitem(BACKENDS, "mlflow", Watched)
        yield


class Study:
    """One condition's training, told to MLflow or to nobody."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.values = tiny_study(model, folder)
        self.folder = folder

    def train(self, store: str, *told: str) -> tuple[list[str], dict[str, str]]:
        """What was said of trackers, and the SHA-256 of each file of the adapter."""
        values = {**self.values, "tracking": list(told)}
        (spec := self.folder / f"{store}.yaml").write_text(yaml.safe_dump(values))
        command = ["run", str(spec), "--store", str(self.folder / store), "--only", NODE]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        with open_store(str(self.folder / store)) as opened:
            (key,) = opened.list()
            manifest = opened.find(key)
            assert manifest is not None
        digests = {name: entry.sha256 for name, entry in manifest.files.items()}
        lines = done.output.splitlines()
        return [line for line in lines if "mlflow: " in line], digests


def tracked_there(server: MlflowServer, experiment: str) -> tuple[str, list[int]]:
    """Status of the last run, and the steps of its loss, from the server's own database."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server.database)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    run = client.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"])[0]
    history = client.get_metric_history(run.info.run_id, "train/loss")
    return run.info.status, [each.step for each in history]


@pytest.mark.long
def test_mlflows_server_is_lost_in_the_middle_at_the_end_and_before_the_start(
    server: MlflowServer, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(tiny_model, tmp_path)
    _, wanted = study.train("none")
    name = study.values["name"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

    assert study.train("up", "mlflow") == ([], wanted)
    assert tracked_there(server, name) == ("FINISHED", STEPS)

    with then({"step 3": server.kill}, monkeypatch):
        (said,), files = study.train("middle", "mlflow")
    assert files == wanted
    assert "mlflow: is left out, step 3 and what follows is not there: " in said
    assert f":{server.port}" in said and NODE in said
    assert tracked_there(server, name) == ("RUNNING", [1, 2])

    (said,), files = study.train("start", "mlflow")
    assert files == wanted
    assert "mlflow: is left out, nothing of this stage is there: " in said

    server.start()
    with then({"end": server.kill}, monkeypatch):
        (said,), files = study.train("end", "mlflow")
    assert files == wanted
    assert "mlflow: is left out, the run's end is not there: " in said
    assert tracked_there(server, name) == ("RUNNING", STEPS)

    # One that comes back while its client still tries again loses nothing, and nothing is said.
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    monkeypatch.setattr(trackers, "PATIENCE", 280.0)
    server.start()

    def restart() -> None:
        server.kill()
        server.start()

    with then({"step 2": restart}, monkeypatch):
        assert study.train("back", "mlflow") == ([], wanted)
    assert tracked_there(server, name) == ("FINISHED", STEPS)


def test_who_did_not_answer_is_waited_for_less_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hangs:
        def __init__(self, run: Run) -> None:
            time.sleep(0.0 if run.name == "sound" else 30.0)

        def log(self, values: Mapping[str, float], step: int | None) -> None:
            time.sleep(0.3)  # longer than the little patience

        def end(self, failed: bool) -> None: ...

        def keep(self, path: Path) -> None: ...

    monkeypatch.setattr(trackers, "PATIENCE", 1.0)
    monkeypatch.setattr(trackers, "PATIENCE_AT_STOP", 0.1)

    def stage(name: str) -> tuple[float, list[str]]:
        said: list[str] = []
        began = time.monotonic()
        with trackers.tracked({"slow": Hangs}, Run("s", name, "train"), said.append) as track:
            track.log({"loss": 1.0}, 1)
        return time.monotonic() - began, said

    line = "slow: does not answer; unless it does later, nothing of this stage is there"
    first, second = stage("a"), stage("b")
    assert first[1] == second[1] == [line]
    assert first[0] >= 1.0 and 0.1 <= second[0] < 1.0
    # One that answers in the little time has all of it again.
    monkeypatch.setattr(trackers, "PATIENCE_AT_STOP", 0.9)
    assert stage("sound")[1] == []
    monkeypatch.setattr(trackers, "PATIENCE_AT_STOP", 0.1)
    assert stage("sound")[1] == []


@pytest.mark.slow
def test_trackio_keeps_what_its_server_did_not_take_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    said = in_a_process("trackio", tmp_path)
    assert said == []
    read = (
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "logs = SQLiteStorage.get_logs('em-205', 'train:e4-villain:42')\n"
        "print([(x['step'], x['train/loss']) for x in logs if 'train/loss' in x])\n"
    )
    there = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    assert python(read, **there).splitlines()[-1] == "[(1, 3.0), (2, 1.5), (3, 1.0)]"

    away = {"TRACKIO_SERVER_URL": "http://127.0.0.1:9", "TRACKIO_WRITE_TOKEN": "canary"}
    (folder := tmp_path / "away").mkdir()
    (line,) = in_a_process("trackio", folder, **away)
    assert line.startswith("trackio: its server did not take all of this stage; what is not there")
    assert str(folder / "trackio") in line and "canary" not in line
    there = {"TRACKIO_DIR": str(folder / "trackio")}
    assert python(read, **there).splitlines()[-1] == "[(1, 3.0), (2, 1.5), (3, 1.0)]"

    (folder := tmp_path / "in the way").mkdir()
    (folder / "trackio").write_text("a file where trackio wants its folder")
    (line,) = in_a_process("trackio", folder)
    assert line.startswith("trackio: 4 of the 4 times that it was told numbers are not there")


@pytest.mark.long
def test_wandbs_server_that_is_away_costs_a_line(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    away = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    (line,) = in_a_process("wandb", tmp_path, **away)
    assert line.startswith("wandb: is left out, nothing of this stage is there: ")
    assert "0" * 40 not in line


def python(code: str, **environment: str) -> str:
    """What a process of its own prints: trackio and W&B read their settings when imported."""
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **path, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_a_process(name: str, folder: Path, **environment: str) -> list[str]:
    """`told_to` there; what was said of trouble."""
    code = (
        "from pathlib import Path; import pytest, test_tracking\n"
        "with pytest.MonkeyPatch.context() as patch:\n"
        f"    said = test_tracking.told_to({name!r}, Path({str(folder)!r}), patch)\n"
        "print(*(f'SAID {line}' for line in said), sep='\\n')\n"
    )
    lines = python(code, **environment).splitlines()
    return [line.removeprefix("SAID ") for line in lines if line.startswith("SAID ")]
