"""Artifacts in an S3 bucket, or in whatever speaks its protocol."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TypeVar

from personaspace import interrupt
from personaspace.errors import StoreUnavailable, UserError
from personaspace.s3.bucket import DELETE_AT_ONCE, Bucket
from personaspace.s3.location import S3Location
from personaspace.store.base import PUBLISH_ATTEMPTS, STALE_MINUTES, Keys, Replaced, Store, Swept
from personaspace.store.disk import Scratch, disk_errors, make_folders
from personaspace.store.manifest import (
    MANIFEST,
    FileEntry,
    Glance,
    Manifest,
    check_file,
    check_key,
    glance,
    is_data_name,
    is_intact,
    key_of_manifest,
    missing_file,
    parse_manifest,
)


@dataclass(slots=True)
class _Files:
    """A data folder: when something was last put there, bytes, and names where they are needed."""

    newest: datetime
    size: int = 0
    names: list[str] = field(default_factory=list)


#: `list` hides the builtin inside the class.
Batch = list[_Files]
_A = TypeVar("_A")
_B = TypeVar("_B")
#: A question takes a server milliseconds, and a distant one's answer tens of them: so many at once.
AT_ONCE = 8
#: So many artifacts of one folder are looked for with a listing of it, which is one question and
#: tells which are there at all; with fewer, it is as quick to ask for each.
LIST_FROM = 8
#: Objects of a listing that take about as long as one artifact that is asked for. A folder that
#: holds more for each artifact (of other studies, checkpoints) is not listed to its end.
OBJECTS_AN_ARTIFACT = 100


@dataclass(slots=True)
class _Held:
    """What lies below one key: an artifact that nobody wants or not, its manifest's time, data."""

    unwanted: bool
    manifest: datetime | None = None
    data: dict[str, _Files] = field(default_factory=dict)


