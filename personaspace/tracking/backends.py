"""The trackers: each as its own library wants it, without a server where none is named.

Servers and keys are named as each library has it (WANDB_API_KEY, MLFLOW_TRACKING_URI …); nothing
of ours reads or keeps a key.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from personaspace.tracking.trackers import NotKept, Run, Tracker
from personaspace.version import __version__


class _TensorBoard:
    """Event files below `tensorboard/<study>/<run>`."""

    def __init__(self, run: Run) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        folder = run.folder / "tensorboard" / run.study / run.name.replace(":", "_")
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        values_of = [self._summary.Value(tag=n, simple_value=v) for n, v in values.items()]
        event = self._event(
            wall_time=time.time(), step=step or 0, summary=self._summary(value=values_of)
        )
        self._writer.add_event(event)

    def keep(self, path: Path) -> None:
        """It keeps numbers alone."""

    def end(self, failed: bool) -> None:
        self._writer.close()


#: What MLflow takes of parameters: characters of names, lengths, how many at once; of metrics.
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_\-. :/]")
_LONGEST_NAME, _LONGEST_VALUE, _PARAMS_AT_ONCE = 250, 500, 100
_METRICS_AT_ONCE = 1000


def _params(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A run's configuration as MLflow takes it: questions are parts of names, and have marks.

    Of names that become equal the first stands.
    """
    found: dict[str, str] = {}
    for name, value in config.items():
        text = value if isinstance(value, str) else json.dumps(value)
        found.setdefault(_NOT_IN_A_NAME.sub("_", name)[:_LONGEST_NAME], text[:_LONGEST_VALUE])
    return list(found.items())


class _MLflow:
    """A run of the experiment `<study>` on MLFLOW_TRACKING_URI, or in `mlflow.db`."""

    def __init__(self, run: Run) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        run.folder.mkdir(parents=True, exist_ok=True)
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder}/mlflow.db"
        self._client = MlflowClient(tracking_uri=address)
        found = self._client.get_experiment_by_name(run.study)
        experiment = (
            found.experiment_id
            if found
            else self._experiment(run, "MLFLOW_TRACKING_URI" in os.environ)
        )
        tags = {
            "personaspace.study": run.study,
            "personaspace.stage": run.stage,
            "mlflow.source.name": f"personaspace {__version__}",
        }
        begun = self._client.create_run(experiment, run_name=run.name, tags=tags)
        self._id = begun.info.run_id
        params = _params(run.config)
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            some = [Param(*pair) for pair in params[start : start + _PARAMS_AT_ONCE]]
            self._client.log_batch(self._id, params=some)

    def _experiment(self, run: Run, served: bool) -> str:
        from mlflow.exceptions import MlflowException

        study, files = run.study, (run.folder / "mlflow-files").as_uri()
        try:
            place = None if served else files
            # Its page would else take runs for those of an application, and show no curves.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            made = self._client.create_experiment(study, artifact_location=place, tags=kind)
            return str(made)
        except MlflowException:
            found = self._client.get_experiment_by_name(study)  # another stage was first
            if found is None:
                raise
            return str(found.experiment_id)

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        # In one request, so that a step is there or not.
        now = int(time.time() * 1000)
        told = [self._metric(name, value, now, step or 0) for name, value in values.items()]
        for start in range(0, len(told), _METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=told[start : start + _METRICS_AT_ONCE])

    def keep(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path))

    def end(self, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


class _Wandb:
    """A run of the project `personaspace`, in the group `<study>`; offline without a key."""

    def __init__(self, run: Run) -> None:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        online = "WANDB_API_KEY" in os.environ or (Path.home() / ".netrc").is_file()
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "personaspace",
            group=run.study,
            job_type=run.stage,
            name=run.name,
            config=run.config,
            dir=str(run.folder),
            mode=os.environ.get("WANDB_MODE") or ("online" if online else "offline"),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", init_timeout=20),
        )

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        if step is None:
            self._run.summary.update(dict(values))
        else:
            self._run.log(dict(values), step=step)

    def keep(self, path: Path) -> None:
        kept = self._wandb.Artifact(path.name.replace(".", "-"), type="result")
        kept.add_file(str(path))
        self._run.log_artifact(kept)

    def end(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Trackio:
    """A run of the project `<study>`, in the folder or in TRACKIO_DIR, or on TRACKIO_SERVER_URL."""

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(run.folder / "trackio"))  # read when imported
        import trackio

        self._study, self._logged = run.study, 0
        self._run = trackio.init(
            project=run.study, name=run.name, group=run.stage, config=run.config, embed=False
        )

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        self._logged += 1
        self._run.log(dict(values), step=step)

    def keep(self, path: Path) -> None:
        """It keeps numbers alone."""

    def end(self, failed: bool) -> None:
        """End the run, and look what is there: trackio raises nothing that it fails in."""
        from trackio.sqlite_storage import SQLiteStorage
        from trackio.utils import TRACKIO_DIR

        self._run.finish()
        if any(os.environ.get(name) for name in ("TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID")):
            if SQLiteStorage.has_pending_data(self._study):
                raise NotKept(
                    f"its server did not take all of this stage; what is not there waits in "
                    f"{TRACKIO_DIR}, and is sent with the next stage's"
                )
            return
        there = SQLiteStorage.get_log_count(self._study, run_id=self._run.id)
        if there < self._logged:
            raise NotKept(
                f"{self._logged - there} of the {self._logged} times that it was told numbers are "
                f"not there; it could not write all of them in {TRACKIO_DIR}"
            )


#: What begins a run, by the tracker's name in a study.
BACKENDS: dict[str, Callable[[Run], Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _Wandb,
    "trackio": _Trackio,
}
