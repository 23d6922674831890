"""A stage as a container runs it: what it says, leaves behind, and ends with."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from seaweed import SeaweedS3

from personaspace.cli.guard import as_job
from personaspace.cluster.states import Reason
from personaspace.errors import StoreUnavailable, UserError
from personaspace.logs import log_line
from personaspace.pipeline import job as jobs
from personaspace.pipeline import job_log, termination
from personaspace.pipeline.node import Node
from personaspace.pipeline.progress import Board
from personaspace.pipeline.states import NodeState
from personaspace.pipeline.termination import Code, Ending
from personaspace.store import open_store

WriteSpec = Callable[[dict[str, Any]], Path]


@pytest.fixture
def message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the termination message goes."""
    path = tmp_path / "termination-log"
    monkeypatch.setenv("PERSONASPACE_TERMINATION_LOG", str(path))
    return path


def ends(code: int, *arguments: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        as_job(jobs.run_stage)(*arguments)
    assert ended.value.code == code


@pytest.mark.slow
def test_a_job_runs_from_its_part_of_the_study(
    study_dict: dict[str, Any],
    write_spec: WriteSpec,
    tmp_path: Path,
    message: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = str(tmp_path / "store")
    (mine,) = (c for c in study_dict["conditions"] if c["name"] == "e0-assistant")
    wanted = {"model", "datasets", "training"}
    part = {key: value for key, value in study_dict.items() if key in wanted}
    part |= {"part": {"condition": mine["name"], "stages": ["train"]}, "conditions": [mine]}
    jobs.run_stage("train", write_spec(part), store, "e0-assistant", 42)
    ends(2, "couple", write_spec(part), store, "e0-assistant", 42)
    assert "there are: " in message.read_text()
    said = capsys.readouterr().err
    jobs.run_stage("train", write_spec(study_dict), store, "e0-assistant", 42)
    assert "already complete" in capsys.readouterr().err
    # A log of the job that did it is kept, none of those that had nothing to do.
    _, ending = termination.read(message.read_text())
    assert ending
    with open_store(store) as place:
        (log,) = job_log.kept(place, ending.artifacts["train:e0-assistant:42"])
    assert "train:e0-assistant:42: done in " in log and log in said
    ends(2, "train", write_spec(study_dict), store, "e0-assistant", 43)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    part["training"] = {"rank": 0}
    ends(2, "train", write_spec(part), store, "e0-assistant", 42)
    assert "training.rank: " in message.read_text()


def test_of_very_much_the_middle_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_log, "HEAD", 4)
    monkeypatch.setattr(job_log, "TAIL", 6)
    with job_log.recorded() as log:
        for text in ("one\n", "two\n", "three\n", "4\n", "5\n"):
            print(text, end="", file=sys.stderr)
    assert log.text() == "one\n\n… 10 characters left out …\n4\n5\n"
    assert capsys.readouterr().err == "one\ntwo\nthree\n4\n5\n"


def test_what_nobody_foresaw_is_told_in_full_and_users_mistakes_are_not() -> None:
    try:
        raise ValueError("at s3://key:secret@host/bucket")
    except ValueError as error:
        told = job_log.traces([error, UserError("no such file")])
    assert "Traceback" in told and "secret" not in told and "no such file" not in told


@pytest.mark.long
@pytest.mark.study
def test_condition_and_conclusion_leave_their_result(
    study_dict: dict[str, Any],
    write_spec: WriteSpec,
    tmp_path: Path,
    message: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study_dict["conditions"] = study_dict["conditions"][::2]  # base and one that is trained
    spec, store = write_spec(study_dict), str(tmp_path / "store")
    for condition in ("base", "e0-assistant"):
        jobs.run_condition(spec, store, condition, 42)
    stages = ["train", "extract", "couple", "evaluate"]
    people, ending = termination.read(message.read_text())
    assert [line.partition(":")[0] for line in people.splitlines()] == stages
    assert ending and (ending.node, ending.code) == ("condition:e0-assistant:42", Code.COMPLETE)
    assert list(ending.artifacts) == [f"{stage}:e0-assistant:42" for stage in stages]
    lines = capsys.readouterr().err.splitlines()
    start = next(line for line in lines if "train:e0-assistant:42: started" in line)
    assert "fingerprint" in start and "inputs none" in start
    end = next(line for line in lines if "train:e0-assistant:42: done" in line)
    assert store in end
    jobs.conclude(spec, store)
    _, concluded = termination.read(message.read_text())
    assert concluded and list(concluded.artifacts) == ["aggregate", "report"]
    with open_store(store) as place:
        assert place.find(concluded.artifacts["aggregate"])
    jobs.run_stage("train", spec, store, "e0-assistant", 42)
    _, again = termination.read(message.read_text())
    assert (
        again
        and again.artifacts["train:e0-assistant:42"] == ending.artifacts["train:e0-assistant:42"]
    )


def test_the_users_mistake_is_two_and_said_in_one_line(
    study_dict: dict[str, Any], write_spec: WriteSpec, tmp_path: Path, message: Path
) -> None:
    spec = write_spec(study_dict)
    ends(2, "train", spec, str(tmp_path / "store"), "e9-nobody", 42)
    people, ending = termination.read(message.read_text())
    assert people.startswith("train:e9-nobody:42: ") and "\n" not in people
    assert ending and (ending.code, ending.node) == (Code.USER_ERROR, "train:e9-nobody:42")
    study_dict["seeds"] = ["x"]
    ends(2, "train", write_spec(study_dict), str(tmp_path / "store"), "benign", 42)
    assert "seeds[0]" in message.read_text()


def test_a_store_that_does_not_answer_is_no_mistake(
    study_dict: dict[str, Any],
    write_spec: WriteSpec,
    message: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    url = "s3://bucket/x?endpoint=http://127.0.0.1:9&region=us-east-1&patience=1"
    ends(69, "train", write_spec(study_dict), url, "benign", 42)
    _, ending = termination.read(message.read_text())
    assert ending and ending.code is Code.UNAVAILABLE and "no S3 server answers" in ending.text


@pytest.mark.s3
def test_a_store_that_comes_back_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(jobs.PATIENCE, "60")
    with SeaweedS3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with open_store(server.url("x")) as store:
            server.kill()
            with ThreadPoolExecutor(1) as pool:
                job = pool.submit(jobs._reach, store, "train:benign:42")
                time.sleep(2)
                assert not job.done()
                server.start()
                job.result(timeout=60)
    said = capsys.readouterr().err
    assert said.count("train:benign:42: waiting for the store: no S3 server answers") == 1


def test_what_a_retry_may_cure_decides_the_exit_code() -> None:
    mistake, away, bug = UserError("x"), StoreUnavailable("y"), RuntimeError("z")
    assert jobs._gravest([mistake, away]) is away
    assert jobs._gravest([bug, away, mistake]) is bug


def test_a_long_message_is_cut_where_kubernetes_cuts(message: Path) -> None:
    ending = Ending(node="conductor", code=Code.JOBS_FAILED, text="5000 failed")
    termination.write("ü" * 5000, ending)
    raw = message.read_bytes()
    people, found = termination.read(raw.decode())
    assert len(raw) <= termination.LIMIT_BYTES and people.endswith("ü…") and found == ending
    termination.write("ü\n" * 5000 + "5000 failed", ending)
    raw = message.read_bytes()
    people, found = termination.read(raw.decode())
    assert len(raw) <= termination.LIMIT_BYTES and people.endswith("…\n5000 failed")
    assert found == ending
    long = Ending(node="aggregate", code=Code.ERROR, text='"ü' * 5000)
    termination.write("x\n" + '"ü' * 5000, long)
    people, found = termination.read(message.read_text())
    assert len(message.read_bytes()) <= termination.LIMIT_BYTES and people.startswith("x\n")
    assert found and found.code is Code.ERROR and long.text.startswith(found.text)


def test_a_log_is_not_taken_for_an_ending() -> None:
    """What Kubernetes gives of a container that left nothing, where logs are JSON."""
    for last in (log_line("x", "error", True, node="train:x:1"), '{"node": "x"}', "{", ""):
        assert termination.read(f"a line\n{last}")[1] is None, last


def test_every_code_of_an_ending_is_a_reason() -> None:
    assert {Reason(code.value) for code in Code if code is not Code.COMPLETE}


def test_no_place_for_the_message_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONASPACE_TERMINATION_LOG", "/nowhere/at/all")
    termination.write("x", Ending(node="x", code=Code.COMPLETE))


def test_json_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PERSONASPACE_LOG", "json")
    monkeypatch.setattr("personaspace.pipeline.progress.LINE_EVERY", 0.0)
    node = Node("train", "e4-villain", 42)
    board = Board([node])
    progress = board.stage(node, "fingerprint 0123")
    progress.start("steps", 4)
    progress.advance(1, "loss 2.0")
    progress.say("cut 3 chats")
    board.finish(node, NodeState.DONE, "s3://bucket/key")
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [entry["event"] for entry in entries] == ["start", "progress", "message", "end"]
    assert all(entry["node"] == node.id and entry["time"].endswith("Z") for entry in entries)
    _, step, _, end = entries
    assert (step["what"], step["done"], step["total"], step["note"]) == ("steps", 1, 4, "loss 2.0")
    assert step["left"] >= 0 and end["state"] == "done" and end["where"] == "s3://bucket/key"
    assert end["message"].startswith("train:e4-villain:42: done in")
