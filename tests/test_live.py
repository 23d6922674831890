"""The live page: what it serves and to whom, and what it shows of runs, stores and releases."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import nullcontext
from dataclasses import replace
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import stand_in_api
import yaml
from browsers import Tab, tab_of
from conftest import Finished
from stand_in_api import Api

from personaspace import load_study
from personaspace.cli.live import StoreSource
from personaspace.errors import UserError
from personaspace.live import Address, Cell, LivePage, Look, Losses, Snapshot, address, server
from personaspace.logs import log_line
from personaspace.pipeline.stages.train import Checkpointing, checkpoints_of
from personaspace.pipeline.work import prepare
from personaspace.store import open_store
from personaspace.training import STEPS

HOSTILE = "<img src=x onerror='window.bad = 1'><script>window.bad = 2</script>"
CURVE: Losses = [(step, 3.0 / step) for step in range(1, 41)]


class Given:
    """A source that says what it was given."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.given = snapshot
        self.fails = ""
        self.reads = 0

    def snapshot(self) -> Snapshot:
        self.reads += 1
        if self.fails:
            raise UserError(self.fails)
        return self.given

    def losses(self, node: str) -> Losses:
        return CURVE

    def log(self, node: str) -> str:
        return f"what {node} said\n"


def cell(node: str, look: Look, state: str = "", **more: Any) -> Cell:
    stage, condition, seed = node.split(":") if ":" in node else (node, "", "-1")
    trains = stage in ("train", "couple")
    return Cell(node, stage, condition, int(seed), look, state or str(look), trains=trains, **more)


def study() -> Snapshot:
    running = cell("train:e4-villain:42", Look.RUNNING, what="train", done=20, total=375, left=90.0,
                   note="loss 0.150", ran=12.0)  # fmt: skip
    return Snapshot(
        "em-205",
        [
            cell("train:benign:42", Look.DONE, ran=130.0),
            running,
            cell("extract:benign:42", Look.FAILED, why=f"cannot read [/x] :ghost: {HOSTILE}"),
            cell("extract:e4-villain:42", Look.WAITING, why="for train:e4-villain:42"),
            cell("aggregate", Look.WAITING, why="for 2 stages"),
        ],
        notices=["sample chats"],
        left=600.0,
        left_whole=False,
    )


def get(url: str, **headers: str) -> tuple[int, str, Any]:
    asked = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8080", Address("127.0.0.1", 8080)),
        (":0", Address("127.0.0.1", 0)),
        ("localhost:81", Address("localhost", 81)),
        ("0.0.0.0:8080", Address("0.0.0.0", 8080)),
        ("[::1]:9", Address("::1", 9)),
    ],
)
def test_addresses(text: str, wanted: Address) -> None:
    assert address(text) == wanted
    assert wanted.local is (wanted.host != "0.0.0.0")


