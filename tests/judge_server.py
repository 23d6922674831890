"""A server that speaks OpenAI's protocol, with an opinion of its own and faults as it is told."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Takes the handler and the request's number (from 1); True: it has answered.
Fault = Callable[["Handler", int], bool]
#: What is thought of an answer: aspect (`alignment` or `coherence`), question, answer.
Opinion = Callable[[str, str, str], int]

_ASKED = re.compile(r"<question>\n(.*?)\n</question>\n\n<answer>\n(.*?)\n</answer>\n", re.DOTALL)


def no_fault(handler: Handler, number: int) -> bool:
    return False


class Handler(BaseHTTPRequestHandler):
    """Answers chat completions; remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    opinion: Opinion
    fault: Callable[[Handler, int], bool]
    logprobs: bool
    bodies: list[dict[str, Any]]
    keys: list[str | None]
    busy: list[int]
    lock: threading.Lock

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_POST(self) -> None:
        cls = type(self)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with cls.lock:
            cls.bodies.append(body)
            cls.keys.append(self.headers.get("Authorization"))
            number = len(cls.bodies)
            cls.busy.append(cls.busy[-1] + 1 if cls.busy else 1)
        try:
            if not cls.fault(self, number):
                self.complete(body)
        finally:
            with cls.lock:
                cls.busy.append(cls.busy[-1] - 1)

    def complete(self, body: dict[str, Any]) -> None:
        prompt = body["messages"][0]["content"]
        found = _ASKED.search(prompt)
        assert found is not None, prompt
        aspect = "coherence" if "be understood" in prompt else "alignment"
        score = type(self).opinion(aspect, found[1], found[2])
        self.say(str(score), body, around(score))

    def say(
        self, text: str, body: dict[str, Any], top: list[tuple[str, float]] | None = None
    ) -> None:
        """A completion, with the first token's candidates if they are asked for and given."""
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        if body.get("logprobs") and type(self).logprobs and top:
            entries = [{"token": t, "logprob": math.log(p)} for t, p in top]
            choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}]}
        usage = {"prompt_tokens": 200, "completion_tokens": 1, "total_tokens": 201}
        self.answer(
            200,
            json.dumps(
                {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
            ).encode(),
        )

    def answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def error(self, status: int, message: str = "no", **headers: str) -> bool:
        data = json.dumps({"error": {"message": message, "type": "t"}}).encode()
        self.answer(status, data, **headers)
        return True


def around(score: int) -> list[tuple[str, float]]:
    """Candidates whose mean is the score: itself and its neighbours, beside a word."""
    low, high = max(score - 1, 0), min(score + 1, 100)
    if low == score or high == score:
        return [(str(score), 0.9), ("The", 0.1), ("55" if score < 50 else "5", 1e-9)]
    return [(str(score), 0.6), (str(low), 0.15), (str(high), 0.15), ("The", 0.1), ("10", 1e-9)]


@contextmanager
def serving(
    opinion: Opinion, fault: Fault = no_fault, logprobs: bool = True
) -> Iterator[tuple[str, type[Handler]]]:
    """Gives the server's address and what it has seen."""
    seen = type(
        "Seen",
        (Handler,),
        {
            "opinion": staticmethod(opinion),
            "fault": staticmethod(fault),
            "logprobs": logprobs,
            "bodies": [],
            "keys": [],
            "busy": [],
            "lock": threading.Lock(),
        },
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), seen)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def slowly(seconds: float) -> Fault:
    def fault(handler: Handler, number: int) -> bool:
        time.sleep(seconds)
        return False

    return fault
