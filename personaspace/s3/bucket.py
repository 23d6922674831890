"""A bucket below a prefix: the few S3 calls a store needs, with patience and plain errors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.utils import parse_timestamp

from personaspace import interrupt
from personaspace.errors import StoreBusy, StoreUnavailable, UserError, without_passwords
from personaspace.s3.errors import code_of, s3_errors, status_of
from personaspace.s3.location import S3Location
from personaspace.s3.patience import patiently

#: Larger files go up and down in parts of this size (bytes), several at a time.
PART_BYTES = 8 * 1024 * 1024
#: Of one request, by botocore, within a second or so; longer troubles are for `patience`.
ATTEMPTS = 4
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 60.0
#: The patience of a first look at a server that answers, but cannot now.
_CHECKING_SECONDS = 15.0
#: 412: the condition does not hold; 409: somebody else is at it now; 404: nothing to match.
_REFUSED = (404, 409, 412)
_STYLES = {None: "auto", True: "path", False: "virtual"}
_TRANSFER = TransferConfig(
    multipart_threshold=PART_BYTES,
    multipart_chunksize=PART_BYTES,
    max_concurrency=8,
    preferred_transfer_client="classic",
)
#: What a listing's next page is asked for with, and where the last page says it.
_NEXT = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_multipart_uploads": {
        "KeyMarker": "NextKeyMarker",
        "UploadIdMarker": "NextUploadIdMarker",
    },
}
#: How a server says that it does not know an operation.
_UNKNOWN = (405, 501)
#: Hugging Face's gateway to its buckets parses no checksum that follows a body, which botocore
#: sends over TLS by default (https://huggingface.co/docs/hub/storage-buckets-s3).
_WITHOUT_TRAILERS = ("s3.hf.co",)
_BARE = Config(
    request_checksum_calculation="when_required", response_checksum_validation="when_required"
)
#: Objects that one request may remove.
DELETE_AT_ONCE = 1000
_T = TypeVar("_T")


class Item(NamedTuple):
    """One object of a listing; `name` is relative to the prefix, `size` in bytes."""

    name: str
    size: int
    changed: datetime


class _NotListed(Exception):
    """The server does not know the listing that was asked for."""


class Bucket:
    """A bucket at one server. Names are relative to the location's prefix; threads may share it.

    Every method raises `UserError` for what the user can fix and `StoreUnavailable` for what may
    pass, the latter only after the location's patience is over. (botocore's own retries end after
    seconds: non-throttling ones start at 50 ms, and parallel parts soon use up their quota.)

    Args:
        location: Bucket, prefix and server. What it leaves open comes from boto3's usual chain.
    """

    def __init__(self, location: S3Location) -> None:
        self.location = location
        self._conditional = True
        self._many = True

    def check(self, *, probe: str | None) -> None:
        """Whether the bucket can be listed and, with a `probe` name, written and deleted from.

        Takes seconds, whatever is wrong. A listing, unlike HEAD, says why it was refused.
        """
        quick = functools.partial(self._connect, attempts=2, connect_seconds=3, read_seconds=4)
        # Credentials may have to be asked for as well.
        client = interrupt.answered(quick, f"bucket {self.location.bucket}", keeps=False)
        where = {"Bucket": self.location.bucket}
        ask = functools.partial(self._patiently, patience=_CHECKING_SECONDS)
        try:
            some = {**where, "Prefix": self.location.prefix, "MaxKeys": 1}
            ask("list", lambda: client.list_objects_v2(**some), passing=StoreBusy)
            if probe is not None:  # the server is there
                where["Key"] = self._key(probe)
                ask("write to", lambda: client.put_object(**where, Body=b"personaspace"))
                ask("delete from", lambda: client.delete_object(**where))
        finally:
            client.close()

    def url_of(self, name: str) -> str:
        """`s3://bucket/prefix/name`."""
        return f"{self.location.place}/{name}"

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Content and ETag of a small object, None if there is none."""

        def call() -> tuple[bytes, str] | None:
            try:
                answer = self._client.get_object(**self._at(name))
                return answer["Body"].read(), answer["ETag"]
            except ClientError as error:
                if self._is_missing(error):
                    return None
                raise

        return self._patiently("read", call)

    def write(self, name: str, content: bytes, *, over: str | None = None) -> bool:
        """Put a small object on a condition, in one step.

        Args:
            name: The object.
            content: Its bytes.
            over: ETag of the object that may be overwritten; None: there must be none.

        Returns:
            Whether it was put. After a lost answer this may be False though it was: look. A
            server that does not know conditions (501) always puts.
        """
        condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}

        def call() -> bool:
            if self._conditional:
                try:
                    self._client.put_object(**self._at(name), Body=content, **condition)
                    return True
                except ClientError as error:
                    if status_of(error) in _REFUSED and code_of(error) != "NoSuchBucket":
                        return False
                    if status_of(error) != 501:
                        raise
                self._conditional = False
            self._client.put_object(**self._at(name), Body=content)
            return True

        return self._patiently("write to", call)

    def upload(self, path: Path, name: str) -> None:
        """Store a file, in parts where it is large."""
        where = (self.location.bucket, self._key(name))
        self._patiently(
            "write to", lambda: self._client.upload_file(str(path), *where, Config=_TRANSFER)
        )

    def download(self, name: str, path: Path) -> bool:
        """Fetch a file, in parts where it is large; False if there is none."""
        where = (self.location.bucket, self._key(name))

        def call() -> bool:
            try:
                self._client.download_file(*where, str(path), Config=_TRANSFER)
            except ClientError as error:
                if self._is_missing(error):
                    return False
                raise
            return True

        # Nothing is lost without it: whoever goes on fetches it again.
        return self._patiently("read", call, keeps=False)

    def items(self, folder: str) -> Iterator[Item]:
        """All objects below a folder, page by page; "" is the whole prefix."""
        skip = len(self._prefix(""))
        for entry in self._pages("list_objects_v2", "Contents", folder):
            yield Item(entry["Key"][skip:], entry["Size"], entry["LastModified"])

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        self._patiently("delete from", lambda: self._client.delete_object(**self._at(name)))

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove objects, many with a request; those that are not there are no error."""
        for begin in range(0, len(names), DELETE_AT_ONCE):
            batch = names[begin : begin + DELETE_AT_ONCE]
            if not self._delete_together(batch):
                for name in batch:
                    self.delete(name)

    def _delete_together(self, names: Sequence[str]) -> bool:
        """Remove up to `DELETE_AT_ONCE` objects; False: this server cannot."""
        wanted = {"Objects": [{"Key": self._key(name)} for name in names], "Quiet": True}

        def call() -> bool:
            if not self._many:
                return False
            try:
                answer = self._client.delete_objects(Bucket=self.location.bucket, Delete=wanted)
            except ClientError as error:
                # Some servers do not know it, others ask for another checksum than ours.
                self._many = status_of(error) not in (400, 405, 501)
                if self._many:
                    raise
                return False
            for failed in answer.get("Errors", []):
                if failed.get("Code") != "NoSuchKey":
                    raise ClientError({**answer, "Error": failed}, "DeleteObjects")
            return True

        return self._patiently("delete from", call)

    def abort_uploads(self, folder: str, before: datetime, *, dry_run: bool = False) -> int | None:
        """Drop uploads in parts that were begun below `folder` before then and never finished.

        Returns:
            How many there were; None: this server does not list them.
        """
        found = 0
        try:
            for upload in self._pages("list_multipart_uploads", "Uploads", folder):
                if upload["Initiated"] <= before:
                    found += 1
                    if dry_run:
                        continue
                    where = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    self._patiently("delete from", functools.partial(self._abort, where))
        except _NotListed:
            return None
        return found

    def _abort(self, upload: dict[str, str]) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self.location.bucket, **upload)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":  # it may have ended since the listing
                raise

    def close(self) -> None:
        """Close the connections."""
        if "_client" in self.__dict__:
            self._client.close()

    def _is_missing(self, error: ClientError) -> bool:
        """Whether an answer says that there is no such object, in a bucket that is there.

        The answer to HEAD, with which a download begins, has no body and so is the same 404 for a
        missing bucket. A listing tells them apart, and raises what it says of the bucket.
        """
        if code_of(error) != "404":
            return code_of(error) == "NoSuchKey"
        try:
            self._client.list_objects_v2(
                Bucket=self.location.bucket, Prefix=self._prefix(""), MaxKeys=1
            )
        except ClientError as asked:
            # Who may read need not be allowed to list.
            if status_of(asked) != 403:
                raise
        return True

    @functools.cached_property
    def _client(self) -> Any:
        return self._connect()

    @functools.cached_property
    def _session(self) -> boto3.session.Session:
        """A session of our own, so that credentials are looked for afresh."""
        core = botocore.session.get_session()
        core.register_component("data_loader", _loader())
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
        return boto3.session.Session(botocore_session=core)

    @property
    def _names(self) -> tuple[str, str]:
        """Bucket and server for messages; before an @ there would be a password."""
        if "_client" in self.__dict__:
            server = str(self._client.meta.endpoint_url)
        else:
            server = self.location.endpoint or "the configured server"
        return self.location.bucket, server.rpartition("@")[2]

    def _patiently(
        self,
        doing: str,
        call: Callable[[], _T],
        *,
        patience: float = math.inf,
        passing: type[StoreUnavailable] = StoreUnavailable,
        keeps: bool = True,
    ) -> _T:
        """See `patiently`; it lasts as long as the location's, or less."""
        seconds = min(patience, self.location.patience)
        names = lambda: self._names  # noqa: E731 - known better when there is a client
        return patiently(call, doing, names, seconds=seconds, passing=passing, keeps=keeps)

    def _pages(self, operation: str, field: str, folder: str) -> Iterator[dict[str, Any]]:
        """The entries of a listing below `folder`, a page at a time, each asked for patiently."""
        where = {"Bucket": self.location.bucket, "Prefix": self._prefix(folder)}
        after: dict[str, str] = {}
        while True:
            page = self._patiently("list", functools.partial(self._page, operation, where | after))
            yield from page.get(field, [])
            # SeaweedFS says where the next page of uploads begins in one of the two fields alone.
            after = {own: page[at] for own, at in _NEXT[operation].items() if page.get(at)}
            if not (after and page.get("IsTruncated")):
                return

    def _page(self, operation: str, where: dict[str, str]) -> dict[str, Any]:
        try:
            page: dict[str, Any] = getattr(self._client, operation)(**where)
        except ClientError as error:
            # Objects every server lists; who does not is a failing one.
            if operation == "list_multipart_uploads" and status_of(error) in _UNKNOWN:
                raise _NotListed from error
            raise
        return page

    def _key(self, name: str) -> str:
        return f"{self._prefix('')}{name}"

    def _prefix(self, folder: str) -> str:
        """Ends at a slash, so that `e4` does not stand for `e4-villain` too."""
        return "".join(f"{part}/" for part in (self.location.prefix, folder) if part)

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.location.bucket, "Key": self._key(name)}

    def _connect(
        self,
        *,
        attempts: int | None = None,
        connect_seconds: float = _CONNECT_SECONDS,
        read_seconds: float = _READ_SECONDS,
    ) -> Any:
        """A boto3 client; `attempts` None: what AWS_MAX_ATTEMPTS or the profile says, else ours."""
        where = self.location
        with s3_errors(*self._names, "reach"):
            session = self._session
            if attempts is None:
                configured = session._session.get_config_variable("max_attempts")
                if configured is not None and not str(configured).strip().isdigit():
                    raise UserError(f"AWS_MAX_ATTEMPTS: {str(configured)[:40]!r} is not a number")
                attempts = int(configured or ATTEMPTS)
            config = Config(
                retries={"mode": "standard", "total_max_attempts": attempts},
                connect_timeout=connect_seconds,
                read_timeout=read_seconds,
                max_pool_connections=16,
                s3={"addressing_style": _STYLES[where.path_style]},
            )
            how: dict[str, Any] = {
                "endpoint_url": where.endpoint,
                # Private servers take any region, yet a signature must name one.
                "region_name": where.region or session.region_name or "us-east-1",
            }
            try:
                client = session.client("s3", config=config, **how)
                # Its address may come from the environment or a profile as well.
                if urlsplit(client.meta.endpoint_url).hostname in _WITHOUT_TRAILERS:
                    client = session.client("s3", config=config.merge(_BARE), **how)
                return client
            except ValueError as error:
                raise UserError(f"store {where.place}: {without_passwords(str(error))}") from None


def _time(value: Any) -> datetime:
    """A time as S3's listings have it, or any other: botocore's way alone takes 60 µs for each."""
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        found = None
    if found is None or found.tzinfo is None:
        found = parse_timestamp(value)
    return found


@functools.cache
def _loader() -> Any:
    """Reader of the service descriptions: parsing them anew for every store takes 0.1 s."""
    return botocore.session.get_session().get_component("data_loader")
