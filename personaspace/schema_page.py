"""Reference pages made from JSON schemas: a section for each model, a line for each field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(_type(member) for member in schema[union]))
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {_type(schema['prefixItems'][0])}"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    kind = str(schema.get("type", "any"))
    return {"null": "none", "string": "text"}.get(kind, kind)


def _default(schema: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    text = json.dumps(schema["default"], ensure_ascii=False) if "default" in schema else ""
    # Long defaults (a whole section) are on their own pages.
    return f"`{text}`" if text and len(text) <= 60 else ""


def pipe_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown; a bar in a cell is no border."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    cleaned = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return [*lines, *("| " + " | ".join(row) + " |" for row in cleaned)]


def section(name: str, schema: dict[str, Any], defaults: bool = True) -> list[str]:
    """A heading, what the model is, and its fields as a table; an enum's values in a row."""
    if "properties" not in schema:
        return [f"## {name}", "", schema.get("description", ""), "", f"One of {_type(schema)}.", ""]
    heads = ["field", "type", *(["default"] if defaults else []), "meaning"]
    lines = [f"## {name}", "", *[schema.get("description", ""), ""]]
    required = set(schema.get("required", ()))
    rows = []
    for field, part in schema["properties"].items():
        cells = [f"`{field}`", _type(part)]
        cells += [_default(part, field in required)] if defaults else []
        cells.append(part.get("description", ""))
        rows.append(cells)
    return [*lines, *pipe_table(heads, rows), ""]


def page(title: str, intro: list[str], schema: dict[str, Any], defaults: bool = True) -> str:
    """A page in Markdown.

    Args:
        title: Its heading.
        intro: Lines beneath it.
        schema: JSON schema whose `$defs` are the sections after the first.
        defaults: Whether there is a column of defaults.
    """
    lines = [f"# {title}", "", *intro, "", *section(schema["title"], schema, defaults)]
    for name, part in schema.get("$defs", {}).items():
        lines += section(name, part, defaults)
    return "\n".join(lines).rstrip() + "\n"
