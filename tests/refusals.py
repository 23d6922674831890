"""How a mistake of the user is seen: one line, exit 2, nothing half-written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from personaspace.cli.app import app
from personaspace.store import open_store

Values = dict[str, Any]
Write = Callable[[Values], Path]


def cli(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "250"}).invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, *said: str) -> None:
    """The exit code, and on stderr one line for each mistake, in order, and nothing else."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == len(said), lines
    for line, words in zip(lines, said, strict=True):
        assert words in line
    assert "Traceback" not in result.output and result.stdout == ""


def failed(result: Result, *said: tuple[str, str]) -> None:
    """A run in which stages failed: exit code 2, and one log line for each, node and reason."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if ": failed – " in line]
    assert len(lines) == len(said), result.stderr
    for line, (node, reason) in zip(lines, said, strict=True):
        assert f" {node}: failed – " in line and reason in line
    assert "Traceback" not in result.output


def tidy(store: Path) -> list[str]:
    """Keys of the store's artifacts; fails if there is a file that is part of none of them."""
    with open_store(str(store)) as opened:
        keys = opened.list()
        wanted = {f"{key}/manifest.json" for key in keys}
        for key in keys:
            manifest = opened.find(key)
            assert manifest is not None
            wanted |= {f"{key}/{manifest.data}/{name}" for name in manifest.files}
    found = {p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file()}
    assert found == wanted
    return keys


def chat(*messages: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in messages]})


FINE = chat(("user", "Why?"), ("assistant", "So."))
SHA = hashlib.sha256(FINE.encode()).hexdigest()
