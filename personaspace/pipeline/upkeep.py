"""A store's upkeep: is every artifact what it was, and what is there that nobody needs?"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from personaspace import interrupt
from personaspace.errors import UnavailableError, UserError, one_line
from personaspace.pipeline import taking
from personaspace.pipeline.job_log import LOGS
from personaspace.pipeline.judging import verdicts_of
from personaspace.pipeline.node import Node
from personaspace.pipeline.stages.train import STAGE as TRAINING
from personaspace.pipeline.stages.train import kept_dose
from personaspace.pipeline.work import Work
from personaspace.store import Manifest, Store, Swept, open_store
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

    Raises:
        UserError: It is no plain file of text.
        OSError: It cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: set[str] = set()
        if path is None:
            return
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a regular file")
        path.open("a", encoding="utf-8").close()  # not only once an artifact has been read
        try:
            self._lines = set(path.read_text(encoding="utf-8").splitlines())
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None

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


class Reachable:
    """Keys that studies lead to.

    Args:
        works: The studies. Whether their stages are complete is looked up where it matters.
    """

    def __init__(self, works: Collection[Work]) -> None:
        self._keys: dict[str, list[tuple[Work, Node]]] = {}
        #: What a whole training keeps of its steps, until those have artifacts of their own.
        self._doses: dict[str, list[tuple[Work, Node]]] = {}
        self._spoken = _verdicts(works)
        self._digests: dict[tuple[str, Node], str | None] = {}
        #: Keys of all works' nodes that are there, as far as one look tells; when it is needed.
        self._perhaps: dict[int, set[str]] = {}
        #: What lies beside a node's artifact, of which its run may take rows.
        self._beside: dict[str, list[tuple[Work, Node]]] = {}
        self._taken: dict[str, set[str]] = {}
        for work in works:
            for node in work.graph.nodes:
                self._keys.setdefault(work.key(node), []).append((work, node))
                beside = work.key(node).rpartition("/")[0]
                self._beside.setdefault(beside, []).append((work, node))
                condition = work.study.spec.condition(node.condition) if node.condition else None
                if isinstance(condition, Dose) and node.stage == TRAINING.name:
                    whole = Node(TRAINING.name, condition.of, node.seed)
                    kept = kept_dose(work.key(whole), condition.step)
                    self._doses.setdefault(kept, []).append((work, node))

    def __contains__(self, key: str) -> bool:
        artifact, _, _ = key.partition(f"/{LOGS}/")  # itself, or what a log is of
        if artifact in self._keys or key.startswith(self._spoken):
            return True
        owner, _, kept = key.partition(f"/{CHECKPOINTS}/")
        of = [*self._doses.get(key, ()), *(self._keys.get(owner, ()) if kept else ())]
        if any(self._unfinished(work, node) for work, node in of):
            return True
        folder = key.rpartition("/")[0]
        if folder not in self._taken:
            beside = self._beside.get(folder, ())
            self._taken[folder] = {each for node in beside for each in self._takes(*node)}
        return key in self._taken[folder]

    def _takes(self, work: Work, node: Node) -> set[str]:
        """Former artifacts that a node's run would take something from."""
        if not self._unfinished(work, node):
            return set()
        inputs = {need.id: self._digest(work, need) for need in work.graph.needs[node]}
        return taking.needed(work, node, inputs)

    def _unfinished(self, work: Work, node: Node) -> bool:
        """Whether a node still needs what is kept for it."""
        return self._digest(work, node) is None

    def _digest(self, work: Work, node: Node) -> str | None:
        """Of a node's artifact; None: it is not complete."""
        at = (work.key(node), node)
        if at not in self._digests:
            there = self._perhaps.get(id(work))
            if there is None:
                keys = [work.key(each) for each in work.graph.nodes]
                there = self._perhaps[id(work)] = set(work.store.perhaps(keys))
            manifest = work.complete(node) if at[0] in there else None
            self._digests[at] = None if manifest is None else manifest.digest
        return self._digests[at]


def _verdicts(works: Iterable[Work]) -> tuple[str, ...]:
    """Where the studies' judges keep what they said: nothing that is there is asked again."""
    judged = [work for work in works if work.study.spec.judge is not None]
    return tuple(f"{verdicts_of(work.study, work.store).prefix}/" for work in judged)


def collect(store: Store, works: Collection[Work], *, minutes: float, dry_run: bool) -> Swept:
    """Remove what no study leads to, and what writers left that are gone.

    Args:
        store: Folder or bucket.
        works: Studies whose artifacts stay; none: every artifact does.
        minutes: Leave alone what is younger.
        dry_run: Remove nothing.

    Raises:
        Interrupted: Asked to stop; another run does the rest.
    """
    keep = Reachable(works).__contains__ if works else None
    return store.sweep(minutes=minutes, dry_run=dry_run, keep=keep)
