"""`gc` of a folder and of a bucket: what goes, what stays, and what is left if it is broken off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from processes import ROOT
from relay import Relay, Request, faulty
from store_places import Place, put, put_one

from personaspace import interrupt
from personaspace.errors import Interrupted, StoreBusy, UserError
from personaspace.pipeline import upkeep
from personaspace.s3 import bucket as buckets
from personaspace.store import Store, Swept, local, open_store, s3

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytest_plugins = ["seaweed", "store_fixtures"]
KEPT = [f"kept/seed-{number}/train/3f2a" for number in range(5)]
UNWANTED = [f"other/seed-{number:02d}/train/3f2a" for number in range(11)]


def wanted(key: str) -> bool:
    return key.startswith("kept/")


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with very many artifacts: several batches, several pages of a listing."""
    monkeypatch.setattr(local, "_AT_ONCE", 3)
    monkeypatch.setattr(buckets, "DELETE_AT_ONCE", 3)
    monkeypatch.setattr(s3, "DELETE_AT_ONCE", 3)
    connect = buckets.Bucket._connect

    def connected(bucket: buckets.Bucket, **how: Any) -> Any:
        client = connect(bucket, **how)
        client.list_objects_v2 = partial(client.list_objects_v2, MaxKeys=4)
        client.list_multipart_uploads = partial(client.list_multipart_uploads, MaxUploads=4)
        return client

    monkeypatch.setattr(buckets.Bucket, "_connect", connected)


@pytest.fixture
def full(store: Store, place: Place, few_at_once: None) -> Store:
    """Artifacts of two studies, and what killed writers left beside and among them."""
    for key in (*KEPT, *UNWANTED):
        put(store, key)
    for key in (KEPT[0], UNWANTED[0], "kept/seed-9/train/3f2a", "gone/seed-1/train/1"):
        stray(place, f"{key}/data-{uuid.uuid4().hex}/deep/file", b"left behind")
    with store.writer(UNWANTED[-1]) as writer:  # no files at all
        writer.commit({}, replace=True)
    return store


def stray(place: Place, name: str, content: bytes) -> None:
    if not place.url.startswith("s3:"):
        (Path(place.url) / name).parent.mkdir(parents=True, exist_ok=True)
    place.write(name, content)


def sound(store: Store) -> bool:
    return not list(upkeep.verify(store, advance=lambda: None))


def test_what_is_not_to_be_kept_goes_whole(full: Store, place: Place) -> None:
    before = place.names()
    size = sum(m.size for key in UNWANTED if (m := full.find(key)))
    would = full.sweep(minutes=0, dry_run=True, keep=wanted)
    assert place.names() == before
    assert sorted(would.artifacts) == UNWANTED and (would.bytes, would.orphans) == (size, 4)
    assert full.sweep(minutes=60, keep=wanted) == Swept() and place.names() == before
    did = full.sweep(minutes=0, keep=wanted)
    assert sorted(did.artifacts) == UNWANTED and (did.bytes, did.orphans) == (size, 4)
    assert full.list() == KEPT and sound(full)
    assert {name.split("/")[0] for name in place.names()} == {"kept"}
    assert len(place.names()) == 3 * len(KEPT)
    assert full.sweep(minutes=0, keep=wanted) == Swept()


def test_without_studies_every_artifact_stays(full: Store) -> None:
    assert full.sweep(minutes=0) == Swept(orphans=4)
    assert full.list() == sorted([*KEPT, *UNWANTED]) and sound(full)


@pytest.mark.parametrize("at", [1, 2, 9, 17])
def test_told_to_stop_it_leaves_a_sound_store(
    full: Store, place: Place, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    looks = iter(range(1, 1000))

    def check() -> None:
        if next(looks) == at:
            raise Interrupted("asked to stop")

    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "check", check)
        with pytest.raises(Interrupted):
            full.sweep(minutes=0, keep=wanted)
    assert sound(full) and set(full.list()) >= set(KEPT)
    full.sweep(minutes=0, keep=wanted)
    assert full.list() == KEPT and len(place.names()) == 3 * len(KEPT)


