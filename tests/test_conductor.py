"""What the conductor decides, what it reads and writes, and that it needs no memory of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import DATED
from conductor_plan import a_plan
from kubernetes.client.exceptions import ApiException
from stand_in_api import left

from personaspace.cluster import names
from personaspace.cluster.conductor import actions, plan, process
from personaspace.cluster.conductor.loop import Conductor
from personaspace.cluster.conductor.news import Changed, Deleted, Listed
from personaspace.cluster.conductor.reconcile import Decision
from personaspace.cluster.log_lines import Trouble
from personaspace.cluster.states import Cause, JobPhase, JobState, Reason
from personaspace.cluster.views import JobView, PodView, job_view, pod_view
from personaspace.errors import SpecErrors, StoreUnavailable, UnavailableError, UserError
from personaspace.logs import RunEvent, log_line
from personaspace.pipeline import termination
from personaspace.pipeline.termination import Code, Ending
from personaspace.store import open_store
from personaspace.study import sources
from personaspace.study.load import load_study

# --- what is read ---------------------------------------------------------------------------------


def raw_pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "uid": "u", "labels": {"job-name": "j"}},
        "spec": {"schedulingGates": [{"name": "other"}, {"name": names.GATE}]},
        "status": {"phase": "Pending", **status},
    }


def test_views_of_pods() -> None:
    assert pod_view(raw_pod()) == PodView("p", "u", "j", gated=True, live=True)
    ungated = raw_pod()
    ungated["spec"]["schedulingGates"] = [{"name": "other"}]
    assert not pod_view(ungated).gated
    message = "Downloading…\ntrain:x:1: datasets.a: no such file"
    ended = {"terminated": {"exitCode": 2, "reason": "Error", "message": message}}
    failed = raw_pod(phase="Failed", containerStatuses=[{"state": ended}])
    assert not pod_view(failed).live
    # Left by a container that could not say more: the end of its log.
    cause = pod_view(failed).cause
    assert cause and cause.reason is Reason.USER_ERROR and "datasets.a: no such" in cause.text
    ending = Ending(node="train:x:1", code=Code.UNAVAILABLE, text="no S3 server answers")
    (status,) = left(ending, "train:x:1: as it pleases", 69)
    ended["terminated"] = status["state"]["terminated"]
    cause = pod_view(failed).cause
    assert cause and cause.reason is Reason.UNAVAILABLE
    assert cause.text.startswith("no S3 server answers") and "pleases" not in cause.text
    log = log_line("train:x:1: step 3", "progress", True)
    ended["terminated"] = {"exitCode": 137, "reason": "OOMKilled", "message": f"a\n{log}\n"}
    cause = pod_view(failed).cause
    assert cause and cause.reason is Reason.OUT_OF_MEMORY and cause.text.startswith("train:x:1")
    late = raw_pod(phase="Failed", reason="DeadlineExceeded", message="too long")
    assert pod_view(late).cause == Cause(Reason.DEADLINE, "DeadlineExceeded")


def test_views_of_jobs() -> None:
    raw: dict[str, Any] = {"metadata": {"name": "j", "uid": "u"}, "spec": {}, "status": {}}
    assert job_view(raw).phase is JobPhase.ACTIVE and not job_view(raw).held
    marked = {"type": "FailureTarget", "status": "True", "reason": "InputsFailed", "message": "x"}
    raw["status"]["conditions"] = [marked]
    assert job_view(raw).phase is JobPhase.ACTIVE, "it is not over before the controller says so"
    assert job_view(raw).cause == Cause(Reason.INPUTS_FAILED, "x")
    raw["status"]["conditions"] += [
        {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}
    ]
    assert job_view(raw).phase is JobPhase.FAILED
    assert job_view(raw).cause == Cause(Reason.ERROR, "BackoffLimitExceeded: m")
    raw["metadata"]["annotations"] = {names.KUEUE_GATE: f"their/gate,{names.GATE}"}
    assert job_view(raw).held


# --- what is written ------------------------------------------------------------------------------


class Api:
    """Takes patches down; the API's part of the client that actions use."""

    namespace = "lab"

    def __init__(self) -> None:
        self.core = self.batch = self
        self.calls: list[tuple[str, str, Any]] = []
        self.error: ApiException | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(target: str, namespace: str, body: Any, **_: Any) -> Any:
            self.calls.append((name, target, body))
            if self.error is not None:
                raise self.error
            return Answer()

        return call


