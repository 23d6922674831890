"""Files that the page carries as links of its own."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

from personaspace.report.embed import data_uri

#: Tables of the aggregate that the page carries.
_TABLES = {
    "rows.csv": "every geometry and leakage row",
    "rates.csv": "counts by condition, seed and persona",
    "forms.csv": "length of answers and separators by condition, seed and persona",
    "cosines.csv": "cosines of all pairs of personas",
    "training.csv": "loss of every optimiser step",
}
_PLAIN_LIMIT = 256 << 10  #: Bytes; larger tables are compressed.
_LIMIT = 4 << 20  #: Compressed bytes; larger tables are named, but not carried.


@dataclass(frozen=True)
class Download:
    """A file to save from the page.

    Attributes:
        href: The file itself, as a link; empty where it is too large to carry.
    """

    name: str
    what: str
    href: str


def _carried(name: str, what: str, content: bytes, media_type: str) -> Download:
    if len(content) > _PLAIN_LIMIT:
        content, media_type = gzip.compress(content, 9, mtime=0), "application/gzip"
        name += ".gz"
    href = data_uri(content, media_type) if len(content) <= _LIMIT else ""
    return Download(name, what, href)


def downloads(folder: Path, spec: str) -> list[Download]:
    """What an aggregate folder has to offer, and the spec as YAML if it is known."""
    found = [
        _carried(name, what, (folder / "tables" / name).read_bytes(), "text/csv")
        for name, what in _TABLES.items()
        if (folder / "tables" / name).is_file()
    ]
    if (folder / "provenance.json").is_file():
        content = (folder / "provenance.json").read_bytes()
        found.append(_carried("provenance.json", "digests in full", content, "application/json"))
    if spec:
        found.append(
            Download(
                "spec.yaml", "the spec of this study", data_uri(spec.encode(), "application/yaml")
            )
        )
    return found
