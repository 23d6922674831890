"""`personaspace compare`: several studies side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from personaspace.cli.options import AsJson, local
from personaspace.console import print_json
from personaspace.files import check_folder


def compare(
    studies: Annotated[
        list[Path], typer.Argument(help="Folders with results.json, or such files; two or more.")
    ],
    out: Annotated[
        Path | None, local("Folder for compare.md, compare.csv and compare.png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Several studies side by side: estimates, what differs in their specs, contrasts over runs."""
    from personaspace.report import compare as comparing
    from personaspace.report.figures import style
    from personaspace.report.markdown import compared

    if out is not None:
        check_folder(out, "--out")
    read = comparing.read(studies)
    found, unlike = comparing.lines(read), comparing.unlike(read)
    unknown = comparing.without_spec(read)
    if as_json:
        told = {"lines": [asdict(line) for line in found], "differences": unlike}
        print_json(told | {"without_spec": unknown})
    page = compared(comparing.tables(read, found), unlike, comparing.introduced(read), unknown)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        style.write(out / "compare.md", page.encode())
        style.write(out / "compare.csv", comparing.frame(found).to_csv(index=False).encode())
        style.write(out / "compare.png", style.render(comparing.draw(read, found), "png"))
    if not as_json:
        print(page if out is None else f"comparison: {out / 'compare.md'}")
