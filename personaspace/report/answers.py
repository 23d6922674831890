"""Model answers packed for the page's browser: compressed, inert, unpacked when looked at.

Answers are untrusted text. They travel as gzip in base64, which has no character that HTML could
read as markup, and the page shows them as text nodes only.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from personaspace.errors import UserError
from personaspace.figures.findings import Findings

_COLUMNS = ["condition", "seed", "persona", "question", "sample", "text"]
_OPTIONAL = ["hit", "terminal", "degenerate", "finish", "seen"]

#: Bits of an answer's flags; the page's script has the same.
HIT, TERMINAL, DEGENERATE, CUT, SEEN = 1, 2, 4, 8, 16


@dataclass(frozen=True)
class Chunk:
    """The answers of one condition and seed.

    Attributes:
        id: Element that holds them.
        seen_known: Whether it is on record which questions coupling had seen.
        payload: gzip of JSON, as base64.
    """

    id: str
    condition: str
    label: str
    seed: int | None
    count: int
    seen_known: bool
    payload: str


def load(folder: Path) -> pd.DataFrame | None:
    """The answers of an aggregate folder; None where it has none.

    Raises:
        UserError: Unreadable, or without a needed column.
    """
    path = folder / "tables" / "answers.parquet"
    if not path.is_file():
        return None
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from None
    for column in _COLUMNS:
        if column not in frame.columns:
            raise UserError(f"{path}: column {column} is missing")
    return frame if len(frame) else None


def _flags(frame: pd.DataFrame) -> list[int]:
    def bit(column: str, value: int) -> pd.Series:
        if column not in frame.columns:
            return pd.Series(0, index=frame.index)
        return frame[column].fillna(False).astype(bool).astype(int) * value

    flags = bit("hit", HIT) + bit("terminal", TERMINAL) + bit("degenerate", DEGENERATE)
    if "finish" in frame.columns:
        flags = flags + (frame["finish"] == "length").astype(int) * CUT
    return [int(flag) for flag in flags + bit("seen", SEEN)]


def _pack(frame: pd.DataFrame) -> str:
    personas = list(dict.fromkeys(frame.persona))
    questions = list(dict.fromkeys(frame.question))
    persona = {name: place for place, name in enumerate(personas)}
    question = {text: place for place, text in enumerate(questions)}
    content = {
        "personas": personas,
        "questions": questions,
        "persona": [persona[name] for name in frame.persona],
        "question": [question[text] for text in frame.question],
        "sample": [int(sample) for sample in frame["sample"]],
        "flags": _flags(frame),
        "text": ["" if pd.isna(text) else str(text) for text in frame.text],
    }
    raw = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(raw.encode(), 9, mtime=0)).decode("ascii")


def chunks(folder: Path, findings: Findings) -> list[Chunk]:
    """Packed answers by condition and seed, in the report's order."""
    frame = load(folder)
    if frame is None:
        return []
    order = {arm.name: place for place, arm in enumerate(findings.arms)}
    place = {name: index for index, name in enumerate(findings.ordered_personas)}
    keys = frame.assign(
        arm=frame.condition.map(lambda name: order.get(name, len(order))),
        who=frame.persona.map(lambda name: place.get(name, len(place))),
    )
    keys = keys.sort_values(
        ["arm", "condition", "seed", "who", "question", "sample"], kind="stable"
    )
    found: list[Chunk] = []
    for (condition, seed), group in keys.groupby(["condition", "seed"], sort=False, dropna=False):
        found.append(
            Chunk(
                f"answers-{condition}-seed-{seed}",
                str(condition),
                findings.label(str(condition)),
                None if pd.isna(seed) else int(seed),
                len(group),
                "seen" in group.columns,
                _pack(group),
            )
        )
    return found
