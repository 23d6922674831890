"""Artifacts: what holds for a folder and for S3 alike."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from store_places import FILES, KEY, Place, contents, data_folders, put

from personaspace.errors import UserError
from personaspace.s3.bucket import Bucket
from personaspace.store import Manifest, Store, Swept, open_store, s3
from personaspace.store.local import LocalStore
from personaspace.store.manifest import check_key

if TYPE_CHECKING:
    from seaweed import SeaweedS3

pytest_plugins = ["seaweed", "store_fixtures"]

# --- writing and reading ---------------------------------------------------------------------


def test_what_was_written_is_read_back_from_another_process_of_the_same_store(
    store: Store, place: Place
) -> None:
    store.check()
    assert store.find(KEY) is None
    written = put(store)
    with open_store(store.url) as other:
        found = other.find(KEY)
        assert found == written
        assert found.fields == {"fingerprint": "3f2a"}
        assert found.size == sum(map(len, FILES.values()))
        assert contents(other.fetch(KEY)) == FILES
        assert contents(other.fetch(found)) == FILES
        assert other.list() == [KEY]
        assert KEY in other.describe(KEY)


ASKED = [f"{name}/seed-{n}/train/3f2a" for n in range(5) for name in ("e4", "e5", "few")]


def asked_for(store: Store) -> list[Manifest | None]:
    """By one look, which must be what a question for each would find."""
    found = list(store.find_all(ASKED))
    there = set(store.perhaps(ASKED))
    assert [key for key in ASKED if key in there] == store.perhaps(ASKED)
    assert found == [store.find(key) for key in ASKED]
    assert all(own is None or key in there for key, own in zip(ASKED, found, strict=True))
    return found


def test_a_glance_tells_of_what_lies_right_below_a_folder(store: Store, place: Place) -> None:
    beside = [f"e4/seed-1/train/{name}" for name in ("3f2a", "4b", "5c", "6d")]
    for key in (*beside, f"{beside[0]}/checkpoints/step-1", "e4/seed-10/train/3f2a"):
        put(store, key)
    place.write(f"{beside[1]}/manifest.json", b"{")
    place.write(f"{beside[2]}/manifest.json", b'{"fields": []}')
    if isinstance(store, LocalStore):
        (store.root / "e4" / "seed-1" / "train" / "7e").symlink_to(store.root / beside[0])
        (store.root / beside[3] / "manifest.json").unlink()
        (store.root / beside[3] / "manifest.json").symlink_to(
            store.root / beside[0] / "manifest.json"
        )
    found = sorted(store.glances("e4/seed-1/train"))
    whole = beside[:1] if isinstance(store, LocalStore) else [beside[0], beside[3]]
    assert found == [(key, {"fingerprint": "3f2a"}) for key in whole]
    assert list(store.glances("nobody/seed-1")) == []


@pytest.mark.parametrize("objects", [0, 1, 100], ids=["never", "not to the end", "listed"])
def test_many_are_found_as_each_alone(
    store: Store, place: Place, monkeypatch: pytest.MonkeyPatch, objects: int
) -> None:
    monkeypatch.setattr(s3, "LIST_FROM", 3)
    monkeypatch.setattr(s3, "OBJECTS_AN_ARTIFACT", objects)
    assert set(asked_for(store)) == {None}
    for key in (*ASKED[:7], f"{ASKED[8]}/checkpoints/step-1", "e4/seed-0/train/other"):
        put(store, key)
    store.delete(ASKED[1])
    place.remove(f"{ASKED[2]}/manifest.json")  # its files are there
    keys = [None if own is None else own.key for own in asked_for(store)]
    assert keys == [ASKED[0], None, None, *ASKED[3:7], *[None] * 8]
    place.write(f"{ASKED[4]}/manifest.json", b"{}")
    with pytest.raises(UserError, match=rf"artifact {ASKED[4]}: manifest .* is corrupt"):
        list(store.find_all(ASKED))


def test_of_many_in_a_bucket_only_what_is_there_is_read(
    server: SeaweedS3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [key for key in ASKED if key.startswith("few/")][: s3.LIST_FROM - 1]
    many = [f"e4/seed-{n}/train/3f2a" for n in range(s3.LIST_FROM)]
    with open_store(server.url(prefix)) as store:
        put(store, many[3])
        asked: list[tuple[str, str]] = []
        for name in ("items", "read"):
            monkeypatch.setattr(Bucket, name, _noting(asked, getattr(Bucket, name)))
        found = list(store.find_all([*few, *many]))
    assert [own.key for own in found if own is not None] == [many[3]]
    reads = [(f"{key}/manifest.json", "read") for key in (*few, many[3])]
    assert sorted(asked) == sorted([("e4", "items"), *reads])


def _noting(asked: list[tuple[str, str]], ask: Callable[..., Any]) -> Callable[..., Any]:
    def noted(bucket: Bucket, name: str) -> Any:
        asked.append((name, ask.__name__))
        return ask(bucket, name)

    return noted


def test_some_files_by_name(store: Store, place: Place) -> None:
    put(store)
    with open_store(place.url) as other:
        folder = other.fetch(KEY, ["log/steps.csv"])
        assert (folder / "log/steps.csv").read_bytes() == FILES["log/steps.csv"]
        with pytest.raises(UserError, match=f"{KEY}: has no file weights.bin"):
            other.fetch(KEY, ["weights.bin"])


def test_an_artifact_may_have_no_files_at_all(store: Store) -> None:
    manifest = put(store, files={})
    assert manifest.files == {}
    assert contents(store.fetch(KEY)) == {}


def test_the_manifest_is_readable_json_with_sorted_keys(store: Store, place: Place) -> None:
    put(store)
    text = place.read(f"{KEY}/manifest.json").decode()
    document = json.loads(text)
    assert list(document) == sorted(document)
    assert '\n "created"' in text
    assert set(document["files"]) == set(FILES)


def test_the_digest_is_that_of_the_content_alone(store: Store) -> None:
    first, again = put(store), put(store, "another/key")
    changed = put(store, "third/key", {**FILES, "log/steps.csv": b"step,loss\n1,2.6\n"})
    renamed = put(store, "fourth/key", {f"x{name}": content for name, content in FILES.items()})
    assert first.digest == again.digest
    assert len({first.digest, changed.digest, renamed.digest}) == 3


def test_fetch_of_what_is_not_there_names_it(store: Store) -> None:
    with pytest.raises(UserError, match=f"artifact {KEY}: not in store"):
        store.fetch(KEY)


# --- nothing half-written --------------------------------------------------------------------


def test_without_commit_nothing_stays(store: Store, place: Place) -> None:
    with store.writer(KEY) as writer:
        (writer.folder / "a").write_bytes(b"a")
    assert store.find(KEY) is None
    assert place.names() == []


def test_an_error_in_the_block_passes_and_leaves_nothing(store: Store, place: Place) -> None:
    with pytest.raises(ZeroDivisionError), store.writer(KEY) as writer:
        (writer.folder / "a").write_bytes(b"a")
        1 / 0  # noqa: B018
    assert place.names() == []
    assert contents(store.fetch(put(store))) == FILES


def test_an_error_after_commit_leaves_the_artifact(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.writer(KEY) as writer:
        (writer.folder / "a").write_bytes(b"a")
        writer.commit({})
        1 / 0  # noqa: B018
    assert contents(store.fetch(KEY)) == {"a": b"a"}


@pytest.mark.parametrize("fields", [{"loss": float("nan")}, {"when": object()}])
def test_fields_that_are_not_json_store_nothing(
    store: Store, place: Place, fields: dict[str, object]
) -> None:
    with pytest.raises((ValueError, TypeError)), store.writer(KEY) as writer:
        writer.commit(fields)
    assert place.names() == []


def test_links_are_refused(store: Store, place: Place, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "folder").mkdir()
    for target in ("secret", "folder"):
        with (
            pytest.raises(UserError, match=f"{KEY}: 'link' is not a plain file"),
            store.writer(KEY) as writer,
        ):
            (writer.folder / "link").symlink_to(tmp_path / target)
            writer.commit({})
    assert place.names() == []


CHILD = """
import sys, time
from personaspace.store import open_store

