"""A folder store alone: permissions, full disks, poor file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_places import KEY, contents, put

from personaspace.errors import StoreMissing, UserError
from personaspace.store import open_store

pytest_plugins = ["seaweed", "store_fixtures"]


def test_check_makes_the_folder_only_to_write(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    with pytest.raises(UserError, match=f"{root}: there is no such folder"):
        open_store(str(root)).check(write=False)
    assert open_store(str(root)).list() == []
    open_store(f"file://{root}").check()
    assert root.is_dir() and not any(root.iterdir())
    open_store(str(root)).check(write=False)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for url in (str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        store = open_store(url)
        with pytest.raises(UserError, match="is not a folder"):
            store.check()
        with pytest.raises(UserError, match="is not a folder") as raised:
            store.check(write=False)
        assert not isinstance(raised.value, StoreMissing)  # a run makes what is missing
        with pytest.raises(UserError, match="is not a folder"):
            put(store)


def test_an_empty_store_folder_stays_clean(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    with store.writer(KEY):
        pass
    put(store)
    store.delete(KEY)
    assert list((tmp_path / "store").iterdir()) == []


def test_who_writes_is_known_until_they_are_done_or_dead(tmp_path: Path) -> None:
    store, other = open_store(str(tmp_path)), open_store(str(tmp_path))
    assert other.being_written(KEY) is False
    with store.writer(KEY) as writer:
        assert other.being_written(KEY) and other.being_written(KEY)
        assert not other.being_written(KEY + "/below") and not other.being_written("other")
        (writer.folder / "file").write_text("x")
        writer.commit({})
    assert other.being_written(KEY) is False
    code = "import os; from personaspace.store import open_store\n"
    code += f"with open_store({str(tmp_path)!r}).writer({KEY + 'x'!r}): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(list((tmp_path / f"{KEY}x").iterdir())) == 1, "it left its folder"
    assert other.being_written(KEY + "x") is False


UNPRIVILEGED = """
import os, sys
from personaspace.errors import UserError
from personaspace.store import local, open_store  # all, while the interpreter may be read
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
store = open_store(sys.argv[1])
for act in (store.check, lambda: store.writer("a/b").__enter__(), lambda: store.find("closed")):
    try:
        act()
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_no_permission_is_one_line_that_names_the_folder() -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        root = Path(parent) / "store"
        (root / "closed").mkdir(parents=True)
        (root / "closed").chmod(0o000)
        root.chmod(0o555)
        try:
            said = subprocess.run(
                [sys.executable, "-c", UNPRIVILEGED, str(root)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()
        finally:
            root.chmod(0o755)
            (root / "closed").chmod(0o755)
    assert len(said) == 3
    for line in said:
        assert line.startswith(f"store {root}: no permission (Permission denied: ")


FULL = """
import os, sys
from pathlib import Path
from personaspace.errors import UserError
from personaspace.store import open_store
root = Path(sys.argv[1])
store = open_store(str(root))
try:
    with store.writer("a/b") as writer:
        (writer.folder / "big").write_bytes(b"x" * 2_000_000)
except UserError as error:
    print("writing:", error)
with store.writer("fits") as writer:
    (writer.folder / "small").write_bytes(b"x" * 1000)
    writer.commit({})
try:
    with store.writer("a/b") as writer:
        (writer.folder / "small").write_bytes(b"x")
        filler = (root / "filler").open("wb", buffering=0)
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass
        writer.commit({"note": "n" * 20_000})
except UserError as error:
    print("publishing:", error)
filler.close()
os.remove(root / "filler")
print(store.list(), sorted(path.name for path in root.iterdir()))
print(store.fetch("fits").exists())
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    root.mkdir()
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1m tmpfs '{root}'"
    if not shutil.which("unshare") or subprocess.run([*enter, mount], check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    script = f"{mount} && exec '{sys.executable}' -c '{FULL}' '{root}'"
    said = subprocess.run([*enter, script], capture_output=True, text=True, check=True).stdout
    writing, publishing, listed, fetched = said.splitlines()
    assert writing.startswith(f"writing: no space left on the disk of folder {root}")
    assert publishing.startswith(f"publishing: no space left on the disk of folder {root}")
    assert listed == "['fits'] ['fits']"
    assert fetched == "True"


def test_without_hard_links_the_first_writer_still_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(str(tmp_path))
    barrier = threading.Barrier(6)

    def write(number: int) -> bool | None:
        with store.writer(KEY) as writer:
            (writer.folder / "a").write_text(str(number))
            barrier.wait(timeout=30)
            writer.commit({})
        return writer.won

    with ThreadPoolExecutor(6) as pool:
        assert sum(bool(won) for won in pool.map(write, range(6))) == 1
    assert len(contents(tmp_path)) == 2
