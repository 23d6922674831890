"""Runs as people and managers start them: in a process group of their own, to be signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

#: `make test-faults`: every case, and many seeds.
LONG = bool(os.environ.get("FAULTS"))
ROOT = Path(__file__).parents[2]


class Run:
    """`personaspace run` (or another command) in a group of its own.

    Args:
        arguments: Of the command.
        environment: Beside ours.
    """

    def __init__(
        self, *arguments: object, environment: Mapping[str, str] | None = None, module: str = ""
    ) -> None:
        command = [sys.executable, "-m", module or "personaspace", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def children(self) -> list[int]:
        """Processes that work for it: not what multiprocessing keeps for its own books."""
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in found if "spawn_main" in _command(int(pid))]

    def members(self) -> list[int]:
        """All living processes of its group."""
        return [pid for pid in _pids() if _group(pid) == self.pid]

    def signal(self, number: int) -> None:
        """To the one process."""
        os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """To all of the group, as `timeout`, a terminal and most managers do."""
        os.killpg(self.pid, number)

    def end(self, seconds: float = 120) -> tuple[int, str]:
        """Exit code and what it said."""
        try:
            said, _ = self.process.communicate(timeout=seconds)
        finally:
            self.kill()
        return self.process.returncode, said

    def kill(self) -> None:
        """All that is left of it."""
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def until(condition: Callable[[], object], run: Run, seconds: float = 120) -> None:
    """Wait while the run goes on."""
    deadline = time.monotonic() + seconds
    while not condition() and run.running:
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def catches(pid: int, number: int = signal.SIGTERM) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = next((line.split()[1] for line in status.splitlines() if "SigCgt" in line), "0")
    return bool(int(mask, 16) >> (number - 1) & 1)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _group(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[2]) if fields[0] != "Z" else None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
