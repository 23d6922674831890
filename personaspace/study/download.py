"""Files from `https://`: fetched once, held to their SHA-256, kept in the cache by it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from personaspace.errors import UnavailableError, UserError
from personaspace.s3.location import shown_url

if TYPE_CHECKING:
    from requests import Response, Session

SCHEME = "https://"
#: Bytes of the largest file that is taken.
LARGEST = 2 << 30
#: Seconds: to connect, between two bytes, and for the whole file.
CONNECT, READ, TOTAL = 10.0, 60.0, 1800.0
#: Requests for a file that did not come, and seconds before the second; each later wait is double.
ATTEMPTS, PAUSE = 4, 1.0
#: Answers after which another try may help.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS = 5
_STEP = 1 << 16


class _PassingError(Exception):
    """A failure that another try may cure.

    Args:
        reason: What happened, in words.
        wait: Seconds that the server asks for.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def read_download(url: str, sha256: str, cache: Path) -> bytes:
    """The file at an address, from the cache where it is there.

    Args:
        url: `https://…`. Credentials come from `.netrc`, not from the address.
        sha256: What the file must have; it is also the name under which it is kept.
        cache: Folder to keep it in; made if it is not there.

    Raises:
        UserError: Not there, refused, too large, another SHA-256, or no place to keep it.
        UnavailableError: The server cannot be reached, or does not send the file, try after try.
    """
    kept = cache / "downloads" / sha256
    with suppress(OSError):
        content = kept.read_bytes()
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
    content = _patiently(url)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(f"{shown_url(url)}: SHA-256 is {found}, the spec says {sha256}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            file.write(content)
        os.replace(file.name, kept)
    except OSError as error:
        raise UserError(
            f"{shown_url(url)}: cannot be kept in {kept.parent}: {error.strerror or error}"
        ) from None
    return content


def _patiently(url: str) -> bytes:
    # Imported here: most studies read files.
    import requests

    until = time.monotonic() + TOTAL
    with requests.Session() as session:
        session.max_redirects = _REDIRECTS
        # A redirect must not lead to where others can read along.
        session.adapters.pop("http://")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _fetched(session, url, until)
            except _PassingError as failure:
                wait = max(PAUSE * 2 ** (attempt - 1), failure.wait)
                if attempt == ATTEMPTS or time.monotonic() + wait > until:
                    raise UnavailableError(
                        f"{shown_url(url)}: {failure} (tried {attempt} times); a machine without "
                        "the network needs the file in its cache or under a local path"
                    ) from None
                time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _fetched(session: Session, url: str, until: float) -> bytes:
    """One attempt."""
    import requests

    shown = shown_url(url)
    try:
        with session.get(url, stream=True, timeout=(CONNECT, READ)) as answer:
            _check_status(answer, shown)
            return _body(answer, shown, until)
    except requests.exceptions.SSLError as error:
        raise UserError(
            f"{shown}: the server's certificate does not hold ({_why(error)})"
        ) from None
    except requests.exceptions.TooManyRedirects:
        raise UserError(f"{shown}: more than {_REDIRECTS} redirects") from None
    except requests.exceptions.InvalidSchema:
        raise UserError(f"{shown}: leads to an address that is not https") from None
    except requests.exceptions.InvalidURL as error:
        raise UserError(f"{shown}: no address to fetch from ({type(error).__name__})") from None
    except requests.exceptions.Timeout:
        raise _PassingError("no answer in time") from None
    except requests.exceptions.RequestException as error:
        raise _PassingError(f"cannot be reached or breaks off ({_why(error)})") from None


def _why(error: BaseException) -> str:
    """The innermost reason, which names no address with what it may hold."""
    inner: BaseException = error
    seen = {id(inner)}
    while (cause := inner.__cause__ or inner.__context__) is not None and id(cause) not in seen:
        inner = cause
        seen.add(id(inner))
    return getattr(inner, "strerror", None) or type(inner).__name__


def _check_status(answer: Response, shown: str) -> None:
    code = answer.status_code
    if code in _PASSING:
        asked = answer.headers.get("Retry-After", "")
        raise _PassingError(f"HTTP {code}", min(float(asked), 60.0) if asked.isdigit() else 0.0)
    if code in (401, 403):
        raise UserError(f"{shown}: HTTP {code}: this is not given without the right credentials")
    if code != 200:
        raise UserError(f"{shown}: HTTP {code}")


def _body(answer: Response, shown: str, until: float) -> bytes:
    too_large = UserError(f"{shown}: larger than {LARGEST >> 20} MiB")
    said = answer.headers.get("Content-Length", "")
    if said.isdigit() and int(said) > LARGEST:
        raise too_large
    parts, size = [], 0
    for part in answer.iter_content(_STEP):
        size += len(part)
        if size > LARGEST:
            raise too_large
        if time.monotonic() > until:
            raise _PassingError(f"not whole after {TOTAL:.0f} seconds")
        parts.append(part)
    return b"".join(parts)
