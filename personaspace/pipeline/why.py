"""Why a stage would run: what it reads, compared with what its former artifact was made from.

A manifest's `made_from` holds the stage's version, the nonces of reruns, and what the stage read of
the study: `{path: value}`, long values as a hash. Artifacts from before this was recorded lack it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from personaspace.errors import UnavailableError, UserError, one_line
from personaspace.pipeline.node import Node
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.stages.train import FIELD as TRAINING
from personaspace.pipeline.stages.train import kept_dose
from personaspace.study.identity import digest_of
from personaspace.study.inputs import Dose

if TYPE_CHECKING:
    from personaspace.pipeline.work import Work
    from personaspace.store import Manifest
    from personaspace.study.loaded import Study

#: The manifest's field.
FIELD = "made_from"
#: Longer values are recorded as a hash.
SHORT = 40
_HASH = "sha256:"


class Cause(StrEnum):
    """Why a node would run."""

    FIRST = "first"  # it never ran
    NOT_KEPT = "not-kept"  # nor did the whole training keep an adapter there
    CHANGED = "changed"  # the study says something else
    VERSION = "version"  # the stage computes something else
    RERUN = "rerun"  # the study asks for it
    INPUTS = "inputs"  # other inputs, or inputs that run again
    UNRECORDED = "unrecorded"  # the former artifact does not say what it was made from


@dataclass(frozen=True)
class Change:
    """A field that was another when the former artifact was made.

    Attributes:
        path: In the study, such as `personas.tutor.prompt`.
        before: Its value then, as JSON, if it is short; empty: long, or not there.
        now: Its value now, likewise.
    """

    path: str
    before: str = ""
    now: str = ""

    def __str__(self) -> str:
        if self.before and self.now:
            return f"{self.path}: {self.before} → {self.now}"
        return f"{self.path} changed"


@dataclass(frozen=True)
class Why:
    """Why a node would run.

    Attributes:
        causes: All of them.
        changes: Fields that changed.
        inputs: Ids of inputs that are new, gone, or run again.
    """

    causes: tuple[Cause, ...]
    changes: tuple[Change, ...] = ()
    inputs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return "; ".join(self._told(cause) for cause in self.causes)

    def _told(self, cause: Cause) -> str:
        if cause is Cause.CHANGED:
            return _several([str(change) for change in self.changes])
        if cause is Cause.INPUTS:
            return f"its inputs changed: {_several(list(self.inputs))}"
        return {
            Cause.FIRST: "not run yet",
            Cause.NOT_KEPT: "not run yet, and the whole training is over and kept no adapter "
            "there: its first steps are trained once more",
            Cause.VERSION: "a newer version of the stage",
            Cause.RERUN: "asked for by rerun",
            Cause.UNRECORDED: "not known why: made before this was recorded",
        }[cause]


def _several(texts: list[str], most: int = 3) -> str:
    if len(texts) <= most:
        return ", ".join(texts)
    return f"{', '.join(texts[:most])} and {len(texts) - most} more"


# --- what is recorded ----------------------------------------------------------------------------


def made_from(study: Study, node: Node) -> dict[str, Any]:
    """What a node is made from but its inputs, for its manifest."""
    stage = STAGES[node.stage]
    # As the fingerprint sees it, for which a tuple is a list.
    reads = json.loads(json.dumps(stage.reads(study, node)))
    return {
        "version": stage.version,
        "nonces": study.spec.nonces(node.stage, node.condition, node.seed),
        "reads": dict(_leaves(reads)),
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field with its value as JSON; what has a name in a list is found under that name."""
    named = _by_name(value) if isinstance(value, list) else None
    if named is not None:
        yield path, _text(list(named))  # their order
        value = named
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path, _text(value)


def _by_name(items: list[Any]) -> dict[str, Any] | None:
    """A list of personas (pairs of name and prompt, or objects) or conditions, by name."""
    found: dict[str, Any] = {}
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            found[item["name"]] = item
        elif isinstance(item, list) and len(item) == 2 and isinstance(item[0], str):
            found[item[0]] = {"prompt": item[1]}
        else:
            return None
    return found if found and len(found) == len(items) else None


def hashed(text: str) -> str:
    """64 bits of a text's SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) <= SHORT:
        return text
    return _HASH + hashed(text)


# --- what is compared ----------------------------------------------------------------------------


def reasons(
    work: Work, node: Node, pending: Collection[Node], candidates: Sequence[Manifest]
) -> Why:
    """Why a node that is not complete would run.

    Args:
        work: The study and its store.
        node: The node.
        pending: Nodes that would run before it.
        candidates: Its artifacts with other fingerprints (`former`).
    """
    inputs = [need.id for need in work.graph.needs[node] if need in pending]
    present = work.manifest(node)
    if present is not None:  # made from the same study, but from other inputs
        return Why((Cause.INPUTS,), inputs=tuple(inputs or _replaced(work, node, present)))
    if not candidates:
        return Why((Cause.NOT_KEPT if trained_again(work, node) else Cause.FIRST,))
    made = made_from(work.study, node)
    found = [_compared(work, node, made, manifest, inputs) for manifest in candidates]
    return min(found, key=_weight)


def trained_again(work: Work, node: Node) -> bool:
    """Whether a dose's adapter would be trained once more: the whole run is over without it."""
    condition = work.study.spec.condition(node.condition) if node.condition else None
    if not isinstance(condition, Dose) or STAGES[node.stage].of_whole is None:
        return False
    whole = Node(node.stage, condition.of, node.seed)
    if work.complete(whole) is None:
        return False
    return work.store.find(kept_dose(work.key(whole), condition.step)) is None


