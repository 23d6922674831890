"""report: figures and the HTML page, from the aggregate's files alone."""

from __future__ import annotations

from personaspace.report import build
from personaspace.stages.context import Context


def run(context: Context) -> None:
    """Writes `figures/`, `report.html` and `report.md`."""
    folder = context.input("aggregate")
    assert folder is not None
    context.progress.start("figures and page", 1)
    build(folder, context.out, context.spec.figures)
    context.progress.advance(1)
