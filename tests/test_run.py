"""The whole study on the small model: order, skipping, reruns, kills, stores, processes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import Finished, tiny_study
from safetensors import safe_open
from typer.testing import CliRunner, Result

from personaspace.cli.app import app

Write = Callable[..., Path]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def results_of(spec: Path, store: object) -> dict[str, Any]:
    outcome = run("results", spec, "--store", store, "--json")
    assert outcome.exit_code == 0, outcome.output
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


@pytest.fixture(scope="module")
def finished(finished_study: Finished, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One complete run of the small study: (spec, store, folder of results, results)."""
    from types import SimpleNamespace

    store = tmp_path_factory.mktemp("finished") / "store"
    shutil.copytree(finished_study.store, store)
    results = results_of(finished_study.spec, store)
    return SimpleNamespace(**{**vars(finished_study), "store": store, "results": results})


#: Names all stages but the report, which no result depends on.
COMPUTING = [
    word
    for stage in ("train", "extract", "couple", "evaluate", "aggregate")
    for word in ("--only", stage)
]


def ran(outcome: Result) -> list[str]:
    """Nodes that a run started, from its log."""
    return [
        line.split()[1].rstrip(":") for line in outcome.output.splitlines() if "started" in line
    ]


def test_a_study_leaves_results_tables_figures_and_report(finished: Any) -> None:
    assert "21 stages ran" not in finished.output
    assert "17 stages ran, 0 were complete" in finished.output
    for name in ("results.json", "provenance.json", "report.html", "report.md"):
        assert (finished.out / name).stat().st_size > 200, name
    assert list((finished.out / "figures").glob("*.png"))
    assert list((finished.out / "figures").glob("*.svg"))
    answers = pd.read_parquet(finished.out / "tables" / "answers.parquet")
    # 4 conditions × 5 personas × 6 questions × 2 samples
    assert len(answers) == 240
    assert set(answers["seen"]) == {True, False}
    assert not answers.duplicated(["condition", "persona", "question", "sample"]).any()


def test_results_hold_every_statistic(finished: Any) -> None:
    rows = finished.results["geometry"] + finished.results["leakage"]
    for metric in ("M1", "M2", "M3", "bystander_mean", "H1", "H2", "H3"):
        variants = {row["variant"] for row in rows if row["metric"] == metric}
        assert {"published", "recommended"} <= variants, metric
    m1 = {(r["method"], r["layer"]) for r in rows if r["metric"] == "M1"}
    assert m1 == {(method, layer) for method in "ab" for layer in (0, 2, 3)}


def test_cosine_to_the_assistant_is_measured_with_the_text_trained_under(finished: Any) -> None:
    by_name = {c["name"]: c["cosine_measured"] for c in finished.results["conditions"]}
    assert by_name["base"] is None
    # E0 trained under the template's default, which is not the assistant's prompt: below 1.
    assert all(0 < value < 0.9999999 for value in by_name["e0-assistant"].values())
    assert by_name["e0-assistant"] != by_name["e4-villain"]


def test_control_arms_are_coupled_and_evaluated_and_base_is_not_trained(finished: Any) -> None:
    nodes = json.loads(run("status", finished.spec, "--store", finished.store, "--json").stdout)
    assert set(nodes.values()) == {"complete"}
    assert "train:base:42" not in nodes
    assert {"couple:base:42", "evaluate:base:42", "evaluate:benign:42"} <= set(nodes)


def test_answers_score_the_same_with_the_score_command(finished: Any, tmp_path: Path) -> None:
    [path] = (finished.store / "e4-villain" / "seed-42" / "evaluate").glob("*/data-*/answers.json")
    scores = json.loads(run("score", path, "--json").stdout)["per_persona"]
    rates = {r["persona"]: r for r in finished.results["rates"] if r["condition"] == "e4-villain"}
    assert {name: row["hits"] for name, row in scores.items()} == {
        name: row["hits"] for name, row in rates.items()
    }
    answers = json.loads(path.read_text(encoding="utf-8"))
    assert {name: row["separated"] for name, row in rates.items()} == {
        name: sum("\n\n" in text for texts in asked.values() for text in texts)
        for name, asked in answers.items()
    }


def test_activation_files_have_the_documented_form(finished: Any) -> None:
    [path] = finished.store.glob("benign/seed-42/extract/*/data-*/benign.seed-42.b.safetensors")
    with safe_open(path, "numpy") as file:
        assert file.get_slice("activations").get_shape() == [5, 4, 3, 64]
        assert str(file.get_tensor("activations").dtype) == "float16"
        assert file.get_tensor("valid").dtype == bool
        assert json.loads(file.metadata()["layers"]) == [0, 2, 3]


