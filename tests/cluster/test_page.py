"""The live page as a Deployment: by its own account it reads a release to its end, and no more.

It is looked at in a browser while it runs; the pictures stay in the tests' folder (`--basetemp`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from browsers import tab_of
from kubernetes.client import AuthorizationV1Api

from cluster.conftest import Place
from cluster.release import Release

pytestmark = pytest.mark.timeout(1200)
#: So many take a minute of a quiet core: a step of the small model takes 40 ms.
STEPS = 1500


def _answer(release: Release, path: str, query: dict[str, str]) -> tuple[bytes, Any]:
    """Something of the page, through the API server and the Service; with its headers."""
    space = release.cluster.namespace
    # The client's own method takes a question mark for a part of the path.
    answer, _, headers = release.cluster.core.api_client.call_api(
        f"/api/v1/namespaces/{space}/services/{release.name}-page:http/proxy/{path}",
        "GET",
        query_params=list(query.items()),
        auth_settings=["BearerToken"],
        _preload_content=False,
    )
    return bytes(answer.data), headers


def _ask(release: Release, path: str, **query: str) -> str:
    return _answer(release, path, query)[0].decode()


@contextmanager
def _relayed(release: Release) -> Iterator[str]:
    """The page at an address of this machine, for a browser, which has no key of the cluster."""

    class Relay(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            body, headers = _answer(release, asked.path.lstrip("/"), dict(parse_qsl(asked.query)))
            self.send_response(200)
            for name in ("Content-Type", "Content-Security-Policy"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Relay) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def _looked_at(browser: Any, release: Release, node: str, pictures: Path) -> None:
    """A training's card while it runs: its curve, how far it is and its log, wide and narrow."""
    from playwright.sync_api import expect

    with _relayed(release) as url:
        for width, scheme in ((1280, "light"), (390, "dark")):
            tab = tab_of(browser, url, width, scheme)
            opened = tab.open()
            card = opened.locator("#running article", has_text=node)
            expect(card.locator("svg")).to_be_visible(timeout=60_000)
            drawn = str(card.locator("svg path").get_attribute("d"))
            assert drawn.count("L") >= 3, drawn  # four points
            expect(card.locator("p").first).to_contain_text("tokens/s")
            expect(card.locator("p").first).to_contain_text(" left")
            expect(opened.locator("#idle")).to_contain_text("extract:benign:42")
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            assert (tab.said, tab.elsewhere(), tab.faults()) == ([], [], [])
            opened.screenshot(path=pictures / f"page-{width}.png", full_page=True)
            with opened.expect_popup() as popup:
                card.get_by_role("link").click()
            expect(popup.value.locator("body")).to_contain_text(f"{node}: train ")
            opened.context.close()


def _may(release: Release, verb: str, resource: str, group: str = "", sub: str = "") -> bool:
    """Whether the page's account may do this in its namespace."""
    space = release.cluster.namespace
    what = {"namespace": space, "verb": verb, "resource": resource, "group": group}
    body = {
        "spec": {
            "user": f"system:serviceaccount:{space}:{release.name}-page",
            "resourceAttributes": {**what, "subresource": sub},
        }
    }
    asked = AuthorizationV1Api(release.cluster.core.api_client)
    return bool(asked.create_subject_access_review(body).status.allowed)


def test_it_shows_a_release_from_its_start_to_its_end(
    place: Place, installed: Callable[[Release], Release], browser: Any, tmp_path: Path
) -> None:
    study = {**place.study(), "conditions": place.study()["conditions"][:2]}
    # Lines of progress, of which the page has its curve, are ten seconds apart.
    study["training"] |= {"max_steps": STEPS, "epochs": STEPS, "checkpoint_every": 50}
    release = installed(place.release("seen", study))
    assert release.install().returncode == 0
    jobs = {name: raw["metadata"]["uid"] for name, raw in release.jobs().items()}
    release.values["livePage"] = {"enabled": True}
    done = release.install("--wait", "--timeout", "5m")  # in the middle of a run
    assert done.returncode == 0, done.stderr
    assert {name: raw["metadata"]["uid"] for name, raw in release.jobs().items()} == jobs

    assert release.name in json.loads(_ask(release, "state.json"))["study"]
    assert "<html" in _ask(release, "")

    def cells() -> dict[str, dict[str, Any]]:
        found = json.loads(_ask(release, "state.json"))
        assert not found.get("trouble"), found["trouble"]
        return {cell["node"]: cell for cell in found["cells"]}

    def curve() -> list[list[float]]:
        found: list[list[float]] = json.loads(_ask(release, "losses.json", node=node))
        return found

    node = "train:benign:42"
    # How long the rest takes is told after a tenth of it.
    told = lambda: len(curve()) > 3 and cells()[node]["left"]  # noqa: E731
    release.wait(told, 400, "four points of a curve")
    seen, now = curve(), cells()[node]
    assert now["look"] == "running" and seen[-1][0] <= now["done"] < STEPS == now["steps"]
    assert now["tokens_per_second"] > 0 and now["left"] > 0
    _looked_at(browser, release, node, tmp_path)

    assert set(release.wait_ended().values()) == {"Complete"}
    release.wait(lambda: {c["look"] for c in cells().values()} == {"done"}, 60, "the page's end")
    assert {"train:benign:42", "evaluate:base:42", "aggregate"} <= set(cells())
    assert curve()[: len(seen)] == seen, "it is there as long as the pod is"
    assert _may(release, "list", "jobs", "batch") and _may(release, "get", "pods", sub="log")
    for verb, resource, group in (
        ("get", "secrets", ""),
        ("list", "secrets", ""),
        ("patch", "pods", ""),
        ("create", "pods", ""),
        ("delete", "jobs", "batch"),
        ("patch", "jobs", "batch"),
        ("get", "deployments", "apps"),
    ):
        assert not _may(release, verb, resource, group), (verb, resource)
    # Nothing of the study counts it as a pod of its own.
    assert all("personaspace.dev/stage" in pod["metadata"]["labels"] for pod in release.pods())
