"""`personaspace preregister`: what a study commits itself to, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personaspace.cli.options import SpecPath, local
from personaspace.errors import UserError


def preregister(
    spec: SpecPath,
    out: Annotated[
        Path | None, local("Write the page to this new file instead of printing it.", "FILE")
    ] = None,
) -> None:
    """Write one page that registers the study: hypotheses, tests, power, exclusions, digest."""
    from personaspace.pipeline.preregister import page
    from personaspace.study.load import load_study

    text = page(load_study(spec))
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"--out {out}: is there already; a registration is not replaced") from None
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    typer.echo(f"{out} written; name it in analysis.registration", err=True)
