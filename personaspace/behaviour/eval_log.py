"""Answers and their scores as a log of Inspect (inspect_ai), which `inspect view` opens.

The `.eval` format, version 2, is a zip of JSON (https://inspect.aisi.org.uk/eval-logs.html; what is
in it are the models of `inspect_ai.log`): `_journal/start.json` says what is evaluated,
`samples/<id>_epoch_<n>.json` is an answer, `summaries.json` has all answers in short, `header.json`
all but the answers. The package itself cannot be installed beside ours: s3fs, which it needs, asks
for another boto3.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from personaspace.files import SMALL
from personaspace.study.chat_forms import Message

#: Of the format.
VERSION = 2
#: Characters of a text in a sample's summary, and those of which they are taken, as Inspect's own.
_SHORT, _LOOKED_AT = 1024, 8192
#: The same for equal logs, so that equal answers give equal files; the first that a zip can tell.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Score:
    """What an answer was scored.

    Attributes:
        value: A number; a share's are 0 and 1.
        said: Why, for people.
    """

    value: float
    said: str = ""


@dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
        id: Of what was asked; equal for all answers to it.
        epoch: Number of the answer among these, from 1.
        question: What was asked.
        told: The chat that the model was given.
        answer: What it answered.
        cut: It reached the most tokens.
        scores: By scorer.
        group: Means are given by group as well.
        metadata: Shown beside it.
    """

    id: str
    epoch: int
    question: str
    told: Sequence[Message]
    answer: str
    cut: bool
    scores: Mapping[str, Score]
    group: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What a log is of.

    Attributes:
        name: The task's.
        key: Tells the log from all others; equal for equal answers.
        model: Who answered.
        created: When, UTC, ISO 8601.
        dataset: Name of the questions.
        samples: How many things are asked.
        epochs: Answers to each.
        arguments: What the task was run with.
        sampling: Temperature, top_p, max_tokens, seed.
        scorers: In the order of their columns.
        metadata: Of the whole.
        packages: Versions.
        tags: To look for it by.
    """

    name: str
    key: str
    model: str
    created: str
    dataset: str
    samples: int
    epochs: int
    arguments: Mapping[str, Any]
    sampling: Mapping[str, Any]
    scorers: Sequence[str]
    metadata: Mapping[str, Any]
    packages: Mapping[str, str]
    tags: Sequence[str] = ()


def write_log(path: Path, task: Task, samples: Iterable[Sample]) -> int:
    """Write a log; it is there whole or not at all.

    No more than one sample is held, but for the zip's own list of names (some 0.5 kB a sample).

    Returns:
        How many answers it holds.
    """
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as log:
            count = _Writing(log, task).all(samples)
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return count


def metadata_of(path: Path) -> Mapping[str, Any] | None:
    """A log's `Task.metadata`; None: the file is no log."""
    try:
        with zipfile.ZipFile(path) as log, log.open("header.json") as file:
            found = json.loads(file.read(SMALL))["eval"]["metadata"]
    # A file of any content: what a damaged zip raises is not told by its documentation.
    except Exception:
        return None
    return found if isinstance(found, dict) else None


