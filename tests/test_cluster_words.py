"""What people read of a release, word by word, in tests/golden/cluster-words.txt; and its form.

Other tests assert states, reasons and fields. Text from outside is printed as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from golden import golden
from stand_in_api import Api, complete, job, left, pod, run, study
from test_cluster_waiting import CREATING, MOUNT, SECRET, conductor, warning
from test_conductor import Api as Patched
from test_conductor import Stage

from personaspace.cluster import ages
from personaspace.cluster.check import run_check
from personaspace.cluster.conductor import process
from personaspace.cluster.conductor.missing_jobs import WithoutPod
from personaspace.cluster.conductor.news import Patched as PatchAnswered
from personaspace.cluster.conductor.news import StoreTrouble, WatchTrouble
from personaspace.cluster.reachability import check_reachable
from personaspace.cluster.states import Reason
from personaspace.errors import UserError
from personaspace.pipeline.termination import Code, Ending

#: What a terminal's markup would eat, colour or turn into a picture.
HOSTILE = "cannot read [/data/model] [/x] :ghost: [bold]"


class Book:
    """Texts under headings."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, heading: str, text: str) -> None:
        lines = (line.rstrip() for line in text.strip("\n").splitlines())
        plain = re.sub(r"\d\d:\d\d:\d\d", "hh:mm:ss", "\n".join(lines))
        self.text += f"## {heading}\n{plain}\n\n"

    def command(self, heading: str, *arguments: str) -> None:
        shown = run(*arguments)
        said = f"{shown.stdout}{shown.stderr}".replace(f"{Path.cwd()}/", "")
        told = f"$ personaspace {' '.join(arguments)}\n{said}"
        self.add(heading, f"{told}exit code {shown.exit_code}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_word_of_a_release(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ages, "now", lambda: datetime(2026, 11, 24, 10, 30, tzinfo=UTC))
    book = Book()
    for tell in (_status, _commands):
        tell(api, book, monkeypatch)
    _reachability(book)
    _conductor(book, tmp_path, monkeypatch, capsys)
    _check(book, tmp_path, capsys)
    golden("cluster-words.txt", book.text)


def _status(api: Api, book: Book, _: pytest.MonkeyPatch) -> None:
    study(api)
    book.command("a study in the middle", "status", "em205")
    api.objects["jobs"][-1] = job("conductor", "", state="Complete")
    book.command("no conductor", "status", "em205")
    api.objects["jobs"][-1] = job("conductor", "", state="Failed")
    book.command("a failed conductor", "status", "em205")
    api.objects["jobs"][-1] = job("conductor", "")
    api.objects["jobs"][0] = job("train", state="Failed", reason="BackoffLimitExceeded")
    ending = Ending(node="train:x:42", code=Code.USER_ERROR, text="training.rank: not a number")
    ended = left(ending, f"train:x:42: {ending.text}", 2, "Error")
    api.objects["pods"].append(pod("train", phase="Failed", containerStatuses=ended))
    gone = {"state": "Failed", "reason": Reason.INPUTS_FAILED, "message": "train:x:42 failed"}
    api.objects["jobs"][1] = job("extract", needs="train:x:42", **gone)
    api.objects["jobs"][2] = job("couple")
    api.objects["jobs"][2]["status"]["failed"] = 1
    killed = [{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]
    api.objects["pods"][1] = pod("couple", phase="Failed", containerStatuses=killed)
    book.command("failures", "status", "em205")
    own = conductor(api, containerStatuses=[{"state": {"waiting": SECRET}}])
    book.command("a conductor without its secret", "status", "em205")
    book.command("the same for who waits", "wait", "em205", "--timeout", "0.01")
    own["status"]["containerStatuses"] = CREATING
    book.command("a conductor that starts", "status", "em205")
    api.objects["events"] = [warning("conductor", "FailedMount", MOUNT, 9)]
    book.command("a conductor without its volume", "status", "em205")
    api.objects["events"] = []
    api.objects["pods"].pop()
    book.command("a conductor without a pod", "status", "em205")
    message = "exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2"
    about = {"kind": "Job", "name": "em205-conductor"}
    refused = {"reason": "FailedCreate", "involvedObject": about, "message": message}
    api.objects["events"] = [{"metadata": {"name": "e"}, **refused}]
    book.command("a quota", "status", "em205")
    api.objects["events"] = []
    api.objects["pods"].append(pod("conductor", "", phase="Running"))
    found = job("train")
    found["spec"]["suspend"] = True
    found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    api.objects["jobs"][0] = found
    api.objects["jobs"].pop(2)  # couple, by its time to live
    api.objects["jobs"][1]["metadata"]["annotations"]["personaspace.dev/needs"] = ""
    book.command("a queue, and Jobs that are gone", "status", "em205", "--json")


def _commands(api: Api, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    api.objects |= {"jobs": [], "pods": []}
    book.command("no release", "status", "em205")
    study(api)
    for arguments in (
        ("results", "em205"),
        ("logs", "em205", "nobody"),
        ("logs", "em205", "x", "--stage", "evaluate"),
        ("logs", "em205", "x"),
        ("rerun", "em205"),
        ("rerun", "em205", "--failed"),
        ("status", "em205", "--context", "no"),
        ("cancel", "em205"),
    ):
        book.command(arguments[0], *arguments)
    monkeypatch.setenv("PATH", "")
    Path("charts/experiment").mkdir(parents=True)
    Path("charts/experiment/Chart.yaml").write_text("")
    book.command("without helm", "rerun", "em205", "--failed")
    helm = Path("helm")
    helm.write_text("#!/bin/sh\necho null\n")
    helm.chmod(0o755)
    monkeypatch.setenv("PATH", str(Path.cwd()))
    book.command("rerun", "rerun", "em205", "--failed")
    book.command("rerun", "rerun", "em205", "--stage", "train", "--condition", "x", "--seed", "42")
    found = job("aggregate", "", "*", state="Complete")
    found["spec"]["template"]["spec"]["containers"] = [{"env": []}]
    api.objects["jobs"] = [found, job("conductor", "", state="Complete")]
    book.command("the aggregate's pod is gone", "results", "em205")
    ended = complete(aggregate="aggregate/0123456789abcdef")
    api.objects["pods"] = [pod("aggregate", "", phase="Succeeded", containerStatuses=ended)]
    book.command("no store", "results", "em205")
    book.command("nothing left", "cancel", "em205")
    for status in (401, 403, 500):
        api.status = status
        told = run("status", "em205").stderr
        book.add(f"HTTP {status}", re.sub(r"http://[\d.:]+", "http://server", told))
    monkeypatch.setenv("KUBECONFIG", "none")
    book.command("no kubeconfig", "status", "em205")


def _reachability(book: Book) -> None:
    with pytest.raises(UserError) as caught:
        check_reachable("s3://bucket/x?endpoint=http://minio.s3.svc:9000", "em205", "lab", [])
    book.add("a bucket inside the cluster", str(caught.value))


def _conductor(
    book: Book,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = folder / "message"
    monkeypatch.setenv("PERSONASPACE_TERMINATION_LOG", str(message))

    def section(heading: str, act: Callable[[], Any]) -> None:
        capsys.readouterr()
        act()
        book.add(heading, capsys.readouterr().out)

    def unreadable() -> None:
        raw = {"metadata": {"name": "a", "uid": "a", "labels": {}}, "spec": {}, "status": {}}
        cluster = Patched()
        lists: dict[str, list[Any]] = {"jobs": [raw], "pods": []}
        monkeypatch.setattr(Patched, "items", lambda _, what, **__: lists[what], raising=False)
        process._end_all(cluster, "em205", "seeds[0]: not a number")  # type: ignore[arg-type]
        print(cluster.calls[0][2]["status"]["conditions"][0]["message"])

    section("a study that cannot be read", unreadable)
    stage = Stage(folder, monkeypatch, partial=False)
    stage.start()

    def troubles() -> None:
        stage.conductor._apply(StoreTrouble("train", "no S3 server answers", 1.0))
        stage.conductor._apply(PatchAnswered("job-train", "etcd is away"))
        stage.conductor._apply(WatchTrouble("jobs", "connection refused"))
        need = {"pods": "4", "requests.cpu": "6", "limits.memory": "6Gi"}
        stage.conductor._tell_podless(WithoutPod(["job-train"], need, running=False))
        stage.conductor.say(stage.conductor.summary())

    section("a conductor in trouble", troubles)

    for fails in (set[str](), {"couple"}):
        stage = Stage(folder / f"study{len(fails)}", monkeypatch, partial=False)
        stage.fails = fails
        stage.start()

        def end(stage: Stage = stage) -> None:
            decision = stage.run()
            capsys.readouterr()  # the lines before come in any order
            try:
                process._verdict(stage.conductor, decision)
            except SystemExit as ended:
                print(f"exit code {ended.code}")
            print(f"message:\n{message.read_text()}")

        section(f"the end of a study in which {fails or 'nothing'} failed", end)

    for reason in (Reason.ARTIFACT_MISSING, Reason.OTHER_FINGERPRINT):
        found = stage.conductor._checker._fault(
            "train", None if reason is Reason.ARTIFACT_MISSING else object(), "f"
        )
        assert found and found.reason is reason
        book.add(f"fault: {reason}", found.text)


def _check(book: Book, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    spec = folder / "study.yaml"
    spec.write_text("name: mine\nmodel: {name: /no/where}\n")
    with pytest.raises(UserError):
        run_check(spec, str(folder / "store"), gpu=False)
    told = capsys.readouterr().out.replace(str(folder), "")
    book.add("helm test", re.sub(r"personaspace [\d.]+\S*", "personaspace VERSION,", told))


def test_helm_tests_check_logs_json_lines_where_logs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONASPACE_LOG", "json")
    spec = tmp_path / "study.yaml"
    spec.write_text("name: mine\nmodel: {name: /no/where}\n")
    with pytest.raises(UserError):
        run_check(spec, str(tmp_path / "store"), gpu=False)
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["checked"] for entry in entries] == ["code", "store"]


# --- text from outside ----------------------------------------------------------------------------


def test_nothing_that_a_cluster_says_is_markup(api: Api) -> None:
    study(api)
    ending = Ending(node="train:x:42", code=Code.ERROR, text=f"OSError: {HOSTILE}")
    ended = left(ending, f"train:x:42: {ending.text}", 1, "Error")
    api.objects["jobs"][0] = job("train", state="Failed", reason="BackoffLimitExceeded")
    api.objects["pods"].append(pod("train", phase="Failed", containerStatuses=ended))
    waiting = [{"state": {"waiting": {"reason": "ErrImagePull", "message": HOSTILE}}}]
    api.objects["pods"][0] = pod("extract", containerStatuses=waiting)
    for raw in (*api.objects["jobs"], *api.objects["pods"]):
        if raw["metadata"]["labels"].get("personaspace.dev/condition"):
            raw["metadata"]["labels"]["personaspace.dev/condition"] = ":ghost:"
    shown = run("status", "em205")
    assert shown.exit_code == 0, shown.output
    assert f"train::ghost::42: failed, OSError: {HOSTILE} – exit code 1" in shown.output
    assert f"queued, image: ErrImagePull: {HOSTILE}" in shown.output
    assert "│ :ghost: " in shown.output
    api.objects["jobs"][-1] = job("conductor", "", state="Failed", message=HOSTILE)
    api.objects["pods"][4] = pod("conductor", "", phase="Failed")
    assert HOSTILE in run("wait", "em205").output
    api.logs["em205-couple-abcde"] = f"{HOSTILE}\n"
    assert f"[couple s42] {HOSTILE}" in run("logs", "em205", ":ghost:").output
    api.objects["jobs"] = []
    assert run("status", "[x] :ghost: [bold]").stderr.startswith("[x] :ghost: [bold]: ")