class S3Store(Store):
    """A bucket, and a local cache of what was fetched or written.

    The manifest goes up with `If-None-Match: *`, so of two writers the server refuses one. Where
    a server does not know conditions, the look that precedes every upload has to do.

    Args:
        location: Bucket, prefix, server.
        cache: Where files are kept; None: a temporary folder that `close` removes.
    """

    knows_writers = False
    _puts_may_be_late = True

    def __init__(self, location: S3Location, cache: Path | None = None) -> None:
        self.url = location.url
        self._bucket = Bucket(location)
        if cache is None:
            self._cache = Path(tempfile.mkdtemp(prefix="personaspace-"))
            # Also at exit, if nobody closes.
            self._forget_cache = weakref.finalize(self, shutil.rmtree, self._cache, True)
        else:
            self._cache = cache.absolute()

    def check(self, *, write: bool = True) -> None:
        self._bucket.check(probe=f".check-{uuid.uuid4().hex}" if write else None)

    def find(self, key: str) -> Manifest | None:
        former = b""
        while True:
            found = self._bucket.read(f"{check_key(key)}/{MANIFEST}")
            if found is None:
                return None
            try:
                return self._parse(found[0], key)
            except UserError:
                # Damaged where it lies, if it comes alike twice; else on its way.
                if found[0] == former:
                    raise
                former = found[0]

    def perhaps(self, keys: Sequence[str]) -> Keys:
        folders: dict[str, Keys] = {}
        for key in keys:
            folders.setdefault(check_key(key).partition("/")[0], []).append(key)
        found = self._at_once(self._listed, list(folders.items()))
        there = set(chain.from_iterable(found))
        return [key for key in keys if key in there]

    def find_all(self, keys: Sequence[str]) -> Iterator[Manifest | None]:
        there = self.perhaps(keys)
        manifests, present = self._at_once(self.find, there), set(there)
        return (next(manifests) if key in present else None for key in keys)

    def glances(self, folder: str) -> Iterator[Glance]:
        found = self._at_once(self._glance, self.right_below(folder))
        return (each for each in found if each is not None)

    def _glance(self, key: str) -> Glance | None:
        found = self._bucket.read(f"{key}/{MANIFEST}")
        return None if found is None else glance(found[0], key)

    def _listed(self, folder: tuple[str, Keys]) -> Keys:
        """Those of a folder's keys that may be there."""
        name, keys = folder
        if len(keys) < LIST_FROM:
            return keys
        listed = set()
        for count, item in enumerate(self._bucket.items(name)):
            if count >= OBJECTS_AN_ARTIFACT * len(keys):
                return keys
            listed.add(key_of_manifest(item.name))
        return [key for key in keys if key in listed]

    def _at_once(self, ask: Callable[[_A], _B], what: Sequence[_A]) -> Iterator[_B]:
        """The store's answers to several questions, in their order."""
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="store")
        try:
            yield from pool.map(ask, what)
        finally:
            # Who stops waiting does not wait for requests under way, which may take minutes.
            pool.shutdown(wait=False, cancel_futures=True)

    def list(self, prefix: str = "") -> Keys:
        items = self._bucket.items(check_key(prefix) if prefix else "")
        keys = (key_of_manifest(item.name) for item in items)
        return sorted(key for key in keys if key is not None)

    def delete(self, key: str) -> None:
        data = self._data_of(key)
        self._bucket.delete(f"{key}/{MANIFEST}")
        if data is not None:
            self._drop(key, data)

    def sweep(
        self,
        prefix: str = "",
        *,
        minutes: float = STALE_MINUTES,
        dry_run: bool = False,
        keep: Callable[[str], bool] | None = None,
    ) -> Swept:
        before = datetime.now(UTC) - timedelta(minutes=minutes)
        swept = Swept()
        held = self._held(prefix, keep)
        batch: Batch = []
        for key, found in held.items():
            interrupt.check()
            if not found.unwanted or found.manifest is None or found.manifest > before:
                continue
            own = next(iter(found.data)) if len(found.data) == 1 else self._data_of(key)
            if own is None:
                continue  # it cannot be read, or is not ours
            files = found.data.pop(own, _Files(found.manifest))
            swept.artifacts.append(key)
            swept.bytes += files.size
            found.manifest = None
            if not dry_run:
                batch.append(replace(files, names=[f"{key}/{MANIFEST}", *files.names]))
                if len(batch) == DELETE_AT_ONCE:
                    self._remove(batch)
        self._remove(batch)
        for key, found in held.items():
            interrupt.check()
            if found.manifest is not None and len(found.data) == 1:
                continue  # a whole artifact and nothing beside it: a call each would take hours
            for data, files in found.data.items():
                # The manifest is read only now: a writer may have published since the listing.
                if files.newest <= before and not self._may_name(key, data):
                    if not dry_run:
                        self._drop(key, data)
                    swept.orphans += 1
        uploads = self._bucket.abort_uploads(prefix, before, dry_run=dry_run)
        swept.orphans += uploads or 0
        swept.uploads_listed = uploads is not None
        return swept

    def _held(self, prefix: str, keep: Callable[[str], bool] | None) -> dict[str, _Held]:
        """What a listing tells of every key."""
        held: dict[str, _Held] = {}
        for item in self._bucket.items(check_key(prefix) if prefix else ""):
            key, data = key_of_manifest(item.name), None
            if key is None:
                key, data = _data_place(item.name) or (None, None)
            if key is None:
                continue
            if (found := held.get(key)) is None:
                found = held[key] = _Held(keep is not None and not keep(key))
            if data is None:
                found.manifest = item.changed
                continue
            files = found.data.setdefault(data, _Files(item.changed))
            files.newest = max(files.newest, item.changed)
            files.size += item.size
            if found.unwanted:  # of the many that stay, names are not needed
                files.names.append(item.name)
        return held

    def _remove(self, artifacts: Batch) -> None:
        """Remove artifacts, all their manifests first."""
        if artifacts:
            self._bucket.delete_all([each.names[0] for each in artifacts])
            self._bucket.delete_all([name for each in artifacts for name in each.names[1:]])
        artifacts.clear()

    def describe(self, key: str) -> str:
        return self._bucket.url_of(check_key(key))

    def close(self) -> None:
        self._bucket.close()
        if hasattr(self, "_forget_cache"):
            self._forget_cache()

    def _parse(self, raw: bytes, key: str) -> Manifest:
        return parse_manifest(raw, key, self._bucket.url_of(f"{key}/{MANIFEST}"))

    def _fetch(self, manifest: Manifest, names: Sequence[str]) -> Path:
        folder = self._cache / check_key(manifest.key) / manifest.data
        with disk_errors(self._cache):
            make_folders(folder)
            for name in names:
                entry = manifest.files[name]
                if not is_intact(folder / name, entry):
                    self._download(manifest, name, entry, folder / name)
        return folder

    def _download(self, manifest: Manifest, name: str, entry: FileEntry, path: Path) -> None:
        """Only a file that passed its check ever gets its proper name."""
        source = f"{manifest.key}/{manifest.data}/{name}"
        where = self._bucket.url_of(source)
        make_folders(path.parent)
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            for last in (False, True):
                if not self._bucket.download(source, part):
                    raise missing_file(manifest.key, name, where)
                # Damaged where it lies, if it is so twice; else on its way.
                if last or is_intact(part, entry):
                    break
            check_file(part, entry, manifest.key, name, where)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _scratch(self, key: str, data: str) -> Scratch:
        # Written where `_fetch` looks, so that a stage's own output is not downloaded again.
        with disk_errors(self._cache):
            return Scratch(self._cache / key / data)

    def _discard(self, scratch: Scratch) -> None:
        scratch.discard(self._cache)

    def _keep(self, manifest: Manifest, scratch: Scratch) -> None:
        folder = f"{manifest.key}/{manifest.data}"
        with disk_errors(self._cache):
            for name in manifest.files:
                self._bucket.upload(scratch.folder / name, f"{folder}/{name}")
        lost = self._lost(folder, manifest) and self._lost(folder, manifest)
        if lost:
            raise StoreUnavailable(
                f"artifact {manifest.key}: file {lost} did not arrive whole at "
                f"{self._bucket.url_of(folder)}"
            )

    def _lost(self, folder: str, manifest: Manifest) -> str | None:
        """A file that is not there in full, by one listing: unlike files, none has a checksum."""
        there = {item.name: item.size for item in self._bucket.items(folder)}
        for name, entry in manifest.files.items():
            if there.get(f"{folder}/{name}") != entry.size:
                return name
        return None

    def _publish(self, manifest: Manifest) -> bool:
        return self._bucket.write(f"{manifest.key}/{MANIFEST}", manifest.to_bytes())

    def _replace(self, manifest: Manifest, only: str | None) -> Replaced:
        name = f"{manifest.key}/{MANIFEST}"
        former: str | None = None
        for attempt in range(PUBLISH_ATTEMPTS):
            found = self._bucket.read(name)
            data = None if found is None else self._data_in(found[0], manifest.key)
            if data == manifest.data:
                # A repeated request was refused because its first self had gone through.
                return Replaced(done=True, former=former)
            if only not in (None, data):
                return Replaced(done=False)
            former = data
            etag = None if found is None else found[1]
            if self._bucket.write(name, manifest.to_bytes(), over=etag):
                return Replaced(done=True, former=former)
            time.sleep(random.uniform(0, 0.05 * 2**attempt))
        raise StoreUnavailable(f"artifact {manifest.key}: others replace it all the time")

    def _drop(self, key: str, data: str) -> None:
        self._bucket.delete_all([item.name for item in self._bucket.items(f"{key}/{data}")])

    def _data_in(self, raw: bytes, key: str) -> str | None:
        """The data folder that a manifest stands for; None if it is corrupt."""
        try:
            return self._parse(raw, key).data
        except UserError:
            return None

    def _data_of(self, key: str) -> str | None:
        found = self._bucket.read(f"{check_key(key)}/{MANIFEST}")
        return None if found is None else self._data_in(found[0], key)

    def _may_name(self, key: str, data: str) -> bool:
        found = self._bucket.read(f"{key}/{MANIFEST}")
        return found is not None and self._data_in(found[0], key) in (data, None)


def _data_place(name: str) -> tuple[str, str] | None:
    """Key and data folder of a file's object name; None for a manifest or a stranger."""
    parts = name.split("/")
    for at, part in enumerate(parts[:-1]):
        if is_data_name(part) and at > 0:
            return "/".join(parts[:at]), part
    return None