def _weight(why: Why) -> tuple[bool, int, int]:
    own = sum(cause is not Cause.INPUTS for cause in why.causes)
    return Cause.UNRECORDED in why.causes, len(why.changes) + own, len(why.inputs)


#: What a stage reads that is data, by the stage's own names.
_DATA = ("dataset", "personas", "questions", "coupling_questions")


def data_read(study: Study, node: Node) -> dict[str, str]:
    """SHA-256 of each data set and list that a node reads, by its place in the study.

    A data set's is that of its file (`study.datasets.Chats.digest`), a list's that of its JSON.
    """
    reads = STAGES[node.stage].reads(study, node)
    return {
        _place(study, node, name): reads[name][0] if name == "dataset" else digest_of(reads[name])
        for name in _DATA
        if name in reads
    }


def former(
    work: Work, node: Node, say: Callable[[str], None] = lambda text: None
) -> list[Manifest]:
    """Artifacts of the node with other fingerprints, the newest first.

    Args:
        say: Told of those that cannot be read, which are left out.

    Raises:
        UnavailableError: The store does not answer.
    """
    key = work.key(node)
    beside = work.store.right_below(key.rpartition("/")[0])
    return readable(work, [other for other in beside if other != key], say)


def readable(
    work: Work, keys: Sequence[str], say: Callable[[str], None] = lambda text: None
) -> list[Manifest]:
    """Those of some artifacts that can be read, the newest first (see `former`)."""
    found = []
    for key in keys:
        try:
            manifest = work.store.find(key)
        except UnavailableError:
            raise
        except UserError as error:
            say(f"passed over: {one_line(error)}")
            continue
        if manifest is not None:
            found.append(manifest)
    return sorted(found, key=lambda manifest: manifest.created, reverse=True)


def _replaced(work: Work, node: Node, manifest: Manifest) -> list[str]:
    """Inputs that the artifact was made from, and that have another content now."""
    recorded = manifest.fields.get("inputs", {})
    known = [need for need in work.graph.needs[node] if need.id in recorded]
    current = {need.id: work.manifest(need) for need in known}
    return [name for name, now in current.items() if now and recorded[name] != now.digest]


def _compared(
    work: Work, node: Node, made: Mapping[str, Any], manifest: Manifest, inputs: list[str]
) -> Why:
    before = manifest.fields.get(FIELD)
    wanted = {need.id for need in work.graph.needs[node]}
    new_or_gone = sorted(wanted ^ set(manifest.fields.get("inputs", {})))
    others = tuple(dict.fromkeys([*inputs, *new_or_gone, *_replaced(work, node, manifest)]))
    if before is None:
        return Why((Cause.INPUTS if others else Cause.UNRECORDED,), inputs=others)
    changes = tuple(_changes(work.study, node, before["reads"], made["reads"]))
    there = {
        Cause.CHANGED: bool(changes),
        Cause.VERSION: before["version"] != made["version"],
        Cause.RERUN: before["nonces"] != made["nonces"],
        Cause.INPUTS: bool(others),
    }
    causes = tuple(cause for cause, holds in there.items() if holds)
    if not causes:  # an input's own fingerprint is another, though it is complete
        needs = tuple(need.id for need in work.graph.needs[node])
        return Why((Cause.INPUTS,), inputs=needs)
    return Why(causes, changes, others)


def _changes(
    study: Study, node: Node, before: Mapping[str, str], now: Mapping[str, str]
) -> Iterator[Change]:
    for path in sorted(before.keys() | now.keys(), key=lambda path: (path.count("."), path)):
        old, new = before.get(path, ""), now.get(path, "")
        if old == new:
            continue
        # Of what was put in or taken out, the list that it is named in tells already.
        if not (old and new) and path.rpartition(".")[0].rpartition(".")[0] in before.keys() & now:
            continue
        values = [value if not value.startswith(_HASH) else "" for value in (old, new)]
        yield Change(_place(study, node, path), *(values if all(values) else ("", "")))


def _place(study: Study, node: Node, path: str) -> str:
    """Where in the study stands what a stage reads under a name of its own."""
    head, dot, rest = path.partition(".")
    places = STAGES[node.stage].spec_paths
    if head not in places:
        return path
    condition = study.spec.condition(node.condition) if node.condition else None
    own = condition.training.given() if condition and condition.training else {}
    if places[head] == TRAINING and rest.partition(".")[0] in own:
        trained = condition.of if isinstance(condition, Dose) else node.condition
        return f"conditions.{trained}.{TRAINING}.{rest}"
    place = places[head].format(
        dataset=condition.dataset if condition else "",
        persona=condition.persona if condition else "",
        condition=node.condition,
    )
    return f"{place}{dot if place else ''}{rest}"
