"""Serving the page: HTML once, then its state as JSON every few seconds. Reading only."""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from ipaddress import ip_address
from socket import AF_INET6
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs, urlsplit

from personaspace import interrupt
from personaspace.errors import UserError, one_line
from personaspace.live.snapshot import Ended, Look, Losses, Snapshot, Source

LOOPBACK = "127.0.0.1"
#: Seconds within which every page that is open has asked again.
LAST_LOOK = 3.0
#: A page that is asked for a curve gets no more points than a screen shows.
MOST_POINTS = 400
_NAMES_OF_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
#: Steps and losses as a page draws them; None: no number.
Curve = list[tuple[int, float | None]]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: An address of this machine.
        port: 0: any that is free.
    """

    host: str
    port: int

    @property
    def local(self) -> bool:
        """Whether this machine alone can reach it."""
        return self.host == "localhost" or ip_address(self.host).is_loopback

    @property
    def url(self) -> str:
        """For a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"


def address(text: str) -> Address:
    """`8080`, `0.0.0.0:8080` or `[::1]:8080`; a port alone is of the loopback address.

    Raises:
        UserError: It is no address.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    fault = UserError(
        f"--serve: {text[:60]!r} is not a port, nor an address of this machine with a port "
        "(8080, 0.0.0.0:8080)"
    )
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 2**16):
        raise fault
    if ":" in bare and bare == host:
        raise fault
    if bare not in ("", "localhost"):
        try:
            ip_address(bare)
        except ValueError:
            raise fault from None
    return Address(bare or LOOPBACK, int(port))


class LivePage:
    """A page while a `with` block lasts.

    Args:
        source: What it shows.
        where: Where to listen.
        of_run: Whether what it shows is over when the block is; those who look are told how.
        every: Seconds for which what was read is shown again instead of being read anew, however
            many look at it.

    Attributes:
        where: Where it listens: the port is the one that was taken.

    Raises:
        UserError: It cannot listen there.
    """

    def __init__(
        self, source: Source, where: Address, every: float = 1.0, of_run: bool = False
    ) -> None:
        self._of_run = of_run
        self._state = _State(source, every)
        handler = type("Handler", (_Handler,), {"state": self._state, "local": where.local})
        server = _Server6 if ":" in where.host else ThreadingHTTPServer
        try:
            self._server = server((where.host, where.port), handler)
        except OSError as error:
            why = error.strerror or str(error)
            raise UserError(f"--serve: cannot listen on {where.url}: {why.lower()}") from None
        self.where = replace(where, port=self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), daemon=True, name="live page"
        )

    def __enter__(self) -> LivePage:
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # Whoever looks is told the end, or the last that they saw would stay.
        stopped = interrupt.asked() or isinstance(error, KeyboardInterrupt)
        if self._of_run and self._state.end(stopped, error):
            time.sleep(LAST_LOOK)
        self._server.shutdown()
        self._server.server_close()


class _Server6(ThreadingHTTPServer):
    address_family = AF_INET6


@dataclass
class _Known(Generic[_T]):
    """Something read, and when."""

    value: _T
    at: float


class _State:
    """What was read last; read anew where it is older than it may be."""

    def __init__(self, source: Source, every: float) -> None:
        self.source, self.every = source, every
        self._lock = threading.Lock()
        self._snapshot: _Known[Snapshot] | None = None
        self._losses: dict[str, _Known[Curve]] = {}
        self._looked = -math.inf
        self._ended: Ended | None = None

    def end(self, stopped: bool, error: BaseException | None) -> bool:
        """It is over; whether somebody is looking."""
        with self._lock:
            self._snapshot = None
            try:
                cells = self.source.snapshot().cells
            except Exception:
                cells = []
            bad = error is not None or any(c.look in (Look.FAILED, Look.STOPPED) for c in cells)
            self._ended = Ended.STOPPED if stopped else Ended.FAILED if bad else Ended.COMPLETE
            return time.monotonic() - self._looked < 2 * LAST_LOOK

    def snapshot(self) -> Snapshot:
        """The study; what was known last, with a word, where it cannot be read."""
        with self._lock:
            self._looked = time.monotonic()
            known = self._snapshot
            if known is None or self._is_old(known):
                try:
                    read = self.source.snapshot()
                except Exception as error:
                    last = Snapshot("", []) if known is None else known.value
                    read = replace(last, trouble=one_line(error))
                read = replace(_at_the_end(read) if self._ended else read, ended=self._ended)
                self._snapshot = known = _Known(read, time.monotonic())
            return known.value

    def losses(self, node: str) -> Curve:
        """Of a node of the study; none of anything else."""
        if all(cell.node != node or not cell.trains for cell in self.snapshot().cells):
            return []
        with self._lock:
            known = self._losses.get(node)
            if known is None or self._is_old(known):
                try:
                    read = _curve(self.source.losses(node))
                except Exception:  # the page says of the study that it cannot be read
                    read = [] if known is None else known.value
                self._losses[node] = known = _Known(read, time.monotonic())
            return known.value

    def log(self, node: str) -> str | None:
        """The end of a stage's log, or why there is none; None: the page has none of it."""
        if all(cell.node != node or not cell.logged for cell in self.snapshot().cells):
            return None
        try:
            return self.source.log(node)
        except Exception as error:
            return f"cannot read it now: {one_line(error)}\n"

    def _is_old(self, known: _Known[Any]) -> bool:
        return time.monotonic() - known.at >= self.every


