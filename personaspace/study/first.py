"""A first study: a commented file to begin with."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from personaspace.errors import UserError

#: Lines of the template that are of one size of study alone begin with this, the size and a colon.
_ONLY = "#"
SIZES = ("tiny", "full")


def text(name: str = "study.yaml", *, tiny: bool = False) -> str:
    """A commented study as YAML, with all three roles of personas filled.

    Args:
        name: Of the file, as its comments call it.
        tiny: For a small model on a CPU; else the published recipe's size.
    """
    template = resources.files("personaspace.study") / "templates" / "study.yaml"
    wanted = SIZES[0] if tiny else SIZES[1]
    lines = []
    for line in template.read_text(encoding="utf-8").splitlines():
        size, colon, rest = line.removeprefix(_ONLY).partition(":")
        if line.startswith(_ONLY) and colon and size in SIZES:
            if size == wanted:
                lines.append(rest)
        else:
            lines.append(line)
    return "\n".join(lines).replace("FILE", name) + "\n"


def write(path: Path, *, tiny: bool = False) -> None:
    """Write such a study to a file that is not there yet.

    Raises:
        UserError: There is such a file, or its folder is missing.
    """
    content = text(path.name, tiny=tiny)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise UserError(f"{path}: this file exists; give another name") from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no folder {path.parent}") from None
