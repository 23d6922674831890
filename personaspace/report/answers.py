"""Model answers packed for the page's browser: compressed, inert, unpacked when looked at.

Answers are untrusted text. They travel as gzip in base64, which has no character that HTML could
read as markup, and the page shows them as text nodes only.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from personaspace.analysis.results import Results
from personaspace.errors import UserError
from personaspace.report.text import pretty

_COLUMNS = ["condition", "seed", "persona", "question", "sample", "text"]

#: Bits of an answer's flags; the page's script has the same.
HIT, TERMINAL, DEGENERATE, CUT, SEEN = 1, 2, 4, 8, 16


@dataclass(frozen=True)
class Chunk:
    """The answers of one condition and seed.

    Attributes:
        id: Element that holds them.
        payload: gzip of JSON, as base64.
    """

    id: str
    condition: str
    label: str
    seed: int | None
    count: int
    payload: str


@dataclass(frozen=True)
class Packed:
    """All answers of a study.

    Attributes:
        index: What the page's script must know before it unpacks anything, as plain JSON.
        chunks: In the report's order of conditions.
    """

    index: dict[str, Any]
    chunks: list[Chunk]

    @property
    def total(self) -> int:
        """Number of answers."""
        return sum(chunk.count for chunk in self.chunks)


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
    if frame.empty:  # of a part of a study without answers, which has no columns either
        return None
    for column in _COLUMNS:
        if column not in frame.columns:
            raise UserError(f"{path}: column {column} is missing")
    return frame


def _flags(frame: pd.DataFrame) -> list[int]:
    def bit(column: str, value: int) -> pd.Series:
        if column not in frame.columns:
            return pd.Series(0, index=frame.index)
        return frame[column].fillna(False).astype(bool).astype(int) * value

    flags = bit("hit", HIT) + bit("terminal", TERMINAL) + bit("degenerate", DEGENERATE)
    if "finish" in frame.columns:
        flags = flags + (frame["finish"] == "length").astype(int) * CUT
    return [int(flag) for flag in flags + bit("seen", SEEN)]


def _payload(frame: pd.DataFrame) -> str:
    content = {
        "persona": [int(place) for place in frame.who],
        "question": [int(place) for place in frame.asked],
        "sample": [int(sample) for sample in frame["sample"]],
        "flags": _flags(frame),
        "text": ["" if pd.isna(text) else str(text) for text in frame.text],
    }
    raw = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # JSON can hold half a surrogate pair, which is no UTF-8.
    packed = gzip.compress(raw.encode("utf-8", errors="replace"), 9, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def _index(results: Results, frame: pd.DataFrame, chunks: list[Chunk]) -> dict[str, Any]:
    prompts = {persona.name: persona.told for persona in results.personas}
    personas = _in_order(frame.persona, results.ordered_personas)
    return {
        "marker": results.marker,
        "seen_known": "seen" in frame.columns,
        "personas": [
            {
                "name": name,
                "label": pretty(name) + (" (source)" if name == results.source else ""),
                "prompt": prompts.get(name),
                "known": name in prompts,
            }
            for name in personas
        ],
        "questions": _in_order(frame.question, []),
        "chunks": [
            {"id": c.id, "condition": c.condition, "label": c.label, "seed": c.seed} for c in chunks
        ],
    }


def _in_order(names: pd.Series, first: Sequence[str]) -> list[str]:
    """The distinct names, those of `first` in its order before the others."""
    present = list(dict.fromkeys(names))
    return [name for name in first if name in present] + [n for n in present if n not in first]


def pack(folder: Path, results: Results) -> Packed | None:
    """The answers of an aggregate folder by condition and seed; None where it has none.

    Raises:
        UserError: The table is unreadable, or a column is missing.
    """
    frame = load(folder)
    if frame is None:
        return None
    order = {condition.name: place for place, condition in enumerate(results.ordered_conditions)}
    who = {n: place for place, n in enumerate(_in_order(frame.persona, results.ordered_personas))}
    asked = {text: place for place, text in enumerate(_in_order(frame.question, []))}
    frame = frame.assign(
        rank=frame.condition.map(lambda name: order.get(name, len(order))),
        who=frame.persona.map(who),
        asked=frame.question.map(asked),
    ).sort_values(["rank", "condition", "seed", "who", "asked", "sample"], kind="stable")
    chunks = [
        Chunk(
            f"answers-{condition}-seed-{seed}",
            str(condition),
            results.label(str(condition)),
            None if pd.isna(seed) else int(seed),
            len(group),
            _payload(group),
        )
        for (condition, seed), group in frame.groupby(
            ["condition", "seed"], sort=False, dropna=False
        )
    ]
    return Packed(_index(results, frame, chunks), chunks)
