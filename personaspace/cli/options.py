"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SpecPath = Annotated[Path, typer.Argument(help="The study (YAML).", metavar="SPEC")]
