"""Sending a parcel to the Hub. What is there already is not sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from personaspace.console import counted
from personaspace.errors import UserError
from personaspace.hub.client import client, hub_errors
from personaspace.hub.contents import INDEX, Contents, Repo, look
from personaspace.hub.names import is_address
from personaspace.publish.contents import CARD, SPEC, Parcel, names

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

#: Files that the Hub makes itself.
_HUBS_OWN = {".gitattributes", CARD}
#: Of one commit: what a stop loses is at most that, and the Hub takes it in one request.
_FILES_A_COMMIT = 200


def check_there(address: str) -> None:
    """That there is such a collection.

    Raises:
        UserError: There is none.
        UnavailableError: The Hub does not answer.
    """
    with hub_errors(f"collection {address}"):
        client().get_collection(address)


def gather(title: str, parcels: Sequence[Parcel], repo: str, *, public: bool) -> str:
    """Put the repositories into a collection; those that are in it stay as they are.

    Args:
        title: Of a collection of the repositories' owner, which is made where there is none; or the
            address of one that is there (`owner/slug`), which alone has a slash.
        parcels: What was sent.
        repo: `owner/name`, of both.
        public: Whether a collection that is made now may be seen by all.

    Returns:
        The collection's address.

    Raises:
        UserError: No rights, or no such collection.
        UnavailableError: The Hub does not answer.
    """
    api, owner = client(), repo.partition("/")[0]
    with hub_errors(f"collection {title}"):
        if is_address(title):
            found = api.get_collection(title)
        else:
            found = api.create_collection(
                title, namespace=owner, private=not public, exists_ok=True
            )
        there = {(item.item_type, item.item_id) for item in found.items}
        for parcel in parcels:
            if (parcel.type, repo) not in there:
                api.add_collection_item(found.slug, repo, parcel.type, exists_ok=True)
        return str(found.slug)


def join(parcel: Parcel, repo: str) -> Repo | None:
    """What is in the repository now; what of it stays is added to the parcel's index.

    Returns:
        The repository, None where there is none yet.

    Raises:
        UserError: It holds something else than this study.
        UnavailableError: The Hub does not answer.
    """
    there = look(repo, parcel.type)
    if there is None:
        return None
    mine = parcel.contents
    found = holds(there, mine.study, mine.model)
    if found is None:
        return there
    kept = {
        key: placed
        for key, placed in found.artifacts.items()
        if not placed.folder.startswith(tuple(f[:-1] for f in parcel.folders))
    }
    parcel.contents = mine.model_copy(update={"artifacts": {**kept, **mine.artifacts}})
    return there


def holds(there: Repo, study: str, model: str) -> Contents | None:
    """What a repository has of this study; None: nothing yet.

    Raises:
        UserError: It holds something else than this study.
    """
    found = there.contents
    if found is None:
        strange = sorted(set(there.files) - _HUBS_OWN)
        # What a first publish left that was stopped half-way is ours.
        if strange and SPEC not in there.files:
            raise UserError(
                f"{there.where}: holds something else ({strange[0]} for one) and no {INDEX}; "
                "choose another name"
            )
        return None
    if (found.study, found.model) != (study, model):
        other = f"the study {found.study!r}" if found.study != study else "another base model"
        raise UserError(f"{there.where}: is of {other}, not of {study!r}; choose another name")
    return found


def send(
    parcel: Parcel, repo: str, there: Repo | None, *, public: bool, say: Callable[[str], None]
) -> str:
    """Put the parcel into its repository, in commits of which the last has index and card.

    Args:
        parcel: With its card and index.
        repo: `owner/name`.
        there: What `join` found.
        public: Whether a repository that is made now may be read by all.
        say: Told what was sent.

    Returns:
        The repository's address.

    Raises:
        UserError: No token, no rights, a name that is taken.
        UnavailableError: The Hub does not answer; another call goes on from there.
    """
    from huggingface_hub import CommitOperationDelete

    api, where = client(), f"hf://{repo}"
    with hub_errors(where):
        if there is None:
            api.create_repo(repo, repo_type=parcel.type, private=not public)
        old = [
            name
            for name in (there.files if there else ())
            if name.startswith(parcel.folders) and name not in parcel.files
        ]
        # The study's file goes first: it marks a repository that a stop left without an index.
        order = [SPEC, *(name for name in names(parcel) if name not in (SPEC, CARD, INDEX))]
        for start in range(0, len(order), _FILES_A_COMMIT):
            adds = [_add(parcel, name) for name in order[start : start + _FILES_A_COMMIT]]
            api.create_commit(
                repo, adds, commit_message=f"{parcel.contents.study}: files", repo_type=parcel.type
            )
            sent = min(start + _FILES_A_COMMIT, len(order))
            say(f"{where}: {sent} of {counted(len(order), 'file')} there")
        last = [_add(parcel, name) for name in (CARD, INDEX)]
        api.create_commit(
            repo,
            [*last, *(CommitOperationDelete(name) for name in old)],
            commit_message=f"{parcel.contents.study}: what is here",
            repo_type=parcel.type,
        )
        return str(api.repo_info(repo, repo_type=parcel.type).sha)


def _add(parcel: Parcel, name: str) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    source = parcel.files[name]
    return CommitOperationAdd(name, str(source) if isinstance(source, Path) else source)
