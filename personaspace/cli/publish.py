"""`personaspace publish`: a finished study on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personaspace.cli.options import DEFAULT_STORE, SpecPath, StoreUrl, local
from personaspace.errors import UserError
from personaspace.logs import tell

if TYPE_CHECKING:
    from personaspace.study.publishing import Kind, Publish


def publish(
    spec: SpecPath,
    repo: Annotated[
        str | None,
        typer.Argument(
            help="owner/name on the Hub; without it, the study's own (publish.repo).",
            metavar="[OWNER/NAME]",
            show_default=False,
        ),
    ] = None,
    store: StoreUrl = DEFAULT_STORE,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Of adapters, vectors, activations, answers, results, report; without it, all "
            "but the activations."
        ),
    ] = None,
    public: Annotated[
        bool,
        typer.Option("--public", help="Readable by all; only where the repository is made now."),
    ] = False,
    collection: Annotated[
        str | None,
        typer.Option(
            help="A collection to put them in: its title (OWNER's; made if there is none) or "
            "address."
        ),
    ] = None,
    dry_run: Annotated[
        Path | None,
        local(
            "Send nothing: write to this folder what would be sent, instead of what a former dry "
            "run wrote."
        ),
    ] = None,
) -> None:
    """Put a study's adapters, vectors, answers, results and report on the Hugging Face Hub.

    Adapters go to the model OWNER/NAME, all else to the data set of that name, each with a card.
    Private at first. What is there already is not sent again. What the study says of this
    (publish) holds where nothing else is said here. The token is HF_TOKEN's or that of the Hub's
    own login; nothing of it is printed or kept.
    """
    from personaspace.pipeline.publishing import finished
    from personaspace.pipeline.work import prepare
    from personaspace.publish import finished as publishing
    from personaspace.publish import preview
    from personaspace.store import open_store
    from personaspace.study.load import load_study

    kinds = _kinds(include)
    _check_names(repo, collection)
    if dry_run is not None:
        preview.check_folder(dry_run)
    loaded = load_study(spec)
    target = _target(loaded.spec.publish, repo, kinds, public, collection)
    with open_store(store) as place:
        place.check(write=False)
        work = finished(loaded, place, dict(prepare(loaded, place).manifests()))
        if dry_run is not None:
            for line in publishing.show(work, target, dry_run, tell):
                print(line)
            _say_options(target)
            return
        for line in publishing.publish(work, target, tell).lines():
            print(line)


def _kinds(given: list[str] | None) -> list[Kind] | None:
    """Kinds from `adapters,vectors`. Raises UserError for one that there is not."""
    from personaspace.study.publishing import Kind

    if not given:
        return None
    found = []
    for name in filter(None, (part.strip() for part in ",".join(given).split(","))):
        if name not in set(Kind):
            raise UserError(f"--include: no {name!r} (there are {', '.join(Kind)})")
        found.append(Kind(name))
    if not found:
        raise UserError(f"--include: name something of {', '.join(Kind)}")
    return list(dict.fromkeys(found))


def _check_names(repo: str | None, collection: str | None) -> None:
    from personaspace.hub import names

    if repo is not None:
        names.check_name(repo)
    if collection is not None:
        try:
            names.check_title(collection)
        except UserError as error:
            raise UserError(f"--collection {error}") from None


def _target(
    own: Publish | None,
    repo: str | None,
    kinds: list[Kind] | None,
    public: bool,
    collection: str | None,
) -> Publish:
    """What is meant: what is said here, and what the study says of the rest.

    Raises:
        UserError: Neither names a repository.
    """
    from personaspace.study.publishing import Publish

    if repo is None and own is None:
        raise UserError("publish: name OWNER/NAME, here or in the study (publish.repo)")
    # Of another place than the study's own nothing is known but what is said here.
    given = own is not None and repo in (None, own.repo)
    values: dict[str, Any] = own.model_dump() if own is not None and given else {"repo": repo}
    if kinds is not None:
        values["include"] = kinds
    if collection is not None:
        values["collection"] = collection
    values["public"] = public or values.get("public", False)
    return Publish(**values)


def _say_options(target: Publish) -> None:
    """What a dry run does not do."""
    from personaspace.hub.names import is_address

    repo, collection = target.repo, target.collection
    if target.public:
        print(f"--public: hf://{repo} would be readable by all where it is made, and stay as it is "
              "where it is there")  # fmt: skip
    if collection is None:
        return
    if is_address(collection):
        said = "which must be there (a dry run does not ask)"
    else:
        owner, seen = repo.partition("/")[0], "public" if target.public else "private"
        said = f"which would be made for {owner}, {seen}, if there is none of that title"
    print(f"--collection: hf://{repo} would be put into {collection!r}, {said}")
