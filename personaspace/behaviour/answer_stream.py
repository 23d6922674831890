"""Files of very many answers in pieces, so that none is held whole: see `answer_files`.

A piece is small, knows where in the file it stands, and is read and counted by any process.
"""

from __future__ import annotations

import io
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

from personaspace.behaviour import answer_table
from personaspace.behaviour.answer_files import (
    Columns,
    Gathered,
    Grid,
    csv_rows,
    delimiter_of,
    gather,
    is_row,
)
from personaspace.errors import UserError
from personaspace.files import has_half, open_plain
from personaspace.study import containers

#: Characters or bytes of a piece.
PIECE = 1 << 21
#: Rows of a piece where rows come one by one.
_ROWS = 20_000
_SPACE = " \t\n\r"
_decode = json.JSONDecoder().raw_decode
#: A JSON string from behind its first quote on: the text, and where it ends.
_scan: Callable[[str, int, bool], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]


class Irregular(Exception):
    """Not as most files are: whoever reads the file whole says what is wrong, if anything is."""


@dataclass(frozen=True)
class Lines:
    """A part of a file of JSON lines.

    Attributes:
        name: The file.
        first: Number of its first line, from 1.
        raw: UTF-8.
    """

    name: str
    first: int
    raw: bytes

    def gathered(self, columns: Columns) -> Gathered:
        """Its answers. Raises UserError and Irregular."""
        if len(self.raw) >= answer_table.WORTH:
            found = answer_table.gathered(self.raw, columns)
            if found is not None:
                return found
        try:
            text = self.raw.decode()
        except UnicodeDecodeError:
            raise Irregular from None
        numbered = enumerate(text.split("\n"), self.first)
        rows = (_row(f"{self.name}: line {n}", line) for n, line in numbered if line.strip())
        return gather(rows, columns)


@dataclass(frozen=True)
class Rows:
    """Rows, each with where it stands."""

    rows: list[tuple[str, Any]]

    def gathered(self, columns: Columns) -> Gathered:
        """Their answers. Raises UserError."""
        return gather(self.rows, columns)


@dataclass(frozen=True)
class Part:
    """A part of a grid; a persona without questions, and a question without answers, is in it."""

    grid: Grid

    def gathered(self, _: Columns) -> Gathered:
        """Its answers."""
        return Gathered(self.grid)


Piece = Lines | Rows | Part


def pieces(path: Path, advance: Callable[[int], None]) -> Iterator[Piece]:
    """A file of answers, of any form that `read_answers` takes.

    Args:
        path: The file.
        advance: Told how many of its bytes have been read.

    Raises:
        UserError: As of `read_answers`.
        Irregular: Its form is not sure, or nothing is known of what is wrong.
    """
    with open_plain(path) as opened:
        file = io.BufferedReader(_Told(opened, advance), PIECE)
        delimiter = delimiter_of(path)
        head = file.peek(4)[:4]
        packed = head.startswith((containers.GZIP, containers.ZSTD))
        if delimiter is not None:
            content: io.BufferedReader[Any] = file
            if packed:
                content = io.BufferedReader(_Parts(containers.unpacking(str(path), file, head)))
            text = io.TextIOWrapper(content, "utf-8-sig", newline="")
            yield from _in_rows(csv_rows(path, text, delimiter))
        elif head.startswith(containers.PARQUET):
            yield from _in_rows(containers.parquet_rows(str(path), file, _ROWS))
        elif packed:
            yield from _json(path, containers.unpacking(str(path), file, head), packed=True)
        else:
            yield from _json(path, iter(lambda: file.read(PIECE), b""), packed=False)


