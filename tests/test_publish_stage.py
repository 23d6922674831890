"""Publishing as a stage of a study: after the report, and in no result's way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Finished
from hub_server import READ, WRITE, Hub
from typer.testing import CliRunner, Result

import personaspace
from personaspace.cli.app import app
from personaspace.cli.guard import as_job
from personaspace.pipeline import graph, job, termination
from personaspace.pipeline.node import Node
from personaspace.pipeline.work import prepare
from personaspace.store import open_store
from personaspace.study import registration
from personaspace.study.load import load_study, resolve
from personaspace.study.spec import Experiment

MODEL, DATA = "models/lab/tiny", "datasets/lab/tiny"
TARGET = {"repo": "lab/tiny", "include": ["adapters", "results"]}


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def publishing(study: Finished, folder: Path, **target: Any) -> tuple[Path, Path]:
    """The finished study's file with a target, and a copy of its store."""
    spec, store = folder / "study.yaml", folder / "store"
    spec.write_text(yaml.safe_dump({**study.values, "publish": {**TARGET, **target}}))
    shutil.copytree(study.store, store)
    return spec, store


def prints(values: dict[str, Any]) -> dict[str, str]:
    study = resolve(Experiment.model_validate(values), Path("/nowhere"))
    built = graph.build(study)
    return {node.id: found for node, found in graph.fingerprints(study, built).items()}


def test_it_is_in_no_results_fingerprint_and_in_no_registration() -> None:
    before, after = prints({}), prints({"publish": TARGET})
    assert list(after)[-1] == "publish" and "publish" not in before
    assert {node: after[node] for node in before} == before
    other = prints({"publish": {**TARGET, "public": True}})
    assert {node for node in after if after[node] != other[node]} == {"publish"}
    once_more = prints({"publish": TARGET, "rerun": [{"stage": "publish"}]})
    assert {n for n in before if once_more[n] != before[n]} == set()
    assert once_more["publish"] != after["publish"]
    # What is published follows what is drawn.
    drawn = prints({"publish": TARGET, "figures": {"title": "Ours"}})
    assert {n for n in after if drawn[n] != after[n]} == {"report", "publish"}
    plain, sent = (
        registration.registered(resolve(Experiment.model_validate(values), Path("/nowhere")))
        for values in ({}, {"publish": TARGET})
    )
    assert plain == sent


@pytest.mark.slow
def test_a_run_publishes_at_its_end_once(
    hub: Hub, finished_study: Finished, tmp_path: Path
) -> None:
    spec, store = publishing(finished_study, tmp_path, collection="Tiny")
    done = invoke("run", spec, "--store", store, "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert "note: publish" not in done.output and "canary" not in done.output
    assert (
        hub.files(DATA)["results/results.json"]
        == (finished_study.out / "results.json").read_bytes()
    )
    assert hub.private == {MODEL, DATA} and len(hub.collections) == 1
    # Whoever runs the published study does not publish there.
    assert "publish" not in yaml.safe_load(hub.files(DATA)["study.yaml"])
    assert b'"publish"' not in hub.files(DATA)["results/provenance.json"]
    with open_store(str(store)) as place:
        work = prepare(load_study(spec), place)
        manifest = work.complete(Node("publish"))
        assert manifest is not None
        told = json.loads((place.fetch(manifest) / "published.json").read_text())
    commits = {sent["type"]: sent["commit"] for sent in told["repositories"]}
    assert commits == {"model": hub.repos[MODEL][-1].id, "dataset": hub.repos[DATA][-1].id}
    assert told["collection"] in hub.collections and told["notes"] == []
    assert all("canary" not in path.read_text(errors="replace") for path in store.rglob("*.json"))
    # Again: it is complete, and nobody is asked.
    sent, before = hub.sent, {repo: len(found) for repo, found in hub.repos.items()}
    again = invoke("run", spec, "--store", store)
    assert again.exit_code == 0 and "0 stages ran" in again.stdout
    assert hub.sent == sent and {repo: len(found) for repo, found in hub.repos.items()} == before
    # By hand to the same place, as the study says it.
    assert ", as before" in invoke("publish", spec, "--store", store).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "repo", "code", "early", "late"),
    [
        ("", "lab/tiny", 2, "no token: set HF_TOKEN", "HF_TOKEN"),
        ("hf_canarywrong", "lab/tiny", 2, "does not know this one", "does not know this one"),
        (READ, "lab/tiny", 2, "the token may only read", "the right to write"),
        (WRITE, "lab/theirs", 2, "is of the study 'theirs'", "is of the study 'theirs'"),
        (WRITE, "lab/other", 2, "holds something else", "holds something else"),
        (WRITE, "taken/tiny", 2, "", "the name is taken"),
        (None, "lab/tiny", 69, "the Hub does not answer", "the Hub does not answer"),
    ],
)
def test_its_failure_is_named_and_takes_no_result_away(
    hub: Hub,
    finished_study: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    repo: str,
    code: int,
    early: str,
    late: str,
) -> None:
    spec, store = publishing(finished_study, tmp_path, repo=repo)
    if token is None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.put("models/lab/other", {"model.bin": b"1"})
    index = {"format": 1, "study": "theirs", "model": "m", "artifacts": {}}
    hub.put("models/lab/theirs", {"personaspace.json": json.dumps(index).encode()})
    out = tmp_path / "out"
    done = invoke("run", spec, "--store", store, "--out", out)
    assert done.exit_code == code, done.output
    # Said at the beginning, so far as it could be known; and at the end, after the results.
    notes = [line for line in done.stderr.splitlines() if "note: publish would fail now" in line]
    assert len(notes) == bool(early) and all(early in line for line in notes)
    flat = " ".join(done.stderr.split())
    assert "what failed" in flat and late in flat.replace(" │ ", " ") and "Traceback" not in flat
    assert "0 stages ran" in done.stdout and "report: " in done.stdout
    assert (out / "results.json").read_bytes() == (finished_study.out / "results.json").read_bytes()
    assert "canary" not in done.output
    states = json.loads(invoke("status", spec, "--store", store, "--json").stdout)
    assert states.pop("publish") == "ready" and set(states.values()) == {"complete"}
    assert invoke("results", spec, "--store", store).exit_code == 0
    # Python gets the results, and a warning.
    with pytest.warns(UserWarning, match=r"^publish: "):
        results = personaspace.run(spec, str(store))
    assert results is not None and results.results.study == "tiny"
    results.close()