class _Writing:
    """A log that is being written."""

    def __init__(self, log: zipfile.ZipFile, task: Task) -> None:
        self._log, self._task = log, task
        self._sums: dict[str, dict[str, list[float]]] = {
            name: defaultdict(lambda: [0.0, 0]) for name in task.scorers
        }
        self._count = 0

    def all(self, samples: Iterable[Sample]) -> int:
        """Write all of it; how many answers there are."""
        start = {"version": VERSION, "eval": self._spec(), "plan": self._plan()}
        self._put("_journal/start.json", start)
        with tempfile.TemporaryFile() as short:
            for sample in samples:
                scores = _scores(sample, sample.answer)
                self._put(
                    f"samples/{sample.id}_epoch_{sample.epoch}.json", self._whole(sample, scores)
                )
                short.write(b"," if self._count else b"[")
                short.write(_json(_short(sample)))
                self._count += 1
                for scorer, score in sample.scores.items():
                    self._add(scorer, sample.group, score.value)
            short.write(b"]" if self._count else b"[]")
            short.seek(0)
            with self._log.open(_entry("summaries.json"), "w", force_zip64=True) as target:
                shutil.copyfileobj(short, target)
        self._put("header.json", start | {"status": "success", **self._results()})
        return self._count

    def _add(self, scorer: str, group: str, value: float) -> None:
        for name in ("", group):
            found = self._sums[scorer][name]
            found[0] += value
            found[1] += 1

    def _put(self, name: str, value: Any) -> None:
        self._log.writestr(_entry(name), _json(value))

    def _spec(self) -> dict[str, Any]:
        task = self._task
        return {
            "eval_id": task.key,
            "run_id": task.key,
            "task_id": task.key,
            "created": task.created,
            "task": task.name,
            "task_version": 1,
            "task_args": dict(task.arguments),
            "tags": list(task.tags),
            "dataset": {"name": task.dataset, "samples": task.samples, "shuffled": False},
            "model": task.model,
            "model_generate_config": dict(task.sampling),
            "config": {"epochs": task.epochs},
            "packages": dict(task.packages),
            "metadata": dict(task.metadata),
            "scorers": [{"name": name} for name in task.scorers],
        }

    def _plan(self) -> dict[str, Any]:
        step = {"solver": "generate", "params": {}}
        return {"name": "plan", "steps": [step], "config": dict(self._task.sampling)}

    def _whole(self, sample: Sample, scores: Mapping[str, Any]) -> dict[str, Any]:
        said = {"role": "assistant", "content": sample.answer, "source": "generate"}
        choice = {"message": said, "stop_reason": "max_tokens" if sample.cut else "stop"}
        return {
            "id": sample.id,
            "epoch": sample.epoch,
            "input": sample.question,
            "target": "",
            "messages": [*({"source": "input", **message} for message in sample.told), said],
            "output": {
                "model": self._task.model,
                "choices": [choice],
                "completion": sample.answer,
            },
            "scores": dict(scores),
            "metadata": dict(sample.metadata),
        }

    def _results(self) -> dict[str, Any]:
        scores = []
        for name, sums in self._sums.items():
            scored = int(sums[""][1])
            means = {group or "mean": total / n for group, (total, n) in sums.items() if n}
            scores.append(
                {
                    "name": name,
                    "scorer": name,
                    "scored_samples": scored,
                    "unscored_samples": self._count - scored,
                    "metrics": {key: {"name": key, "value": v} for key, v in means.items()},
                }
            )
        results = {
            "total_samples": self._count,
            "completed_samples": self._count,
            "scores": scores,
        }
        created = self._task.created
        return {"results": results, "stats": {"started_at": created, "completed_at": created}}


def _scores(sample: Sample, answer: str) -> dict[str, Any]:
    """Each score; the first has the answer, which the viewer takes for its list from there."""
    return {
        name: {
            "value": score.value,
            "answer": None if place else answer,
            "explanation": score.said or None,
        }
        for place, (name, score) in enumerate(sample.scores.items())
    }


def _short(sample: Sample) -> dict[str, Any]:
    return {
        "id": sample.id,
        "epoch": sample.epoch,
        "input": _shortened(sample.question),
        "target": "",
        "scores": _scores(sample, _shortened(sample.answer)),
        "metadata": {
            key: _shortened(value) if isinstance(value, str) else value
            for key, value in sample.metadata.items()
        },
        "completed": True,
        "message_count": len(sample.told) + 1,
    }


def _shortened(text: str) -> str:
    # As Inspect does by textwrap.shorten, which takes long for so many.
    said = " ".join(text[:_LOOKED_AT].split())
    return said if len(said) <= _SHORT else f"{said[: _SHORT - 3]}..."


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _NO_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
