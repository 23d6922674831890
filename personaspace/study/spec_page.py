"""The spec's reference page, made from its JSON schema."""

from __future__ import annotations

import json
from typing import Any

from personaspace.study.spec import Experiment


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
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    kind: str = schema.get("type", "any")
    return {"null": "none", "number": "number", "string": "text"}.get(kind, kind)


def _default(schema: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    text = json.dumps(schema["default"], ensure_ascii=False) if "default" in schema else ""
    # Long defaults (a whole section) are on their own pages.
    return f"`{text}`" if text and len(text) <= 60 else ""


def _section(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"## {name}", "", *[schema.get("description", ""), ""]]
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    required = set(schema.get("required", ()))
    for field, part in schema["properties"].items():
        cells = [
            f"`{field}`",
            _type(part),
            _default(part, field in required),
            part.get("description", ""),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def markdown() -> str:
    """All sections of the spec with their fields, types, defaults and meanings."""
    schema = Experiment.model_json_schema()
    lines = [
        "# The spec",
        "",
        "One YAML file describes a study. Written by `make schema` from the models in",
        "`personaspace/study/spec.py`; defaults are the published recipe.",
        "",
        *_section("Experiment", schema),
    ]
    for name, part in schema["$defs"].items():
        lines += _section(name, part)
    return "\n".join(lines).rstrip() + "\n"
