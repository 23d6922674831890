"""A judge behind a server that speaks OpenAI's protocol (chat completions).

What the server sends in an error may hold the key: it is never shown without taking that out.
"""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import urllib3

from personaspace import interrupt
from personaspace.behaviour.judge.asking import NUMBER_MASS, Ask, Score, no_number
from personaspace.behaviour.judge.numbers import mean_of, written
from personaspace.errors import Interrupted, UnavailableError, UserError
from personaspace.study.judging import Judge

#: Seconds before the second try; twice as many before each further one, up to `LONGEST_PAUSE`.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: A server may ask for patience itself, but not for more than this.
LONGEST_PATIENCE = 300.0
#: Tokens of a reply: a number, perhaps with a mark or two before it.
REPLY_TOKENS = 8
#: The most that OpenAI's own servers give.
TOP = 20
#: Answers after which another try may help.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_REFUSED = (401, 403)


def key_of(judge: Judge) -> str | None:
    """The server's key.

    Raises:
        UserError: Its variable is not set, or holds what cannot be a key; names the variable.
    """
    if judge.key_env is None:
        return None
    key = os.environ.get(judge.key_env, "").strip()
    if not key:
        raise UserError(f"judge.key_env: {judge.key_env} is not set (it is to hold the key)")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(f"judge.key_env: {judge.key_env} holds characters that no key has")
    return key


@dataclass(frozen=True)
class _Lost:
    """A try that another one may cure: why, and how long the server asks to wait."""

    why: str
    pause: float = 0.0


class _Refused(Exception):
    """The server says that the request itself is wrong."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


class Endpoint:
    """See `asking.JudgeModel`.

    Args:
        judge: The spec's section, with `url`.

    Raises:
        UserError: The key is missing.
    """

    def __init__(self, judge: Judge) -> None:
        assert judge.url is not None
        self.judge = judge
        self.host = urlsplit(judge.url).netloc
        self._key = key_of(judge)
        self._pool = _pool(judge)
        self._stop = threading.Event()
        self._logprobs = True

    def close(self) -> None:
        """See `JudgeModel.close`."""
        self._stop.set()
        self._pool.clear()

    def scores(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Score]]:
        """See `JudgeModel.scores`; what was answered when something fails is given before it.

        Raises:
            UnavailableError: The server is away, too slow or limits us, after all tries.
        """
        with ThreadPoolExecutor(self.judge.concurrency) as pool:
            waiting = {pool.submit(self._score_or_stop, ask): ask for ask in asks}
            failed: BaseException | None = None
            try:
                while waiting:
                    ended, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in ended:
                        ask, found = waiting.pop(future), _result(future)
                        if isinstance(found, Score):
                            yield ask, found
                        else:
                            failed = _first(failed, found)
                    if failed is None and interrupt.asked():
                        failed = Interrupted("asked to stop")
                    if failed is not None:
                        self._stop.set()
                        for future in list(waiting):
                            if future.cancel():
                                del waiting[future]
            finally:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                self._stop.clear()
            if failed is not None:
                raise failed

    # --- one request -----------------------------------------------------------------------------

    def _score_or_stop(self, ask: Ask) -> Score:
        try:
            return self._score(ask)
        except BaseException:
            self._stop.set()  # before this thread takes another question
            raise

    def _score(self, ask: Ask) -> Score:
        try:
            return self._read(self._complete(ask, self._logprobs))
        except _Refused as refused:
            if self._logprobs and refused.status in (400, 422):
                try:
                    found = self._read(self._complete(ask, logprobs=False))
                except _Refused:
                    raise self._told(refused) from None
                self._logprobs = False  # it does not give them
                return found
            raise self._told(refused) from None

    def _told(self, refused: _Refused) -> UserError:
        if refused.status in _REFUSED:
            key = self.judge.key_env
            named = f"{self.host} does not take the key in {key}" if key else "no key is named"
            why = f"{named} (HTTP {refused.status})"
            return UserError(f"judge.key_env: {why}")
        field = "judge.model" if refused.status == 404 else "judge.url"
        said = f": {refused.said}" if refused.said else ""
        return UserError(
            f"{field}: {self.host} refuses {self.judge.model} (HTTP {refused.status}){said}"
        )

    def _complete(self, ask: Ask, logprobs: bool) -> dict[str, Any]:
        """The server's reply, after as many tries as it takes."""
        body: dict[str, Any] = {
            "model": self.judge.model,
            "messages": [{"role": "user", "content": ask.text}],
            "temperature": 0,
            "max_tokens": REPLY_TOKENS,
        }
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP}
        # Half a surrogate pair, which a model can write, is not UTF-8.
        data = json.dumps(body).encode("ascii")
        why = ""
        for number in range(1, self.judge.attempts + 1):
            if self._stop.is_set():
                raise Interrupted("asked to stop")
            found = self._try(data)
            if not isinstance(found, _Lost):
                return found
            why = found.why
            if number < self.judge.attempts:
                backoff = min(FIRST_PAUSE * 2 ** (number - 1), LONGEST_PAUSE)
                # Not all at the same moment.
                self._pause(max(backoff * random.uniform(0.5, 1.0), found.pause))
        tries = "1 try" if self.judge.attempts == 1 else f"{self.judge.attempts} tries"
        raise UnavailableError(f"judge.url: {self.host}, {tries}: {why}")

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stop.is_set():
            time.sleep(min(0.2, seconds))

    def _try(self, data: bytes) -> dict[str, Any] | _Lost:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            request = partial(
                self._pool.request,
                "POST",
                f"{self.judge.url}/chat/completions",
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(total=self.judge.timeout),
                retries=False,
                redirect=False,
            )
            # What was asked is paid for: asked to stop, we wait for it as long as we may.
            answer = interrupt.answered(request, f"judge {self.host}")
        except urllib3.exceptions.SSLError as error:
            raise UserError(f"judge.url: {self.host}: {self._shown(str(error))}") from None
        except urllib3.exceptions.NewConnectionError:
            return _Lost("cannot be reached")
        except urllib3.exceptions.TimeoutError:
            return _Lost(f"no answer within {self.judge.timeout:g} s")
        except urllib3.exceptions.ProtocolError:
            return _Lost("it broke off its answer")
        except urllib3.exceptions.HTTPError as error:
            return _Lost(f"cannot be asked ({type(error).__name__})")
        if answer.status in _PASSING:
            return _Lost(_status(answer.status), _patience(answer.headers.get("Retry-After")))
        if answer.status >= 300:
            raise _Refused(answer.status, self._shown(_message(answer.data)))
        try:
            found = json.loads(answer.data)
            return found if found["choices"][0]["message"] else _Lost("an answer without a message")
        except (ValueError, LookupError, TypeError):
            return _Lost("its answer is not a chat completion")

    def _shown(self, text: str) -> str:
        """A text of the server's in one line, without the key."""
        if self._key is not None:
            text = text.replace(self._key, "…")
        return " ".join(text.split())[:200]

    def _read(self, reply: dict[str, Any]) -> Score:
        """The score in a reply."""
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        text = choice["message"].get("content") or ""
        read, replied = _count(usage, "prompt"), _count(usage, "completion")
        candidates = _candidates(choice)
        mean = mean_of(candidates) if candidates else None
        if mean is not None:
            if mean.value is None or mean.mass < NUMBER_MASS:
                return no_number(self._shown(text), round(mean.mass, 6), read, replied)
            return Score(
                round(mean.value, 4), round(min(mean.mass, 1.0), 6), read=read, written=replied
            )
        number = written(text)
        if number is None:
            return no_number(self._shown(text), read=read, written=replied)
        return Score(number, read=read, written=replied)


