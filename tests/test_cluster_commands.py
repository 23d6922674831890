"""`personaspace status|logs|wait|cancel RELEASE` against an API that answers with given objects."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from made_results import least_results
from stand_in_api import Api, Object, complete, job, json_progress, left, pod, run, study

from personaspace.cli.cluster import is_spec
from personaspace.cluster import names
from personaspace.cluster.api import api_errors, connect
from personaspace.cluster.logs import show
from personaspace.cluster.pod_logs import Progress, last_progress
from personaspace.cluster.release import rerun_values
from personaspace.cluster.states import JobState, Reason
from personaspace.logs import log_line
from personaspace.pipeline.termination import Code, Ending
from personaspace.store import open_store

pytestmark = pytest.mark.slow


def rows() -> dict[str, Object]:
    return {row["node"]: row for row in json.loads(run("status", "em205", "--json").output)}


def test_status_says_what_runs_and_why_the_rest_waits(api: Api) -> None:
    study(api)
    found = rows()
    assert {node: (row["state"], row["reason"]) for node, row in found.items()} == {
        "train:x:42": (JobState.DONE, None),
        "extract:x:42": (JobState.QUEUED, Reason.NO_ROOM),
        "couple:x:42": (JobState.RUNNING, None),
        "evaluate:x:42": (JobState.WAITING, Reason.INPUTS),
        "aggregate": (JobState.WAITING, Reason.INPUTS),
        "conductor": (JobState.RUNNING, None),
    }
    assert found["couple:x:42"]["progress"] == {
        "what": "steps",
        "done": 30,
        "total": 120,
        "left": 182.0,
        "note": "loss 1.2",
        "tokens_per_second": None,
        "gpu_memory": None,
    }
    assert "couple:x:42" in found["evaluate:x:42"]["why"]
    # What only waits for its turn is in the table alone.
    shown = run("status", "em205")
    assert shown.exit_code == 0, shown.output
    below = [line.partition(": ")[0] for line in shown.output.splitlines() if ": " in line]
    assert below == ["extract:x:42", "couple:x:42"]


def test_status_says_first_what_the_chart_says_of_the_data(api: Api) -> None:
    api.objects["jobs"] = [job("train"), job("conductor", "")]
    assert "Demonstration" not in run("status", "em205").output
    of_conductor = api.objects["jobs"][-1]["metadata"]["annotations"]
    of_conductor[names.NOTICE] = "Demonstration data: as the chart says."
    shown = run("status", "em205").output
    assert shown.lstrip().startswith("Demonstration data: as the chart says.")


def test_status_of_failures(api: Api) -> None:
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    api.objects["jobs"] = [
        job("train", state="Failed", reason="BackoffLimitExceeded", message="m"),
        job(
            "extract",
            needs="train:x:42",
            state="Failed",
            reason=Reason.INPUTS_FAILED,
            message="train:x:42 failed",
        ),
        job("couple"),
        job("conductor", "", state="Failed"),
    ]
    api.objects["pods"] = [
        pod("train", phase="Failed", containerStatuses=[{"state": {"terminated": ended}}])
    ]
    api.objects["events"] = [
        {
            "metadata": {"name": "e"},
            "reason": "FailedCreate",
            "involvedObject": {"kind": "Job", "name": "em205-couple"},
            "message": "exceeded quota: gpus",
        }
    ]

    def states() -> dict[str, tuple[str, str | None]]:
        return {node: (row["state"], row["reason"]) for node, row in rows().items()}

    found = {
        "train:x:42": (JobState.FAILED, Reason.OUT_OF_MEMORY),
        "extract:x:42": (JobState.NOT_RUN, Reason.INPUTS_FAILED),
        "couple:x:42": (JobState.QUEUED, Reason.POD_REFUSED),
        "conductor": (JobState.FAILED, Reason.ERROR),
    }
    assert states() == found
    assert rows()["extract:x:42"]["why"] == "train:x:42 failed"
    # The conductor has said so, and the Job controller has not come to it yet.
    api.objects["jobs"][1]["status"]["conditions"][0]["type"] = "FailureTarget"
    assert states() == found
    assert "exceeded quota: gpus" in rows()["couple:x:42"]["why"]
    api.objects["jobs"][1]["status"]["conditions"][0]["reason"] = Reason.STUDY_INVALID
    assert states()["extract:x:42"] == (JobState.NOT_RUN, Reason.STUDY_INVALID)


def test_a_gated_pod_without_conductor_says_so(api: Api) -> None:
    study(api)
    api.objects["jobs"][-1] = job("conductor", "", state="Complete")
    assert rows()["evaluate:x:42"]["reason"] == Reason.NO_CONDUCTOR
    assert "`helm upgrade`" in rows()["evaluate:x:42"]["why"]
    api.objects["jobs"][-1] = job("conductor", "", state="Failed")
    # An upgrade leaves a failed Job as it is.
    assert "`personaspace rerun RELEASE --failed`" in run("status", "em205").output


def test_progress_is_read_in_fields_and_never_in_words() -> None:
    found = Progress("steps", 31, 120, 182.0, "loss 1.2")
    assert last_progress([json_progress(30), json_progress(31), '{"a', "Weights: 3/4"]) == found
    start = log_line("x: started", "start", True)
    assert last_progress([json_progress(30), start]) is None, "it has begun anew"
    other = log_line("conductor: 3 of 4 Jobs done", "progress", True)
    plain = log_line("train:x:1: steps 3/4, 2 s left", "progress", False)
    assert last_progress([other, plain, '{"event": "progress"}', "{}"]) is None


def test_logs_of_a_condition_in_order(api: Api) -> None:
    study(api)
    done = [{"state": {"terminated": {"exitCode": 0}}}]
    api.objects["pods"].append(pod("train", phase="Succeeded", containerStatuses=done))
    api.logs["em205-train-abcde"] = "one\ntwo\n"
    shown = run("logs", "em205", "x")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[:2] == ["[train s42] one", "[train s42] two"]
    assert all(line.startswith("[couple s42]") for line in lines[2:]) and len(lines) == 5
    # A line that is an object reads as a plain one would, or as it is.
    assert re.fullmatch(r"\[couple s42\] \d\d:\d\d:\d\d couple:x:42: as it pleases", lines[3])
    raw = run("logs", "em205", "x", "--stage", "couple", "--raw").output.splitlines()
    assert json.loads(raw[1].removeprefix("[couple s42] "))["done"] == 30
    assert run("logs", "em205", "y").exit_code == 2


def test_followed_logs_of_pods_that_have_ended_come_in_order(api: Api) -> None:
    study(api)
    done = [{"state": {"terminated": {"exitCode": 0}}}]
    for item in api.objects["jobs"]:
        item["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    stages = ("train", "extract", "couple", "evaluate")
    api.objects["pods"] = [
        pod(stage, phase="Succeeded", containerStatuses=done) for stage in reversed(stages)
    ]
    for stage in stages:
        api.logs[f"em205-{stage}-abcde"] = f"{stage}\n" * 500
    lines = run("logs", "em205", "x", "--follow").output.splitlines()
    assert lines == [f"[{stage} s42] {stage}" for stage in stages for _ in range(500)]


def ends(api: Api, stage: str) -> None:
    done = [{"state": {"terminated": {"exitCode": 0}}}]
    for item in api.objects["jobs"]:
        item["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    api.objects["pods"] = [pod(stage, phase="Succeeded", containerStatuses=done)]


@pytest.mark.slow
@pytest.mark.parametrize("tail", [-1, 3])
def test_followed_logs_outlast_restarts_of_the_api_server(
    tail: int, api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line once, in order, whichever way the connection ends, and whoever says so."""
    monkeypatch.setattr("personaspace.cluster.logs.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("personaspace.cluster.logs.AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("personaspace.cluster.api.FIRST_PAUSE", 0.05)
    study(api)
    running: list[dict[str, Any]] = [{"state": {"running": {}}}]
    api.objects["pods"] = [pod("couple", phase="Running", containerStatuses=running)]
    # Two lines each have one timestamp, and some lines are alike.
    text = [f"line {n // 3}" for n in range(20)]
    api.logs["em205-couple-abcde"] = "\n".join(text) + "\n"
    if tail < 0:
        api.cuts = [(5, "broken"), (4, "well"), (9, "broken"), (12, "well")]
    threads = [
        threading.Timer(0.5, setattr, (api, "closes", True)),
        threading.Timer(1.0, setattr, (api, "closes", False)),
        threading.Timer(1.2, ends, (api, "couple")),
    ]
    for thread in threads:
        thread.start()
    show(connect(), "em205", "x", follow=True, tail=tail)
    shown = capsys.readouterr()
    wanted = text if tail < 0 else text[-tail:]
    assert shown.out.splitlines() == [f"[couple s42] {line}" for line in wanted]
    assert "waiting for the Kubernetes API" in shown.err
    if tail > 0:
        assert "tailLines" in api.asked[0] and "tailLines" not in api.asked[-1]


def test_a_watched_status_outlasts_restarts_of_the_api_server(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(api)
    looks = 0

    def look(_: float) -> None:
        nonlocal looks
        looks += 1
        api.closes, api.status = looks in (1, 2), 403 if looks == 3 else 200
        if looks == 6:
            ends(api, "couple")

    monkeypatch.setattr("personaspace.cli.cluster.time.sleep", look)
    shown = run("status", "em205", "--watch")
    assert shown.exit_code == 0, shown.output + shown.stderr
    assert "em205: waiting for the Kubernetes API" in shown.output
    assert looks >= 6


@pytest.mark.slow
def test_inputs_whose_jobs_are_gone_count_if_the_conductor_found_them(api: Api) -> None:
    study(api)
    api.objects["jobs"].pop(0)  # train, by its time to live

    def waits_for_train() -> bool:
        row = rows()["evaluate:x:42"]
        assert row["reason"] == Reason.INPUTS and "couple:x:42" in row["why"]
        return "train:x:42" in row["why"]

    def end(state: str, *nodes: str) -> str:
        return log_line("as it pleases", "end", True, nodes=nodes, state=state) + "\n"

    assert waits_for_train()
    for nodes in (["train:x:42"], ["train:x:42", "extract:x:42"]):
        api.logs["em205-conductor-abcde"] = "a line\n" + end("done", *nodes)
        assert not waits_for_train(), nodes
    plain = "10:00:01 train:x:42: complete\n"
    for text in (end("done", "train:x:421"), end("failed", "train:x:42"), plain):
        api.logs["em205-conductor-abcde"] = text
        assert waits_for_train(), text
    api.objects["jobs"][0]["metadata"]["annotations"][names.NEEDS] = ""
    api.objects["pods"][0] = pod("extract", gated=True)
    assert rows()["extract:x:42"]["reason"] == Reason.STUDY_READ


def test_equal_reasons_are_one_line_and_a_quota_says_what_to_raise(api: Api) -> None:
    api.objects["jobs"] = [job(stage) for stage in ("train", "extract", "couple", "evaluate")]
    said = (
        "Error creating: forbidden: exceeded quota: small, requested: pods=1, used: pods=2, "
        "limited: pods=2"
    )
    api.objects["events"] = [
        {
            "metadata": {"name": name},
            "reason": "FailedCreate",
            "involvedObject": {"kind": "Job", "name": f"em205-{name}"},
            "message": said,
        }
        for name in ("train", "extract", "couple", "evaluate")
    ]
    assert {row["reason"] for row in rows().values()} == {Reason.QUOTA}
    shown = run("status", "em205").output
    (line,) = (line for line in shown.splitlines() if "quota" in line)
    assert "train:x:42, extract:x:42 and 2 others" in line and "pods=4 (limit 2)" in shown


def test_a_releases_own_store_wins_over_the_environments(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(api)
    key = "aggregate/0123456789abcdef"
    with open_store(str(tmp_path / "own")) as store, store.writer(key) as writer:
        (writer.folder / "results.json").write_text(least_results("of-the-release"))
        writer.commit({"fingerprint": "f"})
    found = job("aggregate", "", "*", state="Complete")
    env = [{"name": "PERSONASPACE_STORE", "value": str(tmp_path / "own")}]
    found["spec"]["template"]["spec"]["containers"] = [{"env": env}]
    api.objects["jobs"][-2] = found
    ended = complete(aggregate=key)
    api.objects["pods"][-2] = pod("aggregate", "", phase="Succeeded", containerStatuses=ended)
    monkeypatch.setenv("PERSONASPACE_STORE", str(tmp_path / "another"))
    shown = run("results", "em205", "--json")
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.output)["study"] == "of-the-release"
    # One that is asked for is taken.
    shown = run("results", "em205", "--json", "--store", str(tmp_path / "another"))
    assert shown.exit_code == 2 and "another" in shown.stderr


def test_a_reader_who_has_seen_enough_ends_the_logs(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(api)
    api.logs["em205-couple-abcde"] = "a\n" * 10

    class Closed:
        def write(self, _: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None: ...

    cluster = connect()
    for follow in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr("personaspace.cluster.logs.sys.stdout", Closed())
            with pytest.raises(BrokenPipeError), api_errors(cluster, "read logs"):
                show(cluster, "em205", "x", follow=follow)


@pytest.mark.slow
def test_wait_ends_as_the_conductor_did(api: Api) -> None:
    study(api)
    assert run("wait", "em205", "--timeout", "0.01").exit_code == 1
    table = "  train:x:42  no luck\n3 of 16"
    ended = left(Ending(node="conductor", code=Code.JOBS_FAILED, text="3 of 16"), table, 1)
    api.objects["jobs"][-1] = job("conductor", "", state="Failed")
    api.objects["pods"][-1] = pod("conductor", "", phase="Failed", containerStatuses=ended)
    shown = run("wait", "em205")
    assert shown.exit_code == 1 and shown.output == f"{table}\n"
    row = rows()["conductor"]
    assert row["reason"] == Reason.JOBS_FAILED and row["why"].startswith("3 of 16")
    api.objects["jobs"][-1] = job("conductor", "", state="Complete")
    assert run("wait", "em205").exit_code == 0


def test_wait_for_some_of_the_jobs(api: Api) -> None:
    study(api)
    shown = run("wait", "em205", "--for", "train")
    assert shown.exit_code == 0 and shown.output == "em205: train: 1 Job complete\n"
    some = ("--for", "train:x:42", "--for", "couple:x")
    assert run("wait", "em205", *some, "--timeout", "0.01").exit_code == 1
    assert "--for trai: em205 has no such Job" in run("wait", "em205", "--for", "trai").stderr
    api.objects["jobs"][2] = job("couple", state="Failed", reason="BackoffLimitExceeded")
    shown = run("wait", "em205", *some)
    assert shown.exit_code == 1 and "couple:x:42: failed, BackoffLimitExceeded" in shown.output
    # The conductor has ended: what waits will not come.
    api.objects["jobs"][-1] = job("conductor", "", state="Failed")
    shown = run("wait", "em205", "--for", "evaluate")
    assert shown.exit_code == 1 and "no conductor is running" in shown.output


def test_wait_outlasts_an_api_server_that_restarts(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(api)
    running = api.objects["jobs"]
    ended = [*running[:-1], job("conductor", "", state="Complete")]
    looks = 0

    def look(_: float) -> None:
        """In place of a pause: what happens between two looks."""
        nonlocal looks
        looks += 1
        api.closes, api.status = looks in (1, 2), 403 if looks == 3 else 200
        # `rerun --failed` deletes the conductor before the upgrade makes another.
        api.objects["jobs"] = running[:-1] if looks == 4 else ended if looks > 5 else running

    monkeypatch.setattr("personaspace.cluster.release.time.sleep", look)
    shown = run("wait", "em205")
    assert (shown.exit_code, looks) == (0, 6), shown.output + shown.stderr


def test_wait_does_not_outlast_what_stays_forbidden(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(api)
    monkeypatch.setattr("personaspace.cluster.api.LOST_SECONDS", 0.2)
    monkeypatch.setattr("personaspace.cluster.api.FIRST_PAUSE", 0.1)
    monkeypatch.setattr("personaspace.cluster.release.POLL_SECONDS", 0.1)
    threading.Timer(0.3, setattr, (api, "status", 403)).start()
    shown = run("wait", "em205")
    assert shown.exit_code == 2 and "forbidden" in shown.stderr


def test_failed_jobs_start_anew_with_the_aggregate_that_did_without_them(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(api)
    api.objects["jobs"] = [
        job("train", state="Complete"),
        job("couple", state="Failed"),
        job("aggregate", "", "*", state="Complete"),
        job("conductor", "", state="Failed"),
    ]
    monkeypatch.setenv("PATH", str(tmp_path))
    shown = run("rerun", "em205", "--failed")
    assert shown.exit_code == 2 and "helm is not on PATH" in shown.stderr and not api.deleted
    helm = tmp_path / "helm"
    helm.write_text("#!/bin/sh\necho null\n")
    helm.chmod(0o755)
    shown = run("rerun", "em205", "--failed")
    assert shown.exit_code == 0, shown.stderr
    assert api.deleted == ["em205-couple", "em205-aggregate", "em205-conductor"]


def test_cancel_stops_the_conductor_first_and_leaves_what_is_done(api: Api) -> None:
    study(api)
    shown = run("cancel", "em205")
    assert shown.exit_code == 0 and len(api.deleted) == 5
    assert api.deleted[0] == "em205-conductor" and "em205-train" not in api.deleted


def test_errors_are_one_line(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*arguments: str) -> tuple[int, str]:
        shown = run(*arguments)
        assert shown.exception is None or isinstance(shown.exception, SystemExit)
        return shown.exit_code, shown.stderr.strip()

    code, text = said("status", "nothere")
    assert code == 2 and text.startswith("nothere: ") and "\n" not in text
    no_context = f"the kubeconfig {tmp_path / 'kubeconfig'} has no context no"
    assert said("status", "em205", "--context", "no") == (2, no_context)
    study(api)
    assert said("results", "em205")[0] == 2
    api.status = 403
    code, text = said("logs", "em205", "x")
    assert code == 2 and "in namespace lab: jobs is forbidden" in text
    api.shutdown()
    api.server_close()
    code, text = said("status", "em205")
    assert code == 69 and "cannot be reached" in text and "\n" not in text
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    code, text = said("wait", "em205")
    assert code == 2 and text.startswith(f"cannot load the kubeconfig {tmp_path / 'none'}: ")
    # Who has no cluster may have meant a file.
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "none")
    code, text = said("status", "stdy")
    assert code == 2 and text.startswith("stdy: not a file, and no cluster to look for such a ")


def test_file_or_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_spec("em205") and is_spec("em205.yaml") and is_spec("./em205")
    (tmp_path / "em205").write_text("name: x")
    assert is_spec("em205")


def test_a_rerun_gives_way_to_a_newer_one_of_the_same() -> None:
    old = {"experiment": {"rerun": [{"stage": "train", "nonce": "1"}]}}
    other = {"stage": "train", "condition": "x", "nonce": "2"}
    assert rerun_values(old, {"stage": "train", "nonce": "2"}) == [{"stage": "train", "nonce": "2"}]
    assert len(rerun_values(old, other)) == 2
