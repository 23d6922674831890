"""A store's upkeep: is every artifact what it was, and what is there that nobody needs?"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from personaspace import interrupt
from personaspace.errors import UnavailableError, UserError, one_line
from personaspace.pipeline.job_log import LOGS
from personaspace.pipeline.judging import verdicts_of
from personaspace.pipeline.node import Node
from personaspace.pipeline.stages.train import STAGE as TRAINING
from personaspace.pipeline.stages.train import kept_dose
from personaspace.pipeline.work import Work
from personaspace.store import Manifest, Store, open_store
from personaspace.study.inputs import Dose

#: Below an artifact's key: what a stage keeps until it is done.
CHECKPOINTS = "checkpoints"


class Fault(StrEnum):
    """What can be wrong with an artifact."""

    MANIFEST = "manifest"  # cannot be read, or was changed
    FILE = "file"  # missing, cut short or changed
    PLACE = "place"  # lies under another fingerprint than it has
    INPUT = "input"  # made from an input that the store holds in another version alone


#: What is to be done about each, for people.
REMEDIES = {
    Fault.MANIFEST: "delete the artifact; a run makes it again",
    Fault.FILE: "delete the artifact; a run makes it again",
    Fault.PLACE: "delete the artifact; a run makes it again",
    Fault.INPUT: "run the study again: what is stale is computed anew",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        key: The artifact.
        fault: What kind of thing.
        text: What, for people.
    """

    key: str
    fault: Fault
    text: str

    @property
    def remedy(self) -> str:
        """What is to be done about it."""
        return REMEDIES[self.fault]


class Known:
    """Artifacts that a run of `verify` before this one found sound, in a file of lines.

    Args:
        path: The file; None: nothing is remembered.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: set[str] = set()
        if path is not None and path.exists():
            self._lines = set(path.read_text(encoding="utf-8").splitlines())

    def __contains__(self, manifest: Manifest) -> bool:
        return _line(manifest) in self._lines

    def add(self, manifest: Manifest) -> None:
        """Remember it, at once: the next line may be the last."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(manifest) + "\n")


def _line(manifest: Manifest) -> str:
    return f"{manifest.key} {manifest.data} {manifest.digest}"


def verify(
    store: Store, prefix: str = "", *, known: Known | None = None, advance: Callable[[], None]
) -> Iterator[Finding]:
    """Read every artifact anew: manifest, files, where it lies, what it was made from.

    Args:
        store: Folder or bucket. Of a bucket one artifact after another is brought here.
        prefix: Only artifacts at and below this key.
        known: What need not be read again.
        advance: Called after each artifact.

    Raises:
        UnavailableError: The store does not answer.
        Interrupted: Asked to stop; `known` tells the next run where to go on.
    """
    known = known or Known(None)
    sound: list[Manifest] = []
    # Of a bucket, in a folder that is emptied: else all that is verified would fill the disk.
    with (
        tempfile.TemporaryDirectory(prefix="personaspace-") as scratch,
        open_store(store.url, Path(scratch)) as reader,
    ):
        for key in store.list(prefix):
            interrupt.check()
            try:
                manifest = store.find(key)
            except UnavailableError:
                raise
            except UserError as error:
                yield Finding(key, Fault.MANIFEST, one_line(error))
                advance()
                continue
            if manifest is not None:
                new = manifest not in known
                found = list(_of_one(reader, manifest)) if new else []
                yield from found
                if not found:
                    sound.append(manifest)
                    if new:
                        known.add(manifest)
                shutil.rmtree(Path(scratch) / key, ignore_errors=True)
            advance()
    yield from _chain(sound, store, whole=not prefix)


def _of_one(store: Store, manifest: Manifest) -> Iterator[Finding]:
    fingerprint = manifest.fields.get("fingerprint")
    last = manifest.key.rpartition("/")[2]
    if isinstance(fingerprint, str) and not fingerprint.startswith(last):
        text = f"artifact {manifest.key}: has the fingerprint {fingerprint[:16]}"
        yield Finding(manifest.key, Fault.PLACE, text)
    for name in manifest.files:
        try:
            store.fetch(manifest, [name])
        except UnavailableError:
            raise
        except UserError as error:
            yield Finding(manifest.key, Fault.FILE, one_line(error))


