"""The marker in a file of any size: counted piece by piece, in several processes if it is large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from personaspace.analysis import cores
from personaspace.behaviour.answer_files import Columns, read_answers, refuse_several
from personaspace.behaviour.answer_stream import Irregular, Piece, pieces
from personaspace.behaviour.marker import (
    Counts,
    assembled,
    counts_of,
    require_marker,
    score_answers,
)
from personaspace.errors import UserError

#: Bytes of a file that is worth starting processes for.
LARGE = 1 << 25

Found = tuple[Counts, dict[str, set[str]]]


def score_file(
    path: Path,
    marker: str,
    columns: Columns | None = None,
    *,
    processes: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Counts of a file of answers, as `score_answers(read_answers(path, columns), marker)`.

    No more of the file is held than a few pieces of some MB for each process.

    Args:
        path: As of `read_answers`.
        marker: As of `score_answers`.
        columns: Of rows.
        processes: That count beside each other; 0: one a core for us (`cores.usable`),
            for a large file, else this one alone.
        advance: Told how many bytes have been read, each time that some were.

    Raises:
        UserError: As of the two.
    """
    require_marker(marker)
    columns = columns or Columns()
    counts: Counts = {}
    apart: dict[str, set[str]] = {}
    try:
        read = pieces(path, advance)
        count = processes or _worthwhile(path)
        with cores.shared(_counted, (columns, marker), read, count) as each:
            for found, others in each:
                _add(counts, found)
                for name, values in others.items():
                    apart.setdefault(name, set()).update(values)
    except Irregular:
        return score_answers(read_answers(path, columns), marker)
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not any(cell["total"] for asked in counts.values() for cell in asked.values()):
        raise UserError(f"{path}: no answers")
    refuse_several(path, apart)
    return assembled(counts, marker)


def _worthwhile(path: Path) -> int:
    return cores.usable() if path.stat().st_size >= LARGE else 1


def _counted(how: tuple[Columns, str], piece: Piece) -> Found:
    columns, marker = how
    gathered = piece.gathered(columns)
    return counts_of(gathered.grid, marker), gathered.apart


def _add(counts: Counts, found: Counts) -> None:
    for persona, questions in found.items():
        cells = counts.setdefault(persona, {})
        for question, more in questions.items():
            cell = cells.get(question)
            cells[question] = more if cell is None else {k: cell[k] + more[k] for k in more}
