"""Where the numbers come from: artifacts, versions, devices, time, and the spec itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from personaspace.files import read_model
from personaspace.models.energy import KILOWATT_HOUR, Use, seconds_in_use, taken
from personaspace.report.tables import Cell, Column, Table
from personaspace.report.text import NONE, count, duration, number, short_hash


class Source(BaseModel):
    """A former artifact that rows were taken from; `personas` are those of the rows."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    key: str
    digest: str
    personas: list[str] = []


class Rows(BaseModel):
    """How many rows (persona and question) were computed, and where the others were taken from."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    computed: int
    of: int
    taken: list[Source] = []

    def __str__(self) -> str:
        sources = " and ".join(short_hash(source.digest) for source in self.taken)
        return f"{self.computed} of {self.of} computed, else from {sources}"


class Artifact(BaseModel):
    """One stage's output.

    `seconds` is how long it took, `created` when it was done; `implementation` computed training or
    hidden states, in `processes` if there were several, `engine` drew the answers; `taken_from` are
    the stores that it came through; `copy_of` is the artifact in another order of lists that it is
    a copy of, `rows` what it took of former ones; `energy` is what each GPU counted meanwhile.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    node: str
    key: str | None = None
    stage: str | None = None
    condition: str | None = None
    seed: int | None = None
    fingerprint: str | None = None
    digest: str | None = None
    device: str | None = None
    seconds: float | None = None
    created: str | None = None
    versions: dict[str, Any] | None = None
    implementation: str | None = None
    processes: int | None = None
    engine: str | None = None
    taken_from: list[str] = []
    copy_of: str | None = None
    rows: Rows | None = None
    energy: list[Use] = []

    @property
    def computed_by(self) -> str | None:
        """Implementation and engine, as the study's file calls them, and how many processes."""
        several = f"{self.processes} processes" if self.processes else None
        return ", ".join(filter(None, (self.implementation, several, self.engine))) or None

    @property
    def origin(self) -> str:
        """Where all of it or a part was taken from; empty: it was computed here."""
        copied = f"copy of {self.copy_of}" if self.copy_of else ""
        rows = str(self.rows) if self.rows else ""
        stores = " via ".join(self.taken_from[::-1])
        return "; ".join(filter(None, (stores, copied, rows)))

    @property
    def on_gpu(self) -> bool:
        """Whether an accelerator was used, judged by the device's name."""
        return self.device is not None and not self.device.lower().startswith("cpu")

    @property
    def kind(self) -> str:
        """The stage, from the node's name where it is not on record."""
        return self.stage or self.node.split(":")[0].split("/")[0]

    @property
    def span(self) -> tuple[float, float] | None:
        """Start and end, in seconds since 1970."""
        try:
            end = datetime.fromisoformat(self.created or "").timestamp()
        except ValueError:
            return None
        return (end - (self.seconds or 0.0), end)


class Data(BaseModel):
    """One of the study's inputs, as `study.identity.DataIdentity`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    field: str
    source: str = ""
    count: int = 0
    sha256: str = ""


class Provenance(BaseModel):
    """Everything in `provenance.json`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    artifacts: list[Artifact] = []
    data: list[Data] = []
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


