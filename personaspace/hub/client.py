"""The Hub's client, and its errors in one line. Never a token.

The token is the environment's (HF_TOKEN) or that of the Hub's own login; the server is
HF_ENDPOINT's, or huggingface.co. Nothing of ours reads or keeps a token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from typing import TYPE_CHECKING

from personaspace.errors import UnavailableError, UserError, one_line, without_passwords

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError


def client() -> HfApi:
    """The Hub's client for the server that the environment names; it shows no bars or messages.

    Raises:
        UserError: The environment names none.
    """
    check_endpoint()
    from huggingface_hub import HfApi
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    # What was sent and what was there already we say ourselves.
    logging.set_verbosity(ERROR)

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="personaspace")


def token() -> str | None:
    """The token that the client would send; None: there is none."""
    from huggingface_hub import get_token

    return get_token()


def check_endpoint() -> None:
    """Refuse a server's name that no address is. Raises UserError."""
    named = os.environ.get("HF_ENDPOINT")
    if named and not re.match(r"https?://[^/]", named):
        raise UserError(
            f"HF_ENDPOINT: {without_passwords(named)} is no address of a server: it begins with "
            "https:// or http://"
        )


_REFUSED = {
    400: "the Hub refuses what was sent",
    401: "the Hub asks for a token, or does not know this one: set HF_TOKEN, or `hf auth login`",
    403: "the token may not do this: one with the right to write there is needed",
    404: "no such repository or collection, or it is private and the token may not read it",
    409: "the name is taken",
    413: "too large for the Hub",
}


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """The client's errors as our own.

    Args:
        where: The repository, for the message.

    Raises:
        UserError: No token, no rights, no such repository, a name that none may have.
        UnavailableError: The Hub does not answer, or is busy.
    """
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    # The client's library for HTTP is another one in each of its versions.
    transport: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        yield
    except HFValidationError:
        raise UserError(f"{where}: not a name of a repository; it looks like owner/name") from None
    except LocalTokenNotFoundError:
        raise UserError(f"{where}: {_REFUSED[401]}") from None
    except OfflineModeIsEnabled:
        raise UnavailableError(f"{where}: HF_HUB_OFFLINE is set, so the Hub is not asked") from None
    except HfHubHTTPError as error:
        raise _told(where, error) from None
    except (RuntimeError, ValueError) as error:
        # An upload's own error is the cause of one that names the file alone.
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _told(where, cause) from None
        if isinstance(cause, transport | ConnectionError | TimeoutError):
            raise _away(where, cause) from None
        raise UnavailableError(f"{where}: {one_line(error)}") from None
    except (transport, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise _away(where, error) from None


def _away(where: str, error: BaseException) -> UnavailableError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UnavailableError(
        f"{where}: the Hub does not answer ({without_passwords(reason)}); try again: "
        "what was done already is not done again"
    )


def _told(where: str, error: HfHubHTTPError) -> UserError:
    status = error.response.status_code
    said = without_passwords(" ".join(str(error.server_message or "").split())[:200])
    words = f" ({said})" if said else ""
    if status in _REFUSED:
        return UserError(f"{where}: {_REFUSED[status]}{words}")
    return UnavailableError(f"{where}: the Hub answers with {status}{words}; try again later")
