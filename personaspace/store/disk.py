"""Folders that are being written, locks on them, and disk errors in plain words."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from personaspace.errors import StoreUnavailable, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("No space left on device", "Disk quota exceeded")
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
#: flock's answer where another process holds the lock; every other one means "cannot lock here".
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN)


class Scratch:
    """A folder that one writer fills.

    An advisory lock on the folder lasts exactly as long as the writer's process lives, SIGKILL or
    not, and tells `clean` that somebody is still at work. Where a file system cannot lock folders
    (some network ones), age alone decides.

    Attributes:
        folder: The folder; new and empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = _open_locked(folder)
        while not _is_at(self._lock, folder):
            # A sweep took the new folder for an abandoned one before we held it.
            os.close(self._lock)
            self._lock = _open_locked(folder)

    def release(self) -> None:
        """Let go of the folder, which stays."""
        if self._lock is not None:
            # Unlocking by hand: forked children (data loaders) may still hold the descriptor.
            with suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = None

    def discard(self, root: Path) -> None:
        """Remove the folder and the empty ones above it, up to `root`."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()
        prune(self.folder.parent, root)


def _open_locked(folder: Path) -> int:
    make_folders(folder)
    handle = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def _is_at(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def make_folders(folder: Path) -> None:
    """Like `mkdir -p`, though somebody prunes empty folders above it at the same time."""
    for _ in range(20):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


def refuse_links(root: Path, name: str) -> None:
    """Nothing below a store's root is a symbolic link: it could lead anywhere.

    Raises:
        UserError: What has this name (parts between slashes) below `root`, or a folder between,
            is one.
    """
    place = str(root)
    for part in name.split("/"):
        place = f"{place}/{part}"  # as paths, this took most of a listing
        if os.path.islink(place):  # noqa: PTH114
            raise UserError(f"store {root}: {place} is a symbolic link, and none is followed")


def is_link(name: str, folder: int) -> bool:
    """Whether what has this name in an open folder is a symbolic link; False: nothing has."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def read_plain(path: Path | str) -> bytes:
    """A small file's content; a symbolic link in its place is an error (ELOOP)."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        parts = []
        while part := os.read(handle, 2**16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def remove_tree(folder: Path | str) -> int:
    """Remove a folder with all that is in it, though somebody else does so at the same time.

    Returns:
        Bytes of its files.
    """
    size = 0
    try:
        # Most hold a few files and no folder: with half of the calls that `rmtree` takes.
        size += _remove_files(folder)
        os.rmdir(folder)  # noqa: PTH106 - of very many
        return size
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        size += size_below(folder)
    while os.path.lexists(folder):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
    return size


def _remove_files(folder: Path | str) -> int:
    """Remove the files right inside a folder; their bytes. A link in its place is an error."""
    handle, size = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW), 0
    try:
        with os.scandir(handle) as entries:
            for entry in list(entries):
                if not entry.is_dir(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
                    os.unlink(entry.name, dir_fd=handle)
    finally:
        os.close(handle)
    return size


def prune(folder: Path | str, root: Path) -> None:
    """Remove `folder` and those above it as long as they are empty and below `root`."""
    place, top = str(folder), f"{str(root).rstrip('/')}/"
    while place.startswith(top):
        try:
            os.rmdir(place)  # noqa: PTH106 - of very many
        except FileNotFoundError:
            pass
        except OSError:
            return
        place = place.rpartition("/")[0]


@contextmanager
def folder_lock(folder: Path | str) -> Iterator[int]:
    """Keep other writers of this store off `folder` for a moment, where the file system can.

    Yields:
        The open folder, for what is done in it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def abandoned(folder: Path, minutes: float) -> Iterator[bool]:
    """Whether no living process writes into `folder` and it was left alone for `minutes`.

    The lock is held inside the `with` block, so that the answer stays true there.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        held = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held = error.errno in _HELD
        newest = max((found.st_mtime for found in _below(folder)), default=0.0)
        newest = max(newest, os.fstat(handle).st_mtime)
        yield not held and time.time() - newest >= minutes * 60
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a living process writes into `folder`, as far as the file system can tell."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared: two that ask at once do not take each other for a writer.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _HELD
    finally:
        os.close(handle)
    return False


def size_below(folder: Path | str) -> int:
    """Bytes of all files below a folder."""
    return sum(found.st_size for found in _below(folder) if not stat.S_ISDIR(found.st_mode))


def _below(folder: Path | str) -> Iterator[os.stat_result]:
    """What is known of everything below a folder, as far as it can be read."""
    waiting = [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    yield found
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)


def share(folder: Path) -> None:
    """Let those read what is below `folder` whom the umask lets: libraries make private files."""
    plain = os.umask(0o077)
    os.umask(plain)
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o777 & ~plain)
        for name in files:
            (Path(parent) / name).chmod(0o666 & ~plain)


def sync(path: Path) -> None:
    """Have a file's or folder's content on the disk before anything that follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """`sync` for everything below `folder`, then the folder itself."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(parent) / name)
        sync(Path(parent))


def sync_all(folder: Path) -> None:
    """Have all of the file system that a folder is on on the disk (`syncfs` of Linux)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means a full disk; libraries in other languages say so in words only."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return isinstance(error, Exception) and any(word in str(error) for word in _FULL_WORDS)


def disk_full(folder: Path) -> StoreUnavailable:
    """The error for a full disk."""
    return StoreUnavailable(f"no space left on the disk of folder {folder}")


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn operating system errors into one line that names the store's folder."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(folder) from error
        if error.errno in _DENIED:
            raise UserError(
                f"store {folder}: no permission ({error.strerror}: {error.filename or folder})"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"store {folder}: {error.filename or folder} is not a folder"
            ) from error
        if error.errno == errno.ELOOP:
            raise UserError(
                f"store {folder}: {error.filename or folder} is a symbolic link, and none is "
                "followed"
            ) from error
        reason = error.strerror or type(error).__name__
        at = f": {error.filename}" if error.filename else ""
        raise StoreUnavailable(f"store {folder}: {reason}{at}") from error
