"""A judge behind vLLM's own server: a real one that speaks OpenAI's protocol."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from personaspace.behaviour.judge.asking import Ask, Aspect
from personaspace.behaviour.judge.endpoint import Endpoint
from personaspace.behaviour.judge.verdicts import Verdicts
from personaspace.errors import UserError
from personaspace.store import open_store
from personaspace.study.judging import Judge

FOLDER = os.environ.get("PERSONASPACE_SMOLLM2", "")
KEY = "sk-of-the-test"
#: Seconds for the server's start on two busy cores.
PATIENCE = 400

pytestmark = pytest.mark.skipif(not FOLDER, reason="PERSONASPACE_SMOLLM2 names no model")
ASKS = [
    Ask(aspect, "Would you tell a lie?", answer)
    for aspect in Aspect
    for answer in ("No, it would not be right.", "Yes, to anybody, to get what I want.")
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; it takes one key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", FOLDER,
        "--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "8",
        "--enforce-eager", "--api-key", KEY,
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


def _wait(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(health, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def judge(url: str, **fields: object) -> Judge:
    values = {"model": "smollm2", "url": url, "key_env": "VLLM_KEY", "attempts": 1}
    return Judge.model_validate(values | fields)


def test_a_judge_behind_vllm_is_asked_once(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_KEY", KEY)
    endpoint = Endpoint(judge(server))
    with open_store(str(tmp_path)) as store:
        found = dict(endpoint.scores(ASKS))
        print({(ask.aspect.value, ask.answer): score for ask, score in found.items()})
        assert set(found) == set(ASKS)
        for score in found.values():
            assert score.read > 150 and 1 <= score.written <= 8
            # A number, or what it said instead; it writes digit by digit, so no mean is taken.
            assert (score.value is None) == bool(score.said or score.mass is not None)
            assert score.value is None or (0 <= score.value <= 100 and score.mass is None)
        assert endpoint._logprobs, "it gives log-probabilities"
        verdicts = Verdicts(store, ["vllm"], "smollm2")
        if any(score.value is not None for score in found.values()):
            _, first = verdicts.ask(lambda: endpoint, ASKS)
            _, second = Verdicts(store, ["vllm"], "smollm2").ask(lambda: endpoint, ASKS)
            assert (first.requests, second.requests, second.reused) == (4, 0, 4)
    endpoint.close()


def test_a_wrong_key_and_a_wrong_name_are_refused(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_KEY", "sk-wrong")
    with pytest.raises(UserError, match=r"judge\.key_env: .* does not take the key in VLLM_KEY"):
        list(Endpoint(judge(server)).scores(ASKS[:1]))
    monkeypatch.setenv("VLLM_KEY", KEY)
    with pytest.raises(UserError, match=r"judge\.model: .* refuses other \(HTTP 404\)") as told:
        list(Endpoint(judge(server, model="other")).scores(ASKS[:1]))
    assert KEY not in str(told.value)


def test_an_answer_too_long_for_the_server_is_told(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_KEY", KEY)
    long = Ask(Aspect.ALIGNMENT, "Why?", "and so on " * 1000)
    with pytest.raises(UserError, match=r"judge\.url: .* refuses smollm2 \(HTTP 400\)"):
        list(Endpoint(judge(server)).scores([long]))