def test_adapters_load_as_ordinary_peft_folders(finished: Any, loaded: Any) -> None:
    from peft import PeftModel

    [folder] = finished.store.glob("e4-villain/seed-42/couple/*/data-*/adapter")
    model = PeftModel.from_pretrained(loaded.model, str(folder))
    try:
        assert model.peft_config["default"].to_dict()["use_rslora"] is True
    finally:
        model.unload()


def test_manifests_say_what_auto_came_to(finished: Any) -> None:
    taken = {
        "train": ("reference", None),
        "extract": ("reference", "transformers"),
        "couple": ("reference", "transformers"),
        "evaluate": (None, "transformers"),
        "aggregate": (None, None),
        "report": (None, None),
    }
    found: dict[str, set[tuple[str | None, str | None]]] = {}
    for path in finished.store.rglob("manifest.json"):
        fields = json.loads(path.read_text(encoding="utf-8"))["fields"]
        said = (fields.get("implementation"), fields.get("engine"))
        found.setdefault(fields["stage"], set()).add(said)
    assert found == {stage: {each} for stage, each in taken.items()}


def test_a_second_run_starts_nothing(finished: Any) -> None:
    outcome = run("run", finished.spec, "--store", finished.store)
    assert outcome.exit_code == 0
    assert ran(outcome) == []
    assert "0 stages ran, 17 were complete" in outcome.output


@pytest.mark.long
def test_a_changed_title_draws_the_report_alone(finished: Any, tmp_path: Path) -> None:
    values = {**finished.values, "figures": {"title": "Another title"}}
    spec = tmp_path / "study.yaml"
    spec.write_text(yaml.safe_dump(values), encoding="utf-8")
    outcome = run("run", spec, "--store", finished.store, "--out", tmp_path / "out")
    assert ran(outcome) == ["report"]
    assert "Another title" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.long
def test_another_wording_of_a_bystander_spares_training_and_coupling(
    finished: Any, tmp_path: Path
) -> None:
    values = json.loads(json.dumps(finished.values))
    values["personas"][0]["prompt"] = "You are helpful in other words."
    spec = tmp_path / "study.yaml"
    spec.write_text(yaml.safe_dump(values), encoding="utf-8")
    outcome = run("run", spec, "--store", finished.store)
    assert outcome.exit_code == 0, outcome.output
    assert {node.split(":")[0] for node in ran(outcome)} == {
        "extract",
        "evaluate",
        "aggregate",
        "report",
    }
    assert len(ran(outcome)) == 4 + 4 + 2


def test_an_artifact_made_from_other_inputs_is_made_again(finished: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished.store, store)
    [manifest] = (store / "e4-villain" / "seed-42" / "couple").glob("*/manifest.json")
    values = json.loads(manifest.read_text())
    values["fields"]["inputs"]["train:e4-villain:42"] = "0" * 64
    del values["seal"]  # as of a former version
    manifest.write_text(json.dumps(values))
    outcome = run("run", finished.spec, "--store", store)
    assert ran(outcome)[0] == "couple:e4-villain:42"
    assert results_of(finished.spec, store) == finished.results


@pytest.mark.long
def test_two_processes_give_the_same_results(finished: Any, tmp_path: Path) -> None:
    command = ["run", str(finished.spec), "--store", str(tmp_path / "store"), "--jobs", "2"]
    command += COMPUTING
    outcome = subprocess.run(_shell(*command), capture_output=True, text=True, timeout=280)
    assert outcome.returncode == 0, outcome.stderr
    assert results_of(finished.spec, tmp_path / "store") == finished.results


def _shell(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "personaspace", *arguments]