class Answer:
    def drain_conn(self) -> None: ...
    def release_conn(self) -> None: ...


def test_releasing_takes_off_our_gate_alone() -> None:
    api = Api()
    actions.lift_gate(api, PodView("p", "u", "j", True, True))  # type: ignore[arg-type]
    ((call, target, body),) = api.calls
    assert (call, target) == ("patch_namespaced_pod", "p")
    assert body["spec"] == {"schedulingGates": [{"$patch": "delete", "name": names.GATE}]}
    assert body["metadata"] == {"uid": "u"}
    for status in (404, 409):
        api.error = ApiException(status=status)
        actions.lift_gate(api, PodView("p", "u", "j", True, True))  # type: ignore[arg-type]
    api.error = ApiException(status=500)
    with pytest.raises(ApiException):
        actions.lift_gate(api, PodView("p", "u", "j", True, True))  # type: ignore[arg-type]


@pytest.mark.parametrize("gate", ["annotation", "label"])
def test_kueue_is_told_without_touching_suspend(gate: str) -> None:
    api = Api()
    job = JobView("j", "u", JobPhase.ACTIVE, held=True, kueue_gates=f"theirs,{names.GATE}")
    actions.lift_kueue_gate(api, job, "gpus", gate)  # type: ignore[arg-type]
    ((call, _, body),) = api.calls
    assert call == "patch_namespaced_job" and "suspend" not in json.dumps(body)
    if gate == "label":
        assert body == {"metadata": {"labels": {names.KUEUE_QUEUE: "gpus"}}}
    else:
        assert [step["op"] for step in body] == ["test", "replace"]
        assert body[1]["value"] == "theirs"


# --- the loop, with a store on disk and an API played by hand -------------------------------------


