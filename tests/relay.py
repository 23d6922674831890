"""A server between a client and a real one, for the faults that the real one does not have."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from seaweed import SeaweedS3

Fault = Callable[["Relay", "Request"], bool]


class Request:
    """What a client asked: `method`, `path`, `headers`, `body`, as they came."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.method = handler.command
        self.path = handler.path
        self.headers = dict(handler.headers.items())
        self.body = handler.rfile.read(int(self.headers.get("Content-Length", 0)))

    def is_manifest_put(self) -> bool:
        return self.method == "PUT" and urlsplit(self.path).path.endswith("/manifest.json")


class Relay(BaseHTTPRequestHandler):
    """Passes requests on to the real server, unless the test's `fault` takes one."""

    protocol_version = "HTTP/1.1"
    target: str
    fault: Callable[[Relay, Request], bool]

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def relay(self) -> None:
        request = Request(self)
        if not type(self).fault(self, request):
            self.answer(*self.forward(request))

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = relay

    def forward(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.target).netloc, timeout=20)
        # The signature covers the Host header: it stays the client's.
        connection.request(request.method, request.path, request.body, request.headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), body

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
        self.answer(status, {"Content-Type": "application/xml"}, body)

    def reset(self) -> None:
        """A connection that breaks (RST) when the client has begun to read."""
        time.sleep(0.2)
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class Stall:
    """A fault: certain requests are kept waiting, and then get no answer.

    Attributes:
        reached: One has come.
        over: Set by who wants them to end.
    """

    def __init__(
        self,
        stalls: Callable[[Request], bool],
        over: threading.Event | None = None,
        seconds: float = 60.0,
    ) -> None:
        self.reached, self.over = threading.Event(), over or threading.Event()
        self._stalls, self._seconds = stalls, seconds

    def __call__(self, relay: Relay, request: Request) -> bool:
        if not self._stalls(request):
            return False
        self.reached.set()
        self.over.wait(self._seconds)
        relay.close_connection = True
        return True


def server_context(certificate: Path) -> ssl.SSLContext:
    """TLS of a server on localhost, with the certificate in a folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


@contextmanager
def faulty(server: SeaweedS3, fault: Fault, *, tls: Path | None = None) -> Iterator[str]:
    """Address of a relay to `server`; `fault` returns True where it has answered itself.

    Args:
        tls: Folder of the certificate to speak TLS with (`certificate` in conftest.py).
    """
    handler = type("TestRelay", (Relay,), {"target": server.endpoint, "fault": staticmethod(fault)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as relay:
        if tls is not None:
            relay.socket = server_context(tls).wrap_socket(relay.socket, server_side=True)
        thread = threading.Thread(target=relay.serve_forever, args=(0.05,))
        thread.start()
        try:
            host = "https://localhost" if tls is not None else "http://127.0.0.1"
            yield f"{host}:{relay.server_address[1]}"
        finally:
            relay.shutdown()
            thread.join()
