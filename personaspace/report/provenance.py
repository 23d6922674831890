"""Where the numbers come from: artifacts, versions, devices, time, and the spec itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from personaspace.errors import UserError
from personaspace.figures.findings import read_json
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import NONE, duration, short_hash


class Artifact(BaseModel):
    """One stage's output."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    node: str
    key: str | None = None
    fingerprint: str | None = None
    digest: str | None = None
    device: str | None = None
    seconds: float | None = None
    created: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether an accelerator was used, judged by the device's name."""
        return self.device is not None and not self.device.lower().startswith("cpu")


class Provenance(BaseModel):
    """Everything in `provenance.json`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    artifacts: list[Artifact] = []
    versions: dict[str, Any] = {}
    spec: dict[str, Any] = {}


@dataclass(frozen=True)
class Origin:
    """Provenance as the report shows it.

    Attributes:
        summary: Time and devices in a sentence.
        tables: Artifacts, versions.
        spec: The spec as YAML; empty if unknown.
    """

    summary: str = ""
    tables: list[Table] = field(default_factory=list)
    spec: str = ""


def _summary(artifacts: list[Artifact]) -> str:
    timed = [a for a in artifacts if a.seconds is not None]
    if not timed:
        return ""
    gpu = sum(a.seconds or 0 for a in timed if a.on_gpu)
    devices = sorted({a.device for a in timed if a.device})
    text = f"{len(artifacts)} artifacts, {duration(sum(a.seconds or 0 for a in timed))} in all"
    text += f", on {', '.join(devices)}" if devices else ""
    return text + (f"; {gpu / 3600:.2f} GPU-hours." if gpu else ".")


def _artifacts_table(artifacts: list[Artifact]) -> Table:
    rows = [
        [
            Cell(a.node, a.node, full=a.key or ""),
            Cell(short_hash(a.fingerprint), a.fingerprint, full=a.fingerprint or ""),
            Cell(short_hash(a.digest), a.digest, full=a.digest or ""),
            Cell(a.device or NONE, a.device),
            Cell(duration(a.seconds) if a.seconds is not None else NONE, a.seconds),
            Cell(a.created or NONE, a.created),
        ]
        for a in artifacts
    ]
    return Table(
        "artifacts-table",
        "Artifacts behind this report",
        [
            Column("Stage"),
            Column("fingerprint"),
            Column("digest"),
            Column("device"),
            Column("time", True),
            Column("created"),
        ],
        rows,
        note="Digests are cut to twelve digits here; the download has them whole.",
        classes="hashes",
    )


def load(folder: Path) -> Origin | None:
    """Provenance of an aggregate folder; None where it has none.

    Raises:
        UserError: Malformed.
    """
    path = folder / "provenance.json"
    if not path.is_file():
        return None
    try:
        found = Provenance.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UserError(f"{path}: {place}: {first['msg']}") from None
    tables = [_artifacts_table(found.artifacts)] if found.artifacts else []
    if found.versions:
        rows = [[Cell(name, name), Cell(str(found.versions[name]))] for name in found.versions]
        tables.append(
            Table("versions-table", "Versions", [Column("Software"), Column("version")], rows)
        )
    spec = yaml.safe_dump(found.spec, sort_keys=False, allow_unicode=True) if found.spec else ""
    return Origin(_summary(found.artifacts), tables, spec)
