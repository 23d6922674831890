"""The report in short, as Markdown for a pull request or a chat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from personaspace.figures import Figure
from personaspace.figures.findings import Findings
from personaspace.report.tables import Table, escape_markdown, to_markdown


def _bullets(items: list[str]) -> str:
    return "\n".join(f"- {escape_markdown(item)}" for item in items)


def _image(figure: Figure, out: Path) -> str:
    """The figure as a picture, relative to the report; PDF cannot be shown in line."""
    path = figure.files.get("png") or figure.files.get("svg")
    if path is None:
        return ""
    return f"![{escape_markdown(figure.alt)}]({path.relative_to(out).as_posix()})"


def _table(table: Table) -> str:
    return f"{to_markdown(table)}\n\n{escape_markdown(table.note)}".strip()


def summary(
    findings: Findings,
    figures: list[Figure],
    out: Path,
    title: str,
    context: dict[str, Any],
) -> str:
    """Headline, hero figure, key table, tests, caveats and provenance.

    Args:
        out: The report's folder, which pictures are linked from.
        context: The page's content, as `build` collects it.
    """
    parts = [f"# {escape_markdown(title)}", escape_markdown(context["headline"])]
    if context["absent"]:
        parts += ["**Partial.** Absent from the results:", _bullets(context["absent"])]
    parts += [_image(figure, out) for figure in figures if figure.id == "hero"]
    parts += [f"## {context['key_table'].caption}", _table(context["key_table"])]
    tests = context["leakage"]["tests"] if context["leakage"] else None
    if tests is not None:
        parts += [f"## {tests.caption}", _table(tests)]
    others = [figure for figure in figures if figure.id != "hero"]
    if others:
        parts.append("## Figures")
        for figure in others:
            parts += [f"**{escape_markdown(figure.title)}.** {escape_markdown(figure.caption)}"]
            parts.append(_image(figure, out))
    if findings.caveats:
        parts += ["## Caveats", _bullets(findings.caveats)]
    parts += ["## Provenance", escape_markdown(context["model_line"])]
    if context["origin"] and context["origin"].summary:
        parts.append(escape_markdown(context["origin"].summary))
    parts.append(escape_markdown(context["analysis_line"]))
    return "\n\n".join(part for part in parts if part) + "\n"
