"""Where in S3: reading an `s3://` URL and its options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from personaspace.errors import UserError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_OPTIONS = ("endpoint", "region", "path_style", "patience")
#: Outlasts the restart of a server or the move of its pod.
PATIENCE_SECONDS = 60.0
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class S3Location:
    """Where an S3 store lies.

    Attributes:
        bucket: Its name.
        prefix: Key prefix without slashes at the ends; may be empty.
        endpoint: Address of the server, None for what boto3 finds.
        region: None for what boto3 finds.
        path_style: Bucket in the path instead of the host name; None: botocore decides, which is
            path style as soon as there is an endpoint (few private servers have DNS for buckets).
        patience: For how many seconds to go on trying when the server fails or is away.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    patience: float = PATIENCE_SECONDS

    @property
    def url(self) -> str:
        """The URL that opens this store again."""
        options: dict[str, str] = {}
        if self.endpoint:
            options["endpoint"] = self.endpoint
        if self.region:
            options["region"] = self.region
        if self.path_style is not None:
            options["path_style"] = str(self.path_style).lower()
        if self.patience != PATIENCE_SECONDS:
            options["patience"] = f"{self.patience:g}"
        query = f"?{urlencode(options, safe=':/[]')}" if options else ""
        return f"{self.place}{query}"

    @property
    def place(self) -> str:
        """`s3://bucket/prefix`, without the options."""
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def parse_s3(url: str) -> S3Location:
    """Where in S3.

    Raises:
        UserError: Not a bucket's name, an unknown option, a bad endpoint.
    """
    parts = urlsplit(url)
    shown = shown_url(url)
    if not _BUCKET.fullmatch(parts.netloc):
        # Also met by s3://key:secret@bucket: credentials have no place in a URL.
        raise UserError(f"store {shown}: not a bucket name before the first slash")
    if parts.fragment:
        raise UserError(f"store {shown}: nothing may follow a #")
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS or not value:
            known = ", ".join(_OPTIONS)
            raise UserError(f"store {shown}: option {name} is unknown or empty (known: {known})")
        options[name] = value
    path_style = options.get("path_style")
    if path_style is not None and path_style.lower() not in _BOOLEANS:
        raise UserError(f"store {shown}: path_style is true or false")
    patience = options.get("patience", str(PATIENCE_SECONDS))
    if not re.fullmatch(r"\d{1,5}(\.\d+)?", patience):
        raise UserError(f"store {shown}: patience is a number of seconds")
    prefix = unquote(parts.path).strip("/")
    return S3Location(
        bucket=parts.netloc,
        prefix=prefix,
        endpoint=_endpoint(options["endpoint"], shown) if "endpoint" in options else None,
        region=options.get("region"),
        path_style=None if path_style is None else _BOOLEANS[path_style.lower()],
        patience=float(patience),
    )


def _endpoint(endpoint: str, shown: str) -> str:
    try:
        parts = urlsplit(endpoint)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.username or parts.password:
        raise UserError(f"store {shown}: endpoint is not a plain http:// or https:// address")
    return endpoint.rstrip("/")


def shown_url(url: str) -> str:
    """The URL for a message: no user info and no options, which might hold secrets."""
    scheme, _, rest = url.partition("://")
    if not rest:
        return url
    rest = rest.partition("?")[0].partition("#")[0]
    host, slash, path = rest.partition("/")
    return urlunsplit((scheme, host.rpartition("@")[2], f"{slash}{path}", "", ""))
