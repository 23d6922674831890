"""A folder store and an S3 store for the same tests, and ways behind their backs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from personaspace.errors import UserError
from personaspace.store import Manifest, Store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

KEY = "e4-villain/seed-42/train/3f2a"
FILES = {"adapter.safetensors": bytes(range(256)) * 40, "log/steps.csv": b"step,loss\n1,2.5\n"}


@dataclass
class Place:
    """A store and a way behind its back.

    Attributes:
        url: Opens it.
        names: All objects or files in it, relative.
        read: One of them.
        write: Overwrite one of them.
        remove: Delete one of them.
    """

    url: str
    names: Callable[[], list[str]]
    read: Callable[[str], bytes]
    write: Callable[[str, bytes], object]
    remove: Callable[[str], object]


def folder_place(root: Path) -> Place:
    def names() -> list[str]:
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())

    return Place(
        url=str(root),
        names=names,
        read=lambda name: (root / name).read_bytes(),
        write=lambda name, content: (root / name).write_bytes(content),
        remove=lambda name: (root / name).unlink(),
    )


def s3_place(server: SeaweedS3) -> Place:
    client, prefix = server.client, f"test-{uuid.uuid4().hex[:12]}"

    def at(name: str) -> dict[str, str]:
        return {"Bucket": server.bucket, "Key": f"{prefix}/{name}"}

    def names() -> list[str]:
        found = client.list_objects_v2(Bucket=server.bucket, Prefix=f"{prefix}/")
        return sorted(entry["Key"][len(prefix) + 1 :] for entry in found.get("Contents", []))

    return Place(
        url=server.url(prefix),
        names=names,
        read=lambda name: client.get_object(**at(name))["Body"].read(),
        write=lambda name, content: client.put_object(**at(name), Body=content),
        remove=lambda name: client.delete_object(**at(name)),
    )


def put(
    store: Store, key: str = KEY, files: dict[str, bytes] = FILES, replace: bool = False
) -> Manifest:
    with store.writer(key) as writer:
        for name, content in files.items():
            path = writer.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return writer.commit({"fingerprint": "3f2a"}, replace=replace)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def data_folders(place: Place) -> set[str]:
    return {part for name in place.names() for part in name.split("/") if part[:5] == "data-"}


def put_one(
    store: Store, content: bytes = b"content", *, key: str = KEY, replace: bool = False
) -> Manifest:
    """An artifact of one file, `file.bin`."""
    with store.writer(key) as writer:
        (writer.folder / "file.bin").write_bytes(content)
        return writer.commit({}, replace=replace)


def use(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have these AWS variables in the environment and no others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def objects(server: SeaweedS3, prefix: str) -> list[str]:
    """Names below a prefix, relative to it."""
    found = server.client.list_objects_v2(Bucket=server.bucket, Prefix=f"{prefix}/")
    return [entry["Key"][len(prefix) + 1 :] for entry in found.get("Contents", [])]


def complaint(act: Callable[[], object]) -> str:
    """The one line of the `UserError` that `act` must raise; holds no secret."""
    with pytest.raises(UserError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert "secret-47" not in message
    return message