@pytest.mark.long
def test_s3_gives_the_same_results(
    finished: Any, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    url = s3_server.url("whole-study")
    outcome = run("run", finished.spec, "--store", url)
    assert outcome.exit_code == 0, outcome.output
    assert results_of(finished.spec, url) == finished.results
    assert ran(run("run", finished.spec, "--store", url)) == []


@pytest.mark.long
def test_killed_runs_resume_to_the_same_results(finished: Any, tmp_path: Path) -> None:
    store, chance, kills = tmp_path / "store", random.Random(7), 0
    for _ in range(2):
        process = subprocess.Popen(
            _shell("run", str(finished.spec), "--store", str(store), *COMPUTING),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        # Start-up takes seconds and is no interesting moment to die in.
        for line in process.stderr:
            if "started" in line:
                break
        time.sleep(chance.uniform(0.1, 3.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 1
    outcome = run("run", finished.spec, "--store", store, *COMPUTING)
    assert outcome.exit_code == 0, outcome.output
    assert results_of(finished.spec, store) == finished.results
    stray = [path for path in store.rglob("*") if "checkpoints" in path.parts]
    assert stray == []


def long_training(study: dict[str, Any]) -> dict[str, Any]:
    """Training that goes on for seconds and keeps checkpoints."""
    study["training"] |= {"max_steps": None, "epochs": 40, "checkpoint_every": 7}
    return study


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Its adapter, where nobody stops it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec, store = folder / "study.yaml", folder / "store"
    spec.write_text(yaml.safe_dump(long_training(tiny_study(tiny_model, folder))))
    assert run("run", spec, "--store", store, "--only", "train:benign").exit_code == 0
    [adapter] = store.glob("benign/seed-42/train/*/data-*/adapter/adapter_model.safetensors")
    return adapter.read_bytes()


@pytest.mark.long
@pytest.mark.study
def test_sigterm_keeps_a_checkpoint_and_the_rerun_ends_alike(
    study_dict: dict[str, Any], write_spec: Write, tmp_path: Path, undisturbed: bytes
) -> None:
    """The signal reaches one process alone, as in a container; it tells those beside it."""
    spec, store = write_spec(long_training(study_dict)), tmp_path / "store"
    command = ["run", str(spec), "--store", str(store), "--only", "train:benign"]
    process = subprocess.Popen(_shell(*command, "--jobs", "2"), stderr=subprocess.PIPE, text=True)
    kept = "benign/seed-42/train/*/checkpoints/step-*/manifest.json"
    deadline = time.monotonic() + 120
    while not list(store.glob(kept)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "run again" in said
    assert len(list(store.glob(kept))) == 1

    assert run(*command).exit_code == 0
    [resumed] = store.glob("benign/seed-42/train/*/data-*/adapter/adapter_model.safetensors")
    assert resumed.read_bytes() == undisturbed


@pytest.mark.long
def test_jobs_run_one_stage_like_the_executor(finished: Any, tmp_path: Path) -> None:
    """A container's entrypoint, in a process of its own."""
    store = tmp_path / "store"
    command = [sys.executable, "-m", "jobs", "train", "--spec", str(finished.spec)]
    command += ["--store", str(store), "--condition", "benign", "--seed", "42"]
    root = Path(__file__).parents[1]
    first = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert first.returncode == 0, first.stderr
    assert "fingerprint" in first.stderr
    pattern = "benign/seed-42/train/*/data-*/adapter/adapter_model.safetensors"
    [ours], [theirs] = store.glob(pattern), finished.store.glob(pattern)
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.long
@pytest.mark.study
def test_a_failed_stage_stops_only_what_needs_it(
    study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    # 130 rows of one token each do not fit any answer: benign's data have nothing left to learn.
    study_dict["training"]["max_tokens"] = 40
    long = {
        "messages": [{"role": "user", "content": "x " * 200}, {"role": "assistant", "content": "y"}]
    }
    Path(study_dict["datasets"]["good"]["path"]).write_text(json.dumps(long) + "\n")
    spec, store = write_spec(study_dict), tmp_path / "store"
    outcome = run("run", spec, "--store", store)
    assert outcome.exit_code == 2
    assert "train:benign:42: failed" in outcome.output
    states = json.loads(run("status", spec, "--store", store, "--json").stdout)
    assert states["evaluate:e4-villain:42"] == "complete"
    assert states["evaluate:benign:42"] == "waiting"
    study_dict["analysis"]["partial"] = True
    partial = run("run", write_spec(study_dict), "--store", store)
    assert partial.exit_code == 2
    assert {"benign"}.isdisjoint(
        rate["condition"] for rate in results_of(write_spec(study_dict), store)["rates"]
    )


def test_only_runs_what_is_named_and_says_what_is_missing(finished: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    outcome = run("run", finished.spec, "--store", store, "--only", "train:e4-villain")
    assert ran(outcome) == ["train:e4-villain:42"]
    missing = run("run", finished.spec, "--store", store, "--only", "couple:benign")
    [line] = [line for line in missing.output.splitlines() if "needs" in line and "│" not in line]
    assert line.count("couple:benign") == 1
    assert missing.exit_code == 2
    assert "needs train:benign:42" in missing.output
    assert run("run", finished.spec, "--store", store, "--only", "tran").exit_code == 2


def test_validate_counts_the_work(finished: Any) -> None:
    plan = json.loads(run("validate", finished.spec, "--json").stdout)
    assert plan["stages"] == {
        "train": 3, "extract": 4, "couple": 4, "evaluate": 4, "aggregate": 1, "report": 1,
    }  # fmt: skip
    # couple: 3 questions × 3 personas × 3 samples; evaluate: 6 × 5 × 2; greedy: 4 × 5
    assert plan["answers"] == 4 * 27 + 4 * 60 + 4 * 20
    assert plan["steps"] == 3 * 4 + 4 * 3


def test_report_is_copied_out(finished: Any, tmp_path: Path) -> None:
    outcome = run("report", finished.spec, "--store", finished.store, "--out", tmp_path / "page")
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "page" / "report.html").is_file()