def _chain(sound: Sequence[Manifest], store: Store, *, whole: bool) -> Iterator[Finding]:
    """Artifacts made from versions of inputs that are not there while others are."""
    if not whole:
        return
    versions: dict[str, set[str]] = {}
    for manifest in sound:
        versions.setdefault(str(manifest.fields.get("node")), set()).add(manifest.digest)
    for manifest in sound:
        inputs = manifest.fields.get("inputs")
        for node, digest in inputs.items() if isinstance(inputs, dict) else ():
            # An input that is gone does not make a finished artifact wrong.
            if node in versions and digest not in versions[node]:
                text = f"artifact {manifest.key}: made from a version of {node} that is not there"
                yield Finding(manifest.key, Fault.INPUT, text)


# --- what nobody needs ---------------------------------------------------------------------------


@dataclass
class Garbage:
    """What was removed, or would be.

    Attributes:
        artifacts: Keys of artifacts that none of the studies leads to.
        bytes: Of these.
        orphans: Data folders that no manifest names, and uploads that never ended.
    """

    artifacts: list[str] = field(default_factory=list)
    bytes: int = 0
    orphans: int = 0


def reachable(works: Iterable[Work]) -> tuple[set[str], set[str]]:
    """Keys that studies lead to; and those below which a stage still keeps what it needs."""
    keys: set[str] = set()
    unfinished: set[str] = set()
    for work in works:
        for node in work.graph.nodes:
            keys.add(work.key(node))
            if work.complete(node) is None:
                unfinished.add(work.key(node))
                condition = work.study.spec.condition(node.condition) if node.condition else None
                if isinstance(condition, Dose):  # what the whole training kept for it
                    whole = Node(TRAINING.name, condition.of, node.seed)
                    keys.add(kept_dose(work.key(whole), condition.step))
    return keys, unfinished


def _verdicts(works: Iterable[Work]) -> tuple[str, ...]:
    """Where the studies' judges keep what they said: nothing that is there is asked again."""
    judged = [work for work in works if work.study.spec.judge is not None]
    return tuple(f"{verdicts_of(work.study, work.store).prefix}/" for work in judged)


def collect(
    store: Store,
    works: Collection[Work],
    *,
    minutes: float,
    dry_run: bool,
    removed: Callable[[str], None] = lambda key: None,
) -> Garbage:
    """Remove what no study leads to, then what writers left that are gone.

    Args:
        store: Folder or bucket.
        works: Studies whose artifacts stay; none: every artifact does.
        minutes: Leave alone what is younger.
        dry_run: Remove nothing.
        removed: Told each key.

    Raises:
        Interrupted: Asked to stop; another run does the rest.
    """
    garbage = Garbage()
    if works:
        keys, unfinished = reachable(works)
        spoken = _verdicts(works)
        before = datetime.now(UTC) - timedelta(minutes=minutes)
        for key in store.list():
            interrupt.check()
            owner, _, kept = key.partition(f"/{CHECKPOINTS}/")
            artifact, _, _ = key.partition(f"/{LOGS}/")  # itself, or what a log is of
            if artifact in keys or key.startswith(spoken) or (kept and owner in unfinished):
                continue
            manifest = _old(store, key, before)
            if manifest is None:
                continue
            if not dry_run:
                store.delete(key)
            garbage.artifacts.append(key)
            garbage.bytes += manifest.size
            removed(key)
    interrupt.check()
    garbage.orphans = store.sweep(minutes=minutes, dry_run=dry_run)
    return garbage


def _old(store: Store, key: str, before: datetime) -> Manifest | None:
    """The artifact if it is from before then. One that cannot be read stays: `verify` names it."""
    try:
        manifest = store.find(key)
        if manifest is None or datetime.fromisoformat(manifest.created) > before:
            return None
        return manifest
    except UnavailableError:
        raise
    except (UserError, ValueError, TypeError):
        return None