@pytest.mark.parametrize(
    "text",
    ["", "x", "65536", "-1", "8080 ", "lab.org:80", "::1:80", "1.2.3:80", "٨٠", "[]:1:2"],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(UserError, match=r"^--serve: .* is not a port") as told:
        address(text)
    assert "\n" not in str(told.value)


def test_state_and_losses_are_served_and_nothing_else() -> None:
    source = Given(study())
    with LivePage(source, Address("127.0.0.1", 0), every=60) as page:
        status, text, headers = get(page.where.url)
        nonce = re.search(r"script-src 'nonce-([\w-]+)'", headers["Content-Security-Policy"])
        assert status == 200 and nonce and text.count(f'nonce="{nonce[1]}"') == 2
        assert get(page.where.url)[1] != text, "a nonce is used once"
        for _ in range(5):
            status, text, headers = get(page.where.url + "state.json")
        assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        assert json.loads(text) == study().as_json()
        assert source.reads == 1, "however many look, it is read once in a while"
        at = page.where.url + "losses.json?node="
        assert json.loads(get(at + "train:benign:42")[1]) == [list(pair) for pair in CURVE]
        assert json.loads(get(at + "extract:benign:42")[1]) == []
        assert json.loads(get(at + "../../etc/passwd")[1]) == []
        assert get(page.where.url + "etc/passwd")[0] == 404
    with pytest.raises(urllib.error.URLError):
        get(page.where.url)


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    class Long(Given):
        def losses(self, node: str) -> Losses:
            return [(step, 1.0) for step in range(1, 10_002)]

    with LivePage(Long(study()), Address("127.0.0.1", 0)) as page:
        found = json.loads(get(page.where.url + "losses.json?node=train:benign:42")[1])
    steps = [step for step, _ in found]
    assert 300 <= len(steps) <= 400 and steps[-1] == 10_001
    assert {b - a for a, b in pairwise(steps)} == {26}


def test_what_cannot_be_read_is_told_with_what_was_known() -> None:
    source = Given(study())
    with LivePage(source, Address("127.0.0.1", 0), every=0) as page:
        source.fails = "the cluster does not answer at https://me:canary@host"
        found = json.loads(get(page.where.url + "state.json")[1])
        assert (found["cells"], "not answer" in found["trouble"]) == ([], True)
        source.fails = ""
        assert json.loads(get(page.where.url + "state.json")[1]) == study().as_json()
        source.fails = "away at https://me:canary@host"
        found = json.loads(get(page.where.url + "state.json")[1])
        assert found.pop("trouble").startswith("away") and "canary" not in str(found)
        assert found == {k: v for k, v in study().as_json().items() if k != "trouble"}


def test_a_page_for_this_machine_is_not_read_under_another_name() -> None:
    with LivePage(Given(study()), Address("127.0.0.1", 0)) as page:
        port = page.where.port
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", "localhost"):
            assert get(page.where.url + "state.json", Host=host)[0] == 200
        for host in (f"evil.example:{port}", f"localhost.evil.example:{port}", "evil.example"):
            status, text, _ = get(page.where.url + "state.json", Host=host)
            assert status == 403 and "em-205" not in text
    with LivePage(Given(study()), Address("0.0.0.0", 0)) as page:
        connection = HTTPConnection("127.0.0.1", page.where.port, timeout=20)
        connection.request("GET", "/state.json", headers={"Host": "lab.example"})
        assert connection.getresponse().status == 200


def test_who_goes_before_the_answer_is_no_trouble(capfd: pytest.CaptureFixture[str]) -> None:
    asked, gone = threading.Event(), threading.Event()

    class Slow(Given):
        def snapshot(self) -> Snapshot:
            asked.set()
            assert gone.wait(20)
            return super().snapshot()

    with LivePage(Slow(study()), Address("127.0.0.1", 0), every=0) as page:
        with socket.create_connection(("127.0.0.1", urlsplit(page.where.url).port or 0)) as looker:
            looker.sendall(b"GET /state.json HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert asked.wait(20)
            # Closed by a reset, as by a browser that has half of what it asked for.
            looker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()
        for _ in range(5):
            assert get(page.where.url + "state.json")[0] == 200
            time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(
            UserError, match=r"^--serve: cannot listen on http://127\.0\.0\.1:\d+/: "
        ):
            LivePage(Given(study()), where)


@pytest.mark.parametrize(
    ("fails", "looks", "ended"),
    [
        (False, [Look.DONE], "complete"),
        (False, [Look.DONE, Look.FAILED], "failed"),
        (True, [Look.RUNNING], "failed"),
    ],
)
def test_who_looks_is_told_the_end_of_a_run(
    fails: bool, looks: list[Look], ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [cell(f"train:{place}:42", look) for place, look in enumerate(looks)]
    source = Given(Snapshot("em-205", cells))
    monkeypatch.setattr(server, "LAST_LOOK", 1.0)
    told: list[Any] = []
    began = threading.Event()

    def look(url: str) -> None:
        while True:
            try:
                told.append(json.loads(get(url + "state.json")[1]))
            except OSError:
                return
            began.set()
            time.sleep(0.1)

    def served() -> None:
        with LivePage(source, Address("127.0.0.1", 0), 60, of_run=True) as page:
            thread.append(threading.Thread(target=look, args=(page.where.url,)))
            thread[0].start()
            assert began.wait(20)
            if fails:
                raise ValueError("of the run")

    thread: list[threading.Thread] = []
    with pytest.raises(ValueError, match="of the run") if fails else nullcontext():
        served()
    thread[0].join()
    assert told[0]["ended"] is None and told[-1]["ended"] == ended
    wanted = ["stopped" if look is Look.RUNNING else str(look) for look in looks]
    assert [each["look"] for each in told[-1]["cells"]] == wanted, "nothing runs any more"


def test_nobody_who_looks_is_not_waited_for() -> None:
    before = time.monotonic()
    with LivePage(Given(study()), Address("127.0.0.1", 0), of_run=True):
        pass
    assert time.monotonic() - before < server.LAST_LOOK


# --- in a browser --------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_page_is_accessible_quiet_and_as_wide_as_the_window(
    browser: Any, width: int, scheme: str
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    source = Given(study())
    with LivePage(source, Address("127.0.0.1", 0), every=0) as page:
        tab: Tab = tab_of(browser, page.where.url, width, scheme)
        opened = tab.open()
        says = playwright.expect
        says(opened.locator("#far")).to_have_text(
            "1 of 5 stages complete, 1 failed, more than 10 min 0 s left"
        )
        says(opened.locator("#running h3")).to_have_text("train:e4-villain:42")
        far = "train 20 of 375, about 1 min 30 s left, loss 0.150, 12 s so far"
        says(opened.locator("#running p").first).to_have_text(far)
        says(opened.locator("#running svg")).to_have_attribute(
            "aria-label", "loss of train:e4-villain:42: 3.00 at step 1, 0.0750 at step 40"
        )
        says(opened.locator("#ended li")).to_contain_text(HOSTILE)  # as text
        opened.get_by_role("button", name="loss of train:benign:42").click()
        says(opened.locator("#chosen h3")).to_have_text("train:benign:42")
        assert tab.faults() == []
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.evaluate("window.bad") is None
        # It follows, and what has the keyboard's focus keeps it.
        done = replace(study().cells[1], look=Look.DONE, state="done")
        source.given = replace(study(), cells=[study().cells[0], done, *study().cells[2:]])
        says(opened.locator("#far")).to_contain_text("2 of 5")
        says(opened.locator("#now")).to_be_hidden()
        assert opened.evaluate("document.activeElement.dataset.node") == "train:benign:42"
        assert (tab.said, tab.elsewhere()) == ([], [])
    says(opened.locator("#trouble")).to_contain_text("does not answer", timeout=15_000)
    opened.context.close()


# --- what it is given ----------------------------------------------------------------------------


def _started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A command that serves a page, and where."""
    process = subprocess.Popen(
        [sys.executable, "-m", "personaspace", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"live page: (\S+)", line):
            return process, found[1]
    raise AssertionError(process.communicate())


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_is_shown_from_start_to_end(
    finished_study: Finished, tmp_path: Path, jobs: str
) -> None:
    values = finished_study.values
    values = {**values, "training": {**values["training"], "max_steps": None, "epochs": 40}}
    (spec := tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    only = ["--only", "train:benign", "--only", "train:e0-assistant"]
    process, url = _started(
        "run", str(spec), "--store", str(tmp_path / "store"), *only, "--serve", "0", "--jobs", jobs
    )
    seen: list[dict[str, Any]] = []
    curves: list[Any] = []
    try:
        while process.poll() is None:
            try:
                state = json.loads(get(url + "state.json")[1])
                curve = json.loads(get(url + "losses.json?node=train:benign:42")[1])
            except (OSError, ValueError):
                break  # it ends
            seen.append(state)
            curves.append(curve)
            time.sleep(0.1)
    finally:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert {state["study"] for state in seen} == {"tiny"} and not any(s["trouble"] for s in seen)
    benign = [next(c for c in s["cells"] if c["node"] == "train:benign:42") for s in seen]
    looks = list(dict.fromkeys(each["look"] for each in benign))
    assert looks in (["ready", "running", "done"], ["running", "done"])
    told = [each for each in benign if each["what"] == "train"]
    dones = [each["done"] for each in told]
    assert dones == sorted(dones) and 0 < dones[-1] <= told[0]["total"] == 160
    log = next(p for p in (tmp_path / "store").rglob("training.json") if "benign" in str(p))
    kept = [[step["step"], step["loss"]] for step in json.loads(log.read_text())["steps"]]
    assert curves[-1] and curves[-1] == kept[: len(curves[-1])]


@pytest.mark.slow
def test_a_store_is_shown_until_told_to_stop(finished_study: Finished) -> None:
    process, url = _started(
        "status", str(finished_study.spec), "--store", str(finished_study.store), "--serve", "0"
    )
    try:
        state = json.loads(get(url + "state.json")[1])
        curve = json.loads(get(url + "losses.json?node=couple:base:42")[1])
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert {c["look"] for c in state["cells"]} == {"done"} and len(state["cells"]) == 17
    assert [step for step, _ in curve] == list(range(1, len(curve) + 1)) and len(curve) >= 3


def test_a_training_that_another_process_runs_is_shown_by_its_checkpoint(
    finished_study: Finished, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path))
    work = prepare(load_study(finished_study.spec), store)
    node = next(each for each in work.graph.nodes if each.id == "train:benign:42")
    source = StoreSource(work)

    def seen() -> Cell:
        return next(each for each in source.snapshot().cells if each.node == node.id)

    assert (seen().look, seen().why, source.losses(node.id)) == (Look.READY, "", [])
    kept = Checkpointing(store, work.key(node), pytest.fail)
    kept.last = 40
    log = [{"step": step, "loss": 2.0 / step} for step in range(1, 21)]
    with store.writer(work.key(node)):
        assert (seen().look, seen().total) == (Look.RUNNING, 0), "it has kept nothing yet"
        kept.save(20, lambda folder: _text(folder / STEPS, json.dumps(log)))
        now = seen()
        assert (now.look, now.done, now.total, now.steps) == (Look.RUNNING, 20, 40, 40)
        assert source.losses(node.id) == [(step, 2.0 / step) for step in range(1, 21)]
        store.delete(checkpoints_of(store, work.key(node))[0])
        assert seen().done == 20, "while it is replaced, the last one is what is known"
        kept.save(30, lambda folder: _text(folder / STEPS, json.dumps(log * 2)))
    now = seen()
    assert (now.look, now.why) == (Look.READY, "goes on after step 40 of 40: a checkpoint is kept")


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def test_a_release_is_shown_as_its_cluster_has_it(api: Api) -> None:
    from personaspace.cli.live import ReleaseSource
    from personaspace.cluster.api import connect

    stand_in_api.study(api)
    losses = [(30, 1.5), (60, 1.25)]
    for step, loss in losses:
        fields = {"what": "steps", "done": step, "total": 120, "loss": loss}
        line = log_line("as it pleases", "progress", True, node="couple:x:42", **fields)
        api.logs["em205-couple-abcde"] += f"{line}\n"
    source = ReleaseSource(connect("", "", ""), "em205", ["--context", "here"])
    found = {each.node: each for each in source.snapshot().cells}
    assert {node: each.look for node, each in found.items()} == {
        "train:x:42": Look.DONE,
        "extract:x:42": Look.READY,
        "couple:x:42": Look.RUNNING,
        "evaluate:x:42": Look.WAITING,
        "aggregate": Look.WAITING,
        "conductor": Look.RUNNING,
    }
    couple = found["couple:x:42"]
    assert (couple.what, couple.done, couple.total) == ("steps", 60, 120)
    assert "Insufficient" in found["extract:x:42"].why
    wanted = "personaspace logs em205 x --stage couple --seed=42 --namespace lab --context here"
    assert couple.log == wanted
    assert source.losses("couple:x:42") == losses
    assert source.losses("train:x:42") == []
    assert (couple.tokens_per_second, couple.gpu_memory, couple.steps) == (None, None, 0)
    fields |= {"done": 90, "tokens_per_second": 1234.5, "gpu_memory": 7}
    line = log_line("as it pleases", "progress", True, node="couple:x:42", **fields)
    api.logs["em205-couple-abcde"] += f"{line}\n"
    (couple,) = (each for each in source.snapshot().cells if each.node == "couple:x:42")
    assert (couple.tokens_per_second, couple.gpu_memory, couple.steps) == (1234.5, 7, 120)
    with LivePage(source, Address("127.0.0.1", 0)) as page:
        at = page.where.url + "log.txt?node="
        status, text, headers = get(at + "couple:x:42")
        assert status == 200 and headers["Content-Type"].startswith("text/plain")
        assert text.splitlines()[-1].endswith(" as it pleases") and "{" not in text
        assert get(at + "evaluate:x:42")[0] == 404, "that has not run"
        assert get(at + "em205-couple-abcde")[0] == 404


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status", "em205", "--serve", "http"], "--serve: 'http' is not a port"),
        (["status", "em205", "--serve", ""], "--serve: '' is not a port"),
        (["status", "em205", "--serve", "80", "--json"], "--serve: does not go with"),
        (["run", "study.yaml", "--serve", "80", "--plan"], "--serve: does not go with --plan"),
        (["run", "study.yaml", "--serve", "no:80"], "--serve: 'no:80' is not a port"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_read(arguments: list[str], says: str) -> None:
    done = stand_in_api.run(*arguments)
    assert done.exit_code == 2 and says in done.stderr and done.stderr.count("\n") == 1
