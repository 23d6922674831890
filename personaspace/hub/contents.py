"""Which artifacts a repository of the Hub holds, and where in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from personaspace import interrupt
from personaspace.errors import UserError
from personaspace.hub.client import client, hub_errors

#: The file of a repository that says what it holds.
INDEX = "personaspace.json"
#: An index is read whole; a study of a thousand conditions has one of 10 MB.
_LARGEST_INDEX = 100_000_000
RepoType = Literal["model", "dataset"]
REPO_TYPES: tuple[RepoType, ...] = ("model", "dataset")


class Placed(BaseModel):
    """An artifact: the folder with its files, and its manifest as its store has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    manifest: dict[str, Any]


class Contents(BaseModel):
    """What `personaspace.json` says: whose study, and each artifact by its key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    study: str
    model: str
    artifacts: dict[str, Placed]

    def to_bytes(self) -> bytes:
        """Readable JSON, the same for the same contents."""
        text = json.dumps(self.model_dump(), sort_keys=True, indent=1, ensure_ascii=False)
        return f"{text}\n".encode()


@dataclass(frozen=True)
class Repo:
    """A repository as it is now.

    Attributes:
        name: `owner/name`.
        type: A model's or a data set's.
        commit: What it holds, once and for all.
        files: Size in bytes of each file, by path.
    """

    name: str
    type: RepoType
    commit: str
    files: dict[str, int]

    @property
    def where(self) -> str:
        """For people."""
        return f"hf://{self.name} ({'data set' if self.type == 'dataset' else 'model'})"

    def download(self, path: str, folder: Path) -> Path:
        """One of its files, in a folder.

        Raises:
            UserError: It is not there, or may not be read.
            UnavailableError: The Hub does not answer.
        """
        how = {"repo_type": self.type, "revision": self.commit, "local_dir": folder}
        with hub_errors(self.where):
            get = partial(client().hf_hub_download, self.name, path, **how)
            return Path(interrupt.answered(get, self.where, keeps=False))

    @cached_property
    def contents(self) -> Contents | None:
        """What it says that it holds; None where it says nothing.

        Raises:
            UserError: What it says cannot be read.
        """
        size = self.files.get(INDEX)
        if size is None:
            return None
        if size > _LARGEST_INDEX:
            raise UserError(f"{self.where}: {INDEX} is {size:,} bytes long: none of ours")
        with TemporaryDirectory(prefix="personaspace-") as folder:
            raw = self.download(INDEX, Path(folder)).read_bytes()
        try:
            return Contents.model_validate(json.loads(raw))
        except (ValidationError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.where}: {INDEX} cannot be read ({reason})") from None


def look(name: str, kind: RepoType, revision: str | None = None) -> Repo | None:
    """A repository with its list of files; None where there is none, or it may not be read.

    Raises:
        UserError: Not a repository's name, or a token that the Hub does not know.
        UnavailableError: The Hub does not answer.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with hub_errors(f"hf://{name}"):
        try:
            api = client()
            ask: Any = api.model_info if kind == "model" else api.dataset_info
            tell = partial(ask, name, revision=revision, files_metadata=True)
            found = interrupt.answered(tell, f"hf://{name}", keeps=False)
        except RepositoryNotFoundError:
            return None
    sizes = {file.rfilename: int(file.size or 0) for file in found.siblings or ()}
    return Repo(name, kind, str(found.sha), sizes)
