"""Artifacts of other stores, taken instead of computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Finished
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Scope
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.substitutes import bring, named, take
from personaspace.pipeline.work import Work, prepare
from personaspace.store import Store, open_store
from personaspace.study.load import load_study

TRAIN = Node("train", "benign", 42)


@pytest.fixture
def theirs(finished_study: Finished, tmp_path: Path) -> Path:
    """A copy of a store in which a study is complete."""
    folder = tmp_path / "theirs"
    shutil.copytree(finished_study.store, folder)
    return folder


def brought(study: Finished, theirs: Path, mine: Path) -> tuple[Work, list[str], set[str]]:
    """What was taken from there into a store here: the study, what was said, the nodes."""
    said: list[str] = []
    with open_store(str(theirs)) as there, open_store(str(mine)) as here:
        work = prepare(load_study(study.spec), here)
        taken = bring(work, work.graph.nodes, [there], said.append)
    return work, said, {each.node.id for each in taken}


def of_conditions(work: Work) -> set[str]:
    return {n.id for n in work.graph.nodes if STAGES[n.stage].scope is not Scope.STUDY}


def test_all_but_what_is_of_the_whole_study_is_taken(
    finished_study: Finished, theirs: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    work, said, taken = brought(finished_study, theirs, mine)
    assert taken == of_conditions(work) and len(said) == len(taken)
    with open_store(str(theirs)) as there, open_store(str(mine)) as here:
        for key in here.list():
            ours, other = here.find(key), there.find(key)
            assert ours and other and ours.digest == other.digest
            assert ours.fields == {**other.fields, "taken_from": [str(theirs)]}
            here.fetch(ours)
    # Nothing is left to take, and a store that took them may be taken from.
    assert brought(finished_study, theirs, mine)[1:] == ([], set())
    third = tmp_path / "third"
    brought(finished_study, mine, third)
    with open_store(str(third)) as here:
        manifest = here.find(work.key(TRAIN))
    assert manifest and manifest.fields["taken_from"] == [str(theirs), str(mine)]


@pytest.mark.long
def test_a_run_computes_the_rest_and_says_where_from(
    finished_study: Finished, theirs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--store", str(tmp_path / "mine"), "--out", str(out)]
    command = ["run", str(finished_study.spec), *options, "--substitute", str(theirs)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "2 stages ran, " in done.output and f"taken from {theirs}" in done.stderr
    same = (out / "results.json").read_bytes() == (finished_study.out / "results.json").read_bytes()
    assert same
    artifacts = json.loads((out / "provenance.json").read_text())["artifacts"]
    assert all(each["taken_from"] == [str(theirs)] for each in artifacts)
    assert str(theirs) in (out / "report.html").read_text(encoding="utf-8")


def change(store: Store, key: str, fields: dict[str, Any]) -> None:
    """The same artifact, with other fields."""
    manifest = store.find(key)
    assert manifest is not None
    files = store.fetch(manifest)
    kept = {name: (files / name).read_bytes() for name in manifest.files}
    store.delete(key)
    with store.writer(key) as writer:
        for name, content in kept.items():
            (writer.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (writer.folder / name).write_bytes(content)
        writer.commit({**manifest.fields, **fields})


@pytest.mark.parametrize("fault", ["bytes", "fingerprint", "inputs", "manifest"])
def test_what_is_not_what_it_says_is_refused_and_named(
    finished_study: Finished, theirs: Path, tmp_path: Path, fault: str
) -> None:
    extract = Node("extract", "benign", 42)
    with open_store(str(theirs)) as there:
        work = prepare(load_study(finished_study.spec), there)
        key = work.key(TRAIN if fault in ("bytes", "fingerprint", "manifest") else extract)
        if fault == "fingerprint":
            change(there, key, {"fingerprint": "0" * 64})
        if fault == "inputs":
            change(there, key, {"inputs": {TRAIN.id: "0" * 64}})
    if fault == "bytes":
        (file,) = (theirs / key).glob("data-*/adapter/adapter_model.safetensors")
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    if fault == "manifest":
        path = theirs / key / "manifest.json"
        path.write_text(path.read_text().replace('"benign"', '"bening"', 1))
    work, said, taken = brought(finished_study, theirs, tmp_path / "mine")
    refused = [line for line in said if "not taken from" in line]
    expected = {
        "bytes": "adapter_model.safetensors",
        "fingerprint": "another fingerprint",
        "inputs": "another version of train:benign:42",
        "manifest": "seal",
    }
    assert expected[fault] in refused[0]
    # What was made from it is not taken either: it would not fit what is computed here.
    lost = {line.partition(": ")[0] for line in refused}
    assert taken == of_conditions(work) - lost
    if fault != "inputs":
        assert {TRAIN.id, extract.id} <= lost and "is not here" in refused[1]


def test_a_file_that_leads_outside_is_not_read(
    finished_study: Finished, theirs: Path, tmp_path: Path
) -> None:
    with open_store(str(theirs)) as there:
        key = prepare(load_study(finished_study.spec), there).key(TRAIN)
    path = theirs / key / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../../../outside"] = {"size": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(manifest))
    _, said, taken = brought(finished_study, theirs, tmp_path / "mine")
    assert TRAIN.id not in taken and "is not a file name" in said[0]


def test_a_store_that_is_not_there_is_the_users_mistake(
    finished_study: Finished, tmp_path: Path
) -> None:
    spec = tmp_path / "study.yaml"
    spec.write_text(yaml.safe_dump(finished_study.values))
    options = ["--store", str(tmp_path / "mine"), "--substitute", str(tmp_path / "nowhere")]
    done = CliRunner().invoke(app, ["run", str(spec), *options])
    assert done.exit_code == 2 and str(tmp_path / "nowhere") in done.stderr


def test_a_plan_says_what_would_be_taken_and_a_store_of_nothing_is_named(
    finished_study: Finished, theirs: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    (empty := tmp_path / "empty").mkdir()
    command = ["run", str(finished_study.spec), "--store", str(mine), "--plan"]
    options = ["--substitute", str(empty), "--substitute", str(theirs)]
    with open_store(str(theirs)) as there:
        work = prepare(load_study(finished_study.spec), there)
    count = len(of_conditions(work))
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, [*command, *options])
    assert f"{count} of them would be taken from {theirs}, and not computed" in done.stdout
    plan = json.loads(CliRunner().invoke(app, [*command, *options, "--json"]).stdout)
    assert sum(each["taken_from"] == str(theirs) for each in plan) == count
    assert not mine.exists()
    _, said, _ = brought(finished_study, empty, mine)
    assert said == [f"{empty}: has nothing of what is to run"]
    done = CliRunner().invoke(app, [*command, "--substitute", f"{mine}/"])
    assert done.exit_code == 2 and f"substitutes: {mine} is the store of the run" in done.stderr


def test_an_address_that_is_none_is_found_by_validate(
    finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is opened: here boto3 could not."""
    monkeypatch.setenv("AWS_PROFILE", "there-is-none")
    stores = ["hf://lab/runs", "s3://lab/runs", "gs://lab/runs"]
    values = {**finished_study.values, "substitutes": stores}
    (spec := tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(app, ["validate", str(spec)])
    assert done.exit_code == 2
    assert done.stderr.startswith("substitutes: store gs://lab/runs: unknown scheme")


def test_a_folder_that_is_no_store_is_told_by_validate(
    finished_study: Finished, theirs: Path, tmp_path: Path
) -> None:
    """Not refused: the study may be meant for a machine that has it."""
    (spec := tmp_path / "study.yaml").write_text("")
    (tmp_path / "photos" / "2019").mkdir(parents=True)
    for stage in ("aggregate", "report"):  # what is of a whole study is never taken
        shutil.rmtree(theirs / stage)
    named_here = ["gone", "photos", theirs.name, "s3://lab/runs"]
    spec.write_text(yaml.safe_dump({**finished_study.values, "substitutes": named_here}))
    done = CliRunner().invoke(app, ["validate", str(spec), "--json"])
    told = [n for n in json.loads(done.stdout)["notices"] if n["path"] == "substitutes"]
    assert done.exit_code == 0 and [n["code"] for n in told] == ["no-store", "no-store"]
    assert told[0]["text"].startswith(f"{tmp_path / 'gone'}: there is no such folder here")
    assert told[1]["text"].startswith(f"{tmp_path / 'photos'}: holds no artifact")


def test_a_study_names_stores_itself(
    finished_study: Finished, theirs: Path, tmp_path: Path
) -> None:
    """A folder is where the study's other paths start."""
    values = {**finished_study.values, "substitutes": [theirs.name, "s3://lab/runs"]}
    (spec := tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    assert named(load_study(spec), ["hf://a/b"]) == ["hf://a/b", str(theirs), "s3://lab/runs"]
    values["substitutes"] = [theirs.name]
    spec.write_text(yaml.safe_dump(values))
    with open_store(str(tmp_path / "mine")) as here:
        work, said = prepare(load_study(spec), here), list[str]()
        take(work, work.graph.nodes, (), said.append)
        assert {line.partition(": ")[0] for line in said} == of_conditions(work)
        # What is of the study alone needs no other store, were it away or not.
        shutil.rmtree(theirs)
        take(work, [Node("aggregate"), Node("report")], (), said.append)
