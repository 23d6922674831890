"""What a store has already of a node that is to run: the whole of it, or some of its rows.

The whole, where a former artifact differs in nothing but the order of personas and questions in the
study's lists, and was made from the very inputs that are here. Rows, where a stage has them: those
whose prompt, question and all else that the stage reads are the same. What rows are made from is in
every manifest (`why.made_from`), so artifacts of former versions serve as well.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from personaspace.errors import UnavailableError, UserError, one_line
from personaspace.pipeline import why
from personaspace.pipeline.node import Node
from personaspace.pipeline.rows import Offer, Offers, Row
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.stages.aggregate import COPY_OF
from personaspace.pipeline.work import Work
from personaspace.store import Manifest, Store
from personaspace.study.loaded import Study

#: The manifest's fields: the fingerprint that no order changes, and each question's hash.
UNORDERED, ASKED = "unordered", "asked"

Say = Callable[[str], None]


def recorded(work: Work, node: Node) -> dict[str, Any]:
    """What a manifest says so that the artifact, or its rows, can be taken later."""
    fields: dict[str, Any] = {UNORDERED: work.unordered[node]}
    if STAGES[node.stage].rows:
        questions = STAGES[node.stage].reads(work.study, node)["questions"]
        fields[ASKED] = [why.hashed(question) for question in questions]
    return fields


def whole(
    work: Work, node: Node, inputs: Mapping[str, str | None], former: Collection[Manifest]
) -> Manifest | None:
    """The former artifact that only the order of lists tells from this one.

    Args:
        inputs: Digest of each of the node's inputs; None: not known yet.
        former: See `why.former`.
    """
    alike = (found for found in former if _alike(work, node, found.fields))
    return next((found for found in alike if _made_from(found.fields, inputs)), None)


def _alike(work: Work, node: Node, fields: Mapping[str, Any]) -> bool:
    """Whether an artifact differs from the node's in nothing but the order of lists."""
    return UNORDERED in fields and fields[UNORDERED] == work.unordered[node]


def _made_from(fields: Mapping[str, Any], inputs: Mapping[str, str | None]) -> bool:
    """Whether it was made from these inputs; one that is not known yet could be the same."""
    before = fields.get("inputs")
    return (
        isinstance(before, dict)
        and before.keys() == inputs.keys()
        and all(digest in (None, before[name]) for name, digest in inputs.items())
    )


def offers(
    work: Work, node: Node, inputs: Mapping[str, str | None], former: Collection[Manifest]
) -> Offers:
    """The node's rows, and what former artifacts have of them (arguments: see `whole`)."""
    stage = STAGES[node.stage]
    if not stage.rows:
        return Offers()
    now = why.made_from(work.study, node)
    wanted = rows_of(work.study, node)
    found = []
    for manifest in former:
        before: Any = manifest.fields.get(why.FIELD)
        if not (_made_from(manifest.fields, inputs) and _rows_alike(stage.rows, before, now)):
            continue
        same = {
            (group, persona)
            for group, persona in {row[:2] for row in wanted}
            if _same(before["reads"], now["reads"], group, persona)
        }
        asked = _asked(manifest, before["reads"], now["reads"])
        rows = {row for row in wanted if row[:2] in same and asked(row.question)}
        if rows:
            found.append(Offer(manifest, frozenset(rows)))
    return Offers(wanted, tuple(found))


def _rows_alike(groups: Collection[str], before: Any, now: Mapping[str, Any]) -> bool:
    """Whether one row of two artifacts can be the same, by what each was made from."""
    if not isinstance(before, dict) or not isinstance(before.get("reads"), dict):
        return False  # of a version that did not tell
    if any(before.get(name) != now[name] for name in ("version", "nonces")):
        return False
    return _rest(before["reads"], groups) == _rest(now["reads"], groups)


def rows_of(study: Study, node: Node) -> frozenset[Row]:
    """All rows that a node's artifact has."""
    stage = STAGES[node.stage]
    reads = stage.reads(study, node)
    return frozenset(
        Row(group, persona, question)
        for group in stage.rows
        for persona, *_ in reads.get(group, ())
        for question in reads["questions"]
    )


def _rest(reads: Mapping[str, str], groups: Collection[str]) -> dict[str, str]:
    """All that is read but the lists of personas and the questions."""
    lists = {*groups, "questions"}
    return {path: text for path, text in reads.items() if path.partition(".")[0] not in lists}


def _same(before: Mapping[str, str], now: Mapping[str, str], group: str, persona: str) -> bool:
    """Whether a persona's prompt is what it was; of a list without names, the whole list."""
    path = f"{group}.{persona}.prompt"
    path = path if path in now else group
    return before.get(path) == now[path]


def _asked(
    manifest: Manifest, before: Mapping[str, str], now: Mapping[str, str]
) -> Callable[[str], bool]:
    """Whether the artifact has a question; of one that does not tell, if it has the same list."""
    hashes = manifest.fields.get(ASKED)
    if hashes is None:
        same = before.get("questions") == now["questions"]
        return lambda question: same
    known = set(hashes)
    return lambda question: why.hashed(question) in known


def needed(work: Work, node: Node, inputs: Mapping[str, str | None]) -> set[str]:
    """Keys of former artifacts that the run of a node that is not complete would take from.

    Args:
        inputs: Digest of each of the node's inputs; None: it is not complete.
    """
    key, groups = work.key(node), STAGES[node.stage].rows
    now = functools.cache(lambda: why.made_from(work.study, node))

    def near(fields: Mapping[str, Any]) -> bool:
        if not _made_from(fields, inputs):
            return False
        told = groups and why.FIELD in fields
        return (told and _rows_alike(groups, fields[why.FIELD], now())) or _alike(
            work, node, fields
        )

    # Of very many artifacts only those are read with care of which something may be taken.
    beside = work.store.glances(key.rpartition("/")[0])
    others = why.readable(work, [it.key for it in beside if it.key != key and near(it.fields)])
    if not others:
        return set()
    other = whole(work, node, inputs, others)
    keys = {offer.manifest.key for offer in offers(work, node, inputs, others).found}
    return keys if other is None else {*keys, other.key}


def copy_files(store: Store, manifest: Manifest, folder: Path) -> None:
    """Bring an artifact's files into a folder, each checked.

    Raises:
        UserError: One is missing, cut short or corrupt.
    """
    source = store.fetch(manifest)
    for name in manifest.files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)


def take_whole(work: Work, node: Node, other: Manifest, say: Say) -> Manifest | None:
    """Make the node's artifact of the one that `whole` found; None: that one is damaged.

    Raises:
        UnavailableError: The store does not answer.
    """
    stale = work.store.find(work.key(node))
    try:
        with work.store.writer(work.key(node)) as writer:
            copy_files(work.store, other, writer.folder)
            fields = {
                "fingerprint": work.fingerprints[node],
                why.FIELD: why.made_from(work.study, node),
                "data": why.data_read(work.study, node),
                COPY_OF: other.key,
                **recorded(work, node),
            }
            manifest = writer.commit({**other.fields, **fields}, replace=stale or False)
    except UnavailableError:
        raise
    except UserError as error:
        say(f"computed anew, not taken from {other.key}: {one_line(error)}")
        return None
    say(f"taken whole from {other.key}: only the order of lists is another")
    return manifest