def _without_card(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Those made on a GPU that do not say on which."""
    return [a for a in artifacts if a.on_gpu and not a.energy]


def _gpu_hours(artifacts: Sequence[Artifact]) -> float:
    """Hours of GPUs: several stages on one at a time count once, where it is known which it was."""
    known = seconds_in_use(use for a in artifacts for use in a.energy)
    return (known + sum(a.seconds or 0 for a in _without_card(artifacts))) / 3600


def _joules(artifacts: Sequence[Artifact]) -> float:
    return taken(use for a in artifacts for use in a.energy)


def _energy(joules: float) -> str:
    """In kilowatt hours from 10 Wh on."""
    hours = joules / KILOWATT_HOUR
    return f"{hours:.2f} kWh" if hours >= 0.01 else f"{hours * 1000:.2g} Wh"


def _energy_note(artifacts: Sequence[Artifact]) -> str:
    """What the energies are; empty where none is known."""
    counted = [a for a in artifacts if a.energy]
    if not counted:
        return ""
    cards = len({use.card for a in counted for use in a.energy})
    note = (
        f" Energy: what {cards} GPU{'s' if cards > 1 else ''} took by their own counters while a "
        "stage ran on them, idle time and other work on them included, the rest of the machine not."
    )
    alone = sum(use.joules for a in counted for use in a.energy)
    if alone > 1.001 * _joules(counted):
        note += (
            f" Stages shared a GPU at times: added up one by one it would be {_energy(alone)}. "
            "What a GPU took while several ran counts once in each number here."
        )
    silent = len(_without_card(artifacts))
    return note + (
        f" {count(silent, 'artifact')} made on a GPU "
        f"{'tells' if silent == 1 else 'tell'} no energy."
        if silent
        else ""
    )


def _gpus(artifacts: Sequence[Artifact]) -> str:
    """What was used of which GPUs; empty where none was."""
    found = ""
    if cards := {use.card for a in artifacts for use in a.energy}:
        known = [a for a in artifacts if a.energy]
        found = (
            f" {count(len(cards), 'GPU')} had stages to run for {number(_gpu_hours(known), 2)} "
            "GPU-hours in all (several stages on one GPU at the same time count once) and took "
            f"{_energy(_joules(known))}."
        )
    unknown = _without_card(artifacts)
    if hours := _gpu_hours(unknown):
        whose = f"{count(len(unknown), 'artifact')} made on a GPU" if cards else "stages on GPUs"
        found += (
            f" Of {whose} it is not known which GPU it was: their times add up to "
            f"{number(hours, 2)} GPU-hours; a GPU that several shared is counted for each of them."
        )
    return found


def _summary(artifacts: list[Artifact]) -> str:
    timed = [a for a in artifacts if a.seconds is not None]
    if not timed:
        return ""
    devices = sorted({a.device for a in timed if a.device})
    text = count(len(artifacts), "artifact")
    text += f" made on {', '.join(devices)}" if devices else ""
    spans = [span for a in timed if (span := a.span) is not None]
    if spans:
        wall = max(end for _, end in spans) - min(start for start, _ in spans)
        text += f"; {duration(wall)} from the first start to the last end"
    took = duration(sum(a.seconds or 0 for a in timed))
    text += f"; {took} if the times of all stages are added up."
    return text + _gpus(timed)


def _stages_table(artifacts: list[Artifact]) -> Table:
    rows, counted = [], any(a.energy for a in artifacts)
    hours_note = (
        " GPU-hours: how long GPUs had such stages to run. Several on one GPU at the same time "
        "count once, stages of two kinds once in each row; where it is not known which GPU it was, "
        "their times are added up."
    )
    for stage in dict.fromkeys(a.kind for a in artifacts):
        mine = [a for a in artifacts if a.kind == stage]
        seconds = sum(a.seconds or 0 for a in mine)
        hours, joules = _gpu_hours(mine), _joules(mine)
        devices = ", ".join(sorted({a.device for a in mine if a.device})) or NONE
        rows.append(
            [
                Cell(stage, stage),
                Cell(f"{len(mine):,}", len(mine)),
                Cell(duration(seconds), seconds),
                Cell(number(hours, 2) if hours else NONE, hours or None),
                *([Cell(_energy(joules) if joules else NONE, joules or None)] if counted else []),
                Cell(devices, devices),
            ]
        )
    return Table(
        "stages-table",
        "Time by stage",
        [
            Column("Stage"),
            Column("artifacts", True),
            Column("times added up", True),
            Column("GPU-hours", True),
            *([Column("energy", True)] if counted else []),
            Column("devices"),
        ],
        rows,
        note="A stage that was complete already is counted with the time it took when it ran."
        + hours_note * any(a.on_gpu for a in artifacts)
        + _energy_note(artifacts),
    )


def _versions_table(found: Provenance) -> Table:
    """Versions where the statistics were computed, and others where an artifact was made."""
    names = list(found.versions)
    names += [n for a in found.artifacts for n in a.versions or {} if n not in names]
    rows = []
    for name in dict.fromkeys(names):
        here = str(found.versions.get(name, NONE))
        made = {str((a.versions or {}).get(name, here)) for a in found.artifacts}
        others = ", ".join(sorted(made - {here}))
        rows.append([Cell(name, name), Cell(here), Cell(others or NONE, others or None)])
    return Table(
        "versions-table",
        "Versions",
        [Column("Software"), Column("statistics and report"), Column("elsewhere in the study")],
        rows,
    )


def _data_table(data: Sequence[Data]) -> Table:
    rows = [
        [
            Cell(each.field, each.field),
            Cell(each.source or "the study itself", each.source or None),
            Cell(f"{each.count:,}", each.count),
            Cell(short_hash(each.sha256), each.sha256, full=each.sha256),
        ]
        for each in data
    ]
    return Table(
        "data-table",
        "Data that the study read",
        [Column("What"), Column("from"), Column("entries", True), Column("SHA-256")],
        rows,
        note="Of a data set's file, or of name, revision and slice where it came from a hub; of a "
        "list as JSON. Digests are cut to twelve digits here; the download has them whole.",
        classes="hashes",
    )


def _artifacts_table(artifacts: list[Artifact]) -> Table:
    taken = any(a.origin for a in artifacts)
    rows = [
        [
            Cell(a.node, a.node, full=a.key or ""),
            Cell(short_hash(a.fingerprint), a.fingerprint, full=a.fingerprint or ""),
            Cell(short_hash(a.digest), a.digest, full=a.digest or ""),
            Cell(a.device or NONE, a.device),
            Cell(a.computed_by or NONE, a.computed_by),
            Cell(duration(a.seconds) if a.seconds is not None else NONE, a.seconds),
            Cell(a.created or NONE, a.created),
            *([Cell(a.origin or "computed here")] if taken else []),
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
            Column("computed by"),
            Column("time", True),
            Column("created"),
            *([Column("taken from")] if taken else []),
        ],
        rows,
        note="Computed by: the implementation that trained or read hidden states (fused or "
        "reference), or the engine that drew answers. Digests are cut to twelve digits here; the "
        "download has them whole.",
        classes="hashes",
    )


def load(folder: Path, made_from: Sequence[Artifact] = ()) -> Origin | None:
    """Provenance of an aggregate folder; None where it has none.

    Args:
        made_from: Artifacts that the folder itself cannot name.

    Raises:
        UserError: Malformed.
    """
    path = folder / "provenance.json"
    if not path.is_file():
        return None
    found = read_model(path, Provenance)
    artifacts = [*found.artifacts, *made_from]
    tables = []
    if artifacts:
        tables += [_stages_table(artifacts), _artifacts_table(artifacts)]
    if found.data:
        tables.append(_data_table(found.data))
    if found.versions:
        tables.append(_versions_table(found))
    spec = yaml.safe_dump(found.spec, sort_keys=False, allow_unicode=True) if found.spec else ""
    return Origin(_summary(artifacts), tables, spec)