@pytest.mark.slow
def test_a_job_that_publishes_ends_as_others_do_and_goes_on(
    hub: Hub, finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = tmp_path / "termination-log"
    monkeypatch.setenv("PERSONASPACE_TERMINATION_LOG", str(message))
    spec, store = publishing(finished_study, tmp_path)

    def ends() -> tuple[int, str]:
        code = 0
        try:
            as_job(job.run_stage)("publish", spec, str(store))
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, message.read_text()

    monkeypatch.setenv("HF_TOKEN", READ)
    code, said = ends()
    assert code == 2 and "the right to write" in said
    monkeypatch.setenv("HF_TOKEN", WRITE)
    with monkeypatch.context() as away:
        away.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        code, said = ends()
    assert code == 69 and "the Hub does not answer" in said
    hub.fail_after = 2
    code, said = ends()
    assert code == 2 and "the connection to the storage is gone" in said
    hub.fail_after, sent = None, hub.sent
    assert sent > 0 and "personaspace.json" not in hub.files(MODEL)
    code, said = ends()
    assert code == 0 and "canary" not in said
    _, ending = termination.read(said)
    assert ending is not None and set(ending.artifacts) == {"publish"}
    assert len(hub.objects) == sum(
        name.endswith((".safetensors", ".parquet", ".png"))
        for repo in (MODEL, DATA)
        for name in hub.files(repo)
    ), "what was sent before the stop was sent once"


def test_it_runs_with_what_it_is_told_of_alone(study_dict: dict[str, Any], write_spec: Any) -> None:
    for target, said in (
        ({"repo": "tiny"}, "publish.repo: must be a repository's name on the Hub, owner/name"),
        ({"repo": "lab/ti--ny"}, "publish.repo: lab/ti--ny: not a name of a repository"),
        ({"repo": "lab/tiny", "include": ["result"]}, "publish.include[0]: "),
        ({"repo": "lab/tiny", "collection": "a/b/c"}, "publish.collection: a/b/c: not an address"),
        ({"repo": "lab/tiny", "token": "hf_canary"}, "publish.token: "),
        ({}, "publish.repo: "),
    ):
        path = write_spec({**study_dict, "publish": target})
        done = invoke("validate", path)
        assert done.exit_code == 2 and said in done.stderr, done.output
        assert len(done.stderr.strip().splitlines()) == 1 and "canary" not in done.output
    assert "name OWNER/NAME" in invoke("publish", write_spec(study_dict)).stderr
