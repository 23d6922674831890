"""Fixtures that run a test on a folder store and on an S3 store. A plugin: see `seaweed`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from store_places import Place, folder_place, s3_place, use

from personaspace.store import Store, open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty store, in a folder and once more on the shared S3 server."""
    if request.param == "folder":
        return folder_place(tmp_path / "store")
    server: SeaweedS3 = request.getfixturevalue("s3_server")
    use(server.environment, monkeypatch)
    return s3_place(server)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    """It, open."""
    with open_store(place.url) as opened:
        yield opened


@pytest.fixture
def server(s3_server: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> SeaweedS3:
    """The shared server, with the right credentials in the environment."""
    use(s3_server.environment, monkeypatch)
    return s3_server


@pytest.fixture
def prefix() -> str:
    """One that no other test has."""
    return f"s3-{uuid.uuid4().hex[:12]}"
