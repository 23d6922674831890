"""Reading a store's URL."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from personaspace.errors import UserError
from personaspace.files import expanded
from personaspace.s3.location import S3Location, parse_s3, shown_url
from personaspace.store.manifest import check_key


def parse_location(url: str) -> Path | S3Location:
    """A folder's absolute path, or where in S3.

    Raises:
        UserError: Empty, of another scheme, with an unknown option, a bad bucket name or prefix.
    """
    if not url.strip():
        raise UserError("store: the URL is empty; it comes from --store or PERSONASPACE_STORE")
    if re.match(r"(?i)(s3|https?|file):/?[^/]", url):
        raise UserError(f"store {shown_url(url)}: after the scheme stand two slashes, as in s3://")
    if "://" not in url:
        return expanded(url).absolute()
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"store {shown_url(url)}: {error}") from None
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UserError(f"store {shown_url(url)}: a file URL looks like file:///folder")
        return Path(unquote(parts.path))
    if parts.scheme != "s3":
        known = "use a folder, file://, s3:// or hf://"
        raise UserError(f"store {shown_url(url)}: unknown scheme; {known}")
    location = parse_s3(url)
    if location.prefix:
        check_key(location.prefix, what=f"store {shown_url(url)}: prefix")
    return location
