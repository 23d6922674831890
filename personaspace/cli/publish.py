"""`personaspace publish`: a finished study on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from personaspace.cli.options import DEFAULT_STORE, SpecPath, StoreUrl
from personaspace.console import counted
from personaspace.errors import UserError
from personaspace.logs import tell


def publish(
    spec: SpecPath,
    repo: Annotated[str, typer.Argument(help="owner/name on the Hub.", metavar="OWNER/NAME")],
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
        typer.Option(help="Send nothing: write to this folder what would be sent."),
    ] = None,
) -> None:
    """Put a study's adapters, vectors, answers, results and report on the Hugging Face Hub.

    Adapters go to the model OWNER/NAME, all else to the data set of that name, each with a card.
    Private at first. What is there already is not sent again. The token is HF_TOKEN's or that of
    the Hub's own login; nothing of it is printed or kept.
    """
    from personaspace.hub.contents import INDEX
    from personaspace.pipeline.work import prepare
    from personaspace.publish import card, upload
    from personaspace.publish.contents import CARD, USUAL, collect, parse_kinds
    from personaspace.publish.licence import base_of
    from personaspace.store import open_store
    from personaspace.study.load import load_study

    kinds = parse_kinds(",".join(include)) if include else USUAL
    _check_places(repo, collection, dry_run)
    loaded = load_study(spec)
    with open_store(store) as place, tempfile.TemporaryDirectory() as scratch:
        place.check(write=False)
        if collection is not None and dry_run is None and upload.is_address(collection):
            upload.check_there(collection)
        work = prepare(loaded, place)
        parcels, notes = collect(work, kinds, Path(scratch))
        for note in notes:
            tell(f"note: {note}")
        found = [None if dry_run else upload.join(parcel, repo) for parcel in parcels]
        base = base_of(loaded.spec.model, ask=dry_run is None)
        for parcel in parcels:
            parcel.files[INDEX] = parcel.contents.to_bytes()
            parcel.files[CARD] = card.write(parcel, work, repo, base)
        for parcel, there in zip(parcels, found, strict=True):
            if dry_run is not None:
                upload.write_folder(parcel, dry_run / parcel.type)
                print(f"{dry_run / parcel.type}: {counted(len(parcel.files), 'file')}")
                continue
            commit = upload.send(parcel, repo, there, public=public, say=tell)
            print(f"hf://{repo}: {parcel.type} at {commit}")
        if collection is not None and dry_run is None:
            slug = upload.gather(collection, parcels, repo, public=public)
            print(f"collection: {slug}")
        if dry_run is not None:
            _say_options(repo, public, collection)


def _say_options(repo: str, public: bool, collection: str | None) -> None:
    """What a dry run does not do."""
    from personaspace.publish.upload import is_address

    if public:
        print(f"--public: hf://{repo} would be readable by all where it is made, and stay as it is "
              "where it is there")  # fmt: skip
    if collection is None:
        return
    if is_address(collection):
        said = "which must be there (a dry run does not ask)"
    else:
        owner, seen = repo.partition("/")[0], "public" if public else "private"
        said = f"which would be made for {owner}, {seen}, if there is none of that title"
    print(f"--collection: hf://{repo} would be put into {collection!r}, {said}")


def _check_places(repo: str, collection: str | None, dry_run: Path | None) -> None:
    """Refuse names that cannot be, and a folder that would be mixed with what is there."""
    from personaspace.publish import upload

    upload.check_name(repo)
    if collection is not None:
        upload.check_title(collection)
    if dry_run is None or not dry_run.exists():
        return
    if not dry_run.is_dir() or next(dry_run.iterdir(), None) is not None:
        raise UserError(f"--dry-run {dry_run}: is there already and not an empty folder")