class Stage:
    """A cluster for one conductor: what it patches happens, and is told by the watchers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, partial: bool) -> None:
        self.store = open_store(str(folder / "store"))
        self.reader = open_store(str(folder / "store"))
        self.plan = a_plan(partial)
        self.states = dict.fromkeys(self.plan.jobs, "active")
        self.gated = {name: bool(self.plan.needs[name]) for name in self.plan.jobs}
        self.fails: set[str] = set()
        self.forgets: set[str] = set()
        self.order: list[str] = []
        self.said: list[dict[str, Any]] = []
        self.conductor: Conductor
        monkeypatch.setattr(actions, "lift_gate", self.lift)
        monkeypatch.setattr(actions, "end_job", self.end)

    def start(self, patience: float = 600.0) -> None:
        self.conductor = Conductor(
            Api(),  # type: ignore[arg-type]
            "em205",
            self.plan,
            self.reader,
            self.say,
            patience=patience,
        )
        self.conductor.watchers = []
        put = self.conductor.inbox.put
        put(Listed("jobs", {n: JobView(n, n, JobPhase(s)) for n, s in self.states.items()}))
        put(Listed("pods", {n: self.pod(n) for n, s in self.states.items() if s == "active"}))

    def say(self, text: str, event: str = "message", **fields: Any) -> None:
        self.said.append({"event": event, **fields, "message": text})
        process.say(text, event, **fields)

    def trouble(self, kind: Trouble) -> list[dict[str, Any]]:
        """Lines of trouble of a kind."""
        return [line for line in self.said if line.get("trouble") is kind]

    def pod(self, name: str, live: bool = True, cause: Cause | None = None) -> PodView:
        return PodView(name, name, name, self.gated[name], live, cause)

    def lift(self, _: Any, pod: PodView) -> None:
        self.gated[pod.job] = False
        self.order.append(pod.job)
        self.finish(pod.job)

    def end(self, _: Any, job: JobView, cause: Cause, now: str) -> None:
        assert self.gated[job.name], "a pod that may have started must not be ended"
        self.settle(job.name, "failed", Cause(cause.reason, cause.text))

    def finish(self, name: str) -> None:
        node = name.removeprefix("job-")
        if node in self.fails:
            said = self.pod(name, False, Cause(Reason.USER_ERROR, "no luck"))
            self.conductor.inbox.put(Changed("pods", said))
            self.settle(name, "failed", Cause(Reason.ERROR, "BackoffLimitExceeded: x"))
            return
        if node not in self.forgets:
            key, fingerprint = self.plan.artifacts[node]
            with self.store.writer(key) as writer:
                (writer.folder / "x").write_text(node)
                writer.commit({"fingerprint": fingerprint})
        self.conductor.inbox.put(Deleted("pods", name))
        self.settle(name, "succeeded")

    def settle(self, name: str, state: str, cause: Cause | None = None) -> None:
        self.states[name] = state
        self.conductor.inbox.put(Changed("jobs", JobView(name, name, JobPhase(state), cause)))

    def run(self) -> Decision:
        found: list[Decision] = []
        thread = threading.Thread(target=lambda: found.append(self.conductor.run()), daemon=True)
        thread.start()
        for name, gated in list(self.gated.items()):
            if not gated and self.states[name] == "active":
                self.finish(name)
        thread.join(30)
        assert found, f"still running; said {self.said}"
        return found[0]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield Stage(tmp_path, monkeypatch, partial=False)


def test_a_study_runs_in_order(stage: Stage) -> None:
    stage.start()
    found = stage.run()
    assert len(found.done) == 5 and not found.failed
    order = [name.removeprefix("job-") for name in stage.order]
    assert sorted(order) == ["aggregate", "couple", "evaluate", "extract"]
    assert order.index("couple") < order.index("evaluate") < order.index("aggregate")


def test_a_failure_is_told_and_the_rest_goes_on(stage: Stage) -> None:
    stage.fails = {"couple"}
    stage.start()
    found = stage.run()
    assert {n.removeprefix("job-") for n in found.done} == {"train", "extract"}
    fates = {n.removeprefix("job-"): stage.conductor.fate(n, c) for n, c in found.failed.items()}
    assert {name: (state, cause.reason) for name, (state, cause) in fates.items()} == {
        "couple": (JobState.FAILED, Reason.USER_ERROR),
        "evaluate": (JobState.NOT_RUN, Reason.INPUTS_FAILED),
        "aggregate": (JobState.NOT_RUN, Reason.INPUTS_FAILED),
    }
    ends = {line["node"]: line for line in stage.said if line["event"] is RunEvent.END}
    assert ends["train"]["state"] is JobState.DONE and ends["train"]["nodes"] == ["train"]
    assert ends["evaluate"]["reason"] is Reason.INPUTS_FAILED


def test_a_new_conductor_goes_on_where_another_died(stage: Stage) -> None:
    for name in ("job-train", "job-couple"):
        stage.conductor = type("None", (), {"inbox": type("Q", (), {"put": lambda *_: None})()})()
        stage.finish(name)
        stage.gated[name] = False
    stage.start()
    assert len(stage.run().done) == 5
    assert "job-couple" not in stage.order and "job-evaluate" in stage.order


def test_no_artifact_no_release(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personaspace.cluster.conductor.artifact_checks.PAUSE_SECONDS", 0.01)
    stage.forgets = {"train"}
    stage.start()
    found = stage.run()
    assert stage.order == [] and len(found.failed) == 5
    assert found.failed["job-train"].reason is Reason.ARTIFACT_MISSING


@pytest.mark.slow
def test_a_store_in_trouble_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personaspace.cluster.conductor.artifact_checks.TROUBLE_SECONDS", 0.05)
    real, tries = stage.reader.find, [0]

    def flaky(key: str) -> Any:
        tries[0] += 1
        if tries[0] <= 3:
            raise (
                UnavailableError("no S3 server answers") if tries[0] > 1 else UserError("no bucket")
            )
        return real(key)

    monkeypatch.setattr(stage.reader, "find", flaky)
    stage.start()
    assert len(stage.run().done) == 5 and tries[0] > 3
    assert stage.trouble(Trouble.STORE)


@pytest.mark.slow
def test_a_bucket_that_stays_away_ends_the_run(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personaspace.cluster.conductor.artifact_checks.TROUBLE_SECONDS", 0.05)

    def gone(key: str) -> Any:
        raise UserError("bucket study does not exist")

    monkeypatch.setattr(stage.reader, "find", gone)
    stage.start(patience=0.3)
    found = stage.run()
    assert found.failed["job-train"] == Cause(Reason.STORE, "bucket study does not exist", "train")
    assert len(found.failed) == 5


@pytest.mark.slow
def test_a_patch_that_fails_is_sent_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personaspace.cluster.conductor.patches.RETRY_SECONDS", 0.2)
    tries = [0]

    def flaky(api: Any, pod: PodView) -> None:
        tries[0] += 1
        if tries[0] == 1:
            raise ApiException(status=500, reason="etcd is away")
        stage.lift(api, pod)

    monkeypatch.setattr(actions, "lift_gate", flaky)
    stage.start()
    began = time.monotonic()
    assert len(stage.run().done) == 5 and tries[0] == 5
    assert time.monotonic() - began < 20
    (line,) = stage.trouble(Trouble.PATCH)
    assert "etcd is away" in line["message"]


def test_a_patch_that_is_slow_is_not_sent_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else, with an API that takes its time, copies wait in line before what is new."""
    monkeypatch.setattr("personaspace.cluster.conductor.patches.AGAIN_SECONDS", 0.1)

    def slow(api: Any, pod: PodView) -> None:
        for _ in range(3):
            time.sleep(0.15)
            stage.conductor.inbox.put(Changed("pods", pod))  # news, so that it decides anew
        stage.lift(api, pod)

    monkeypatch.setattr(actions, "lift_gate", slow)
    stage.start()
    assert len(stage.run().done) == 5
    assert stage.conductor.patches == 4


