"""Texts for people are held by one file each; codes and fields are what tests assert otherwise."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def golden(name: str, text: str) -> None:
    """Fails unless a text is as `golden/<name>` has it; GOLDEN_UPDATE=1 writes that file anew."""
    path = FOLDER / name
    if os.environ.get("GOLDEN_UPDATE") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path} is not there: GOLDEN_UPDATE=1 writes it"
    assert text == path.read_text(encoding="utf-8"), f"not as in {path}: see GOLDEN_UPDATE"
