"""Damaged artifacts: each is named, none is taken for whole, all can be mended."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_places import FILES, KEY, Place, contents, data_folders, put

from personaspace.errors import UserError
from personaspace.store import Manifest, Store, open_store
from personaspace.store.manifest import is_file_name, new_manifest, parse_manifest

pytest_plugins = ["seaweed", "store_fixtures"]


def flip(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "is corrupt: its SHA-256"),
        (lambda content: content[:-1], "is truncated: 10,239 bytes instead of 10,240"),
        (lambda _: b"", "is truncated: 0 bytes"),
        (lambda content: content + b"x", "is too long"),
        (None, "is missing"),
    ],
    ids=["flipped bit", "one byte short", "empty", "longer", "missing"],
)
def test_a_damaged_file_is_named(
    store: Store, place: Place, damage: Callable[[bytes], bytes] | None, message: str
) -> None:
    manifest = put(store)
    name = f"{KEY}/{manifest.data}/adapter.safetensors"
    if damage is None:
        place.remove(name)
    else:
        place.write(name, damage(place.read(name)))
    with open_store(place.url) as other:
        with pytest.raises(UserError) as caught:
            other.fetch(KEY)
        assert f"artifact {KEY}: file adapter.safetensors {message}" in str(caught.value)
        assert "\n" not in str(caught.value)
        # What is whole can still be had.
        folder = other.fetch(KEY, ["log/steps.csv"])
        assert contents(folder / "log") == {"steps.csv": FILES["log/steps.csv"]}


def good_document() -> dict[str, Any]:
    entry = {"size": 1, "sha256": "0" * 64}
    return {
        "format": 1,
        "key": KEY,
        "data": "data-" + "0" * 32,
        "files": {"a": entry},
        "fields": {},
        "created": "2026-11-23T12:00:00+00:00",
    }


def with_file(name: str) -> bytes:
    document = good_document()
    return json.dumps({**document, "files": {name: document["files"]["a"]}}).encode()


BAD_MANIFESTS = {
    "empty": b"",
    "binary": bytes(range(256)),
    "cut": json.dumps(good_document()).encode()[:-20],
    "list": b"[]",
    "no files": json.dumps({**good_document(), "files": None}).encode(),
    "other key": json.dumps({**good_document(), "key": "somebody/else"}).encode(),
    "later format": json.dumps({**good_document(), "format": 2}).encode(),
    "leads out": with_file("../../x"),
    "absolute file": with_file("/x"),
    "file in plain disguise": with_file("a//../x"),
    "data leads out": json.dumps({**good_document(), "data": "../../etc"}).encode(),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("raw", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS.keys())
def test_a_bad_manifest_is_named_and_can_be_mended(store: Store, place: Place, raw: bytes) -> None:
    put(store)
    place.write(f"{KEY}/manifest.json", raw)
    for read in (store.find, store.fetch, put_again(store)):
        with pytest.raises(UserError) as caught:
            read(KEY)
        assert f"artifact {KEY}: manifest" in str(caught.value)
        assert "manifest.json is corrupt (" in str(caught.value)
        assert "\n" not in str(caught.value)
    replaced = put(store, replace=True)
    assert store.find(KEY) == replaced
    place.write(f"{KEY}/manifest.json", raw)
    store.delete(KEY)
    assert store.find(KEY) is None
    written = put(store)
    # The files of the manifests that could not be read were nobody's any more.
    assert store.sweep(minutes=0).orphans == 2
    assert data_folders(place) == {written.data}


def put_again(store: Store) -> Callable[[str], Manifest]:
    return lambda key: put(store, key)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
def test_no_damage_to_a_manifest_raises_anything_but_a_user_error(
    at: int, byte: int, cut: bool
) -> None:
    raw = Manifest.model_validate(good_document()).to_bytes()
    at %= len(raw)
    damaged = raw[:at] + (b"" if cut else bytes([byte]) + raw[at + 1 :])
    try:
        manifest = parse_manifest(damaged, KEY, "here")
    except UserError as error:
        assert str(error).startswith(f"artifact {KEY}: manifest here is corrupt")
    else:
        assert all(is_file_name(name) for name in manifest.files)


def test_new_manifest_tells_what_is_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    manifest = new_manifest(KEY, "data-" + "1" * 32, tmp_path, {"shape": (2, 3)})
    # SHA-256 of "abc": FIPS 180-2, appendix B.1.
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest.files["a"].model_dump() == {"size": 3, "sha256": sha}
    assert manifest.fields == {"shape": [2, 3]}
    age = datetime.now(UTC) - datetime.fromisoformat(manifest.created)
    assert timedelta(0) <= age < timedelta(minutes=1)
