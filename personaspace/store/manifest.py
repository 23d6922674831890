"""What an artifact's manifest says, and how names and files are checked against it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from personaspace.errors import UserError

MANIFEST = "manifest.json"
_DATA = re.compile(r"data-[0-9a-f]{32}")
_KEY_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+@-]{0,199}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\]")


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 (hex) of one file."""

    model_config = ConfigDict(frozen=True, strict=True)

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """An artifact: where its files lie and what they hold.

    Attributes:
        format: Version of this layout.
        key: The artifact's name in its store, parts separated by slashes.
        data: The folder below `key` that holds the files.
        files: Entry of every file by its path inside `data`.
        fields: What the writer says about it (fingerprint, inputs, versions …).
        created: When, UTC, ISO 8601.
        seal: SHA-256 (hex) of all the rest, so that no change of it goes unseen. Manifests of
            former versions have none.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[1] = 1
    key: str
    data: str
    files: dict[str, FileEntry]
    fields: dict[str, Any]
    created: str
    seal: str | None = None

    @field_validator("data")
    @classmethod
    def _data_is_ours(cls, value: str) -> str:
        if not is_data_name(value):
            raise ValueError("not the name of a data folder")
        return value

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, value: dict[str, FileEntry]) -> dict[str, FileEntry]:
        # A manifest is read from a shared place: a name with `..` must not lead out of the cache.
        for name in value:
            if not is_file_name(name):
                raise ValueError(f"{name!r} is not a file name")
        return value

    @property
    def unbroken(self) -> bool:
        """Whether nothing of it was changed since it was made, as far as that can be told."""
        return self.seal in (None, self._sealed())

    def sealed(self) -> Manifest:
        """The same with its seal."""
        return self.model_copy(update={"seal": self._sealed()})

    def _sealed(self) -> str:
        text = json.dumps(self.model_dump(exclude={"seal"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the content alone: names, sizes and hashes; not of time, key, fields."""
        content = {name: [entry.size, entry.sha256] for name, entry in self.files.items()}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def to_bytes(self) -> bytes:
        """Readable JSON with sorted keys."""
        text = json.dumps(
            self.model_dump(), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False
        )
        return f"{text}\n".encode()


class Glance(NamedTuple):
    """What a manifest says of its artifact, not checked: to look for one among very many."""

    key: str
    fields: dict[str, Any]


def glance(raw: bytes, key: str) -> Glance | None:
    """A look at a manifest's bytes, in a fraction of the time of `parse_manifest`; None: is none.

    What is found this way may have been changed: find the artifact before anything is made of it.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    fields = content.get("fields") if isinstance(content, dict) else None
    return Glance(key, fields) if isinstance(fields, dict) else None


def new_manifest(key: str, data: str, folder: Path, fields: dict[str, Any]) -> Manifest:
    """A manifest of everything in `folder`.

    Raises:
        UserError: The folder holds something other than regular files and folders.
        TypeError, ValueError: `fields` is not plain JSON (NaN is not).
    """
    # Through JSON and back: what the writer gets is what every later reader gets.
    plain = json.loads(json.dumps(fields, allow_nan=False))
    files = {name: read_entry(folder / name) for name in file_names(folder, key)}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(key=key, data=data, files=files, fields=plain, created=now).sealed()


def parse_manifest(raw: bytes, key: str, where: str) -> Manifest:
    """Read a manifest back.

    Args:
        raw: The manifest's bytes.
        key: Whose manifest it should be.
        where: Path or URL of the manifest, for the message.

    Raises:
        UserError: Garbage, cut short, of a newer format, or another artifact's.
    """
    try:
        manifest = Manifest.model_validate(json.loads(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"]) or "top level"
        reason = f"{at}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    else:
        if manifest.key == key and manifest.unbroken:
            return manifest
        reason = f"it names another artifact, {manifest.key!r}"
        if manifest.key == key:
            reason = "something in it was changed: its seal does not fit"
    reason = " ".join(reason.split())[:200]
    raise UserError(
        f"artifact {key}: manifest {where} is corrupt ({reason}); "
        "delete it to have the artifact made again"
    )


def new_data_name() -> str:
    """A name that no other writer has."""
    return f"data-{uuid.uuid4().hex}"


def is_data_name(name: str) -> bool:
    """Whether a folder of this name holds an artifact's files."""
    return _DATA.fullmatch(name) is not None


def is_file_name(name: str) -> bool:
    """Whether this is a relative path in plain form, with forward slashes."""
    parts = name.split("/")
    return (
        not _UNPRINTABLE.search(name)
        and len(name.encode(errors="replace")) <= 700
        and all(part not in ("", ".", "..") for part in parts)
    )


def check_key(key: str, *, what: str = "artifact key") -> str:
    """The key itself, if it may name an artifact (or a prefix).

    Raises:
        UserError: Empty or absolute, an empty part, `.`, `..`, a part of odd characters, or one
            that the store's own layout uses.
    """
    for part in key.split("/"):
        if not _KEY_PART.fullmatch(part) or part == MANIFEST or is_data_name(part):
            raise UserError(
                f"{what} {key!r}: {part!r} may not be a part of it (letters, digits and _.=+@- "
                "between single slashes, starting with a letter, a digit or _)"
            )
    if len(key) > 700:
        raise UserError(f"{what} {key[:60]!r}…: longer than 700 characters")
    return key


def key_of_manifest(path: str) -> str | None:
    """The artifact's key, if `path` (relative to the store) is that of a manifest, else None."""
    *parts, last = path.split("/")
    if last != MANIFEST or not parts or any(is_data_name(part) for part in parts):
        return None
    return "/".join(parts)


def file_names(folder: Path, key: str) -> list[str]:
    """Paths of all files below `folder`, with forward slashes, sorted.

    Raises:
        UserError: A symbolic link, device or the like, or a name that cannot be stored.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        for entry in files + [name for name in folders if (Path(parent) / name).is_symlink()]:
            path = Path(parent) / entry
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not path.is_file() or not is_file_name(name):
                raise UserError(f"artifact {key}: {name!r} is not a plain file with a plain name")
            names.append(name)
    return sorted(names)


def read_entry(path: Path) -> FileEntry:
    """Size and hash of a file on disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(size=os.fstat(file.fileno()).st_size, sha256=digest)


def is_intact(path: Path, entry: FileEntry) -> bool:
    """Whether the file is there and is the one that the manifest means."""
    try:
        return path.stat().st_size == entry.size and read_entry(path) == entry
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_file(path: Path, entry: FileEntry, key: str, name: str, where: str) -> None:
    """Compare a file on disk with the manifest.

    Args:
        path: The file.
        entry: What it should be.
        key: The artifact, for the message.
        name: The file's name in the artifact, for the message.
        where: Where the file lies in the store, for the message.

    Raises:
        UserError: Missing, of another size, or of another content.
    """
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise missing_file(key, name, where) from None
    if size != entry.size:
        how = "truncated" if size < entry.size else "too long"
        raise UserError(
            f"artifact {key}: file {name} is {how}: {size:,} bytes instead of {entry.size:,} "
            f"({where})"
        )
    if read_entry(path).sha256 != entry.sha256:
        raise UserError(
            f"artifact {key}: file {name} is corrupt: its SHA-256 is not the manifest's ({where})"
        )


def missing_file(key: str, name: str, where: str) -> UserError:
    """The error for a file that the manifest names and the store has not."""
    return UserError(f"artifact {key}: file {name} is missing ({where})")
