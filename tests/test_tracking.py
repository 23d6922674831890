"""Experiment trackers: what they are told, and that none of them can stop a stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Finished
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.tracking import BACKENDS, Run, tracked, trackers


@pytest.fixture(autouse=True)
def nobody_was_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other tests' trackers."""
    monkeypatch.setattr(trackers, "_silent", set())


class Recorder:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        self.told.append((dict(values), step))

    def keep(self, path: Path) -> None:
        self.told.append(path)

    def end(self, failed: bool) -> None:
        self.told.append("failed" if failed else "done")


class Broken(Recorder):
    """One that raises, in one of its calls."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        if where == "begin":
            raise RuntimeError("refused by https://me:canary@host")

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        if self.where == "log":
            raise ConnectionError("gone")

    def end(self, failed: bool) -> None:
        if self.where == "end":
            raise SystemExit(3)
        time.sleep(0.0 if self.where != "hangs" else 60.0)


@pytest.mark.parametrize("where", ["begin", "log", "end", "hangs"])
def test_a_tracker_that_fails_is_named_once_and_stops_nothing(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    said: list[str] = []
    good = Recorder()
    backends: dict[str, Callable[[Run], trackers.Tracker]] = {
        "bad": lambda run: Broken(where),
        "good": lambda run: good,
    }
    began = time.monotonic()
    with tracked(backends, Run("study", "train:a:1", "train"), said.append) as track:
        for step in (1, 2, 3):
            track.log({"loss": 1.0 / step, "none": None, "nan": float("nan")}, step)
    assert time.monotonic() - began < 5
    assert good.told == [*(({"loss": 1.0 / step}, step) for step in (1, 2, 3)), "done"]
    (line,) = said
    missing = {
        "begin": "is left out, nothing of this stage is there: RuntimeError: refused by ",
        "log": "is left out, step 1 and what follows is not there: ConnectionError: gone",
        "end": "is left out, the run's end is not there: SystemExit: 3",
        "hangs": "does not answer; unless it does later, the run's end is not there",
    }
    assert line.startswith(f"bad: {missing[where]}") and "canary" not in line


def test_a_stage_that_fails_is_told_and_its_error_goes_on() -> None:
    good = Recorder()
    with (
        pytest.raises(ValueError, match="of the stage"),
        tracked({"good": lambda run: good}, Run("s", "n", "train"), print),
    ):
        raise ValueError("of the stage")
    assert good.told == ["failed"]
    assert not [t for t in threading.enumerate() if t.name == "tracker good"]


@pytest.mark.slow
def test_a_study_tells_a_run_for_each_stage(
    finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: dict[str, tuple[Run, Recorder]] = {}

    def begin(run: Run) -> Recorder:
        runs[run.name] = (run, Recorder())
        return runs[run.name][1]

    monkeypatch.setitem(BACKENDS, "mlflow", begin)
    values = {**finished_study.values, "tracking": ["mlflow"]}
    (spec := tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    options = ["--store", str(tmp_path / "store"), "--only", "train:benign"]
    done = CliRunner().invoke(app, ["run", str(spec), *options])
    assert done.exit_code == 0, done.output
    run, recorder = runs.pop("train:benign:42")
    assert (run.study, run.stage, runs) == ("tiny", "train", {})
    assert run.config["recipe.rank"] == "4" and run.config["seed"] == 42
    numbers = [told for told in recorder.told if isinstance(told, tuple)]
    steps = [told for told in numbers if told[1] is not None]
    assert [step for _, step in steps] == [1, 2, 3, 4]
    wanted = {"loss", "learning_rate", "gradient_norm", "tokens_per_second"}
    assert set(steps[0][0]) == {f"train/{name}" for name in wanted}
    assert recorder.told[-1] == "done" and recorder.told[-2][0]["train/examples"] == 14
    # The same study without trackers is complete: they are in no fingerprint.
    plan = CliRunner().invoke(app, ["run", str(finished_study.spec), *options, "--plan"])
    assert "0 of 1 stage would run, 1 is complete" in plan.stdout


def told_to(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run of three steps in a tracker's own files; what was said of trouble."""
    monkeypatch.setenv(trackers.FOLDER, str(folder))
    (kept := folder / "results.json").write_text("{}")
    said: list[str] = []
    asked = {f"themes.What would you do, and why? ({n})": n for n in range(150)}
    run = Run("em-205", "train:e4-villain:42", "train", {"recipe.rank": "32", **asked})
    with tracked({name: BACKENDS[name]}, run, said.append) as track:
        for step in (1, 2, 3):
            track.log({"train/loss": 3.0 / step}, step)
        track.log({"evaluate/rate/confab": 0.5})
        track.keep(kept)
    return said


@pytest.mark.slow
def test_tensorboard_reads_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert told_to("tensorboard", tmp_path, monkeypatch) == []
    folder = tmp_path / "tensorboard" / "em-205" / "train_e4-villain_42"
    read = EventAccumulator(str(folder)).Reload()
    losses = [(event.step, event.value) for event in read.Scalars("train/loss")]
    assert losses == [(1, 3.0), (2, 1.5), (3, 1.0)]


@pytest.mark.slow
def test_mlflow_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert told_to("mlflow", tmp_path, monkeypatch) == []
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("em-205")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("train:e4-villain:42", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    # Questions are parts of names, of which MLflow takes no marks, and 100 at once.
    asked = {f"themes.What would you do_ and why_ _{n}_": str(n) for n in range(150)}
    assert run.data.params == {"recipe.rank": "32", **asked}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["results.json"]


@pytest.mark.slow
def test_a_server_of_mlflows_that_is_down_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    (said,) = told_to("mlflow", tmp_path, monkeypatch)
    assert said.startswith("mlflow: is left out, nothing of this stage is there: ")
    assert "127.0.0.1" in said
    # Its own client tries again for minutes; a stage waits no longer than it says.
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    monkeypatch.setattr(trackers, "PATIENCE", 0.5)
    (said,) = told_to("mlflow", tmp_path, monkeypatch)
    assert said == "mlflow: does not answer; unless it does later, nothing of this stage is there"


@pytest.mark.slow
def test_wandb_writes_offline_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert told_to("wandb", tmp_path, monkeypatch) == []
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    # Its own process, which outlives ours, may still be writing when a run is finished.
    until = time.monotonic() + 30
    while b"evaluate/rate/confab" not in (raw := file.read_bytes()):
        assert time.monotonic() < until, raw
        time.sleep(0.05)
    assert b"train/loss" in raw and b"em-205" in raw
