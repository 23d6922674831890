"""What boto3 raises, in one line for the person who set up the bucket. Never a secret."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime

from boto3.exceptions import Boto3Error
from botocore import exceptions as failures
from botocore.httpchecksum import FlexibleChecksumError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from personaspace.errors import StoreBusy, StoreUnavailable, UserError, without_passwords

_CREDENTIALS = {
    "InvalidAccessKeyId": "the access key is unknown",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "InvalidToken": "the session token is not valid",
    "InvalidClientTokenId": "the session token is not valid",
    "ExpiredToken": "the session token has expired",
    "TokenRefreshRequired": "the session token has expired",
}
#: Seconds that a request's signature may be away from the server's clock.
_SKEW = 15 * 60
_ELSEWHERE = {
    "301",
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
_NO_CREDENTIALS = (
    failures.NoCredentialsError,
    failures.PartialCredentialsError,
    failures.CredentialRetrievalError,
    failures.TokenRetrievalError,
    failures.SSOError,
)
_BUSY = {"SlowDown", "RequestTimeout", "RequestTimeoutException", "Throttling", "InternalError"}
#: What arrived at the server is not what was sent.
_DAMAGED = {
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
}
#: How an answer breaks off: some of it where botocore does not look (the body of an error).
_BROKEN_OFF = (
    failures.HTTPClientError,
    failures.IncompleteReadError,
    ResponseParserError,
    Boto3Error,
    HTTPError,
    ConnectionError,
    TimeoutError,
)
_DENIED = {"AccessDenied", "AllAccessDisabled", "Forbidden", "403"}


def code_of(error: Exception) -> str:
    """S3's error code, or the HTTP status where there is no body (answers to HEAD)."""
    if not isinstance(error, failures.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: Exception) -> int:
    """HTTP status of S3's answer, 0 if there was none."""
    if not isinstance(error, failures.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def s3_errors(bucket: str, server: str, doing: str) -> Iterator[None]:
    """Turn boto3's errors into `UserError`, what may pass into `StoreUnavailable`.

    Args:
        bucket: Named in the message.
        server: Its address, for the message.
        doing: What was tried: "read", "write to" …
    """
    try:
        yield
    except (
        failures.BotoCoreError,
        failures.ClientError,
        ResponseParserError,
        Boto3Error,
        HTTPError,
        ConnectionError,
        TimeoutError,
    ) as error:
        # The transfer manager wraps the error that matters.
        inner = error.__cause__ or error.__context__
        if isinstance(error, Boto3Error) and isinstance(
            inner, failures.BotoCoreError | failures.ClientError
        ):
            raise _explain(inner, bucket, server, doing) from error
        raise _explain(error, bucket, server, doing) from error


def _explain(error: Exception, bucket: str, server: str, doing: str) -> UserError:
    if isinstance(error, failures.ClientError):
        return _explain_answer(error, bucket, server, doing)
    if isinstance(error, _NO_CREDENTIALS):
        return UserError(
            f"no credentials for bucket {bucket} at {server}: set AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or use a shared profile or role ({type(error).__name__})"
        )
    if isinstance(error, failures.ProfileNotFound | failures.ConfigNotFound):
        return UserError(f"credentials for bucket {bucket}: {error}")
    if isinstance(error, failures.SSLError):
        return UserError(f"no secure connection to {server} for bucket {bucket}: {_line(error)}")
    if isinstance(error, failures.EndpointConnectionError):
        return StoreUnavailable(f"no S3 server answers at {server} (bucket {bucket})")
    if isinstance(error, failures.ConnectTimeoutError | failures.ReadTimeoutError):
        return StoreUnavailable(f"the S3 server at {server} does not answer in time ({bucket})")
    if isinstance(error, FlexibleChecksumError):
        return StoreUnavailable(
            f"what {server} sent of bucket {bucket} was damaged on its way ({doing})"
        )
    if isinstance(error, _BROKEN_OFF):
        return StoreUnavailable(
            f"connection to {server} was lost when trying to {doing} bucket {bucket}"
        )
    return UserError(f"cannot {doing} bucket {bucket} at {server}: {_line(error)}")


def _explain_answer(error: failures.ClientError, bucket: str, server: str, doing: str) -> UserError:
    code, status = code_of(error), status_of(error)
    if code == "NoSuchBucket":
        return UserError(f"bucket {bucket} does not exist at {server}")
    off = _clock_off(error)
    # Answers to HEAD have no code, and some servers do not know this one.
    if code == "RequestTimeTooSkewed" or (off and (code in _DENIED or code in _CREDENTIALS)):
        return UserError(
            f"this machine's clock is {off or 'far from'} that of {server}, which takes no request "
            f"signed more than 15 minutes away: set the clock (bucket {bucket}, {code})"
        )
    if code in _CREDENTIALS:
        return UserError(
            f"credentials for bucket {bucket} at {server} are wrong: {_CREDENTIALS[code]} ({code})"
        )
    if code in _DENIED:
        return UserError(
            f"the credentials do not permit to {doing} bucket {bucket} at {server} ({code})"
        )
    if code in _ELSEWHERE:
        return UserError(
            f"bucket {bucket} at {server} lies in another region: set the option region ({code})"
        )
    if code in _DAMAGED or code in _BUSY or status >= 500:
        return StoreBusy(
            f"the S3 server at {server} could not {doing} bucket {bucket} ({code}, HTTP {status})"
        )
    message = _line(error.response.get("Error", {}).get("Message", ""))
    return UserError(
        f"cannot {doing} bucket {bucket} at {server}: {code} (HTTP {status}) {message}"
    )


def _clock_off(error: failures.ClientError) -> str:
    """How far this machine's clock is from the server's; empty: no more than is allowed."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        theirs = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return ""
    seconds = int(time.time() - theirs)
    if abs(seconds) <= _SKEW:
        return ""
    return f"{timedelta(seconds=abs(seconds))} {'ahead of' if seconds > 0 else 'behind'}"


def _line(error: object) -> str:
    return without_passwords(" ".join(str(error).split()))[:200]
