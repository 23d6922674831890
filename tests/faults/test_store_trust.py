"""A store under two writers, links, damage on the way, and addresses with passwords."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from relay import Relay, Request, faulty
from store_places import KEY, Place, complaint, data_folders, put, put_one
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.errors import UserError, without_passwords
from personaspace.pipeline.stages.train import Checkpointing
from personaspace.store import Store, open_store

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytest_plugins = ["seaweed", "store_fixtures"]


# --- two writers ---------------------------------------------------------------------------------


def test_only_what_was_found_stale_is_replaced(store: Store, place: Place) -> None:
    stale = put(store, files={"a": b"stale"})
    with store.writer(KEY) as slow:
        (slow.folder / "a").write_bytes(b"slow")
        first = put(store, files={"a": b"first"}, replace=True)
        assert slow.commit({}, replace=stale) == first
        assert slow.won is False
    assert (store.fetch(KEY) / "a").read_bytes() == b"first"
    assert data_folders(place) == {first.data}


def test_what_was_found_stale_and_is_gone_since(store: Store, place: Place) -> None:
    stale = put(store, files={"a": b"stale"})
    with store.writer(KEY) as slow:
        (slow.folder / "a").write_bytes(b"slow")
        store.delete(KEY)
        ours = slow.commit({}, replace=stale)
        assert slow.won is True
    assert store.find(KEY) == ours
    assert data_folders(place) == {ours.data}


def test_what_was_found_stale_is_replaced(store: Store, place: Place) -> None:
    stale = put(store, files={"a": b"stale"})
    with store.writer(KEY) as writer:
        (writer.folder / "a").write_bytes(b"new")
        ours = writer.commit({}, replace=stale)
    assert store.find(KEY) == ours and data_folders(place) == {ours.data}


# --- links ---------------------------------------------------------------------------------------


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    """A folder elsewhere that looks like what a killed writer left."""
    found = tmp_path / "elsewhere" / f"data-{'0' * 32}"
    found.mkdir(parents=True)
    (found / "file").write_bytes(b"precious")
    return found


def test_a_sweep_goes_through_no_link(tmp_path: Path, treasure: Path) -> None:
    root = tmp_path / "store"
    (root / "study").mkdir(parents=True)
    (root / "study" / "linked").symlink_to(treasure.parent)
    (root / "study" / treasure.name).symlink_to(treasure)
    with open_store(str(root)) as store:
        assert store.sweep(minutes=0).orphans == 0
        with pytest.raises(UserError, match=r"linked is a symbolic link, and none is followed"):
            store.sweep("study/linked", minutes=0)
        with pytest.raises(UserError, match=r"linked is a symbolic link"):
            store.delete("study/linked")
    assert (treasure / "file").read_bytes() == b"precious"


def test_an_artifact_behind_a_link_is_none(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "other")) as other:
        manifest = put_one(other)
    root = tmp_path / "store"
    with open_store(str(root)) as store:
        put_one(store, key="mine")
        folder = root / "linked"
        folder.mkdir()
        (folder / "manifest.json").symlink_to(tmp_path / "other" / KEY / "manifest.json")
        assert "is a symbolic link" in complaint(lambda: store.find("linked"))
        mine = store.find("mine")
        assert mine is not None
        file = root / "mine" / mine.data / "file.bin"
        file.unlink()
        file.symlink_to(tmp_path / "other" / KEY / manifest.data / "file.bin")
        assert "file.bin is a symbolic link" in complaint(lambda: store.fetch("mine"))


# --- damage on the way ---------------------------------------------------------------------------


@pytest.fixture
def server(s3_server: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> SeaweedS3:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


def test_a_reset_inside_the_body_of_an_error(server: SeaweedS3) -> None:
    """Of the commonest answer: that there is no manifest."""
    cut: list[int] = []

    def fault(relay: Relay, request: Request) -> bool:
        if request.method == "GET" and "manifest.json" in request.path and len(cut) < 2:
            status, headers, body = relay.forward(request)
            cut.append(status)
            headers["Content-Length"] = str(len(body) + 40)
            relay.answer(status, headers, body[: len(body) // 2])
            relay.reset()
            return True
        return False

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url("reset", endpoint=endpoint)) as store,
    ):
        assert store.find(KEY) is None
    assert cut == [404, 404]


def flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


@pytest.mark.parametrize("what", ["manifest.json", "file.bin"])
def test_what_is_damaged_on_its_way_is_asked_again(server: SeaweedS3, what: str) -> None:
    content = os.urandom(5000)
    prefix = f"damaged-{what}"
    with open_store(server.url(prefix)) as store:
        put_one(store, content)
    damaged: list[str] = []

    def fault(relay: Relay, request: Request) -> bool:
        if request.method == "GET" and what in request.path and not damaged:
            status, headers, body = relay.forward(request)
            damaged.append(request.path)
            relay.answer(status, headers, flipped(body))
            return True
        return False

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint)) as store,
    ):
        assert (store.fetch(KEY) / "file.bin").read_bytes() == content
    assert len(damaged) == 1


def test_a_listing_that_is_damaged_on_its_way_is_read_again(server: SeaweedS3) -> None:
    """It has no checksum: a name that lost a bit is no file that did not arrive."""
    damaged: list[bytes] = []

    def fault(relay: Relay, request: Request) -> bool:
        if request.method == "GET" and "list-type=2" in request.path and not damaged:
            status, headers, body = relay.forward(request)
            damaged.append(body)
            relay.answer(status, headers, body.replace(b"file.bin", b"fime.bin"))
            return True
        return False

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url("listing", endpoint=endpoint)) as store,
    ):
        put_one(store, b"content")
        assert (store.fetch(KEY) / "file.bin").read_bytes() == b"content"
    assert b"file.bin" in damaged[0]


# --- passwords -----------------------------------------------------------------------------------


SECRET = "canary-4f0b"


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@host/x",
        f"see http://{SECRET}@host:80, twice http://a:{SECRET}@b@c/",
        f"GET /x?X-Amz-Credential={SECRET}/20260101&X-Amz-Signature={SECRET}&a=1",
    ],
)
def test_passwords_are_left_out(text: str) -> None:
    assert SECRET not in without_passwords(text)


@pytest.mark.parametrize(
    "endpoint",
    [f"http://me:{SECRET}@127.0.0.1:9", f"http://me:{SECRET}@[::1", f"nonsense://me:{SECRET}@x y"],
)
@pytest.mark.parametrize("how", ["environment", "option"])
def test_a_password_in_an_address_is_never_printed(
    study_dict: dict[str, Any],
    write_spec: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str,
    how: str,
) -> None:
    store = "s3://bucket/x?patience=0"
    if how == "option":
        store += f"&endpoint={endpoint}"
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, f"{SECRET}-key")
    done = CliRunner().invoke(app, ["status", str(write_spec(study_dict)), "--store", store])
    assert done.exit_code == 2, done.output
    assert SECRET not in done.output and len(done.stderr.splitlines()) == 1
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("url", ["s3:/bucket/x", "s3:bucket", "S3:/b", "http:/x"])
def test_a_slash_too_few_is_no_folder(url: str) -> None:
    with pytest.raises(UserError, match="after the scheme stand two slashes"):
        open_store(url)


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["file", "manifest", "missing"])
def test_a_damaged_checkpoint_is_put_aside(store: Store, place: Place, damage: str) -> None:
    said: list[str] = []
    kept = Checkpointing(store, KEY, said.append)
    for step in (1, 2):
        with store.writer(f"{KEY}/checkpoints/step-{step:08d}") as writer:
            (writer.folder / "state").write_text(str(step))
            writer.commit({"step": step})
    [file] = [name for name in place.names() if "step-00000002/data-" in name]
    if damage == "file":
        place.write(file, b"x")
    elif damage == "missing":
        place.remove(file)
    else:
        place.write(f"{KEY}/checkpoints/step-00000002/manifest.json", b"{")
    with open_store(place.url) as fresh:  # without a cache of what was written
        kept = Checkpointing(fresh, KEY, said.append)
        folder = kept.load()
        assert folder is not None and (folder / "state").read_text() == "1"
        assert len(said) == 1 and "step-00000002" in said[0]
        assert fresh.list() == [f"{KEY}/checkpoints/step-00000001"]
        fresh.delete(f"{KEY}/checkpoints/step-00000001")
        assert kept.load() is None
