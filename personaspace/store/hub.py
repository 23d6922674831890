"""Artifacts in repositories of the Hub, where `personaspace publish` put them. Only read."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from personaspace.errors import UserError
from personaspace.hub.contents import REPO_TYPES, Placed, Repo, look
from personaspace.store.base import STALE_MINUTES, Keys, Replaced, Store, Swept
from personaspace.store.disk import Scratch, disk_errors, make_folders
from personaspace.store.manifest import (
    Manifest,
    check_file,
    check_key,
    is_file_name,
    is_intact,
    missing_file,
    parse_manifest,
)

_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/?")


def parse_hub(url: str) -> tuple[str, str | None]:
    """Name and revision of an address of the Hub.

    Raises:
        UserError: It is none.
    """
    found = _NAME.fullmatch(url)
    if found is None:
        raise UserError(f"store {url}: an address of the Hub looks like hf://owner/name")
    return found[1], found[2]


class HubStore(Store):
    """The model and the data set `owner/name`, and a local cache of what was fetched.

    Each is read at the commit that it has when it is first looked at.

    Args:
        url: `hf://owner/name`, or `hf://owner/name@revision`.
        cache: Where files are kept; None: a temporary folder that `close` removes.

    Raises:
        UserError: Not such an address.
    """

    knows_writers = False
    _puts_may_be_late = False

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self._name, self._revision = parse_hub(url)
        self.url = url.rstrip("/")
        if cache is None:
            self._cache = Path(tempfile.mkdtemp(prefix="personaspace-"))
            self._forget_cache = weakref.finalize(self, shutil.rmtree, self._cache, True)
        else:
            self._cache = cache.absolute()

    @cached_property
    def _repos(self) -> list[Repo]:
        found = [look(self._name, kind, self._revision) for kind in REPO_TYPES]
        there = [repo for repo in found if repo is not None]
        if not there:
            raise UserError(
                f"store {self.url}: no such repository, or it is private and no token that may "
                "read it is at hand (HF_TOKEN, or `hf auth login`)"
            )
        ours = [repo for repo in there if repo.contents is not None]
        if not ours:
            raise UserError(f"store {self.url}: nothing that `personaspace publish` put there")
        return ours

    @cached_property
    def _placed(self) -> dict[str, tuple[Repo, Placed]]:
        return {
            key: (repo, placed)
            for repo in self._repos
            if repo.contents is not None
            for key, placed in repo.contents.artifacts.items()
        }

    def check(self, *, write: bool = True) -> None:
        if write:
            self._refuse()
        assert self._repos

    def find(self, key: str) -> Manifest | None:
        found = self._placed.get(check_key(key))
        if found is None:
            return None
        repo, placed = found
        raw = json.dumps(placed.manifest).encode()
        return parse_manifest(raw, key, f"{repo.where}/{placed.folder}")

    def list(self, prefix: str = "") -> Keys:
        below = f"{check_key(prefix)}/" if prefix else ""
        return sorted(key for key in self._placed if key.startswith(below))

    def describe(self, key: str) -> str:
        repo, placed = self._placed[key]
        return f"{repo.where}/{placed.folder}"

    def delete(self, key: str) -> None:
        self._refuse()

    def sweep(
        self,
        prefix: str = "",
        *,
        minutes: float = STALE_MINUTES,
        dry_run: bool = False,
        keep: Callable[[str], bool] | None = None,
    ) -> Swept:
        if keep is not None:
            self._refuse()
        return Swept()

    def close(self) -> None:
        if hasattr(self, "_forget_cache"):
            self._forget_cache()

    def _fetch(self, manifest: Manifest, names: Sequence[str]) -> Path:
        repo, placed = self._placed[manifest.key]
        folder = self._cache / check_key(manifest.key) / manifest.data
        if not is_file_name(placed.folder):
            raise UserError(f"{repo.where}: {placed.folder!r} is not a folder's name")
        with disk_errors(self._cache):
            make_folders(folder)
            for name in names:
                entry, source = manifest.files[name], f"{placed.folder}/{name}"
                if is_intact(folder / name, entry):
                    continue
                where = f"{repo.where}/{source}"
                if source not in repo.files:
                    raise missing_file(manifest.key, name, where)
                if repo.files[source] != entry.size:  # before it is downloaded
                    raise UserError(
                        f"artifact {manifest.key}: file {name} has {repo.files[source]:,} bytes "
                        f"instead of {entry.size:,} ({where})"
                    )
                part = self._cache / f".{uuid.uuid4().hex}.part"
                try:
                    path = repo.download(source, part)
                    check_file(path, entry, manifest.key, name, where)
                    make_folders((folder / name).parent)
                    os.replace(path, folder / name)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
        return folder

    def _refuse(self) -> NoReturn:
        raise UserError(
            f"store {self.url}: a repository of the Hub is only read; `personaspace publish` "
            "writes one"
        )

    def _scratch(self, key: str, data: str) -> Scratch:
        self._refuse()

    def _discard(self, scratch: Scratch) -> None:
        self._refuse()

    def _keep(self, manifest: Manifest, scratch: Scratch) -> None:
        self._refuse()

    def _publish(self, manifest: Manifest) -> bool:
        self._refuse()

    def _replace(self, manifest: Manifest, only: str | None) -> Replaced:
        self._refuse()

    def _may_name(self, key: str, data: str) -> bool:
        return False

    def _drop(self, key: str, data: str) -> None:
        self._refuse()
