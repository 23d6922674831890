"""What one of a test session's processes makes, for all of them."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

T = TypeVar("T")


def made_once(base: Path, name: str, make: Callable[[Path], object]) -> Path:
    """A folder below `base` that the first process to ask for it makes."""
    folder, made = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed to make it
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def value_made_once(base: Path, name: str, make: Callable[[Path], T]) -> T:
    """What `make` gives to the first process to ask for it; it may keep files in its folder."""

    def keep(folder: Path) -> None:
        made = make(folder)
        (folder / ".value").write_bytes(pickle.dumps(made))

    value: T = pickle.loads((made_once(base, name, keep) / ".value").read_bytes())
    return value