def _curve(losses: Losses) -> Curve:
    """Evenly spaced ones, the last among them; of what is no number, None."""
    step = max(1, -(-len(losses) // MOST_POINTS))
    return [(at, loss if math.isfinite(loss) else None) for at, loss in losses[::-1][::step][::-1]]


def _at_the_end(snapshot: Snapshot) -> Snapshot:
    """Nothing runs any more, though it may have been stopped in the middle."""
    cells = [
        replace(cell, look=Look.STOPPED, state="stopped") if cell.look is Look.RUNNING else cell
        for cell in snapshot.cells
    ]
    return replace(snapshot, cells=cells)


@cache
def _html() -> str:
    return (resources.files("personaspace.live") / "templates" / "page.html").read_text("utf-8")


class _Handler(BaseHTTPRequestHandler):
    state: _State
    local: bool

    def handle(self) -> None:
        """Answer, unless whoever asked has gone: a phone that sleeps, a page that is closed."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """The page, its state, or a training's losses."""
        if self.local and not self._asked_by_name():
            # Else a page from elsewhere whose name is made to mean this machine could read it.
            return self._send(
                HTTPStatus.FORBIDDEN,
                "text/plain",
                "this page is for this machine alone; serve it on an address of the machine "
                "(--serve 0.0.0.0:PORT) to read it under another name\n",
            )
        asked = urlsplit(self.path)
        if asked.path == "/":
            return self._page()
        if asked.path == "/state.json":
            return self._json(self.state.snapshot().as_json())
        node = (parse_qs(asked.query).get("node") or [""])[0]
        if asked.path == "/losses.json":
            return self._json(self.state.losses(node))
        if asked.path == "/log.txt" and (log := self.state.log(node)) is not None:
            return self._send(HTTPStatus.OK, "text/plain", log)
        return self._send(HTTPStatus.NOT_FOUND, "text/plain", "not found\n")

    def _asked_by_name(self) -> bool:
        name = self.headers.get("Host", "")
        assert isinstance(self.server, ThreadingHTTPServer)
        port = f":{self.server.server_port}"
        return name.removesuffix(port) in _NAMES_OF_LOOPBACK or not name

    def _page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'self'"
        )
        text = _html().replace("{nonce}", nonce)
        self._send(HTTPStatus.OK, "text/html", text, {"Content-Security-Policy": policy})

    def _json(self, value: Any) -> None:
        self._send(HTTPStatus.OK, "application/json", json.dumps(value, allow_nan=False))

    def _send(
        self, status: HTTPStatus, kind: str, text: str, headers: dict[str, str] | None = None
    ) -> None:
        # Half of a surrogate pair, which a file name may hold, has no encoding.
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: that somebody looks is no news."""
