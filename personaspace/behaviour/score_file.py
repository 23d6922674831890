"""The marker in a file of any size: counted piece by piece, in several processes if it is large."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from personaspace import children
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
#: Pieces that are read for each process before the first of them is counted.
_AHEAD = 2

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
        processes: That count beside each other; 0: as many as there are processors, for a large
            file, else this one alone.
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
        for found, others in _each(read, columns, marker, count):
            _add(counts, found)
            for name, values in others.items():
                apart.setdefault(name, set()).update(values)
    except Irregular:
        return score_answers(read_answers(path, columns), marker)
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except BrokenProcessPool:
        said = "a process that counts answers was killed, mostly for want of memory"
        raise OSError(errno.ECHILD, said) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not any(cell["total"] for asked in counts.values() for cell in asked.values()):
        raise UserError(f"{path}: no answers")
    refuse_several(path, apart)
    return assembled(counts, marker)


def _worthwhile(path: Path) -> int:
    return len(os.sched_getaffinity(0)) if path.stat().st_size >= LARGE else 1


def _each(read: Iterable[Piece], columns: Columns, marker: str, processes: int) -> Iterator[Found]:
    """What is found in each piece, in order."""
    if processes == 1:
        for piece in read:
            yield _counted(piece, columns, marker)
        return
    waiting: deque[Future[Found]] = deque()
    with ProcessPoolExecutor(
        processes, mp_context=children.START, initializer=children.work_for_parent
    ) as pool:
        try:
            for piece in read:
                waiting.append(pool.submit(_counted, piece, columns, marker))
                if len(waiting) > _AHEAD * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _counted(piece: Piece, columns: Columns, marker: str) -> Found:
    gathered = piece.gathered(columns)
    return counts_of(gathered.grid, marker), gathered.apart


def _add(counts: Counts, found: Counts) -> None:
    for persona, questions in found.items():
        cells = counts.setdefault(persona, {})
        for question, more in questions.items():
            cell = cells.get(question)
            cells[question] = more if cell is None else {k: cell[k] + more[k] for k in more}
