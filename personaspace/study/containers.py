"""What a data file is packed in: JSON lines, a JSON array or parquet, as it is, gzip or Zstandard.

Told by the content's first bytes, not by the file's name, which may say anything.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO

from personaspace.errors import UserError
from personaspace.files import unrepeated

#: A packed file may not unpack to more: some thousand bytes can be made to hold terabytes.
LARGEST = 4 << 30
#: How files of these kinds begin.
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_STEP = 1 << 20


def parse_json(text: str) -> Any:
    """JSON in which no object has a key twice.

    Raises:
        UserError: A key twice, a number too long, or nested too deeply; not said where.
        json.JSONDecodeError: Not JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except json.JSONDecodeError:
        raise
    except ValueError:
        raise UserError("holds a number of too many digits") from None
    except RecursionError:
        raise UserError("is nested too deeply") from None


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; for a decoder. Raises UserError where a key is there twice."""
    return unrepeated(pairs, "has the key {} twice")


def parse_line(where: str, line: str) -> Any:
    """A line of JSON lines. Raises UserError, which begins with where it stands."""
    try:
        return parse_json(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg}") from None
    except UserError as error:
        raise UserError(f"{where} {error}") from None


def unpacked(name: str, raw: bytes, largest: int = LARGEST) -> bytes:
    """The content of a gzip or Zstandard file; any other as it is.

    Raises:
        UserError: Damaged, cut short, or more than `largest` bytes.
    """
    if not raw.startswith((GZIP, ZSTD)):
        return raw
    return b"".join(unpacking(name, io.BytesIO(raw), raw[:4], largest))


def unpacking(name: str, file: BinaryIO, head: bytes, largest: int = LARGEST) -> Iterator[bytes]:
    """The content of a gzip or Zstandard file, part by part.

    Args:
        name: The file, for messages.
        file: Open at its beginning.
        head: Its first bytes.
        largest: The most bytes that it may hold.

    Raises:
        UserError: Damaged, cut short, or more than `largest` bytes.
    """
    if head.startswith(GZIP):
        return _parts(name, gzip.GzipFile(fileobj=file), "gzip", largest)
    # Imported here: it takes a moment to load, and most studies read plain text.
    import pyarrow

    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")
    return _parts(name, stream, "Zstandard", largest)


def _parts(name: str, stream: Any, kind: str, largest: int) -> Iterator[bytes]:
    size = 0
    try:
        while part := stream.read(_STEP):
            size += len(part)
            if size > largest:
                raise UserError(f"{name}: unpacks to more than {largest >> 30} GiB")
            yield part
    except (OSError, EOFError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name}: not a sound {kind} file ({reason})") from None


def as_text(name: str, raw: bytes) -> str:
    """UTF-8 text, with or without a byte order mark. Raises UserError if it is not."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text (byte {error.start})") from None


def rows_of(name: str, raw: bytes, bounds: tuple[int, int | None]) -> Iterator[tuple[str, Any]]:
    """A file's rows, each with where it stands.

    Args:
        name: The file, for messages.
        raw: Its bytes.
        bounds: Start and stop of the rows that are wanted, counted from 0.

    Yields:
        `file: line 3` (or `row 3`, counted from 1) and the row's plain value.

    Raises:
        UserError: Not readable; the message says where.
    """
    raw = unpacked(name, raw)
    start, stop = bounds
    if raw.startswith(PARQUET):
        table = _parquet(name, raw).slice(start, None if stop is None else max(stop - start, 0))
        for number, row in enumerate(table.to_pylist(), start + 1):
            yield f"{name}: row {number}", row
        return
    if raw.removeprefix(BOM_UTF8).lstrip()[:1] == b"[":
        rows = _array(name, as_text(name, raw))
        for number, row in list(enumerate(rows, 1))[start:stop]:
            yield f"{name}: row {number}", row
        return
    for number, line in islice(_lines(name, raw), start, stop):
        where = f"{name}: line {number}"
        try:
            row = parse_line(where, line)
        except UserError as error:
            raise UserError(_whole(name, as_text(name, raw)) or str(error)) from None
        yield where, row


def _lines(name: str, raw: bytes) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, by number: one at a time, as there may be millions.

    Not splitlines: JSON strings may hold U+2028 and other line ends of Unicode's.
    """
    stream = io.BytesIO(raw)
    stream.seek(len(BOM_UTF8) if raw.startswith(BOM_UTF8) else 0)
    for number, line in enumerate(stream, 1):
        try:
            text = line.removesuffix(b"\n").decode()
        except UnicodeDecodeError:
            as_text(name, raw)
            raise
        if text.strip():
            yield number, text


def _parquet(name: str, raw: bytes) -> Any:
    from pyarrow import parquet

    with _sound_parquet(name):
        return parquet.read_table(io.BytesIO(raw))


def parquet_rows(name: str, file: BinaryIO, at_once: int) -> Iterator[tuple[str, Any]]:
    """A parquet file's rows, each with where it stands; `at_once` of them are held.

    Raises:
        UserError: Not readable.
    """
    from pyarrow import parquet

    with _sound_parquet(name):
        number = 0
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=at_once):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}: row {number}", row


@contextmanager
def _sound_parquet(name: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: not a sound parquet file ({reason})") from None


def _array(name: str, text: str) -> list[Any]:
    try:
        found = parse_json(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{name}: {where} is not JSON: {error.msg}") from None
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    assert isinstance(found, list)
    return found


def _whole(name: str, text: str) -> str:
    """What to say of a file that is one JSON object over several lines; empty if it is none."""
    try:
        found = parse_json(text)
    except (json.JSONDecodeError, UserError):
        return ""
    fields = ", ".join(found) if isinstance(found, dict) else ""
    return f"{name}: one JSON object ({fields}), not a list of rows" if fields else ""
