"""Artifacts in a folder."""

from __future__ import annotations

import errno
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from personaspace import interrupt
from personaspace.errors import StoreMissing, UserError
from personaspace.store.base import STALE_MINUTES, Keys, Replaced, Store, Swept
from personaspace.store.disk import (
    Scratch,
    abandoned,
    disk_errors,
    folder_lock,
    is_held,
    is_link,
    make_folders,
    prune,
    read_plain,
    refuse_links,
    remove_tree,
    share,
    size_below,
    sync,
    sync_all,
    sync_tree,
)
from personaspace.store.manifest import (
    MANIFEST,
    Glance,
    Manifest,
    check_file,
    check_key,
    glance,
    is_data_name,
    parse_manifest,
)

#: A manifest under this name is still being written.
_PART = ".manifest"
#: Why a manifest cannot be read, of which no other of the store's need suffer.
_UNREADABLE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR)
#: So many manifests are removed before the disk is waited for, which may take a while each time.
_AT_ONCE = 1000


#: Keys and data folders; `list` hides the builtin inside the class.
Pairs = list[tuple[str, str]]


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
                return
            try:
                next(os.scandir(self.root), None)
            except FileNotFoundError:
                raise StoreMissing(f"store {self.root}: there is no such folder") from None

    def find(self, key: str) -> Manifest | None:
        path = self._folder(key) / MANIFEST
        with disk_errors(self.root):
            try:
                raw = read_plain(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return parse_manifest(raw, key, str(path))

    def perhaps(self, keys: Sequence[str]) -> Keys:
        top = str(self.root)
        return [key for key in keys if os.path.lexists(f"{top}/{check_key(key)}/{MANIFEST}")]

    def glances(self, folder: str) -> Iterator[Glance]:
        with disk_errors(self.root):
            top = str(self._folder(folder))
            try:
                with os.scandir(top) as entries:
                    names = [entry.name for entry in entries if not entry.is_symlink()]
            except (FileNotFoundError, NotADirectoryError):
                return
            for name in names:
                try:
                    raw = read_plain(f"{top}/{name}/{MANIFEST}")
                except OSError as error:
                    if error.errno in _UNREADABLE:
                        continue
                    raise
                found = glance(raw, f"{folder}/{name}")
                if found is not None:
                    yield found

    def being_written(self, key: str) -> bool | None:
        folder = self._folder(key)
        with disk_errors(self.root):
            try:
                names = [entry.name for entry in os.scandir(folder) if is_data_name(entry.name)]
            except (FileNotFoundError, NotADirectoryError):
                return False
            return any(is_held(folder / name) for name in names)

    def list(self, prefix: str = "") -> Keys:
        with disk_errors(self.root):
            found = (key for key, _, files, _ in self._walk(prefix) if MANIFEST in files and key)
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
        self,
        prefix: str = "",
        *,
        minutes: float = STALE_MINUTES,
        dry_run: bool = False,
        keep: Callable[[str], bool] | None = None,
    ) -> Swept:
        swept = Swept()
        without_manifest: Pairs = []
        before = time.time() - 60 * minutes
        with disk_errors(self.root):
            try:
                for key, data_names, files, inner in self._walk(prefix):
                    interrupt.check()
                    rest = data_names
                    if keep is not None and MANIFEST in files and key and not keep(key):
                        own = data_names[0] if len(data_names) == 1 else self._data_of(key)
                        if own is not None and self._withdraw(key, own, before, dry_run=dry_run):
                            swept.artifacts.append(key)
                            if dry_run:
                                swept.bytes += size_below(f"{self.root}/{key}/{own}")
                            else:
                                without_manifest.append((key, own))
                        rest = [data for data in data_names if data != own]
                    elif MANIFEST in files and len(data_names) == 1:
                        continue  # most are whole; the slow look is for what is not
                    if rest:
                        swept.orphans += self._sweep_one(key, rest, minutes, dry_run=dry_run)
                    if not dry_run and not inner and MANIFEST not in files:
                        prune(self.root / key, self.root)
                    if len(without_manifest) >= _AT_ONCE:
                        swept.bytes += self._finish(without_manifest)
            finally:
                swept.bytes += self._finish(without_manifest)
        return swept

    def _withdraw(self, key: str, data: str, before: float, *, dry_run: bool) -> bool:
        """Remove the manifest of an artifact that is from before then; False: it stays."""
        try:
            with folder_lock(f"{self.root}/{key}") as folder:
                found = os.stat(MANIFEST, dir_fd=folder, follow_symlinks=False)
                linked = not stat.S_ISREG(found.st_mode) or is_link(data, folder)
                if linked or found.st_mtime > before:
                    return False
                if not dry_run:
                    os.unlink(MANIFEST, dir_fd=folder)
        except FileNotFoundError:  # another sweep was faster
            return False
        return True

    def _finish(self, without_manifest: Pairs) -> int:
        """Remove the files of artifacts, once their manifests are gone for good; their bytes."""
        if without_manifest:
            sync_all(self.root)
        above, size = set(), 0
        for key, data in without_manifest:
            size += remove_tree(f"{self.root}/{key}/{data}")
            with suppress(OSError):  # not empty: something else lies there
                os.rmdir(f"{self.root}/{key}")  # noqa: PTH106 - of very many
            above.add(key.rpartition("/")[0])
        for folder in above:
            prune(f"{self.root}/{folder}", self.root)
        without_manifest.clear()
        return size

    def _sweep_one(self, key: str, data_names: Keys, minutes: float, *, dry_run: bool) -> int:
        """Remove data folders below a key that no manifest names."""
        removed = 0
        folder = self.root / key
        for data in data_names:
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
                        remove_tree(folder / data)
                    removed += 1
        return removed

    def describe(self, key: str) -> str:
        return str(self._folder(key))

    def _folder(self, key: str) -> Path:
        refuse_links(self.root, check_key(key))
        return self.root / key

    def _walk(self, prefix: str) -> Iterator[tuple[str, Keys, Keys, Keys]]:
        """Key of a folder, names like data folders', of its files and other folders.

        Never inside data folders, nor through links. Of strings, and with as few questions to the
        file system as can be: a store may have 10⁵ folders, and `os.walk` takes twice the time.
        """
        begin = len(str(self.root).rstrip("/")) + 1
        waiting = [str(self._folder(prefix) if prefix else self.root)]
        while waiting:
            parent = waiting.pop()
            data_names, files, inner = [], [], []
            try:
                with os.scandir(parent) as entries:
                    for entry in entries:
                        if is_data_name(entry.name) and entry.is_dir():
                            data_names.append(entry.name)
                        elif entry.is_dir(follow_symlinks=False):
                            inner.append(entry.name)
                        else:
                            files.append(entry.name)
            except OSError as error:
                _unless_gone(error)
                continue
            yield parent[begin:], data_names, files, inner
            above = parent.rstrip("/")
            waiting += [f"{above}/{name}" for name in reversed(inner)]

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
                refuse_links(folder, name)
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
            remove_tree(folder / data)
            prune(folder, self.root)


def _unless_gone(error: OSError) -> None:
    """A folder that was removed while we walk holds nothing; one we may not read is an error."""
    if not isinstance(error, FileNotFoundError):
        raise error
