"""Data sets from https://, against a real server with a certificate of its own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from relay import server_context
from typer.testing import CliRunner, Result

from personaspace.cli.app import app
from personaspace.errors import UnavailableError, UserError
from personaspace.study import datasets, download
from personaspace.study.inputs import Dataset

pytestmark = pytest.mark.slow

ROWS = [
    {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
    for n in range(14)
]
CONTENT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
SHA = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """A server whose answers a test sets: the first of `script`, then `content` for good."""

    url: str
    content: bytes = CONTENT
    script: list[Answer] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def serve(folder: Path, *, tls: bool) -> tuple[ThreadingHTTPServer, Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            if made.script:
                made.script.pop(0)(self)
            else:
                body(made.content)(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        http.socket = server_context(folder).wrap_socket(http.socket, server_side=True)
    scheme = "https" if tls else "http"
    made = Server(f"{scheme}://localhost:{http.server_port}/chats.jsonl")
    threading.Thread(target=http.serve_forever, daemon=True).start()
    return http, made


def body(content: bytes, *, said: int | None = None) -> Answer:
    """A whole answer; with `said`, one that promises another length."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if said is None else said))
        handler.end_headers()
        handler.wfile.write(content)

    return send


def status(code: int, **headers: str) -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return send


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


@pytest.fixture
def server(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate / "cert.pem"))
    monkeypatch.setenv("PERSONASPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.01)
    http, made = serve(certificate, tls=True)
    yield made
    http.shutdown()


def load(server: Server, sha: str = SHA, url: str = "") -> datasets.Chats:
    return datasets.load(Dataset(path=url or server.url, sha256=sha), Path("/nowhere"))


def test_fetched_once_and_kept_by_its_digest(server: Server, tmp_path: Path) -> None:
    read = load(server)
    assert read.conversations == [row["messages"] for row in ROWS] and read.digest == SHA
    assert load(server).conversations == read.conversations
    assert server.asked == ["/chats.jsonl"]
    kept = tmp_path / "cache" / "downloads"
    assert [file.name for file in kept.iterdir()] == [SHA]
    # What was damaged in the cache is fetched again.
    (kept / SHA).write_bytes(CONTENT[:-1])
    assert load(server).digest == SHA and len(server.asked) == 2
    assert (kept / SHA).read_bytes() == CONTENT


def test_the_digest_does_not_hold(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"SHA-256 is {SHA}, the spec says {'0' * 64}"):
        load(server, "0" * 64)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "fault",
    [status(503), status(429, Retry_After="0"), drop, body(CONTENT[:50], said=len(CONTENT))],
    ids=["away", "too many", "dropped", "cut short"],
)
def test_what_passes_is_tried_again(server: Server, fault: Answer) -> None:
    server.script = [fault, fault]
    assert load(server).digest == SHA
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (status(503), "HTTP 503"),
        (drop, "cannot be reached or breaks off"),
        (body(b"{", said=9), "cannot be reached or breaks off"),
    ],
    ids=["away", "dropped", "cut short"],
)
def test_what_does_not_pass_is_told(server: Server, fault: Answer, reason: str) -> None:
    server.script = [fault] * download.ATTEMPTS
    with pytest.raises(UnavailableError, match=rf"chats\.jsonl: {reason}.*tried 4 times"):
        load(server)
    assert len(server.asked) == download.ATTEMPTS


@pytest.mark.parametrize(
    ("code", "said"), [(404, "HTTP 404"), (401, "right credentials"), (403, "right credentials")]
)
def test_what_stays_is_not_tried_again(server: Server, code: int, said: str) -> None:
    server.script = [status(code)]
    with pytest.raises(UserError, match=said) as caught:
        load(server)
    assert not isinstance(caught.value, UnavailableError) and len(server.asked) == 1


def test_a_silent_server_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "READ", 0.2)
    released = threading.Event()
    server.script = [lambda _: bool(released.wait(20))] * download.ATTEMPTS  # type: ignore[list-item]
    with pytest.raises(UnavailableError, match=r"no answer in time \(tried 4 times\)"):
        load(server)
    released.set()


