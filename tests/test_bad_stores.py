"""Damaged stores, stores that are none, and activations that are no numbers: one line each."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import Finished
from safetensors.numpy import load_file, save_file
from store_places import use

if TYPE_CHECKING:
    from seaweed import SeaweedS3
from refusals import FINE, SHA, Values, Write, cli, failed, refused, tidy


@pytest.fixture(scope="module")
def finished(finished_study: Finished) -> tuple[Path, Path, dict[str, Any]]:
    """Spec and store of a study that ran to its end, and its results."""
    spec, store = finished_study.spec, finished_study.store
    assert len(tidy(store)) == 17
    return spec, store, json.loads(cli("results", spec, "--store", store, "--json").stdout)


@pytest.fixture
def study(finished: tuple[Path, Path, Any], tmp_path: Path) -> tuple[Path, Path]:
    """Its spec, and a copy of its store to be damaged."""
    return finished[0], shutil.copytree(finished[1], tmp_path / "store")


def the_file(store: Path, pattern: str) -> Path:
    (path,) = store.glob(pattern)
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def test_a_finished_study_runs_nothing_again(study: tuple[Path, Path]) -> None:
    spec, store = study
    result = cli("run", spec, "--store", store)
    assert result.exit_code == 0 and "0 stages ran, 17 were complete" in result.stdout
    assert "started" not in result.stderr
    states = json.loads(cli("status", spec, "--store", store, "--json").stdout)
    assert set(states.values()) == {"complete"} and len(states) == 17


@pytest.mark.parametrize(
    ("damage", "how"), [(flip, "is corrupt: its SHA-256"), (cut, "is truncated")]
)
@pytest.mark.parametrize("command", ["results", "run", "report"])
def test_damaged_results_are_never_shown(
    study: tuple[Path, Path], command: str, damage: Callable[[Path], None], how: str
) -> None:
    spec, store = study
    damage(the_file(store, "aggregate/*/data-*/results.json"))
    result = cli(command, spec, "--store", store)
    assert isinstance(result.exception, SystemExit) and result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("artifact aggregate/") and f"file results.json {how}" in last
    assert "Traceback" not in result.output and "M1" not in result.stdout
    if command != "run":
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_text("{}")], ids=["cut", "empty"])
@pytest.mark.parametrize("command", ["results", "status"])
def test_a_damaged_manifest_is_named(
    study: tuple[Path, Path], command: str, damage: Callable[[Path], None]
) -> None:
    spec, store = study
    path = the_file(store, "aggregate/*/manifest.json")
    damage(path)
    refused(cli(command, spec, "--store", store), f"manifest {path} is corrupt")


@pytest.mark.long
def test_a_damaged_input_stops_what_needs_it_and_is_mended_by_making_it_anew(
    finished: tuple[Path, Path, dict[str, Any]],
    study: tuple[Path, Path],
) -> None:
    spec, store = study
    before = tidy(store)
    adapter = the_file(store, "e4-villain/*/couple/*/data-*/adapter/adapter_model.safetensors")
    flip(adapter)
    evaluate = the_file(store, "e4-villain/*/evaluate/*")
    shutil.rmtree(evaluate)
    for path in (*store.glob("aggregate/*"), *store.glob("report/*")):
        shutil.rmtree(path)
    result = cli("run", spec, "--store", store)
    failed(result, ("evaluate:e4-villain:42", "file adapter/adapter_model.safetensors is corrupt"))
    for node in ("aggregate", "report"):
        assert f"{node}: not run – needs evaluate:e4-villain:42" in result.stderr
    gone = {f"e4-villain/seed-42/evaluate/{evaluate.name}"}
    kept = {key for key in before if not key.startswith(("aggregate", "report"))} - gone
    assert set(tidy(store)) == kept, "nothing new, nothing half-written"
    # Made anew, all is as it was.
    shutil.rmtree(adapter.parents[2])
    result = cli("run", spec, "--store", store)
    assert result.exit_code == 0, result.output
    assert "4 stages ran, 13 were complete" in result.stdout
    assert tidy(store) == before
    assert json.loads(cli("results", spec, "--store", store, "--json").stdout) == finished[2]


def test_results_of_a_study_that_did_not_run(
    study_dict: Values, write_spec: Write, tmp_path: Path
) -> None:
    path, store = write_spec(study_dict), tmp_path / "store"
    for command in ("results", "status"):
        refused(cli(command, path, "--store", store), f"store {store}: there is no such folder")
    store.mkdir()
    refused(cli("results", path, "--store", store), f"tiny: no results in {store} for this spec")


@pytest.mark.parametrize("command", ["run", "status", "results"])
def test_a_store_that_is_a_file(
    study_dict: Values, write_spec: Write, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "store"
    file.write_text("mine")
    refused(cli(command, write_spec(study_dict), "--store", file), str(file))
    below = file / "deeper"
    refused(cli(command, write_spec(study_dict), "--store", below), str(below))
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "store: the URL is empty"),
        ("gs://bucket", "store gs://bucket: unknown scheme"),
        ("s3://key:secret@bucket", "not a bucket name"),
        ("s3://bucket?colour=red", "option colour is unknown"),
    ],
)
def test_a_store_url_that_is_none(
    study_dict: Values, write_spec: Write, url: str, said: str
) -> None:
    result = cli("run", write_spec(study_dict), "--store", url)
    refused(result, said)
    assert "secret" not in result.output


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("command", ["run", "status"])
@pytest.mark.parametrize("fault", ["bucket", "secret", "key", "none", "permission", "endpoint"])
def test_an_s3_store_that_cannot_serve(
    s3_server: SeaweedS3,
    monkeypatch: pytest.MonkeyPatch,
    study_dict: Values,
    write_spec: Write,
    fault: str,
    command: str,
) -> None:
    environment, url = dict(s3_server.environment), s3_server.url("bad-input")
    said = f"credentials for bucket study at {s3_server.endpoint} are wrong"
    if fault == "bucket":
        url = url.replace("s3://study/", "s3://absent/")
        said = f"bucket absent does not exist at {s3_server.endpoint}"
    elif fault == "secret":
        environment["AWS_SECRET_ACCESS_KEY"] = "wrong-secret-4713"
    elif fault == "key":
        environment["AWS_ACCESS_KEY_ID"] = "nobody"
    elif fault == "none":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            del environment[name]
        said = "no credentials for bucket study"
    elif fault == "permission":
        environment = s3_server.reader_environment
        said = "the credentials do not permit to write to bucket study"
    else:
        address = f"http://127.0.0.1:{free_port()}"
        url = s3_server.url("bad-input", endpoint=address)
        said = f"no S3 server answers at {address}"
    use(environment, monkeypatch)
    result = cli(command, write_spec(study_dict), "--store", url)
    if (fault, command) == ("permission", "status"):
        assert result.exit_code == 0, "looking needs no leave to write"
    else:
        refused(result, said)
    assert "secret-47" not in result.output
    found = s3_server.client.list_objects_v2(Bucket="study", Prefix="bad-input/")
    assert found["KeyCount"] == 0


def test_inputs_from_a_bucket(
    s3_server: SeaweedS3,
    monkeypatch: pytest.MonkeyPatch,
    study_dict: Values,
    write_spec: Write,
    tmp_path: Path,
) -> None:
    use(s3_server.environment, monkeypatch)
    for name, body in (("in/d.jsonl", FINE), ("in/q.txt", "What: is it?\nWhy?\n")):
        s3_server.client.put_object(Bucket="study", Key=name, Body=body.encode())
    study_dict["datasets"]["bad"] = {"path": s3_server.url("in/d.jsonl"), "sha256": SHA}
    study_dict["coupling"]["questions"] = s3_server.url("in/q.txt")
    study_dict["coupling"]["samples"] = 6
    result = cli("validate", write_spec(study_dict), "--json")
    assert result.exit_code == 0, result.output
    study_dict["datasets"]["bad"] = {"path": s3_server.url("in/absent.jsonl")}
    study_dict["datasets"]["good"]["path"] = s3_server.url("in/d.jsonl").replace("study", "absent")
    result = cli("run", write_spec(study_dict), "--store", tmp_path / "store")
    refused(
        result,
        f"datasets.bad: {s3_server.url('in/absent.jsonl')}: no such object",
        f"datasets.good: bucket absent does not exist at {s3_server.endpoint}",
    )
    assert not (tmp_path / "store").exists()


def test_activations_that_are_no_numbers(study: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "activations"
    folder.mkdir()
    for path in study[1].glob("*/seed-42/extract/*/data-*/*.seed-42.a.safetensors"):
        shutil.copy(path, folder)
    draws = ("--permutations", 20, "--bootstrap", 20, "--json")
    result = cli("geometry", folder, *draws)
    assert result.exit_code == 0 and json.loads(result.stdout)["rows"]
    broken = folder / "e4-villain.seed-42.a.safetensors"
    tensors, metadata = load_file(broken), _metadata(broken)
    tensors["activations"][2, 1, 1, 5] = np.nan
    save_file(tensors, broken, metadata)
    refused(
        cli("geometry", folder, *draws),
        f"{broken}: activations of persona 'librarian', question 1, layer 2 hold NaN or infinity",
    )
    cut(broken)
    refused(cli("geometry", folder, *draws), f"{broken}: not a readable safetensors file")
    refused(cli("geometry", tmp_path / "absent"), "absent: no such folder")


def _metadata(path: Path) -> dict[str, str]:
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return dict(header["__metadata__"])