def _pool(judge: Judge) -> urllib3.PoolManager:
    """Connections, through the environment's proxy where there is one for this host."""
    parts = urlsplit(judge.url or "")
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, maxsize=judge.concurrency)
    return urllib3.PoolManager(maxsize=judge.concurrency)


def _result(future: Future[Score]) -> Score | BaseException:
    error = future.exception()
    return future.result() if error is None else error


def _first(known: BaseException | None, error: BaseException) -> BaseException:
    """What to tell of two failures: that we stopped others is no news."""
    return error if known is None or isinstance(known, Interrupted) else known


def _status(status: int) -> str:
    return "too many requests (HTTP 429)" if status == 429 else f"fails (HTTP {status})"


def _patience(header: str | None) -> float:
    """Seconds that the server asks to wait, in its own two ways of saying it."""
    if header is None:
        return 0.0
    try:
        wanted = urllib3.Retry().parse_retry_after(header)
    except urllib3.exceptions.InvalidHeader:
        return 0.0
    return min(wanted, LONGEST_PATIENCE)


def _message(data: bytes) -> str:
    """What an error says, in OpenAI's form or a server's own."""
    try:
        found = json.loads(data)
    except ValueError:
        return ""
    error = found.get("error", found) if isinstance(found, dict) else None
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail")
    return error if isinstance(error, str) else ""


def _count(usage: Any, what: str) -> int:
    count = usage.get(f"{what}_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _candidates(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """First tokens and their probabilities; none where the server does not give them."""
    try:
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        return [(str(each["token"]), math.exp(float(each["logprob"]))) for each in top]
    except (LookupError, TypeError, ValueError, OverflowError):
        return []
