"""Where results are to go on this machine: neither an address nor nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from personaspace.cli.app import app


@pytest.mark.parametrize(
    "command",
    [
        ("run", "study.yaml"),
        ("report", "study.yaml"),
        ("compare", "a", "b"),
        ("eval-logs", "study.yaml"),
        ("preregister", "study.yaml"),
    ],
)
@pytest.mark.parametrize(
    ("given", "said"), [("", "is empty"), (" ", "is empty"), ("s3://b/x", "s3://b/x is an address")]
)
def test_out_is_a_path(
    command: tuple[str, ...],
    given: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is read or written before."""
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(app, [*command, "--out", given])
    assert outcome.exit_code == 2
    assert "--out" in outcome.output and said in " ".join(outcome.output.split())
    assert not list(tmp_path.iterdir())
