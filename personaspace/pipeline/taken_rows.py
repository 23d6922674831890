"""Rows that are taken from former artifacts, not computed once more: fetched and put in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace.console import counted
from personaspace.errors import UnavailableError, UserError, one_line
from personaspace.pipeline.rows import FIELD, GRID, Row
from personaspace.store import Manifest

if TYPE_CHECKING:
    from personaspace.pipeline.context import Context

#: What computed the rows, where a study leaves the choice: one artifact's are all of one kind.
ALIKE = ("engine", "implementation", "prompts")
#: What is told of an artifact that rows were taken from.
TOLD = ("fingerprint", "device", "versions", "engine", "implementation", FIELD)


@dataclass(frozen=True)
class Source:
    """A former artifact that rows are taken from.

    Attributes:
        manifest: Its own.
        folder: Its files, each checked.
        rows: Those that are taken.
    """

    manifest: Manifest
    folder: Path
    rows: frozenset[Row]

    def has(self, persona: str, question: str, group: str = GRID) -> bool:
        """Whether a row is taken from it."""
        return Row(group, persona, question) in self.rows


@dataclass(frozen=True)
class Taken:
    """Where the rows come from that are not computed.

    Attributes:
        sources: Former artifacts, each with rows of its own.
        left: The rows that are computed.
    """

    sources: tuple[Source, ...] = ()
    left: frozenset[Row] = field(default_factory=frozenset)

    def has(self, persona: str, question: str, group: str = GRID) -> bool:
        """Whether a row is taken."""
        return any(source.has(persona, question, group) for source in self.sources)

    def computed_by(self, name: str) -> Any:
        """What the sources say of one of `ALIKE`; None: nothing, or there are none."""
        return self.sources[0].manifest.fields.get(name) if self.sources else None


def taken(context: Context, *, answers: bool) -> Taken:
    """Fetch what former artifacts have of the rows; what is damaged is named, and computed.

    Args:
        answers: The stage draws answers: by another engine than those that are there, none of
            these is taken.

    Raises:
        UnavailableError: The store does not answer.
    """
    left = set(context.offers.wanted)
    found: list[Source] = []
    for offer in sorted(context.offers.found, key=lambda offer: -len(offer.rows)):
        mine, fields = offer.rows & left, offer.manifest.fields
        if not mine or (found and not _alike(found[0].manifest.fields, fields)):
            continue
        rendered = context.runtime.prompted.recorded()
        if fields.get("prompts", rendered) != rendered:
            _refused(context, offer.manifest, "chats are put to the model in another form now")
            continue
        try:
            folder = context.store.fetch(offer.manifest)
        except UnavailableError:
            raise
        except UserError as error:
            _refused(context, offer.manifest, one_line(error))
            continue
        left -= mine
        found.append(Source(offer.manifest, folder, mine))
    if found and answers and any(row.group == GRID for row in left):
        engine, before = context.runtime.engine().name, found[0].manifest.fields.get("engine")
        if engine != before:
            _refused(context, found[0].manifest, f"its answers are of {before}, not of {engine}")
            return none(context)
    for source in found:
        number = counted(len({row[:2] for row in source.rows}), "persona")
        context.progress.say(f"rows of {number} are taken from {source.manifest.key}")
    return record(context, Taken(tuple(found), frozenset(left)))


def refuse(context: Context, rows: Taken, why: str) -> None:
    """Say why nothing is taken of what could be."""
    for source in rows.sources:
        _refused(context, source.manifest, why)


def none(context: Context) -> Taken:
    """All rows are computed."""
    context.taken.pop(FIELD, None)
    return Taken((), context.offers.wanted)


def record(context: Context, rows: Taken) -> Taken:
    """Write down for the manifest what is taken and what is not."""
    if rows.sources:
        context.taken[FIELD] = {
            "computed": len(rows.left),
            "of": len(context.offers.wanted),
            "taken": [_told(source) for source in rows.sources],
        }
        chosen = {name: rows.computed_by(name) for name in ALIKE}
        context.taken.update({name: each for name, each in chosen.items() if each is not None})
    return rows


def _told(source: Source) -> dict[str, Any]:
    manifest = source.manifest
    return {
        "key": manifest.key,
        "digest": manifest.digest,
        "created": manifest.created,
        "personas": sorted({row.persona for row in source.rows}),
        "rows": len(source.rows),
        "from": {name: found for name in TOLD if (found := manifest.fields.get(name)) is not None},
    }


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ALIKE)


def _refused(context: Context, manifest: Manifest, why: str) -> None:
    context.progress.say(f"computed anew, not taken from {manifest.key}: {why}")


def merged(
    names: Sequence[str],
    questions: Sequence[str],
    computed: Mapping[str, Mapping[str, list[Any]]],
    former: Mapping[Path, Mapping[str, Mapping[str, list[Any]]]],
    rows: Taken,
) -> dict[str, dict[str, list[Any]]]:
    """What was computed by persona and question, and in its place what was taken.

    Args:
        former: What each source's folder holds, in the same form.
    """
    return {
        name: {
            question: next(
                (
                    list(former[source.folder][name][question])
                    for source in rows.sources
                    if source.has(name, question)
                ),
                computed[name][question] if name in computed else [],
            )
            for question in questions
        }
        for name in names
    }