class _Told(io.RawIOBase):
    """A file that tells how much of it is read."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file, self._advance = file, advance

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        self._advance(len(content))
        return len(content)


def _in_rows(rows: Iterable[tuple[str, Any]]) -> Iterator[Rows]:
    batch = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == _ROWS:
                yield Rows(batch)
                batch = []
    except UnicodeDecodeError:
        raise Irregular from None
    if batch:
        yield Rows(batch)


def _json(path: Path, parts: Iterator[bytes], *, packed: bool) -> Iterator[Piece]:
    """JSON lines, an array of rows, or a grid: by the first lines."""
    start = next(parts, b"").removeprefix(BOM_UTF8)
    lines = [line for line in start.split(b"\n", 8) if line.strip()][:2]
    if not lines:
        raise Irregular
    parts = _with_first(start, parts)
    if lines[0].lstrip().startswith(b"["):
        yield from _in_rows(_array(str(path), _Window(parts)))
    elif is_row(lines):
        yield from _lines(str(path), parts)
    elif packed:
        raise Irregular
    else:
        yield from _grid(_Window(parts))


def _with_first(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


def _lines(name: str, parts: Iterator[bytes]) -> Iterator[Lines]:
    number, rest = 1, b""
    for part in parts:
        whole, end, tail = part.rpartition(b"\n")
        if not end:
            rest += part
            continue
        lines = Lines(name, number, rest + whole + end)
        yield lines
        number += lines.raw.count(b"\n")
        rest = tail
    if rest:
        yield Lines(name, number, rest)


def _row(where: str, line: str) -> tuple[str, Any]:
    """A line's row, in which no key is twice: told by its quotes where that is possible."""
    if line[:1] == "{" and "\\\\" not in line:
        try:
            row, end = _decode(line)
        except (ValueError, RecursionError):
            return where, containers.parse_line(where, line)
        kinds = [type(value) for value in row.values()]
        if not (line[end:].strip() or list in kinds or dict in kinds):
            quotes = 2 * (len(row) + kinds.count(str))
            if line.count('"') - line.count('\\"') == quotes:
                return where, row
    return where, containers.parse_line(where, line)


class _Window:
    """A text of which only what is being looked at is held."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._text = io.TextIOWrapper(io.BufferedReader(_Parts(parts)), "utf-8", newline="")
        self.text = ""
        self.at = 0
        self._ended = False

    def more(self) -> bool:
        """Whether there was more to read; then what lies behind is let go."""
        if self._ended:
            return False
        try:
            # As much again where one value fills all that is held.
            found = self._text.read(max(PIECE, len(self.text) - self.at))
        except UnicodeDecodeError:
            raise Irregular from None
        self.text, self.at = self.text[self.at :] + found, 0
        self._ended = not found
        return not self._ended

    def next(self) -> str:
        """The next character that is no white space; empty at the end. It is not passed."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in _SPACE:
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def take(self, character: str) -> bool:
        """Pass a character if it comes next."""
        if self.next() != character:
            return False
        self.at += 1
        return True

    def must(self, character: str) -> None:
        """Pass a character that has to come next."""
        if not self.take(character):
            raise Irregular

    def string(self) -> str:
        """Pass a string."""
        self.must('"')
        while True:
            try:
                found, end = _scan(self.text, self.at, True)
            except JSONDecodeError:
                if not self.more():
                    raise Irregular from None
                continue
            if "\\u" in self.text[self.at : end] and has_half(found):
                raise Irregular
            self.at = end
            return found

    def value(self, decoder: json.JSONDecoder) -> Any:
        """Pass an object."""
        if self.next() != "{":
            raise Irregular
        while True:
            try:
                found, self.at = decoder.raw_decode(self.text, self.at)
                return found
            except (ValueError, RecursionError):
                if not self.more():
                    raise Irregular from None


class _Parts(io.RawIOBase):
    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest = parts, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._rest = memoryview(part)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _array(name: str, window: _Window) -> Iterator[tuple[str, Any]]:
    decoder = json.JSONDecoder(object_pairs_hook=containers.without_repeats)
    window.must("[")
    number = 0
    if window.take("]"):
        raise Irregular
    while True:
        number += 1
        try:
            yield f"{name}: row {number}", window.value(decoder)
        except UserError:
            raise Irregular from None
        if not window.take(","):
            break
    window.must("]")
    if window.next():
        raise Irregular


def _grid(window: _Window) -> Iterator[Part]:
    part: Grid = {}
    size = 0
    for persona in _members(window):
        asked = part.setdefault(persona, {})
        for question in _members(window):
            texts = asked.setdefault(question, [])
            for text in _texts(window):
                texts.append(text)
                size += len(text)
                if size > PIECE:
                    yield Part(part)
                    size, texts = 0, []
                    asked = {question: texts}
                    part = {persona: asked}
    if window.next():
        raise Irregular
    yield Part(part)


def _members(window: _Window) -> Iterator[str]:
    """Each key of an object; its value is passed by whoever takes it."""
    window.must("{")
    if window.take("}"):
        return
    seen: set[str] = set()
    while True:
        name = window.string()
        if name in seen:
            raise Irregular
        seen.add(name)
        window.must(":")
        yield name
        if not window.take(","):
            break
    window.must("}")


def _texts(window: _Window) -> Iterator[str]:
    """The texts of a list."""
    window.must("[")
    if window.take("]"):
        return
    while True:
        yield window.string()
        if not window.take(","):
            break
    window.must("]")
