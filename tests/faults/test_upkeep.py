"""`verify` names what is broken, `gc` removes what nobody needs, and nothing else."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Finished
from processes import LONG
from store_places import KEY, Place, put
from typer.testing import CliRunner, Result

from personaspace.cli.app import app
from personaspace.pipeline import upkeep
from personaspace.store import Manifest, Store, disk, local, open_store
from personaspace.store.manifest import parse_manifest

pytest_plugins = ["seaweed", "store_fixtures"]


def cli(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, [str(each) for each in arguments])


def findings(store: object, *more: object) -> list[dict[str, Any]]:
    done = cli("verify", "--store", store, "--json", *more)
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    assert done.exit_code == (1 if found else 0), done.output
    return found


@pytest.fixture
def copy(finished_study: Finished, tmp_path: Path) -> Path:
    """A store of a whole study, to be damaged."""
    return Path(shutil.copytree(finished_study.store, tmp_path / "store"))


def test_a_whole_study_is_sound(copy: Path, tmp_path: Path) -> None:
    remembered = tmp_path / "sound"
    assert findings(copy, "--resume", remembered) == []
    lines = remembered.read_text().splitlines()
    assert len(lines) == 17
    assert findings(copy, "--resume", remembered) == []
    assert remembered.read_text().splitlines() == lines


def flip(path: Path, chance: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    at = chance.randrange(len(raw))
    raw[at] ^= 1 << chance.randrange(8)
    path.write_bytes(raw)


def test_every_flipped_bit_is_named(copy: Path) -> None:
    """In every kind of file of a store: 100 of each with `make test-faults`."""
    chance = random.Random(18)
    kinds: dict[str, list[Path]] = {}
    for path in sorted(copy.rglob("*")):
        if path.is_file() and path.stat().st_size:
            kinds.setdefault(path.suffix if path.name != "manifest.json" else path.name, []).append(
                path
            )
    assert {"manifest.json", ".safetensors", ".json", ".parquet", ".csv", ".html"} <= set(kinds)
    with open_store(str(copy)) as store:
        for kind, paths in kinds.items():
            flips = 100 if LONG or kind == "manifest.json" else 10
            for _ in range(flips):
                path = chance.choice(paths)
                whole = path.read_bytes()
                flip(path, chance)
                key = path.relative_to(copy).as_posix().rpartition("/manifest.json")[0]
                key = key or path.relative_to(copy).as_posix().partition("/data-")[0]
                found = list(upkeep.verify(store, key, advance=lambda: None))
                assert [each.key for each in found] == [key], (kind, path)
                assert found[0].remedy and "\n" not in found[0].text
                path.write_bytes(whole)
            print(f"{kind}: {flips} of {flips} flipped bits named")


def test_what_is_made_from_another_version_is_named(copy: Path) -> None:
    [path] = (copy / "e4-villain" / "seed-42" / "train").glob("*/manifest.json")
    with open_store(str(copy)) as store:
        key = path.parent.relative_to(copy).as_posix()
        manifest = store.find(key)
        assert manifest is not None
        with store.writer(key) as writer:
            (writer.folder / "training.json").write_text("{}")
            writer.commit(manifest.fields, replace=True)
    found = findings(copy)
    assert {each["fault"] for each in found} == {"input"}
    assert {each["key"].split("/")[-2] for each in found} >= {"extract", "couple", "evaluate"}


# --- gc ------------------------------------------------------------------------------------------


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_gc_keeps_what_a_study_leads_to(
    copy: Path, finished_study: Finished, tmp_path: Path
) -> None:
    before = names(copy)
    other = finished_study.values | {"seeds": [7]}
    spec = tmp_path / "other.yaml"
    spec.write_text(yaml.safe_dump(other, sort_keys=False))
    with open_store(str(copy)) as store:
        put(store, "e4-villain/seed-42/train/0123456789abcdef/checkpoints/step-00000001")
    common = ("--store", copy, "--older-than", 0, "--json")
    rest = json.loads(cli("gc", finished_study.spec, *common, "--dry-run").stdout)
    assert len(rest["artifacts"]) == 1 and names(copy) > before
    assert cli("gc", finished_study.spec, *common).exit_code == 0
    assert names(copy) == before
    # Nothing is removed without a study, and nothing that is young.
    assert json.loads(cli("gc", "--store", copy, "--json").stdout)["artifacts"] == []
    young = cli("gc", spec, "--store", copy, "--json")
    assert json.loads(young.stdout)["artifacts"] == [] and names(copy) == before
    gone = json.loads(cli("gc", spec, *common, "--dry-run").stdout)["artifacts"]
    # Of both studies: base, which no seed changes but the first, is another one too.
    assert len(gone) == 17 and names(copy) == before
    both = json.loads(cli("gc", spec, finished_study.spec, *common).stdout)
    assert both["artifacts"] == [] and names(copy) == before


def test_gc_of_very_many_looks_once_at_each_and_with_care_at_few(
    copy: Path, finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an unfinished study, which may take rows of whatever lies beside its stages."""
    before, values = names(copy), deepcopy(finished_study.values)
    values["personas"].append({"name": "sailor", "prompt": "You are a sailor."})
    spec = tmp_path / "more.yaml"
    spec.write_text(yaml.safe_dump(values, sort_keys=False))
    of_others = [f"benign/seed-42/evaluate/{number:016x}" for number in range(30)]
    with open_store(str(copy)) as store:
        for key in of_others:
            put(store, key)
    broken = copy / of_others[0] / "manifest.json"
    broken.write_text("[" * 100_000)
    looked, cared = Counter[str](), Counter[str]()

    def read(path: Path | str) -> bytes:
        looked[str(path)] += 1
        return disk.read_plain(path)

    def parse(raw: bytes, key: str, where: str) -> Manifest:
        cared[key] += 1
        return parse_manifest(raw, key, where)

    monkeypatch.setattr(local, "read_plain", read)
    monkeypatch.setattr(local, "parse_manifest", parse)
    gone = json.loads(cli("gc", spec, "--store", copy, "--older-than", 0, "--json").stdout)
    assert set(of_others) <= set(gone["artifacts"])
    assert {looked[str(copy / key / "manifest.json")] for key in of_others} == {1}
    assert not cared.keys() & set(of_others) and cared.total() > 0
    # What is left is what a run would take, or has done already.
    left = {name.split("/")[2] for name in names(copy)}
    assert {"extract", "evaluate"} <= left and names(copy) < before


def test_gc_removes_what_a_killed_writer_left(store: Store, place: Place) -> None:
    manifest = put(store)
    orphan = f"{KEY}/data-{'0' * 32}/file"
    if not place.url.startswith("s3:"):
        (Path(place.url) / orphan).parent.mkdir(parents=True)
    place.write(orphan, b"left behind")
    assert len(place.names()) == 4
    common = ("gc", "--store", place.url, "--older-than", 0, "--json")
    assert json.loads(cli(*common, "--dry-run").stdout)["orphans"] == 1
    assert len(place.names()) == 4
    assert json.loads(cli(*common).stdout)["orphans"] == 1
    assert store.find(KEY) == manifest and len(place.names()) == 3
    assert json.loads(cli(*common).stdout)["orphans"] == 0
