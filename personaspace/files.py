"""Reading files that people wrote, and that stages wrote and people may have changed."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from personaspace.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


#: Bytes of what people write by hand: a spec, questions.
SMALL = 16 * 1024 * 1024
#: Bytes of what programs write for us: scores, answers.
LARGE = 8 * 1024**3
_HALF = re.compile(r"[\ud800-\udfff]")
_HALF_WRITTEN = re.compile(r"\\u[dD][89a-fA-F]")


def read_plain(path: Path | str, limit: int = LARGE) -> bytes:
    """Content of a regular file.

    Args:
        path: The file; `~` at its beginning is the user's own folder.
        limit: The most bytes that it may have.

    Raises:
        UserError: Not a regular file (a device or a pipe could be read for ever), or too large.
        OSError: As `open`.
    """
    with open_plain(path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path}: is larger than {limit:,} bytes")
    return content


def open_plain(path: Path | str, limit: int = LARGE) -> io.BufferedReader:
    """A regular file, open to be read: see `read_plain`."""
    handle = os.open(expanded(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(handle, "rb", closefd=True)
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and found.st_size <= limit:
        return file
    file.close()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: is not a regular file")
    raise UserError(f"{path}: is larger than {limit:,} bytes")


def expanded(path: Path | str) -> Path:
    """A path whose `~` is the user's folder.

    Raises:
        UserError: There is no such user, or no path can be so.
    """
    if "\0" in str(path):
        raise UserError(f"{str(path)!r}: a path holds no NUL")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user's folder") from None


def settled(place: str) -> str:
    """One spelling of a folder or an address, by which two that are the same are known."""
    if "://" in place:
        return place.rstrip("/")
    return os.path.abspath(os.path.expanduser(place))  # noqa: PTH100, PTH111 - never raises


def named_again(places: Sequence[str]) -> list[int]:
    """Which of some folders and addresses were named before, in another spelling perhaps."""
    known = [settled(place) for place in places]
    return [index for index, place in enumerate(known) if place in known[:index]]


def check_folder(path: Path, what: str) -> Path:
    """Refuse a place where no folder can be written, before anything takes long.

    Returns:
        The folder itself, or the nearest above it that is there.

    Raises:
        UserError: It, or a folder above it, is a file, or may not be written to.
    """
    place = path.absolute()
    # A link that leads nowhere, or to itself, is there and is no folder.
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{what}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{what}: no permission to write to {place}")
    return place


def environment_number(name: str, default: float) -> float:
    """A number from the environment.

    Raises:
        UserError: It is none, or not finite.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if len(text) > 30 or not re.fullmatch(r"\d+(\.\d*)?", text):
        raise UserError(f"{name}: {text[:40]!r} is not a number")
    return float(text)


def unrepeated(pairs: Sequence[tuple[str, Any]], said: str) -> dict[str, Any]:
    """An object of JSON in which no key is twice.

    Args:
        pairs: As JSON has them.
        said: Message for one that is, with `{}` for it.

    Raises:
        UserError: One is.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise UserError(said.format(repr(next(key for key, n in counts.items() if n > 1))))
    return found


def read_json(path: Path | str) -> Any:
    """A JSON file in which no object has a key twice.

    Raises:
        UserError: Missing, unreadable, not UTF-8, not JSON, or a repeated key.
    """
    try:
        text = read_plain(path).decode("utf-8-sig")
        value = json.loads(
            text, object_pairs_hook=lambda pairs: unrepeated(pairs, "duplicate key {}")
        )
        if _HALF_WRITTEN.search(text):  # only an escape can make half of a surrogate pair
            _refuse_halves(value)
        return value
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}: not JSON ({where}: {error.msg})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except ValueError:
        raise UserError(f"{path}: holds a number of too many digits") from None
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith(f"{path}:") else f"{path}: {said}") from None


def has_half(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which no file or terminal can show."""
    return _HALF.search(text) is not None


def _refuse_halves(value: Any) -> None:
    """Refuse texts with half of a surrogate pair."""
    if isinstance(value, str):
        if has_half(value):
            raise UserError(f"half of a surrogate pair is not a character ({value[:40]!r})")
    elif isinstance(value, dict):
        for name, inner in value.items():
            _refuse_halves(name)
            _refuse_halves(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_halves(inner)


def as_model(value: Any, model: type[Model], where: str) -> Model:
    """JSON's values as a model.

    Raises:
        UserError: A field that does not fit the model; the message is `where` and the field's name.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UserError(f"{where}: {field}: {first['msg']}") from None


def read_model(path: Path | str, model: type[Model]) -> Model:
    """A JSON file as a model.

    Raises:
        UserError: As of `read_json` and `as_model`.
    """
    return as_model(read_json(path), model, str(path))
