"""What the chart's folder holds that follows from the models: schema, values.yaml, README table."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from personaspace.cluster.kubernetes_types import with_definitions
from personaspace.cluster.values import Values
from personaspace.study import builtin
from personaspace.study.spec import Experiment
from personaspace.study.steering import Steering
from personaspace.version import __version__


def _optional(model: type[BaseModel], name: str) -> bool:
    annotation = model.model_fields[name].annotation
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)


def _is_map(model: type[BaseModel], name: str) -> bool:
    return get_origin(model.model_fields[name].annotation) is dict


def _study_defaults(part: BaseModel) -> dict[str, Any]:
    """Defaults of the spec that Helm can merge a study into, without changing its meaning.

    Left out are fields that take null (a null of the user's removes the chart's value, and the
    package's default would come back) and maps by names of the user's own (they would be merged).
    """
    values: dict[str, Any] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            values[name] = _study_defaults(value)
        elif isinstance(value, list):
            values[name] = [
                item.model_dump(mode="json", exclude_none=True)
                if isinstance(item, BaseModel)
                else item
                for item in value
            ]
        elif not _optional(type(part), name) and not _is_map(type(part), name):
            values[name] = value
    return values


def schema() -> dict[str, Any]:
    """JSON schema of the values; of the draft that every supported Helm reads."""
    found = Values.model_json_schema(by_alias=True)
    # The chart has one for each image: left empty, it is that again.
    found["$defs"]["Image"].pop("required")
    return {"$schema": "http://json-schema.org/draft-07/schema#", **with_definitions(found)}


def schema_digest() -> str:
    """SHA-256 of the spec's schema: code and chart that agree on it speak of the same study."""
    text = json.dumps(Experiment.model_json_schema(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def defaults() -> dict[str, Any]:
    """What the chart's templates must know of defaults.

    `datasets`, `grid` and `steering` are left out of its values. `needed` are paths that a user's
    null removes from them, which would leave the templates without: what is empty is its default,
    in `values`.
    """
    values = Values().model_dump(mode="json", by_alias=True, exclude_none=True)
    values["experiment"] = _study_defaults(Experiment())
    return {
        "datasets": sorted(Experiment().datasets),
        "grid": builtin.published_grid(),
        "needed": list(_needed(Values(), values)),
        "steering": Steering().model_dump(include={"controls", "answered_controls"}),
        "values": values,
    }


def _needed(part: BaseModel, values: dict[str, Any]) -> Iterator[list[str]]:
    """Paths of all that is never null, a section before what is in it."""
    for name, field in type(part).model_fields.items():
        value, alias = getattr(part, name), field.alias or name
        if alias not in values or _optional(type(part), name):
            continue
        yield [alias]
        if isinstance(value, BaseModel):
            yield from ([alias, *rest] for rest in _needed(value, values[alias]))


def _dump(value: Any, indent: int) -> list[str]:
    text = yaml.safe_dump(
        value, sort_keys=False, allow_unicode=True, width=100 - indent, default_flow_style=False
    )
    return [" " * indent + line for line in text.rstrip().splitlines()]


def _lines(part: BaseModel, indent: int = 0) -> list[str]:
    pad = " " * indent
    lines: list[str] = []
    for name, field in type(part).model_fields.items():
        value, alias = getattr(part, name), field.alias or name
        if alias == "global":
            continue
        about = field.description
        if about is None and isinstance(value, BaseModel):
            about = (type(value).__doc__ or "").strip().splitlines()[0]
        if about:
            lines.append(f"{pad}# {about}")
        if isinstance(value, Experiment):
            lines += [f"{pad}{alias}:", *_dump(_study_defaults(value), indent + 2)]
        elif value is None:
            lines.append(f"{pad}# {alias}:")
        elif isinstance(value, BaseModel):
            body = _lines(value, indent + 2)
            plain = all(line.lstrip().startswith("#") for line in body)
            if plain and indent:
                # A stage that changes nothing: what it might change stands at `pods`.
                lines.append(f"{pad}{alias}: {{}}")
            else:
                lines += [f"{pad}{alias}:", *_without_unset(value, body, indent)]
        else:
            lines += _dump({alias: value}, indent)
        if not indent:
            lines.append("")
    return lines


def _without_unset(part: BaseModel, body: list[str], indent: int) -> list[str]:
    """A stage's overrides without the comments of all it does not override."""
    if indent == 0:
        return body
    return _dump(part.model_dump(mode="json", by_alias=True, exclude_none=True), indent + 2)


def values_yaml() -> str:
    """values.yaml with every default and what it means."""
    head = [
        "# Values of the chart; written from the models by `make schema`.",
        "# `datasets` and what may be null stand in docs/spec.md, not here: Helm would merge a",
        "# study's own into them.",
        "",
    ]
    return "\n".join([*head, *_lines(Values())]).rstrip() + "\n"


def _rows(part: BaseModel, prefix: str = "") -> list[tuple[str, str, str]]:
    rows = []
    for name, field in type(part).model_fields.items():
        value, alias = getattr(part, name), field.alias or name
        about = field.description or ""
        nested = isinstance(value, BaseModel) and not isinstance(value, Experiment)
        stage = prefix == "stages."
        if nested and not stage:
            rows += _rows(value, f"{prefix}{alias}.")
            continue
        if isinstance(value, Experiment):
            default = "the published study"
        else:
            plain = (
                value.model_dump(mode="json", by_alias=True, exclude_none=True)
                if isinstance(value, BaseModel)
                else value
            )
            default = f"`{json.dumps(plain, ensure_ascii=False)}`"
        about = about or ("As `pods`, for this stage alone." if stage else "")
        rows.append((f"{prefix}{alias}", default, about))
    return rows


def table() -> str:
    """The values as a table for the chart's README."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for name, default, about in _rows(Values()):
        cells = [f"`{name}`", default, about]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


_START = "<!-- values: written by `make schema` -->"
_END = "<!-- end of values -->"


def readme(text: str) -> str:
    """The README with a fresh table between its marks. Raises ValueError without them."""
    head, start, rest = text.partition(_START)
    _, end, tail = rest.partition(_END)
    if not start or not end:
        raise ValueError(f"no {_START} … {_END} in the chart's README")
    return f"{head}{_START}\n\n{table()}\n{_END}{tail}"


def generated(folder: Path) -> dict[Path, str]:
    """Every written file of the chart in `folder`, with what it should hold."""
    return {
        folder / "values.yaml": values_yaml(),
        folder / "values.schema.json": json.dumps(schema(), indent=1) + "\n",
        folder / "spec-schema.sha256": schema_digest() + "\n",
        folder / "defaults.json": json.dumps(defaults()) + "\n",
        folder / "README.md": readme((folder / "README.md").read_text(encoding="utf-8")),
        folder / "Chart.yaml": _chart_yaml(),
    }


#: A point of colour for lists of charts; inline, as there is no site that it could lie on.
_ICON = (
    "data:image/svg+xml;utf8,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Crect width='32' height='32' rx='6' fill='%23264653'/%3E%3Cg fill='none' stroke-width='3' "
    "stroke='%23e9c46a'%3E%3Ccircle cx='12' cy='16' r='6'/%3E%3Ccircle cx='20' cy='16' r='6'/%3E"
    "%3C/g%3E%3C/svg%3E"
)
#: What a repository of charts shows.
_ABOUT = {
    "keywords": ["machine learning", "language models", "fine-tuning", "batch", "gpu", "kueue"],
    "maintainers": [{"name": "personaspace contributors"}],
    "annotations": {
        "artifacthub.io/category": "ai-machine-learning",
        "artifacthub.io/license": "Apache-2.0",
        "artifacthub.io/operator": "false",
        "artifacthub.io/prerelease": "true",
    },
}


def _chart_yaml() -> str:
    lines = [
        "apiVersion: v2",
        "name: experiment",
        "description: A personaspace study as Kubernetes Jobs, run in order.",
        "type: application",
        f"version: {__version__}",
        f'appVersion: "{__version__}"',
        'kubeVersion: ">=1.28.0-0"',
        f"icon: {_ICON}",
        *_dump(_ABOUT, 0),
    ]
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Write them."""
    for path, text in generated(folder).items():
        path.write_text(text, encoding="utf-8")
