"""Artifacts of other stores, taken instead of computed: an equal fingerprint is equal work.

A fingerprint names all that an artifact was made from, so one that another lab has in a store may
be brought here. What is checked: every file's size and SHA-256, the manifest's seal, that the
artifact was made from the very inputs that stand here, and that paths stay inside. What cannot be
checked is that its maker computed what the fingerprint says: take from stores that you trust.
What is of the whole study (statistics, report) is always computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from personaspace import interrupt
from personaspace.console import size
from personaspace.errors import UnavailableError, UserError, one_line
from personaspace.files import expanded, named_again, settled
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Scope
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.stages.aggregate import TAKEN_FROM
from personaspace.pipeline.taking import copy_files
from personaspace.pipeline.work import Work
from personaspace.store import Manifest, Store, check_address, open_store
from personaspace.study.loaded import Study
from personaspace.study.notices import Notice, NoticeCode


def named(study: Study, given: Sequence[str] = ()) -> list[str]:
    """Stores to take from: those given now, then those that the study names.

    A folder that the study names is where its other paths start.
    """
    own = [
        url if "://" in url else str(study.folder / expanded(url)) for url in study.spec.substitutes
    ]
    found: dict[str, str] = {}
    for url in (*given, *own):
        found.setdefault(settled(url), url)
    return list(found.values())


def check_named(urls: Sequence[str]) -> None:
    """Refuse a store without a name, and one that is named twice. Raises UserError."""
    if not all(url.strip() for url in urls):
        raise UserError("--substitute: is empty; it names the store to take from")
    for index in named_again(urls):
        raise UserError(f"--substitute: {urls[index]} is named twice")


def check_addresses(study: Study) -> None:
    """Read the addresses that a study names; nothing is asked.

    Raises:
        UserError: One cannot be read.
    """
    for url in named(study):
        try:
            check_address(url)
        except UserError as error:
            raise UserError(f"substitutes: {error}") from None


def absent(study: Study) -> list[Notice]:
    """Folders that the study names and that are no stores here; where it is to run they may be."""
    found = []
    for url in named(study):
        if "://" in url:
            continue
        if not Path(url).is_dir():
            text = "there is no such folder here; a run that needs it stops."
        elif not any(Path(url).glob("*/seed-*/*/*/manifest.json")):
            text = "holds no artifact of a condition: nothing can be taken from it."
        else:
            continue
        found.append(Notice(NoticeCode.NO_STORE, "substitutes", f"{url}: {text}"))
    return found


@contextmanager
def opened(urls: Sequence[str], own: Store) -> Iterator[list[Store]]:
    """Stores to take from, for a study whose own store is another one.

    Raises:
        UserError: One is not there, cannot be read, has no name, or is the study's own.
    """
    check_named(urls)
    with ExitStack() as stack:
        stores = [stack.enter_context(open_store(url)) for url in urls]
        for store in stores:
            if store.url == own.url:
                raise UserError(f"substitutes: {store.url} is the store of the run itself")
            store.check(write=False)
        yield stores


@dataclass(frozen=True)
class Taken:
    """An artifact that was brought here.

    Attributes:
        node: Whose.
        store: Where from.
        manifest: Its own here.
    """

    node: Node
    store: str
    manifest: Manifest


def bring(
    work: Work, nodes: Sequence[Node], stores: Sequence[Store], say: Callable[[str], None]
) -> list[Taken]:
    """Bring what nodes would compute and other stores have.

    Args:
        work: The study and its own store.
        nodes: What is to run, inputs first.
        stores: Looked into in this order.
        say: Told what was brought, and what was refused and why: that is then computed.

    Raises:
        UnavailableError: A store does not answer any more.
        Interrupted: Asked to stop; what was brought stays.
    """
    found = []
    asked: dict[str, bool] = {}  # whether it had anything
    for node in _wanted(work, nodes):
        for store in stores:
            interrupt.check()
            asked.setdefault(store.url, False)
            try:
                manifest = _taken(work, node, store)
            except UnavailableError:
                raise
            except UserError as error:
                asked[store.url] = True
                say(f"{node.id}: not taken from {store.url}: {one_line(error)}")
                continue
            if manifest is not None:
                asked[store.url] = True
                say(f"{node.id}: taken from {store.url} ({size(manifest.size)})")
                found.append(Taken(node, store.url, manifest))
                break
    for url in (url for url, had in asked.items() if not had):
        say(f"{url}: has nothing of what is to run")
    return found


def offered(work: Work, nodes: Sequence[Node], stores: Sequence[Store]) -> dict[Node, str]:
    """Which of the nodes `bring` would look for, and in which store each would be found first.

    Raises:
        UnavailableError: A store does not answer any more.
    """
    found = {}
    for node in _wanted(work, nodes):
        for store in stores:
            try:
                there = store.find(work.key(node)) is not None
            except UnavailableError:
                raise
            except UserError:  # damaged: computed
                continue
            if there:
                found[node] = store.url
                break
    return found


def take(
    work: Work, nodes: Sequence[Node], given: Sequence[str], say: Callable[[str], None]
) -> None:
    """Bring what nodes would compute from the stores that are given or that the study names.

    Raises:
        UserError: A store is not there, cannot be read, or is the study's own.
        UnavailableError: A store does not answer.
        Interrupted: Asked to stop; what was brought stays.
    """
    urls = named(work.study, given)
    if urls and any(_wanted(work, nodes)):
        with opened(urls, work.store) as others:
            bring(work, nodes, others, say)


def _wanted(work: Work, nodes: Sequence[Node]) -> Iterator[Node]:
    """Those that other stores may have, and the study's own has not."""
    for node in nodes:
        if STAGES[node.stage].scope is not Scope.STUDY and work.manifest(node) is None:
            yield node


def _taken(work: Work, node: Node, store: Store) -> Manifest | None:
    """The node's artifact, brought here; None where the store has none.

    Raises:
        UserError: It is damaged, or is not what its place says.
    """
    theirs = store.find(work.key(node))
    if theirs is None:
        return None
    if theirs.fields.get("fingerprint") != work.fingerprints[node]:
        raise UserError("it lies under another fingerprint than it has")
    inputs = theirs.fields.get("inputs")
    for need in work.graph.needs[node]:
        mine = work.manifest(need)
        if mine is None:
            raise UserError(f"{need.id}, which it was made from, is not here and was not there")
        if not isinstance(inputs, dict) or inputs.get(need.id) != mine.digest:
            raise UserError(f"it was made from another version of {need.id} than is here")
    with work.store.writer(work.key(node)) as writer:
        copy_files(store, theirs, writer.folder)
        origin = theirs.fields.get(TAKEN_FROM)
        chain = [*(origin if isinstance(origin, list) else []), store.url]
        manifest = writer.commit({**theirs.fields, TAKEN_FROM: chain})
    if manifest.digest != theirs.digest:
        raise UserError("it changed while it was read")
    return manifest
