"""What would be sent, in a folder for a look."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from personaspace.errors import UserError
from personaspace.hub.contents import INDEX, REPO_TYPES, Contents
from personaspace.publish.contents import CARD, SPEC, Parcel, names
from personaspace.study.publishing import Kind


def check_folder(folder: Path) -> None:
    """That a folder is new or empty, or holds what a former look wrote and nothing else.

    Raises:
        UserError: It is another's.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is there already and no folder")
    for stranger in _strangers(folder):
        raise UserError(
            f"{folder}: is there already and holds {stranger.relative_to(folder)}, which no look "
            "at a study wrote; name another folder"
        )


def _strangers(folder: Path) -> Iterator[Path]:
    """Files that no look wrote."""
    for entry in sorted(folder.iterdir()):
        if entry.name not in REPO_TYPES or entry.is_symlink() or not entry.is_dir():
            yield entry
            continue
        known = {entry / name for name in (CARD, INDEX, SPEC)} | set(_placed(entry))
        for path in sorted(path for path in entry.rglob("*") if not path.is_dir()):
            # Vectors are made for publishing, and no artifacts that the index could name.
            vectors = path.parent == entry / Kind.VECTORS and path.suffix == ".safetensors"
            if path not in known and not vectors:
                yield path


def _placed(repository: Path) -> Iterator[Path]:
    """Files that a look's index names; none where it has none that can be read."""
    try:
        found = Contents.model_validate(json.loads((repository / INDEX).read_bytes()))
    except (OSError, ValueError, ValidationError):
        return
    for placed in found.artifacts.values():
        for name in placed.manifest.get("files", {}):
            yield repository / placed.folder / name


def write(parcel: Parcel, folder: Path) -> Path:
    """The repository's files in a folder of its own below this one; a former look's are replaced.

    Returns:
        The repository's folder.
    """
    place = folder / parcel.type
    if place.exists():
        shutil.rmtree(place)
    for name in names(parcel):
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = parcel.files[name]
        if isinstance(source, Path):
            shutil.copyfile(source, target)
        else:
            target.write_bytes(source)
    return place
