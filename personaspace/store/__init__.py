"""Artifacts of a study in a folder or an S3 bucket: files, and a manifest that is written last.

    store = open_store("s3://bucket/prefix?endpoint=http://127.0.0.1:8333")
    with store.writer("e4-villain/seed-42/train/3f2a") as writer:
        (writer.folder / "adapter.safetensors").write_bytes(weights)
        writer.commit({"fingerprint": "3f2a…"})
    folder = store.fetch("e4-villain/seed-42/train/3f2a")

Layout, the same in both: `<key>/manifest.json` beside `<key>/data-<unique>/…`. An artifact exists
when its manifest does. Every writer fills a data folder of its own and the manifest is put on the
condition that there is none, so two writers of one artifact never mix.
"""

from __future__ import annotations

from pathlib import Path

from personaspace.errors import StoreUnavailable
from personaspace.s3.location import S3Location
from personaspace.store.base import Store, Swept, Writer
from personaspace.store.location import parse_location
from personaspace.store.manifest import FileEntry, Manifest

__all__ = [
    "FileEntry",
    "Manifest",
    "Store",
    "StoreUnavailable",
    "Swept",
    "Writer",
    "check_address",
    "open_store",
]


def check_address(url: str) -> None:
    """Read an address of a store as `open_store` takes it, and open nothing.

    Raises:
        UserError: It cannot be read.
    """
    if url.startswith("hf://"):
        from personaspace.hub.client import check_endpoint
        from personaspace.store.hub import parse_hub

        check_endpoint()
        parse_hub(url)
        return
    parse_location(url)


def open_store(url: str, cache: Path | None = None) -> Store:
    """Open a store; nothing is asked or written yet (`Store.check` does).

    Args:
        url: A folder, `file:///folder`, `hf://owner/name` (a published study on the Hub, which is
            only read), or `s3://bucket/prefix` with the options `endpoint`,
            `region`, `path_style` (true or false) and `patience` (seconds, see `S3Location`) after
            a question mark. What is left out comes from boto3's usual chain (environment, shared
            config files); credentials come from nowhere else.
        cache: Where files of a bucket or the Hub are kept after download, checked before each
            use. Without it a temporary folder, removed by `close`. A folder store needs none.

    Raises:
        UserError: The URL cannot be read.
    """
    if url.startswith("hf://"):
        from personaspace.store.hub import HubStore

        return HubStore(url, cache)
    location = parse_location(url)
    if isinstance(location, S3Location):
        # boto3 takes half a second to import: only those who need it wait for it.
        from personaspace.store.s3 import S3Store

        return S3Store(location, cache)
    from personaspace.store.local import LocalStore

    return LocalStore(location)