def announce(word):
    print(word, flush=True)
    time.sleep(60)

store = open_store(sys.argv[1])
if sys.argv[3] == "before the manifest":
    store._publish = lambda manifest: announce("ready")
with store.writer(sys.argv[2]) as writer:
    (writer.folder / "a").write_bytes(b"half")
    if sys.argv[3] == "while writing":
        announce("ready")
    writer.commit({})
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while writing", "before the manifest"])
def test_a_writer_killed_leaves_no_artifact_and_sweep_cleans_up(
    store: Store,
    place: Place,
    moment: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It cannot remove its temporary files.
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("child")))
    command = [sys.executable, "-c", CHILD, place.url, KEY, moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            left = data_folders(place)
            if place.url.startswith("/"):
                assert len(left) == 1
                assert store.sweep(minutes=0).orphans == 0, "its writer lives"
                assert data_folders(place) == left
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL
    assert store.find(KEY) is None
    assert store.list() == []
    written = put(store)
    assert store.sweep(KEY, minutes=60).orphans == 0, "too young"
    assert store.sweep("e4-villain", minutes=0).orphans == len(left)
    assert data_folders(place) == {written.data}
    assert contents(store.fetch(KEY)) == FILES


# --- several writers -------------------------------------------------------------------------


def test_of_many_writers_at_once_exactly_one_wins(store: Store, place: Place) -> None:
    writers = 8
    barrier = threading.Barrier(writers)

    def write(number: int) -> tuple[bool | None, Manifest]:
        with store.writer(KEY) as writer:
            for name in ("a", "b"):
                (writer.folder / name).write_bytes(str(number).encode() * 1000)
            barrier.wait(timeout=30)
            manifest = writer.commit({"number": number})
        return writer.won, manifest

    with ThreadPoolExecutor(writers) as pool:
        results = list(pool.map(write, range(writers)))
    assert sorted(won is True for won, _ in results) == [False] * (writers - 1) + [True]
    assert len({manifest.data for _, manifest in results}) == 1
    manifest = results[0][1]
    expected = str(manifest.fields["number"]).encode() * 1000
    with open_store(place.url) as other:
        assert contents(other.fetch(KEY)) == {"a": expected, "b": expected}
    assert data_folders(place) == {manifest.data}
    assert len(place.names()) == 3


RACER = """
import sys
from personaspace.store import open_store
store = open_store(sys.argv[1])
with store.writer(sys.argv[2]) as writer:
    for name in ("a", "b"):
        (writer.folder / name).write_text(sys.argv[3] * 1000)
    print("ready", flush=True)
    sys.stdin.readline()
    writer.commit({"who": sys.argv[3]})
    print(writer.won, flush=True)
store.close()
"""


@pytest.mark.slow
def test_two_processes_do_not_mix(store: Store, place: Place) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, place.url, KEY, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in "xy"
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = sorted(racer.communicate(timeout=60)[0] for racer in racers)
    finally:
        for racer in racers:
            racer.kill()
    assert said == ["False\n", "True\n"]
    manifest = store.find(KEY)
    assert manifest is not None
    expected = manifest.fields["who"].encode() * 1000
    assert contents(store.fetch(KEY)) == {"a": expected, "b": expected}
    assert data_folders(place) == {manifest.data}


def test_a_latecomer_gets_the_artifact_that_is_there(store: Store, place: Place) -> None:
    first = put(store)
    before = place.names()
    with store.writer(KEY) as writer:
        (writer.folder / "other").write_bytes(b"other")
        assert writer.commit({"late": True}) == first
        assert writer.won is False
    assert place.names() == before
    assert contents(store.fetch(KEY)) == FILES


def test_replace_takes_the_place_and_removes_the_former_files(store: Store, place: Place) -> None:
    first = put(store)
    second = put(store, files={"new": b"new"}, replace=True)
    assert store.find(KEY) == second
    assert contents(store.fetch(KEY)) == {"new": b"new"}
    assert data_folders(place) == {second.data}
    with (
        open_store(place.url) as other,
        pytest.raises(UserError, match=f"artifact {KEY}: file .* is missing"),
    ):
        other.fetch(first)


def test_replace_where_nothing_is_just_writes(store: Store, place: Place) -> None:
    manifest = put(store, replace=True)
    assert store.find(KEY) == manifest
    assert data_folders(place) == {manifest.data}


def test_replacing_at_once_leaves_one_artifact_and_readers_never_see_half(
    store: Store, place: Place
) -> None:
    put(store, files={"a": b"0", "b": b"0"})
    done = threading.Event()

    def replace(number: int) -> None:
        for _ in range(3):
            content = str(number).encode() * 500
            put(store, files={"a": content, "b": content}, replace=True)

    def read() -> int:
        count = 0
        with open_store(place.url) as other:
            while not done.is_set() or count == 0:
                other.fetch(KEY)
                count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        reader = pool.submit(read)
        writers = [pool.submit(replace, number) for number in range(4)]
        try:
            for future in writers:
                future.result()
        finally:
            done.set()
        assert reader.result() > 0
    manifest = store.find(KEY)
    assert manifest is not None
    found = contents(store.fetch(KEY))
    assert found["a"] == found["b"]
    assert data_folders(place) == {manifest.data}


# --- keys ------------------------------------------------------------------------------------


def test_an_artifact_may_lie_below_another(store: Store, place: Place) -> None:
    inner = f"{KEY}/checkpoints/step-000050"
    put(store)
    put(store, inner, {"state": b"50"})
    assert store.list() == [KEY, inner]
    assert contents(store.fetch(KEY)) == FILES
    assert contents(store.fetch(inner)) == {"state": b"50"}
    store.delete(KEY)
    assert store.find(KEY) is None
    assert store.list(KEY) == [inner]
    assert contents(store.fetch(inner)) == {"state": b"50"}
    put(store)
    store.delete(inner)
    assert store.list(KEY) == [KEY]


def test_list_takes_whole_parts_and_complete_artifacts_only(store: Store, place: Place) -> None:
    keys = ["e4/seed-1/train/a", "e4/seed-2/train/a", "e4-villain/seed-1/train/a"]
    for key in keys:
        put(store, key, {"manifest.json": b"a file that is called like this"})
    with store.writer("e4/seed-3/train/a") as writer:
        (writer.folder / "manifest.json").write_bytes(b"{}")
        assert store.list("e4") == keys[:2]
    assert store.list() == sorted(keys)
    assert store.list("e4/seed-2/train/a") == [keys[1]]
    assert store.list("e5") == []


def test_delete_removes_everything_and_is_no_error_twice(store: Store, place: Place) -> None:
    put(store)
    store.delete(KEY)
    assert place.names() == []
    store.delete(KEY)
    assert store.list() == []


BAD_KEYS = ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a b", "a\\b", "a\n"]
RESERVED_KEYS = ["a/manifest.json", "a/data-" + "0" * 32]
LONG_KEYS = ["x" * 300, "/".join(["x" * 90] * 9)]


@pytest.mark.parametrize("key", BAD_KEYS + RESERVED_KEYS + LONG_KEYS)
def test_bad_keys(store: Store, key: str) -> None:
    for use in (store.find, store.writer, store.delete, store.describe, store.fetch):
        with pytest.raises(UserError, match="artifact key"):
            use(key)


def test_condition_names_are_fine_in_keys() -> None:
    for key in ("data-scientist/seed-42", "e0-assistant/seed-1/train/0a.b=c+d@e"):
        assert check_key(key) == key


def test_sweep_spares_what_is_complete_and_what_is_new(store: Store, place: Place) -> None:
    manifest = put(store)
    stray = f"{KEY}/data-{uuid.uuid4().hex}"
    if place.url.startswith("/"):
        (Path(place.url) / stray).mkdir()
    place.write(f"{stray}/x", b"x")
    assert store.sweep(minutes=10).orphans == 0
    assert store.sweep("e5", minutes=0).orphans == 0
    assert store.sweep(KEY, minutes=0) == Swept(orphans=1)
    assert data_folders(place) == {manifest.data}
    assert contents(store.fetch(KEY)) == FILES
