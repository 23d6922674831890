"""A Kubernetes API that answers with given objects: a real HTTP server, and a kubeconfig to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.cluster import names
from personaspace.logs import log_line
from personaspace.pipeline.termination import Code, Ending

Object = dict[str, Any]


def job(stage: str, condition: str = "x", needs: str = "", state: str = "", **more: Any) -> Object:
    own = {names.CONDITION: condition, names.SEED: "42"} if condition else {}
    nodes = f"{stage}:{condition}:42" if condition else stage.replace("conductor", "")
    conditions = [{"type": state, "status": "True", **more}] if state else []
    return {
        "metadata": {
            "name": f"em205-{stage}",
            "uid": f"uid-{stage}",
            "creationTimestamp": "2026-11-24T10:00:00Z",
            "labels": {names.STAGE: stage, **own},
            "annotations": {names.NODES: nodes, names.NEEDS: needs},
        },
        "spec": {"template": {"spec": {"containers": [{"env": []}]}}},
        "status": {"conditions": conditions},
    }


def pod(stage: str, condition: str = "x", gated: bool = False, **status: Any) -> Object:
    own = {names.CONDITION: condition, names.SEED: "42"} if condition else {}
    return {
        "metadata": {
            "name": f"em205-{stage}-abcde",
            "uid": f"pod-{stage}",
            "creationTimestamp": "2026-11-24T10:00:01Z",
            "labels": {names.STAGE: stage, "job-name": f"em205-{stage}", **own},
        },
        "spec": {"schedulingGates": [{"name": names.GATE}] if gated else []},
        "status": {"phase": "Pending", **status},
    }


def left(ending: Ending, message: str = "", exit_code: int = 0, reason: str = "") -> list[Object]:
    """Statuses of a container that ended and left this as its termination message."""
    text = f"{message or ending.text}\n{ending.model_dump_json(exclude_defaults=True)}"
    ended = {"exitCode": exit_code, "reason": reason, "message": text}
    return [{"state": {"terminated": ended}}]


def complete(**artifacts: str) -> list[Object]:
    """Statuses of an aggregate's container that left these keys."""
    ending = Ending(node="aggregate", code=Code.COMPLETE, artifacts=artifacts)
    return left(ending, "aggregate: done")


class Api(ThreadingHTTPServer):
    """Answers lists, logs and deletions."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, list[Object]] = {
            kind: [] for kind in ("jobs", "pods", "events", "secrets", "configmaps")
        }
        self.logs: dict[str, str] = {}
        #: How the next answers with a log end: after so many lines, well or not.
        self.cuts: list[tuple[int, str]] = []
        self.asked: list[str] = []
        self.deleted: list[str] = []
        self.status = 200
        self.closes = False
        #: What may not be listed.
        self.forbidden: set[str] = set()


def _pairs(selector: str) -> list[tuple[str, str]]:
    parts = (part.partition("=") for part in selector.split(",") if "=" in part)
    return [(name, value) for name, _, value in parts]


def _field(item: Object, path: str) -> Any:
    for name in path.split("."):
        item = item.get(name, {})
    return item


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.split("/")
        if self.server.closes:
            self.close_connection = True  # no answer at all
        elif self.server.status != 200:
            body = {"message": 'jobs is forbidden: User "bob" cannot list', "code": 403}
            self.answer(json.dumps(body), self.server.status)
        elif parts[-1] == "log":
            self.server.asked.append(url.query)
            self.log(parts[-2], parse_qs(url.query))
        elif parts[-1] == "kueue.x-k8s.io":  # there where the cluster has workloads
            there = "workloads" in self.server.objects
            preferred = {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta1"}}
            self.answer(json.dumps(preferred if there else {}), 200 if there else 404)
        elif parts[-2] in self.server.objects:
            named = {item["metadata"]["name"]: item for item in self.server.objects[parts[-2]]}
            found = parts[-1] in named
            self.answer(json.dumps(named[parts[-1]] if found else {}), 200 if found else 404)
        else:
            self.list_of(parts[-1], parse_qs(url.query))

    def list_of(self, what: str, query: dict[str, list[str]]) -> None:
        if what in self.server.forbidden:
            body = {"message": f'{what} is forbidden: User "bob" cannot list', "code": 403}
            self.answer(json.dumps(body), 403)
            return
        labels = _pairs(query.get("labelSelector", [""])[0])
        fields = _pairs(query.get("fieldSelector", [""])[0])
        items = [
            item
            for item in self.server.objects[what]
            if all(
                item["metadata"].get("labels", {}).get(name) == value
                for name, value in labels
                if name not in (names.APP, names.INSTANCE)
            )
            and all(_field(item, path) == value for path, value in fields)
        ]
        self.answer(json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}))

    def log(self, pod: str, query: dict[str, list[str]]) -> None:
        lines = self.server.logs.get(pod, "").splitlines(keepends=True)
        if query.get("timestamps") == ["True"]:
            lines = [f"2026-11-24T10:00:00.{n // 2:09}Z {line}" for n, line in enumerate(lines)]
        if "tailLines" in query:
            lines = lines[len(lines) - int(query["tailLines"][0]) :]
        count, how = self.server.cuts.pop(0) if self.server.cuts else (len(lines), "well")
        text = "".join(lines[:count])
        if how == "broken":  # less than was promised, and half a line
            self.send_response(200)
            self.send_header("Content-Length", str(len(text) + 100))
            self.end_headers()
            self.wfile.write(text.encode() + b"2026-11-24T10:00:00.0")
            self.close_connection = True
            return
        self.answer(text)

    def do_DELETE(self) -> None:
        self.server.deleted.append(self.path.split("/")[-1].partition("?")[0])
        self.answer("{}")

    def answer(self, text: str, status: int = 200) -> None:
        raw = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The server, and a kubeconfig that leads to it."""
    server = Api()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [
            {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "lab"}}
        ],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("COLUMNS", "200")
    yield server
    server.shutdown()
    server.server_close()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


GPU = {
    "type": "PodScheduled",
    "status": "False",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: none.",
}


def study(api: Api) -> None:
    """A study in the middle: every kind of state."""
    began = {"startedAt": "2026-11-24T10:17:00Z"}
    api.objects["jobs"] = [
        job("train", state="Complete"),
        job("extract", needs="train:x:42"),
        job("couple", needs="train:x:42"),
        job("evaluate", needs="train:x:42,couple:x:42"),
        job("aggregate", "", "*"),
        job("conductor", ""),
    ]
    api.objects["pods"] = [
        pod("extract", conditions=[GPU]),
        pod("couple", phase="Running", containerStatuses=[{"state": {"running": began}}]),
        pod("evaluate", gated=True),
        pod("aggregate", "", gated=True),
        pod("conductor", "", phase="Running"),
    ]
    api.logs["em205-couple-abcde"] = (
        log_line("couple:x:42: started", "start", True, node="couple:x:42") + "\n"
        f"{json_progress(30)}\n"
        "something of a library\n"
    )


def json_progress(done: int) -> str:
    """A line of a stage's log, whose words nothing reads."""
    fields = {"what": "steps", "done": done, "total": 120, "left": 182.0, "note": "loss 1.2"}
    return log_line("couple:x:42: as it pleases", "progress", True, node="couple:x:42", **fields)
