"""Work in several processes of one thread each, where results do not depend on how many there are.

joblib's loky starts them: unlike the standard library's spawn it does not run the program's main
module again, so a script of the user's needs no guard. It counts the cores that we may use, too:
by affinity, by a container's quota of processor time and by `LOKY_MAX_CPU_COUNT`.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from personaspace import children
from personaspace.errors import UserError

Found = TypeVar("Found")

#: Bytes that a process of ours takes with its libraries, before it has anything to do.
BARE = 250 << 20
#: What several processes together may take of the memory that is free: others want some as well.
_SHARE = 0.8
#: Threads only wait for each other where every core has a process.
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "BLIS")}
#: Tasks that are given out for each process before the first of them is done.
_AHEAD = 2
_CGROUP = Path("/sys/fs/cgroup")

_shared: Any = None


def usable() -> int:
    """Cores that this process may use."""
    from joblib import cpu_count

    return int(cpu_count())


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that may still be taken: of the machine, or of the container where that is less.

    What a container's limit counts but gives up when asked, files that were read, is free.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        stat = (cgroup / "memory.stat").read_text(encoding="ascii").split()
        taken = int(stat[stat.index("anon") + 1])
    except (OSError, ValueError):  # no container, or one of an older kind
        return free
    return free if limit == "max" else min(free, int(limit) - taken)


def worthwhile(most: int, each: int) -> int:
    """How many processes to have: one a core, while memory lasts.

    Args:
        most: So many have something to do.
        each: Bytes that one takes, beyond `BARE`.
    """
    if most < 2:
        return 1
    return max(1, min(most, usable(), int(_SHARE * free_memory() / (BARE + each))))


def sharing(wanted: int | None, tasks: int, worth: int, each: int) -> int:
    """How many processes are to share tasks.

    Args:
        wanted: So many, one a task at most; None: as many as are `worthwhile`.
        tasks: How many there are.
        worth: For so many processes there is work enough to start them.
        each: Bytes that one takes, beyond `BARE`.
    """
    if wanted is not None:
        return max(1, min(wanted, tasks))
    return worthwhile(min(tasks, worth), each)


@contextmanager
def shared(
    work: Callable[[Any, Any], Found], common: Any, tasks: Iterable[Any], processes: int
) -> Iterator[Iterator[Found]]:
    """What `work(common, task)` finds for each task, in the tasks' order.

    An error is that of the first task, in this order, that has one; then, and where the caller
    leaves early, the processes are killed. They end with us, and signals are for us alone.

    Args:
        work: At a module's top level.
        common: What all tasks need, copied into each process once.
        tasks: Copied to the process that does them; taken a few ahead of those that are done.
        processes: One: nothing is started, tasks are done here when they are asked for.

    Raises:
        RuntimeError: A process was killed.
        UserError: There is no place for temporary files.
    """
    if processes == 1:
        yield (work(common, task) for task in tasks)
        return
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    with _handed(common) as path:
        pool = ProcessPoolExecutor(
            processes, initializer=_begin, initargs=(os.getpid(), path), env=_ONE_THREAD
        )
        whole = False
        try:
            yield _in_order(pool, work, tasks, _AHEAD * processes)
            whole = True
        except BrokenProcessPool:
            raise RuntimeError(
                f"one of {processes} processes was killed, mostly for want of memory:"
                " fewer take less"
            ) from None
        finally:
            pool.shutdown(wait=True, kill_workers=not whole)


@contextmanager
def _handed(common: Any) -> Iterator[Path]:
    """A file for new processes to read, while the block runs.

    Through the pipe that starts a process, what it does not hold at once is written only as fast
    as the process reads, after its imports: each would then start only after the one before, 31 of
    them in 80 s (seen on 32 cores).
    """
    import joblib

    with ExitStack() as held:
        try:
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="personaspace-"))
            path = Path(folder) / "common"
            joblib.dump(common, path)
        except OSError as error:
            place = tempfile.tempdir or os.environ.get("TMPDIR", "temporary files")
            raise UserError(f"{place}: cannot be written to ({error.strerror})") from None
        yield path


def _in_order(
    pool: Executor, work: Callable[[Any, Any], Found], tasks: Iterable[Any], ahead: int
) -> Iterator[Found]:
    """Results in order; no more tasks are given out than the pool takes at once.

    (loky's thread breaks off with a traceback where others wait as its processes are killed.)
    """
    from joblib.externals.loky.backend import resource_tracker

    rest = iter(tasks)
    first = list(islice(rest, ahead))
    resource_tracker.ensure_running()  # as it is started, it lets signals through
    with children.starting():
        waiting = deque(pool.submit(_done, work, task) for task in first)
    for task in rest:
        yield waiting.popleft().result()
        waiting.append(pool.submit(_done, work, task))
    while waiting:
        yield waiting.popleft().result()


def _begin(parent: int, path: Path) -> None:
    import joblib

    global _shared
    children.work_for_parent(parent)
    _shared = joblib.load(path)


def _done(work: Callable[[Any, Any], Found], task: Any) -> Found:
    return work(_shared, task)
