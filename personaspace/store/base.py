"""What every store does: the life of a writer, and reading with checks."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

from personaspace.errors import Interrupted, StoreUnavailable, UnavailableError, UserError
from personaspace.store.disk import Scratch, disk_full, is_disk_full
from personaspace.store.manifest import Glance, Manifest, check_key, new_data_name, new_manifest

__all__ = ["Store", "StoreUnavailable", "Writer"]

#: `Store.list` hides the builtin inside the classes, where annotations would mean the method.
Keys = list[str]
#: A data folder without a manifest this old has no writer any more (a slow upload may have one).
STALE_MINUTES = 24 * 60.0
#: How often a manifest is offered where others write and delete it at the same time.
PUBLISH_ATTEMPTS = 10


@dataclass
class Swept:
    """What a sweep removed, or would.

    Attributes:
        artifacts: Keys of artifacts that were not to be kept.
        bytes: Of their files.
        orphans: Data folders that no manifest names, and uploads in parts that never ended.
        uploads_listed: Whether the server lists such uploads; a folder has none.
    """

    artifacts: list[str] = field(default_factory=list)
    bytes: int = 0
    orphans: int = 0
    uploads_listed: bool = True


class Store(ABC):
    """Artifacts by key. Safe to share between threads; closes with `with` or `close`.

    Attributes:
        url: Opens the store again; holds no secrets.
        knows_writers: Whether living writers are known by their locks, so that `sweep` takes what
            a killed one left at once.
    """

    url: str
    knows_writers: ClassVar[bool]
    #: Whether a put that failed may yet take effect, now or a moment later.
    _puts_may_be_late: ClassVar[bool]

    @abstractmethod
    def check(self, *, write: bool = True) -> None:
        """Find out within seconds whether the store works.

        Args:
            write: Whether it must take files too (a folder that is not there is then made).

        Raises:
            UserError: Says what is wrong: bucket, folder, credentials, permission, address.
        """

    @abstractmethod
    def find(self, key: str) -> Manifest | None:
        """The artifact's manifest, None if it is not complete.

        Raises:
            UserError: The manifest is corrupt, or the store cannot be read.
        """

    def being_written(self, key: str) -> bool | None:
        """Whether somebody writes the artifact now; None: the store does not know its writers.

        Raises:
            UserError: The store cannot be read.
        """
        return None

    def perhaps(self, keys: Sequence[str]) -> Keys:
        """Some keys without those that are known, for less than a question each, not to be there.

        Raises:
            UserError: The store cannot be read.
        """
        return list(keys)

    def find_all(self, keys: Sequence[str]) -> Iterator[Manifest | None]:
        """`find` for each of some keys, in their order; as few questions as the store can do with.

        Raises:
            UserError: As `find`.
        """
        return map(self.find, keys)

    def right_below(self, folder: str) -> Keys:
        """Keys of the complete artifacts in a folder itself; sorted. Raises as `list`."""
        return [key for key in self.list(folder) if key.rpartition("/")[0] == folder]

    def glances(self, folder: str) -> Iterator[Glance]:
        """What the artifacts right below a folder say of themselves, quickly and not checked.

        Nothing is told of those whose manifests cannot be read.

        Raises:
            UserError: The store cannot be read.
        """
        for key in self.right_below(folder):
            try:
                manifest = self.find(key)
            except UnavailableError:
                raise
            except UserError:
                continue
            if manifest is not None:
                yield Glance(key, manifest.fields)

    @abstractmethod
    def list(self, prefix: str = "") -> Keys:
        """Keys of all complete artifacts at and below `prefix`, which ends at a slash; sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an artifact, its manifest first. Nothing happens if there is none.

        A corrupt manifest is removed as well; its files are then left for `sweep`.
        """

    @abstractmethod
    def sweep(
        self,
        prefix: str = "",
        *,
        minutes: float = STALE_MINUTES,
        dry_run: bool = False,
        keep: Callable[[str], bool] | None = None,
    ) -> Swept:
        """Remove what crashed writers left at and below `prefix`, and artifacts not to be kept.

        In a folder store a living writer is known by its lock, so `minutes` may be small. S3 knows
        only when a file was last uploaded: `minutes` must be longer than any upload takes.

        A manifest goes before the files that it names, so that a sweep which is broken off leaves
        whole artifacts and orphans, which the next one takes. Of a store of very many artifacts
        only what is unusual is read; all else a listing tells.

        Args:
            prefix: A key or the beginning of keys; "" is the whole store.
            minutes: Leave alone what was written to since.
            dry_run: Remove nothing; only count.
            keep: Whether the artifact of a key stays, as a whole and as it is; None: all do. What
                is no artifact of ours, or lies behind a symbolic link, stays whatever it says.

        Raises:
            Interrupted: Asked to stop; another sweep does the rest.
        """

    @abstractmethod
    def describe(self, key: str) -> str:
        """Where the artifact lies, for people."""

    def writer(self, key: str) -> Writer:
        """A writer for `key`, to be used with `with`."""
        return Writer(self, check_key(key))

    def fetch(self, key_or_manifest: str | Manifest, names: Sequence[str] | None = None) -> Path:
        """A local folder with the artifact's files, each checked by size and SHA-256.

        Args:
            key_or_manifest: An artifact's key; or its manifest, if it must be that very version.
            names: The files needed; None means all.

        Returns:
            The folder. Treat it as read-only: in a folder store it is the artifact itself.

        Raises:
            UserError: No such artifact or file, or one that is missing, cut short or corrupt.
        """
        if isinstance(key_or_manifest, Manifest):
            return self._fetch_version(key_or_manifest, names)
        key = key_or_manifest
        while True:
            manifest = self.find(key)
            if manifest is None:
                raise UserError(f"artifact {key}: not in store {self.url}")
            try:
                return self._fetch(manifest, _chosen(manifest, names))
            except UserError:
                # Somebody may have replaced the artifact under our hands: then read the new one.
                now = self.find(key)
                if now is None or now == manifest:
                    raise

    def _fetch_version(self, manifest: Manifest, names: Sequence[str] | None) -> Path:
        try:
            return self._fetch(manifest, _chosen(manifest, names))
        except UserError:
            # What we were told of it may have been damaged on its way to us.
            now = self.find(manifest.key)
            if now is None or now == manifest or now.data != manifest.data:
                raise
            return self._fetch(now, _chosen(now, names))

    def close(self) -> None:  # noqa: B027 - nothing to free is a fine answer
        """Free what the store holds; what `fetch` returned may be gone afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _fetch(self, manifest: Manifest, names: Sequence[str]) -> Path:
        """`fetch` for known names."""

    @abstractmethod
    def _scratch(self, key: str, data: str) -> Scratch:
        """An empty local folder to write in."""

    @abstractmethod
    def _discard(self, scratch: Scratch) -> None:
        """Remove a scratch folder."""

    @abstractmethod
    def _keep(self, manifest: Manifest, scratch: Scratch) -> None:
        """Bring the files where the manifest will say they are, for good."""

    @abstractmethod
    def _publish(self, manifest: Manifest) -> bool:
        """Put the manifest if there is none. False: there is one (or was, a moment ago)."""

    @abstractmethod
    def _replace(self, manifest: Manifest, only: str | None) -> Replaced:
        """Put the manifest over what is there.

        Args:
            manifest: The new one.
            only: The data folder that the manifest which is there must stand for; None: any.
        """

    @abstractmethod
    def _may_name(self, key: str, data: str) -> bool:
        """Whether the manifest that is there stands for `data`; a corrupt one might."""

    @abstractmethod
    def _drop(self, key: str, data: str) -> None:
        """Remove a data folder that no manifest names."""


