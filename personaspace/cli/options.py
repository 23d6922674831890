"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def local_path(given: str | Path) -> Path:
    """A path on this machine, as an option has it.

    Raises:
        typer.BadParameter: It is empty, as of a shell's unset variable, or an address.
    """
    if not str(given).strip():
        raise typer.BadParameter("is empty; it is a path on this machine")
    if "://" in str(given):
        raise typer.BadParameter(f"{given} is an address; it is a path on this machine")
    return Path(given)


def local(help: str, metavar: str = "FOLDER") -> Any:
    """An option whose value is a path on this machine."""
    return typer.Option(help=help, parser=local_path, metavar=metavar)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SpecPath = Annotated[Path, typer.Argument(help="The study (YAML).", metavar="SPEC")]
StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="PERSONASPACE_STORE",
        help="Folder, or s3://bucket/prefix?endpoint=…&region=…&path_style=true.",
    ),
]
Serve = Annotated[
    str | None,
    typer.Option(
        help="Serve a page that shows how far it is, to be read in a browser: a port, for this "
        "machine alone, or an address of the machine with a port (0.0.0.0:8080). Whoever reaches "
        "it can read it.",
        metavar="[HOST:]PORT",
    ),
]
#: Where artifacts lie if nothing else is said.
DEFAULT_STORE = "personaspace-store"
