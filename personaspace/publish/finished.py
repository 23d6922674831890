"""Publishing a finished study: on the Hub, or in a folder for a look."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from personaspace.console import counted
from personaspace.errors import UserError, one_line
from personaspace.hub.client import client, hub_errors, token
from personaspace.hub.contents import INDEX, RepoType, look
from personaspace.hub.names import is_address
from personaspace.publish import card, preview, upload
from personaspace.publish.contents import CARD, Finished, Parcel, collect, repo_of
from personaspace.publish.licence import base_of
from personaspace.study.loaded import Study
from personaspace.study.publishing import Publish

_Say = Callable[[str], None]


class Sent(BaseModel):
    """A repository after publishing.

    Attributes:
        type: A model's or a data set's.
        commit: What it holds now, once and for all.
        files: How many of them are this study's.
        new: Whether anything was sent.
    """

    model_config = ConfigDict(frozen=True)

    type: RepoType
    commit: str
    files: int
    new: bool


class Published(BaseModel):
    """What was published where.

    Attributes:
        repo: `owner/name`.
        repositories: The model, the data set.
        collection: Address of the collection that they are in; None: of none.
        notes: What of the study was not complete, and is not there.
    """

    model_config = ConfigDict(frozen=True)

    repo: str
    repositories: list[Sent]
    collection: str | None
    notes: list[str]

    def lines(self) -> list[str]:
        """What there is to tell."""
        told = [
            f"hf://{self.repo}: {sent.type} at {sent.commit}" + ("" if sent.new else ", as before")
            for sent in self.repositories
        ]
        return told + ([f"collection: {self.collection}"] if self.collection else [])


def publish(finished: Finished, target: Publish, say: _Say) -> Published:
    """Send what the Hub has not.

    Args:
        finished: The study and its store.
        target: What is sent, and where to.
        say: Told how far it is.

    Raises:
        UserError: Nothing is complete; no token, no rights, or a name that is another's.
        UnavailableError: The Hub does not answer; another call goes on from there.
    """
    if target.collection is not None and is_address(target.collection):
        upload.check_there(target.collection)
    with _parcels(finished, target, say) as (parcels, notes):
        there = [upload.join(parcel, target.repo) for parcel in parcels]
        _complete(parcels, finished, target, ask=True)
        sent = []
        for parcel, found in zip(parcels, there, strict=True):
            commit = upload.send(parcel, target.repo, found, public=target.public, say=say)
            new = found is None or found.commit != commit
            count = len(parcel.files)
            sent.append(Sent(type=parcel.type, commit=commit, files=count, new=new))
        slug = None
        if target.collection is not None:
            slug = upload.gather(target.collection, parcels, target.repo, public=target.public)
        return Published(repo=target.repo, repositories=sent, collection=slug, notes=notes)


def show(finished: Finished, target: Publish, folder: Path, say: _Say) -> list[str]:
    """Write what would be sent to a folder; nobody is asked.

    Returns:
        A line on each repository.

    Raises:
        UserError: Nothing is complete, or the folder holds something else.
    """
    preview.check_folder(folder)
    with _parcels(finished, target, say) as (parcels, _):
        _complete(parcels, finished, target, ask=False)
        places = [(preview.write(parcel, folder), parcel) for parcel in parcels]
        return [f"{place}: {counted(len(parcel.files), 'file')}" for place, parcel in places]


@contextmanager
def _parcels(
    finished: Finished, target: Publish, say: _Say
) -> Iterator[tuple[list[Parcel], list[str]]]:
    with tempfile.TemporaryDirectory(prefix="personaspace-") as scratch:
        parcels, notes = collect(finished, target.include, Path(scratch))
        for note in notes:
            say(f"note: {note}")
        yield parcels, notes


def _complete(parcels: list[Parcel], finished: Finished, target: Publish, *, ask: bool) -> None:
    """Index and card, which tell of all the rest."""
    base = base_of(finished.study.spec.model, ask=ask)
    for parcel in parcels:
        parcel.files[INDEX] = parcel.contents.to_bytes()
        parcel.files[CARD] = card.write(parcel, finished, target.repo, base)


def obstacle(study: Study, target: Publish) -> str | None:
    """Why publishing would fail now, as far as it can be told before there is anything to send.

    Args:
        study: The study.
        target: Where it is to go.

    Returns:
        One line; None: nothing stands in the way, as far as the Hub tells.
    """
    try:
        if token() is None:
            raise UserError("no token: set HF_TOKEN, or `hf auth login`")
        with hub_errors(f"hf://{target.repo}"):
            told = client().whoami().get("auth", {}).get("accessToken") or {}
        if told.get("role") == "read":
            raise UserError("the token may only read: one with the right to write is needed")
        for kind in sorted({repo_of(kind) for kind in target.include}):
            there = look(target.repo, kind)
            if there is not None:
                upload.holds(there, study.spec.name, study.model_identity)
        if target.collection is not None and is_address(target.collection):
            upload.check_there(target.collection)
    except UserError as error:
        return one_line(error)
    return None
