"""A model's files: which they are, their digests, and what weights the headers say they hold."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personaspace.errors import UserError

#: What is read of a model's folder.
_READ = {".json", ".safetensors", ".jinja", ".txt", ".model", ".tiktoken", ".vocab"}
#: Files up to this size are hashed as they come, others by their own digest, which is remembered.
_SMALL = 2 << 20
_INDEX = "model.safetensors.index.json"
#: Bytes of a weight of each number format in safetensors.
_WIDTHS = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


class FilesError(UserError):
    """A model's files are not what they should be."""


def cache_folder() -> Path:
    """Folder for converted models and digests: $PERSONASPACE_CACHE, else the user's cache."""
    root = os.environ.get("PERSONASPACE_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "personaspace"


# --- the hub's cache -----------------------------------------------------------------------------


def _hub_folder(name: str) -> Path:
    home = os.environ.get("HF_HOME")
    if home is None:
        root = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
        home = str(Path(root) / "huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or str(Path(home) / "hub")
    return Path(hub).expanduser() / f"models--{name.replace('/', '--')}"


def cached_snapshot(name: str, commit: str) -> Path | None:
    """Folder of a hub model's commit in the hub's cache on this machine, if its files are there."""
    folder = _hub_folder(name) / "snapshots" / commit
    return folder if (folder / "config.json").is_file() else None


def cached_commit(name: str, revision: str = "main") -> str | None:
    """The commit that a branch or tag was when it was last fetched to this machine."""
    try:
        return (_hub_folder(name) / "refs" / revision).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


# --- digests -------------------------------------------------------------------------------------


def _hashed(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Remembered:
    """Digests of large files, by size, times and inode, kept beside converted models."""

    def __init__(self) -> None:
        self.path = cache_folder() / "digests.json"
        self.known: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            self.known = found if isinstance(found, dict) else {}
        self.new = False

    def of(self, path: Path) -> str:
        at = Path(os.path.realpath(path))
        state = at.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]
        entry = self.known.get(str(at))
        if isinstance(entry, list) and entry[:-1] == stamp:
            return str(entry[-1])
        digest = _hashed(at)
        self.known[str(at)] = [*stamp, digest]
        self.new = True
        return digest

    def keep(self) -> None:
        """Write them; without a place to write, the next process reads the files again."""
        if not self.new:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            number, scratch = tempfile.mkstemp(dir=self.path.parent, prefix=".digests-")
            with os.fdopen(number, "w", encoding="utf-8") as stream:
                json.dump(self.known, stream)
            Path(scratch).replace(self.path)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    found = {path.name: path for path in folder.iterdir() if path.suffix in _READ}
    more = folder / "additional_chat_templates"
    if more.is_dir():
        found |= {f"{more.name}/{path.name}": path for path in more.iterdir()}
    for path in weight_files(folder):
        found[path.relative_to(folder).as_posix()] = path
    yield from sorted((name, path) for name, path in found.items() if path.is_file())


def file_digest(path: Path) -> str:
    """SHA-256 of a file; a large one is hashed again only when size, times or inode change."""
    if path.stat().st_size <= _SMALL:
        return _hashed(path)
    remembered = _Remembered()
    found = remembered.of(path)
    remembered.keep()
    return found


def digest(folder: Path) -> str:
    """SHA-256 of every byte that is read of a model's folder.

    Large files are hashed once, and again only when size, times or inode change.
    """
    files = list(_files(folder))
    remembered = _Remembered()
    large = [path for _, path in files if path.stat().st_size > _SMALL]
    with ThreadPoolExecutor(4) as pool:
        digests = dict(zip(large, pool.map(remembered.of, large), strict=True))
    remembered.keep()
    whole = hashlib.sha256()
    for name, path in files:
        whole.update(f"{name}\0{path.stat().st_size}\0".encode())
        whole.update(digests[path].encode() if path in digests else path.read_bytes())
    return whole.hexdigest()


# --- weights -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """What a model's files hold.

    Attributes:
        parameters: Numbers in all tensors.
        bytes: Of all tensors.
        formats: Number formats, as safetensors names them.
    """

    parameters: int
    bytes: int
    formats: tuple[str, ...]


def weight_files(folder: Path) -> list[Path]:
    """The model's safetensors files.

    Raises:
        FilesError: The index names one that is not there, or cannot be read.
    """
    index = folder / _INDEX
    if not index.is_file():
        whole = folder / "model.safetensors"
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FilesError(f"{_INDEX} cannot be read") from None
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise FilesError(f"{len(missing)} of {len(names)} weight files missing, first {missing[0]}")
    return [folder / name for name in sorted(names)]


def header(path: Path) -> dict[str, Any]:
    """A safetensors file's header: name, format and place of each tensor.

    Raises:
        FilesError: It is cut off, or no such file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(size - 8, 100 << 20):
            raise FilesError(f"{path.name} is cut off, or no safetensors file")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FilesError(f"{path.name} is not a safetensors file") from None
    if size != 8 + length + end:
        raise FilesError(f"{path.name} is cut off: {size:,} of {8 + length + end:,} bytes")
    return dict(header)


@functools.lru_cache(maxsize=8)
def weights(folder: Path) -> Weights | None:
    """What the headers of a model's weight files say; None where there are no such files.

    Raises:
        FilesError: A file is missing or cut off.
    """
    files = weight_files(folder)
    if not files:
        return None
    tensors = [tensor for path in files for tensor in header(path).values()]
    counts = [math.prod(tensor["shape"]) for tensor in tensors]
    return Weights(
        parameters=sum(counts),
        bytes=sum(
            count * _WIDTHS.get(tensor["dtype"], 1)
            for count, tensor in zip(counts, tensors, strict=True)
        ),
        formats=tuple(sorted({tensor["dtype"] for tensor in tensors})),
    )