def _chosen(manifest: Manifest, names: Sequence[str] | None) -> Keys:
    if names is None:
        return list(manifest.files)
    for name in names:
        if name not in manifest.files:
            raise UserError(f"artifact {manifest.key}: has no file {name}")
    return list(names)


class Replaced(NamedTuple):
    """What became of a manifest that was to take another's place.

    Attributes:
        done: Whether it is there.
        former: The data folder that the other one stood for, if any.
    """

    done: bool
    former: str | None = None


class Writer:
    """Makes one artifact. Without `commit`, or when the block raises before it, nothing stays.

    Attributes:
        key: The artifact.
        folder: Where to write its files; sub-folders are fine.
        won: After `commit`: whether the artifact is ours, or another writer's who came first.
    """

    folder: Path

    def __init__(self, store: Store, key: str) -> None:
        self.key = key
        self.won: bool | None = None
        self._store = store
        self._data = new_data_name()
        self._scratch: Scratch | None = None
        self._kept = False
        self._manifest_sent = False

    def __enter__(self) -> Self:
        self._scratch = self._store._scratch(self.key, self._data)
        self.folder = self._scratch.folder
        return self

    def commit(self, fields: dict[str, Any], *, replace: Manifest | bool = False) -> Manifest:
        """Store the files, then the manifest that makes them an artifact.

        Args:
            fields: What is to be known about the artifact; plain JSON.
            replace: Take the place of this very artifact (True: of any that is there), whose files
                are then removed. Where another one came first, that one holds.

        Returns:
            The manifest that holds now: ours, or that of a writer who was first (see `won`).

        Raises:
            UserError: Something in the folder is not a plain file, or the store fails.
            TypeError, ValueError: `fields` is not JSON.
        """
        if self._scratch is None or self.won is not None:
            raise RuntimeError("commit belongs into the writer's with block, once")
        manifest = new_manifest(self.key, self._data, self.folder, fields)
        # An early look saves the upload, and helps where a server ignores conditions.
        winner = None if replace is True else self._winner(replace or None)
        if winner is None:
            self._kept = True
            self._store._keep(manifest, self._scratch)
            self._manifest_sent = True
            if replace:
                winner = self._replace(manifest, None if replace is True else replace)
            else:
                winner = self._publish(manifest)
        self.won = winner.data == self._data
        self._manifest_sent = self.won
        return winner

    def _winner(self, stale: Manifest | None) -> Manifest | None:
        """Who was first, if anybody was; a stale artifact is not."""
        found = self._store.find(self.key)
        if found is None or (stale is not None and found.data == stale.data):
            return None
        return found

    def _replace(self, manifest: Manifest, stale: Manifest | None) -> Manifest:
        replaced = self._store._replace(manifest, None if stale is None else stale.data)
        if not replaced.done:
            return self._publish(manifest)
        if replaced.former is not None:
            # The artifact is complete; what cannot be removed now is for `sweep`.
            with suppress(UserError, Interrupted):
                self._store._drop(self.key, replaced.former)
        return manifest

    def _publish(self, manifest: Manifest) -> Manifest:
        for attempt in range(PUBLISH_ATTEMPTS):
            if self._store._publish(manifest):
                return manifest
            # Ours may be there although we were refused: a repeated request meets its first self.
            winner = self._store.find(self.key)
            if winner is not None:
                return winner
            time.sleep(random.uniform(0, 0.05 * 2**attempt))
        raise StoreUnavailable(f"artifact {self.key}: its manifest comes and goes")

    def _may_be_published(self) -> bool:
        store = self._store
        return store._puts_may_be_late or store._may_name(self.key, self._data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        scratch, self._scratch = self._scratch, None
        if scratch is None:
            return
        if self.won:
            scratch.release()
        elif self._manifest_sent and self._may_be_published():
            # Removing the files could break a complete artifact. If they are stale, `sweep` will
            # find them.
            scratch.release()
        else:
            self._store._discard(scratch)
            if self._kept:
                with suppress(UserError, Interrupted):
                    self._store._drop(self.key, self._data)
        if error is not None and is_disk_full(error) and not isinstance(error, UserError):
            raise disk_full(scratch.folder.parent) from error