#: Ends the process, as SIGKILL does, when so many things have been removed.
KILLED = """
import os, shutil, sys
from personaspace.s3 import bucket
from personaspace.store import local, open_store, s3
url, count = sys.argv[1], int(sys.argv[2])
local._AT_ONCE = bucket.DELETE_AT_ONCE = s3.DELETE_AT_ONCE = 3
def counted(act):
    def acts(*given, **more):
        global count
        count -= 1
        if count < 0:
            os._exit(9)
        return act(*given, **more)
    return acts
os.rmdir, os.unlink = counted(os.rmdir), counted(os.unlink)
bucket.Bucket._delete_together = counted(bucket.Bucket._delete_together)
with open_store(url) as store:
    store.sweep(minutes=0, keep=lambda key: key.startswith("kept/"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [4, 5, 7])
def test_killed_it_leaves_a_sound_store(full: Store, place: Place, after: int) -> None:
    command = [sys.executable, "-c", KILLED, place.url, str(after)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 9
    left = set(full.list())
    assert sound(full) and set(KEPT) < left < {*KEPT, *UNWANTED}
    full.sweep(minutes=0, keep=wanted)
    assert full.list() == KEPT and len(place.names()) == 3 * len(KEPT)


def test_a_stranger_s_manifest_stays(full: Store, place: Place) -> None:
    """Other programs have files of this name, and so have damaged artifacts without files."""
    strange = {"site/manifest.json": b'{"name": "a web site"}', "broken/manifest.json": b"{"}
    for name, content in strange.items():
        stray(place, name, content)
    assert sorted(full.sweep(minutes=0, keep=wanted).artifacts) == UNWANTED
    assert {name: place.read(name) for name in strange} == strange


def test_nothing_is_removed_through_a_link(tmp_path: Path, few_at_once: None) -> None:
    treasure = tmp_path / "treasure"
    with open_store(str(treasure)) as elsewhere:
        put_one(elsewhere, key="other/precious")
    root = tmp_path / "store"
    with open_store(str(root)) as store:
        for key in ("other/one", "other/two", "other/three"):
            put_one(store, key=key)
        (root / "other" / "linked").symlink_to(treasure / "other" / "precious")
        [data] = (root / "other" / "one").glob("data-*")
        data.rename(tmp_path / "data")
        data.symlink_to(tmp_path / "data")
        manifest = root / "other" / "two" / "manifest.json"
        manifest.rename(tmp_path / "two.json")
        manifest.symlink_to(tmp_path / "two.json")
        assert store.sweep(minutes=0, keep=wanted).artifacts == ["other/three"]
    assert (tmp_path / "data" / "file.bin").is_file() and (tmp_path / "two.json").is_file()
    assert data.is_symlink() and manifest.is_symlink()
    with open_store(str(treasure)) as elsewhere:
        assert elsewhere.list() == ["other/precious"] and sound(elsewhere)


def test_the_young_stay(store: Store, place: Place) -> None:
    for key in UNWANTED[:2]:
        put(store, key)
    if place.url.startswith("s3:"):
        time.sleep(2.1)
        put(store, UNWANTED[1], replace=True)
        assert store.sweep(minutes=1.5 / 60, keep=wanted).artifacts == UNWANTED[:1]
    else:
        old = time.time() - 24 * 60 * 60
        os.utime(Path(place.url) / UNWANTED[0] / "manifest.json", (old, old))
        assert store.sweep(minutes=60, keep=wanted).artifacts == UNWANTED[:1]
    assert store.list() == UNWANTED[1:2] and sound(store)


def test_uploads_that_never_ended_go(server: SeaweedS3, prefix: str, few_at_once: None) -> None:
    for number in range(9):
        name = f"{prefix}/{UNWANTED[number]}/data-{uuid.uuid4().hex}/file"
        server.client.create_multipart_upload(Bucket=server.bucket, Key=name)
    with open_store(server.url(prefix)) as store:
        assert store.sweep(minutes=0, dry_run=True, keep=wanted) == Swept(orphans=9)
        assert store.sweep(minutes=60, keep=wanted) == Swept()
        assert store.sweep(minutes=0, keep=wanted) == Swept(orphans=9)
        assert store.sweep(minutes=0, keep=wanted) == Swept()


@pytest.mark.parametrize("status", [400, 405, 501])
def test_a_server_that_removes_one_by_one(server: SeaweedS3, prefix: str, status: int) -> None:
    asked: list[str] = []

    def fault(relay: Relay, request: Request) -> bool:
        if request.method == "POST":
            asked.append(request.path)
            relay.refuse(status, "NotImplemented")
        return request.method == "POST"

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint)) as store,
    ):
        for key in (*KEPT, *UNWANTED):
            put_one(store, key=key)
        assert len(store.sweep(minutes=0, keep=wanted).artifacts) == len(UNWANTED)
        assert store.list() == KEPT
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("code", "error"), [("AccessDenied", UserError), ("InternalError", StoreBusy)]
)
def test_what_could_not_be_removed_is_told(
    server: SeaweedS3, prefix: str, code: str, error: type[UserError]
) -> None:
    """The answer is 200, and inside it stands that an object is still there."""
    body = f"<DeleteResult><Error><Key>x</Key><Code>{code}</Code></Error></DeleteResult>"

    def fault(relay: Relay, request: Request) -> bool:
        if request.method == "POST":
            relay.answer(200, {"Content-Type": "application/xml"}, body.encode())
        return request.method == "POST"

    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=f"{endpoint}") + "&patience=0") as store,
    ):
        put_one(store, key=UNWANTED[0])
        with pytest.raises(error, match=code) as raised:
            store.sweep(minutes=0, keep=wanted)
        assert type(raised.value) is error and "delete from" in str(raised.value)
        assert store.list() == UNWANTED[:1]


def test_a_fault_in_a_later_page_asks_for_that_page_again(
    server: SeaweedS3, prefix: str, few_at_once: None
) -> None:
    pages: list[str] = []

    def fault(relay: Relay, request: Request) -> bool:
        if "list-type=2" not in request.path:
            return False
        pages.append(request.path)
        if len(pages) in (3, 4, 5, 6):
            relay.refuse(500, "InternalError")
            return True
        return False

    with open_store(server.url(prefix)) as store:
        for key in UNWANTED:
            put_one(store, key=key)
    with (
        faulty(server, fault) as endpoint,
        open_store(server.url(prefix, endpoint=endpoint)) as store,
    ):
        assert store.list() == UNWANTED
    assert len(pages) == 6 + 4


def test_two_at_once(full: Store, place: Place) -> None:
    """Neither fails because of the other; what both removed is gone, the rest whole."""
    command = [sys.executable, "-c", KILLED, place.url, "1000000"]
    both = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [each.wait(120) for each in both] == [0, 0]
    assert full.list() == KEPT and sound(full) and len(place.names()) == 3 * len(KEPT)
    shutil.rmtree(Path(place.url), ignore_errors=True)
