"""The report in short, as Markdown for a pull request or a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from personaspace.analysis.results import Results
from personaspace.report.figures import Figure
from personaspace.report.tables import Table, escape_markdown, to_markdown
from personaspace.report.text import listing

#: Which file of a figure to link, best first.
_KINDS = ("png", "svg", "pdf")


def _bullets(items: list[str]) -> str:
    return "\n".join(f"- {escape_markdown(item)}" for item in items)


def _nested(groups: Mapping[str, list[str]]) -> str:
    """What each text is of, once, and the texts below it."""
    lines = []
    for subject, texts in groups.items():
        lines.append(f"- {escape_markdown(subject)}")
        lines += [f"  - {escape_markdown(text)}" for text in texts]
    return "\n".join(lines)


def _image(figure: Figure, out: Path) -> str:
    """The figure as a picture, relative to the report; PDF cannot be shown in line."""
    path = figure.files.get("png") or figure.files.get("svg")
    if path is None:
        return ""
    return f"![{escape_markdown(figure.alt)}]({path.relative_to(out).as_posix()})"


def _short(table: Table) -> str:
    """The table alone: what its notes say is behind the link to the page."""
    rows = [[replace(cell, ref=0) for cell in row] for row in table.rows]
    return to_markdown(replace(table, rows=rows, footnotes=()))


def _of_rows(table: Table) -> list[str]:
    """A table's footnotes, each with the rows that refer to it: the table itself has no numbers."""
    found = []
    for number, text in enumerate(table.footnotes, start=1):
        of = [r[0].text for r in table.rows if any(number in (c.ref, c.warning_ref) for c in r)]
        found.append(f"{listing(list(dict.fromkeys(of)))}: {text}")
    return found


def _folded(summary: str, *parts: str) -> str:
    """Content that a reader opens; GitHub and GitLab show it closed."""
    return "\n\n".join([f"<details><summary>{summary}</summary>", *parts, "</details>"])


def _figures(figures: list[Figure], out: Path) -> list[str]:
    lines = []
    for figure in figures:
        path = next((figure.files[kind] for kind in _KINDS if kind in figure.files), None)
        if path is not None:
            name = escape_markdown(figure.title)
            lines.append(f"- [{name}]({path.relative_to(out).as_posix()})")
    return lines


def summary(
    results: Results,
    figures: list[Figure],
    out: Path,
    title: str,
    context: dict[str, Any],
) -> str:
    """Verdict, headline, hero, key table, tests, caveats, provenance; figures and notes folded.

    Args:
        out: The report's folder, which pictures are linked from.
        context: The page's content, as `build` collects it.
    """
    parts = [f"# {escape_markdown(title)}", *map(escape_markdown, context["notices"])]
    parts.append(_bullets([f"{line.question} {line.answer}" for line in context["verdict"]]))
    if context["known"]:
        parts += ["**What to know of data and design**", _nested(context["known"])]
    parts.append(escape_markdown(context["headline"]))
    if context["absent"]:
        parts += [
            "**This report is partial.** The results do not have:",
            _bullets(context["absent"]),
        ]
    if context["cautions"]:
        parts += ["**Before relying on this**", _bullets(context["cautions"])]
    parts += [_image(figure, out) for figure in figures if figure.id == "hero"]
    key = context["key_table"]
    parts += [f"## {key.caption}", _short(key)]
    judged = context["misalignment"]
    if judged is not None:
        parts += ["## Misalignment", *map(escape_markdown, judged["sentences"])]
        parts += [_short(judged["rates"])] if judged["rates"] else []
    steering = context["steering"]
    if steering is not None:
        parts += ["## Steering", *map(escape_markdown, steering["sentences"])]
        parts += [_image(figure, out) for figure in figures if figure.id == "steering"]
        parts.append(_folded("Every dose and measure", _short(steering["rows"])))
    tests = context["leakage"]["tests"] if context["leakage"] else None
    notes = [escape_markdown(key.note)]
    if tests is not None:
        parts += [f"## {tests.caption}", _short(tests)]
        notes += [escape_markdown(tests.note), _bullets(_of_rows(tests))]
    shape = context["shape"] or {}
    about = [shape.get("table"), shape.get("increments")]
    for table in (*about, context["trajectories"], context["dimensions"], context["robustness"]):
        if table is not None:
            parts += [f"## {table.caption}", _short(table), escape_markdown(table.note)]
    folded = [_bullets(context["details"]), *notes]
    parts.append(_folded("How to read the tables, and what else was found", *filter(None, folded)))
    others = _figures([figure for figure in figures if figure.id not in ("hero", "steering")], out)
    if others:
        parts.append(_folded("Other figures", "\n".join(others)))
    if results.caveats:
        parts += ["## Caveats", _bullets(results.caveats)]
    parts += ["## Provenance", escape_markdown(context["model_line"])]
    if context["origin"] and context["origin"].summary:
        parts.append(escape_markdown(context["origin"].summary))
    parts.append(escape_markdown(context["analysis_line"]))
    texts = " and the answers themselves" if context["answers"] else ""
    parts.append(
        f"[report.html](report.html) has the tables of every layer, the figures' data{texts}; it "
        "opens without a network."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def compared(
    tables: Sequence[Table],
    unlike: Mapping[str, Sequence[tuple[str, str]]],
    studies: Sequence[str],
    unknown: Sequence[str],
) -> str:
    """The page of `personaspace compare`.

    Args:
        tables: Estimates and contrasts.
        unlike: Field and other value of what differs, by study.
        studies: What each study is; the first is the one that the others are compared with.
        unknown: Studies whose spec is not known.
    """
    parts = ["# Studies side by side", _bullets(list(studies)), "## What differs from the first"]
    if unknown:
        parts.append(
            f"Not known: the spec and the data of {escape_markdown(listing(unknown))}, which stand "
            "in provenance.json beside a study's results. Other fields may differ."
        )
    for label, fields in unlike.items():
        named = [f"{field}: {value}" if value else field for field, value in fields]
        parts += [f"**{escape_markdown(label)}**:"]
        parts.append(_bullets(named or ["nothing, as far as is known"]))
    for table in tables:
        parts += [f"## {table.caption}", to_markdown(table.shown), escape_markdown(table.note)]
    return "\n\n".join(parts) + "\n"
