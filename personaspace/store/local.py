"""Artifacts in a folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from personaspace.errors import StoreMissing, UserError
from personaspace.store.base import STALE_MINUTES, Keys, Replaced, Store
from personaspace.store.disk import (
    Scratch,
    abandoned,
    disk_errors,
    folder_lock,
    make_folders,
    prune,
    read_plain,
    refuse_links,
    share,
    sync,
    sync_tree,
)
from personaspace.store.manifest import (
    MANIFEST,
    Manifest,
    check_file,
    check_key,
    is_data_name,
    parse_manifest,
)

#: A manifest under this name is still being written.
_PART = ".manifest"


class LocalStore(Store):
    """A folder on a file system that several processes may share.

    A writer fills its data folder in place; a hard link, which is made or refused in one step,
    publishes the manifest.

    Args:
        root: The folder. Made by `check` or by the first writer.
    """

    knows_writers = True
    _puts_may_be_late = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def check(self, *, write: bool = True) -> None:
        with disk_errors(self.root):
            if write:
                self.root.mkdir(parents=True, exist_ok=True)
                probe = self.root / f".check-{uuid.uuid4().hex}"
                try:
                    probe.write_bytes(b"personaspace")
                finally:
                    probe.unlink(missing_ok=True)
            elif not self.root.is_dir():
                raise StoreMissing(f"store {self.root}: there is no such folder")
            else:
                next(os.scandir(self.root), None)

    def find(self, key: str) -> Manifest | None:
        path = self._folder(key) / MANIFEST
        with disk_errors(self.root):
            try:
                raw = read_plain(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return parse_manifest(raw, key, str(path))

    def list(self, prefix: str = "") -> Keys:
        with disk_errors(self.root):
            found = (key for key, _, files in self._walk(prefix) if MANIFEST in files and key)
            return sorted(found)

    def delete(self, key: str) -> None:
        folder = self._folder(key)
        with disk_errors(self.root):
            if not folder.is_dir():
                return
            with folder_lock(folder):
                data = self._data_of(key)
                with suppress(FileNotFoundError):
                    (folder / MANIFEST).unlink()
                    sync(folder)
        if data is not None:
            self._drop(key, data)

    def sweep(
        self, prefix: str = "", *, minutes: float = STALE_MINUTES, dry_run: bool = False
    ) -> int:
        removed = 0
        with disk_errors(self.root):
            for key, data_names, files in list(self._walk(prefix)):
                named = _named(Path(f"{self.root}/{key}/{MANIFEST}")) if MANIFEST in files else b""
                rest = [data for data in data_names if data.encode() not in named]
                if not rest and MANIFEST in files:
                    continue  # most are whole; the slow look below is for what is not
                folder = self.root / key
                for data in rest:
                    if (folder / data).is_symlink():
                        continue
                    with abandoned(folder / data, minutes) as free:
                        if not free:
                            continue
                        if not dry_run:
                            (folder / f"{data}{_PART}").unlink(missing_ok=True)
                        # The manifest is read only now: a writer may have published meanwhile.
                        if not self._may_name(key, data):
                            if not dry_run:
                                shutil.rmtree(folder / data)
                            removed += 1
                if not dry_run and MANIFEST not in files:
                    prune(folder, self.root)
        return removed

    def describe(self, key: str) -> str:
        return str(self._folder(key))

    def _folder(self, key: str) -> Path:
        folder = self.root / check_key(key)
        refuse_links(self.root, folder)
        return folder

    def _walk(self, prefix: str) -> Iterator[tuple[str, Keys, Keys]]:
        """Key of a folder, names like data folders', names of its files; never inside those.

        Of strings: a store may have 10⁵ folders, and paths take most of the time.
        """
        top = self._folder(prefix) if prefix else self.root
        begin = len(str(self.root).rstrip("/")) + 1
        for parent, folders, files in os.walk(top, onerror=_unless_gone):
            data_names = [name for name in folders if is_data_name(name)]
            folders[:] = [name for name in folders if not is_data_name(name)]
            yield parent[begin:], data_names, files

    def _data_of(self, key: str) -> str | None:
        """The data folder of the artifact that is there; None if none, or not readable."""
        try:
            manifest = self.find(key)
        except UserError:
            return None
        return manifest.data if manifest else None

    def _may_name(self, key: str, data: str) -> bool:
        try:
            manifest = self.find(key)
        except UserError:
            return True
        return manifest is not None and manifest.data == data

    def _fetch(self, manifest: Manifest, names: Sequence[str]) -> Path:
        folder = self._folder(manifest.key) / manifest.data
        with disk_errors(self.root):
            for name in names:
                path = folder / name
                refuse_links(folder, path)
                check_file(path, manifest.files[name], manifest.key, name, str(path))
        return folder

    def _scratch(self, key: str, data: str) -> Scratch:
        with disk_errors(self.root):
            make_folders(self.root)
            return Scratch(self._folder(key) / data)

    def _discard(self, scratch: Scratch) -> None:
        scratch.discard(self.root)

    def _keep(self, manifest: Manifest, scratch: Scratch) -> None:
        with disk_errors(self.root):
            share(scratch.folder)
            sync_tree(scratch.folder)

    def _publish(self, manifest: Manifest) -> bool:
        folder = self._folder(manifest.key)
        with disk_errors(self.root):
            part = self._write_part(manifest)
            try:
                os.link(part, folder / MANIFEST)
            except FileExistsError:
                return False
            except OSError:
                # No hard links here (some network and removable file systems): look, then rename.
                with folder_lock(folder):
                    if (folder / MANIFEST).exists():
                        return False
                    os.replace(part, folder / MANIFEST)
            finally:
                part.unlink(missing_ok=True)
            sync(folder)
        return True

    def _replace(self, manifest: Manifest, only: str | None) -> Replaced:
        folder = self._folder(manifest.key)
        with disk_errors(self.root):
            part = self._write_part(manifest)
            try:
                with folder_lock(folder):
                    former = self._data_of(manifest.key)
                    if only not in (None, former):
                        return Replaced(done=False)
                    os.replace(part, folder / MANIFEST)
                    sync(folder)
            finally:
                part.unlink(missing_ok=True)
        return Replaced(done=True, former=former)

    def _write_part(self, manifest: Manifest) -> Path:
        part = self._folder(manifest.key) / f"{manifest.data}{_PART}"
        try:
            part.write_bytes(manifest.to_bytes())
            sync(part)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return part

    def _drop(self, key: str, data: str) -> None:
        folder = self._folder(key)
        with disk_errors(self.root):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder / data)
            prune(folder, self.root)


def _named(path: Path) -> bytes:
    """A manifest's text, which holds the name of its data folder; empty if it cannot be read."""
    try:
        return read_plain(path)
    except OSError:
        return b""


def _unless_gone(error: OSError) -> None:
    """A folder that was removed while we walk holds nothing; one we may not read is an error."""
    if not isinstance(error, FileNotFoundError):
        raise error