def test_a_store_that_is_none_ends_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(process, "connect", lambda *_, **__: Api())
    monkeypatch.setattr(process, "_load_plan", lambda _: a_plan())
    monkeypatch.setattr(process, "_end_all", lambda cluster, release, why: ended.append(why))
    monkeypatch.setattr("personaspace.interrupt.install", lambda grace: None)
    with pytest.raises(UserError, match="ftp://x"):
        process._conduct(process.Settings("em205", Path("j"), Path("s"), "ftp://x"))
    assert len(ended) == 1 and "ftp://x" in ended[0]


@pytest.mark.slow
def test_a_crash_is_no_verdict_and_may_pass() -> None:
    """The conductor starts again in its pod, three times; a pod that fails would end its Job."""
    program = """
import pathlib
from personaspace.cli.guard import as_job
from personaspace.cluster.conductor import process
def crash(_):
    raise RuntimeError("a bug")
process._conduct, process.CRASH_SECONDS = crash, 0.01
as_job(process.conduct)(process.Settings("em205", pathlib.Path("j"), pathlib.Path("s"), ""))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 70 and done.stderr.count("RuntimeError: a bug") == 4
    in_json = {**os.environ, "PERSONASPACE_LOG": "json", "PERSONASPACE_CRASHES": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=in_json
    )
    entry = json.loads(done.stdout)
    assert (done.returncode, entry["event"], done.stderr) == (70, "error", "")
    assert entry["traceback"].splitlines()[-1] == "RuntimeError: a bug"


def test_the_last_table_is_json_lines_where_the_log_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONASPACE_LOG", "json")
    stage.fails = {"couple"}
    stage.start()
    with pytest.raises(SystemExit):
        process._verdict(stage.conductor, stage.run())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()][-4:]
    assert [line.get("node") for line in lines] == [None, "couple", "evaluate", "aggregate"]
    assert (lines[1]["state"], lines[1]["reason"]) == (JobState.FAILED, Reason.USER_ERROR)


def test_a_job_without_a_store_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study_dict: dict[str, Any], write_spec: Any
) -> None:
    from typer.testing import CliRunner

    from jobs.stages import app

    monkeypatch.delenv("PERSONASPACE_STORE", raising=False)
    monkeypatch.setenv("PERSONASPACE_TERMINATION_LOG", str(tmp_path / "message"))
    arguments = ["train", "--spec", str(write_spec(study_dict)), "--condition", "x", "--seed", "42"]
    shown = CliRunner().invoke(app, arguments)
    said = "store: the URL is empty; it comes from --store or PERSONASPACE_STORE"
    assert (shown.exit_code, shown.stderr.strip()) == (2, said)
    people, ending = termination.read((tmp_path / "message").read_text())
    assert people == f"train:x:42: {said}"
    assert ending == Ending(node="train:x:42", code=Code.USER_ERROR, text=said)
    monkeypatch.setenv("PERSONASPACE_LOG", "json")
    shown = CliRunner().invoke(app, arguments)
    entry = json.loads(shown.stderr)
    assert (entry["event"], entry["message"]) == ("error", said)


# --- the plan -------------------------------------------------------------------------------------


def test_the_plan_is_the_graph(study_dict: dict[str, Any], write_spec: Any) -> None:
    from personaspace.pipeline import graph
    from personaspace.study.load import load_study

    path = write_spec(study_dict)
    built = graph.build(load_study(path))
    table = {f"job-{n}": [node.id] for n, node in enumerate(built.nodes) if node.stage != "report"}
    table[f"job-{len(built.nodes) - 2}"] = ["aggregate", "report"]
    found = plan.make(path, table)
    for name, nodes in table.items():
        node = next(n for n in built.nodes if n.id == nodes[0])
        assert found.needs[name] == [need.id for need in built.needs[node]]
    places = {name: number for number, name in enumerate(found.jobs)}
    for name, needs in found.needs.items():
        assert all(places[found.job_of[need]] < places[name] for need in needs)


def test_chart_and_code_that_disagree_are_told_apart(
    study_dict: dict[str, Any], write_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_spec(study_dict)
    with pytest.raises(SpecErrors, match="chart and code disagree about"):
        plan.make(path, {"job": ["train:nobody:1"]})
    monkeypatch.setenv("PERSONASPACE_SPEC_SCHEMA", "0" * 64)
    with pytest.raises(SpecErrors, match="of different versions"):
        plan.make(path, {})


def test_a_model_that_cannot_serve_costs_no_gpu(
    tiny_model: Path,
    study_dict: dict[str, Any],
    write_spec: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(DATED)
    study_dict["model"]["name"] = str(folder)
    with pytest.raises(UserError, match=r"^model\.date: "):
        plan.make(write_spec(study_dict), {})
    # Nothing is said where the hub may not be asked; one that is away is waited for.
    study_dict["model"] = {"name": "some/model", "revision": "0" * 40}
    study_dict["extraction"]["layers"] = "all"
    study = load_study(write_spec(study_dict))
    plan.check_model(study)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def away(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect") from LocalEntryNotFoundError("nothing cached")

    monkeypatch.setattr("transformers.utils.hub.cached_file", away)
    with pytest.raises(UnavailableError, match="some/model"):
        plan.check_model(study)


@pytest.mark.slow
def test_what_a_user_must_mend_is_final_and_a_bucket_that_is_away_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, table = tmp_path / "study.yaml", tmp_path / "jobs.json"
    table.write_text("{}")

    def final(text: str, said: str) -> bool:
        spec.write_text(text)
        with pytest.raises(plan.PlanFailedError, match=said) as caught:
            plan.load(spec, table)
        return caught.value.final

    assert final("seeds: [x]\n", r"seeds\[0\]")
    assert final("model: {name: /no/where}\n", "/no/where: no such folder")

    read = sources.read_bytes

    def away(source: str, *how: Any, **more: Any) -> bytes:
        if source.startswith("builtin:chats"):
            raise StoreUnavailable("no S3 server answers at x")
        return read(source, *how, **more)

    monkeypatch.setattr("personaspace.study.sources.read_bytes", away)
    spec.write_text("{}")
    with pytest.raises(SystemExit) as ended:
        plan._main(str(spec), str(table))
    assert ended.value.code == 69
    assert capsys.readouterr().err == "datasets.bad-legal-advice: no S3 server answers at x\n"


def test_a_hub_that_is_away_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from personaspace.study import datasets as reading
    from personaspace.study.inputs import Dataset

    def load(error: Exception) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", fail)
        reading.load(Dataset(hub="a/b", revision="1"), Path("/"))

    for error in (ConnectionError("Couldn't reach the Hub"), TimeoutError("slow")):
        with pytest.raises(UnavailableError, match="hub data set a/b@1: "):
            load(error)
    for wrong in (FileNotFoundError("no such data set"), ValueError("no config")):
        with pytest.raises(UserError) as caught:
            load(wrong)
        assert not isinstance(caught.value, UnavailableError)
