"""What a study's data are: the digest of every data set, list of questions and persona list."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from personaspace.study import sources
from personaspace.study.loaded import Study


def digest_of(value: Any) -> str:
    """SHA-256 of plain values as JSON, without line breaks and with characters as they are."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class DataIdentity:
    """One of a study's inputs.

    Attributes:
        field: Where the spec names it, such as `datasets.bad`.
        source: File, address or hub name and revision; empty for what stands in the spec.
        count: Chats, questions, their themes, personas or adapters.
        sha256: Of the file for a data set (of name, revision and slice where it is of a hub), of
            the list as JSON for questions and for personas with their prompts.
    """

    field: str
    source: str
    count: int
    sha256: str


def _named(source: list[str] | str) -> str:
    return sources.shown(source) if isinstance(source, str) else ""


def identities(study: Study) -> list[DataIdentity]:
    """Every input of a study that is here whole."""
    spec, found = study.spec, []
    for name, chats in study.chats.items():
        dataset = spec.datasets[name]
        source = f"{dataset.hub}@{dataset.revision}" if dataset.hub else _named(dataset.path or "")
        if dataset.rows:
            source += f" [{dataset.rows}]"
        count = len(chats.conversations)
        found.append(DataIdentity(f"datasets.{name}", source, count, chats.digest))
    unseen = spec.evaluation.unseen_questions
    asked = (
        ("extraction.questions", _named(spec.extraction.questions), study.extraction_questions),
        ("coupling.questions", _named(spec.coupling.questions), study.coupling_questions),
        (
            "evaluation.questions",
            ", ".join(filter(None, (_named(spec.evaluation.questions), _named(unseen or "")))),
            study.evaluation_questions,
        ),
    )
    found += [
        DataIdentity(field, source, len(questions), digest_of(questions))
        for field, source, questions in asked
    ]
    themed = (
        ("extraction.themes", study.extraction_themes),
        ("evaluation.themes", study.evaluation_themes),
        ("judge.themes", study.judge_themes),
    )
    found += [
        DataIdentity(field, "", len(set(themes.values())), digest_of(sorted(themes.items())))
        for field, themes in themed
        if themes
    ]
    if spec.steering is not None and study.steering is not None:
        found += [
            DataIdentity(
                "steering.questions",
                _named(spec.steering.questions),
                len(study.steering.questions),
                digest_of(list(study.steering.questions)),
            ),
            DataIdentity(
                "steering.bad",
                _named(spec.steering.bad.path or spec.steering.bad.hub or ""),
                len(study.steering.pairs),
                digest_of([list(asdict(pair).values()) for pair in study.steering.pairs]),
            ),
        ]
    found += [
        DataIdentity(f"conditions.{name}.adapter", published.source, 1, published.digest)
        for name, published in study.adapters.items()
    ]
    personas = [persona.identity() for persona in spec.personas]
    found.append(DataIdentity("personas", "", len(personas), digest_of(personas)))
    return found
