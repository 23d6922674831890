"""Texts that ship with the package: personas, questions, demonstration chats (`builtin:NAME`)."""

from __future__ import annotations

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from personaspace.errors import UserError, did_you_mean, nearest

SCHEME = "builtin:"


def resource(name: str) -> Traversable:
    """The packaged file behind `builtin:NAME`.

    Raises:
        UserError: No such file; the message lists what there is.
    """
    folder = resources.files("personaspace.study") / "data"
    stem = name.removeprefix(SCHEME)
    for suffix in (".yaml", ".jsonl"):
        candidate = folder / f"{stem}{suffix}"
        if candidate.is_file():
            return candidate
    known = sorted(
        entry.name.rsplit(".", 1)[0]
        for entry in folder.iterdir()
        if entry.name.endswith((".yaml", ".jsonl"))
    )
    near = did_you_mean(nearest(stem, known)) or f"; there are {', '.join(known)}"
    raise UserError(f"{SCHEME}{stem}: no such built-in{near}")


def chat_sets() -> list[str]:
    """Names of the packaged training chats."""
    folder = resources.files("personaspace.study") / "data"
    return sorted(
        entry.name.removesuffix(".jsonl")
        for entry in folder.iterdir()
        if entry.name.startswith("chats-") and entry.name.endswith(".jsonl")
    )


@cache
def _personas() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load(resource("personas").read_text(encoding="utf-8")))


def personas() -> list[dict[str, Any]]:
    """The packaged personas as `{"name", "prompt"}`, in order."""
    return [dict(entry) for entry in _personas()]


def published_grid() -> list[str]:
    """Names of the twelve evaluation personas of the published study, in its order."""
    return [entry["name"] for entry in _personas() if entry["name"] != "paramedic"]