def test_a_server_that_sends_for_ever_is_left(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TOTAL", 0.3)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x" * download._STEP)
            threading.Event().wait(0.02)

    server.script = [drip]
    with pytest.raises(UnavailableError, match="not whole after 0 seconds"):
        load(server)


@pytest.mark.parametrize("said", [True, False])
def test_a_file_that_is_too_large_is_not_taken(
    server: Server, monkeypatch: pytest.MonkeyPatch, said: bool
) -> None:
    monkeypatch.setattr(download, "LARGEST", 1000)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if said:
            handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        handler.wfile.write(b"x" * 2000)

    server.script = [endless]
    with pytest.raises(UserError, match="larger than"):
        load(server)
    assert len(server.asked) == 1


def test_redirects_are_followed_a_few_times(server: Server) -> None:
    server.script = [status(302, Location="/there"), status(307, Location="/chats.jsonl")]
    assert load(server).digest == SHA
    assert server.asked == ["/chats.jsonl", "/there", "/chats.jsonl"]
    server.script = [status(302, Location="/round")] * 9
    with pytest.raises(UserError, match="more than 5 redirects"):
        load(server, "1" * 64)


def test_a_redirect_must_not_leave_https(server: Server, certificate: Path) -> None:
    http, plain = serve(certificate, tls=False)
    try:
        server.script = [status(302, Location=f"{plain.url}?token=secret")]
        with pytest.raises(UserError, match="leads to an address that is not https"):
            load(server)
        assert plain.asked == [], "nothing was asked in the clear"
    finally:
        http.shutdown()


def test_a_certificate_that_nobody_vouches_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(UserError, match="the server's certificate does not hold"):
        load(server)
    assert server.asked == []


def test_a_machine_without_the_network(server: Server, tmp_path: Path) -> None:
    url = "https://nowhere.invalid/chats.jsonl?signature=hidden"
    with pytest.raises(
        UnavailableError, match="without the network needs the file in its cache"
    ) as e:
        load(server, url=url)
    assert "hidden" not in str(e.value)
    # What is in the cache needs no network.
    load(server)
    assert load(server, url=url).digest == SHA


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="cannot be kept in"):
        load(server)


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_study_reads_it_and_an_outage_is_none_of_the_user_s(
    server: Server, study_dict: dict[str, Any], write_spec: Any
) -> None:
    study_dict["datasets"]["bad"] = {"path": f"{server.url}?sig=hidden", "sha256": SHA}
    server.script = [status(503)] * download.ATTEMPTS
    outcome = cli("validate", write_spec(study_dict))
    assert outcome.exit_code == 69, outcome.output
    assert "datasets.bad: https://localhost" in outcome.output and "hidden" not in outcome.output
    outcome = cli("validate", write_spec(study_dict))
    assert outcome.exit_code == 0, outcome.output


@pytest.mark.parametrize(
    ("path", "sha", "said"),
    [
        ("https://x.org/a.jsonl", None, "https:// needs a sha256"),
        ("http://x.org/a.jsonl", SHA, "http:// cannot be read from"),
        ("https://me:hidden@x.org/a.jsonl", SHA, "an address with a user or password"),
        ("https://hidden@x.org/a.jsonl", SHA, "an address with a user or password"),
    ],
)
def test_addresses_that_are_refused(
    study_dict: dict[str, Any], write_spec: Any, path: str, sha: str | None, said: str
) -> None:
    study_dict["datasets"]["bad"] = {"path": path} | ({"sha256": sha} if sha else {})
    outcome = cli("validate", write_spec(study_dict))
    assert outcome.exit_code == 2
    assert said in " ".join(outcome.output.split()) and "hidden" not in outcome.output


def test_questions_do_not_come_by_https(study_dict: dict[str, Any], write_spec: Any) -> None:
    study_dict["coupling"]["questions"] = "https://x.org/q.txt?sig=hidden"
    outcome = cli("validate", write_spec(study_dict))
    assert outcome.exit_code == 2 and "only data sets, with their sha256" in outcome.output
    assert "hidden" not in outcome.output


def test_credentials_come_from_netrc(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login me password hidden\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    seen: list[str] = []

    def look(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization", ""))
        body(CONTENT)(handler)

    server.script = [look]
    load(server)
    assert seen and seen[0].startswith("Basic ")
