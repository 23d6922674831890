"""Answers as people have them: by persona and question, or one row an answer."""

from __future__ import annotations

import csv
import io
import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

from personaspace.console import counted
from personaspace.errors import UserError
from personaspace.files import read_json, read_plain
from personaspace.study import containers

#: Names of the columns that are known without being told.
KNOWN = {
    "persona": ("persona", "role"),
    "question": ("question", "prompt"),
    "answer": ("answer", "response", "completion"),
}
#: Columns that tell one set of answers from another, which must not be counted together.
_APART = ("condition", "model", "seed")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_PACKED = (".gz", ".zst")
#: Characters of the longest answer in a CSV.
_LONGEST = 1 << 24


@dataclass(frozen=True)
class Columns:
    """Which column holds what, of answers that come a row each; None: by its known names."""

    persona: str | None = None
    question: str | None = None
    answer: str | None = None


Grid = dict[str, dict[str, list[str]]]


def read_answers(path: Path | str, columns: Columns | None = None) -> Grid:
    """Answers as `{persona: {question: [answers]}}`.

    Args:
        path: JSON of that form; or one row an answer: CSV (`.csv`, or `.tsv` with tabs), JSON
            lines, a JSON array or parquet, in any order of columns. Rows may be packed with gzip
            or Zstandard (`.csv.gz`).
        columns: Of rows.

    Raises:
        UserError: The file is missing or not of these forms; the message says where. Rows of
            several conditions, models or seeds, which would be counted as one.
    """
    path = Path(path)
    rows = _rows(path)
    if rows is None:
        return _grid(path, read_json(path))
    found = gather(rows, columns or Columns())
    if not found.grid:
        raise UserError(f"{path}: no answers")
    refuse_several(path, found.apart)
    return found.grid


def _grid(path: Path, content: Any) -> Grid:
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object of personas")
    for persona, questions in content.items():
        if not isinstance(questions, dict):
            raise UserError(f"{path}: {persona!r}: not an object of questions")
        for question, texts in questions.items():
            if not isinstance(texts, list):
                raise UserError(f"{path}: {persona!r}: {question!r}: not a list of answers")
            for index, text in enumerate(texts):
                if not isinstance(text, str):
                    raise UserError(
                        f"{path}: {persona!r}: {question!r}: answer {index} is not a text"
                    )
    if not any(texts for questions in content.values() for texts in questions.values()):
        raise UserError(f"{path}: no answers")
    return content


def _rows(path: Path) -> list[tuple[str, Any]] | None:
    """One row an answer, each with where it stands; None: the file is of the other form."""
    try:
        raw = read_plain(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    delimiter = delimiter_of(path)
    if delimiter is not None:
        content = containers.as_text(str(path), containers.unpacked(str(path), raw))
        return list(csv_rows(path, io.StringIO(content, newline=""), delimiter))
    if not raw.startswith((containers.GZIP, containers.ZSTD, containers.PARQUET)):
        stream = io.BytesIO(raw)
        stream.seek(len(BOM_UTF8) if raw.startswith(BOM_UTF8) else 0)
        # Two lines tell, and files are large.
        lines = list(islice((line for line in stream if line.strip()), 2))
        if not lines or not (lines[0].lstrip().startswith(b"[") or is_row(lines)):
            return None
    return list(containers.rows_of(str(path), raw, (0, None)))


def is_row(lines: list[bytes]) -> bool:
    """Whether the first of two lines is a whole object, and not all of a grid."""
    try:
        first = json.loads(lines[0])
    except (ValueError, RecursionError):
        return False
    if not isinstance(first, dict):
        return False
    texts = any(isinstance(value, str) for value in first.values())
    return len(lines) > 1 or (texts and not any(isinstance(v, dict) for v in first.values()))


def csv_rows(path: Path, text: TextIO, delimiter: str) -> Iterator[tuple[str, Any]]:
    """Rows of a table, each with where it stands. Raises UserError."""
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        for name, count in Counter(names).items():
            if name and count > 1:
                raise UserError(f"{path}: the first line names the column {name!r} {count} times")
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            if len(row) == len(names):
                yield where, dict(zip(names, row, strict=True))
            elif row:
                raise UserError(
                    f"{where}: not the {counted(len(names), 'column')} that the first line names"
                )
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: not sound CSV: {error}") from None


def delimiter_of(path: Path) -> str | None:
    """Of a table, packed or not, by the file's name; None: it is of another form."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return _DELIMITERS.get(suffixes[-1]) if suffixes else None


@dataclass
class Gathered:
    """Answers from rows, and what `refuse_several` looks at: values of columns that tell apart."""

    grid: Grid = field(default_factory=dict)
    apart: dict[str, set[str]] = field(default_factory=dict)


def gather(rows: Iterable[tuple[str, Any]], columns: Columns) -> Gathered:
    """Answers from rows, each with where it stands. Raises UserError, which says where."""
    found = Gathered()
    places: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    texts: dict[tuple[str, str], list[str]] = {}
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: a row is an object with persona, question and answer")
        names = tuple(row)
        if names not in places:
            places[names] = places_of(where, names, columns)
        cells, others = places[names]
        persona, question, answer = (row[name] for name in cells)
        try:
            texts[persona, question].append(answer)
            sound = isinstance(answer, str)
        except (KeyError, TypeError):
            sound = isinstance(answer, str) and all(
                isinstance(text, str) and text.strip() for text in (persona, question)
            )
            if sound:
                asked = found.grid.setdefault(persona, {})
                texts[persona, question] = asked[question] = [answer]
        if not sound:
            _refuse(where, row, cells)
        for name in others:
            found.apart.setdefault(name, set()).add(str(row[name]))
    return found


def _refuse(where: str, row: Mapping[str, Any], cells: Sequence[str]) -> NoReturn:
    persona, question, answer = cells
    for name in (persona, question):
        if not isinstance(row[name], str) or not row[name].strip():
            raise UserError(f"{where}: {name} is not a text")
    raise UserError(f"{where}: {answer} is not a text")


def refuse_several(path: Path, apart: Mapping[str, set[str]]) -> None:
    """Refuse answers of several conditions, models or seeds. Raises UserError."""
    for name, values in apart.items():
        if len(values) > 1:
            listed = ", ".join(sorted(values)[:4]) + (" …" if len(values) > 4 else "")
            raise UserError(
                f"{path}: answers of more than one {name} ({listed}), which would be counted as "
                "one: score each by itself"
            )


def places_of(where: str, there: tuple[str, ...], columns: Columns) -> tuple[list[str], list[str]]:
    """Columns of persona, question and answer, and those that tell answers apart.

    Raises:
        UserError: One is not there, or two might be meant; begins with `where`.
    """
    found = []
    for what, known in KNOWN.items():
        named = getattr(columns, what)
        names = [named] if named else [name for name in known if name in there]
        listed = ", ".join(map(str, there))
        if named and named not in there:
            raise UserError(f"{where}: no column {named!r} (there are {listed})")
        if len(names) != 1:
            which = f"two columns ({', '.join(names)})" if names else "no column"
            raise UserError(f"{where}: {which} for the {what}: name it with --{what} (of {listed})")
        found.append(names[0])
    return found, [n for n in _APART if n in there and n not in vars(columns).values()]
